"""Files that are replaced whole or left as they were."""

import os
from pathlib import Path

import pytest

from pipelines.replacing import replacing


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_is_there_at_the_end_and_not_before(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path, durable=durable) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def break_off(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_what_raises_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        break_off(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_its_place_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"), replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_rights_are_those_of_any_new_file_and_names_may_be_long(tmp_path: Path) -> None:
    path, plain = tmp_path / ("ü" * 127), tmp_path / "plain"
    before = os.umask(0o027)
    try:
        plain.touch()
        with replacing(path) as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert path.stat().st_mode == plain.stat().st_mode
