"""The journal of an output folder: torn, damaged, locked, on a full disk."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from srbench.errors import InfrastructureError, UsageError
from srbench.upscaling_journal import NAME, Journal, Recipe, Standing

RECIPE = Recipe("request", 3, "input")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    with Journal.open(tmp_path) as journal:
        journal.begin({"scale": 2}, {"device": "cpu"})
        journal.place(tmp_path / "a.png", b"picture a", Path("in/a.png"), RECIPE)
        journal.place(tmp_path / "sub/ü\udcff.png", b"picture b", Path("in/b.png"), RECIPE)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_pictures_are_known_again(begun: Path) -> None:
    assert names(begun) == {NAME, "a.png", "sub/ü\udcff.png"}
    with Journal.open(begun) as journal:
        for name in ("a.png", "sub/ü\udcff.png"):
            assert journal.standing(begun / name, RECIPE) is Standing.DONE
        other = Recipe("request", 4, "input")
        assert journal.standing(begun / "a.png", other) is Standing.OUTDATED
        assert journal.standing(begun / "c.png", RECIPE) is Standing.MISSING
        (begun / "a.png").write_bytes(b"picture A")
        assert journal.standing(begun / "a.png", RECIPE) is Standing.FOREIGN
        journal.place(begun / "a.png", b"picture c", Path("in/a.png"), other)
        assert journal.standing(begun / "a.png", other) is Standing.DONE
        (begun / "a.png").write_bytes(b"picture a")  # as after a kill before its new name
        assert journal.standing(begun / "a.png", other) is Standing.OUTDATED


def test_equal_requests_have_equal_digests(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        first = journal.begin({"scale": 2, "options": {"a": 1, "b": 2}}, {"device": "cpu"})
        again = journal.begin({"options": {"b": 2, "a": 1}, "scale": 2}, {"device": "cuda"})
        other = journal.begin({"options": {"b": 2, "a": 1}, "scale": 4}, {"device": "cpu"})
    assert first == again != other


def test_a_line_torn_anywhere_costs_its_own_picture_only(begun: Path) -> None:
    path = begun / NAME
    whole = path.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    for end in [*range(last, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with Journal.open(begun) as journal:
            assert journal.standing(begun / "a.png", RECIPE) is Standing.DONE
            assert journal.standing(begun / "sub/ü\udcff.png", RECIPE) is Standing.FOREIGN
        assert path.read_bytes() == whole[:last]
    path.write_bytes(whole[:9])  # not even its first line was written
    with Journal.open(begun):
        pass
    assert json.loads(path.read_bytes())["kind"] == "upscale"


@pytest.mark.parametrize(
    ("number", "line", "said"),
    [
        (1, '{"kind": "run", "schema_version": 1, "id": "a"}', "line 1 is damaged"),
        (1, '{"kind": "upscale", "schema_version": 1, "id": "../a"}', "line 1 is damaged"),
        (1, '{"kind": "upscale", "schema_version": 2, "id": "a"}', "upgrade srbench"),
        (2, "{", "line 2 is damaged"),
        (2, "[]", "line 2 is damaged"),
        (3, '{"kind": "picture", "file": "a.png"}', "line 3 is damaged"),
        (3, '{"kind": "picture", "file": [], "sha256": 1}', "line 3 is damaged"),
    ],
)
def test_a_damaged_journal_is_one_line(begun: Path, number: int, line: str, said: str) -> None:
    lines = (begun / NAME).read_text().splitlines()
    lines[number - 1] = line
    (begun / NAME).write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match=said) as error, Journal.open(begun):
        pass
    assert str(begun / NAME) in str(error.value)


def test_one_process_writes_at_a_time(begun: Path) -> None:
    with (
        Journal.open(begun),
        pytest.raises(UsageError, match="another srbench upscale is writing into it"),
        Journal.open(begun),
    ):
        raise AssertionError


def test_files_of_others_are_not_replaced(begun: Path) -> None:
    mine = begun / "mine.png"
    mine.symlink_to("nowhere")
    with Journal.open(begun) as journal:
        journal.refuse_unknown([begun / "a.png", begun / "new.png"])
        with pytest.raises(UsageError, match=r"mine\.png: there already .* --overwrite"):
            journal.refuse_unknown([begun / "a.png", mine])


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """A disk that is full as soon as a file has that many bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_leaves_the_old_picture_and_a_sound_journal(begun: Path) -> None:
    other = Recipe("request", 9, "input")
    length = (begun / NAME).stat().st_size
    with Journal.open(begun) as journal:
        with (
            pytest.raises(InfrastructureError, match=r"a\.png: cannot write \(File too large"),
            files_at_most(10_000),
        ):
            journal.place(begun / "a.png", bytes(20_000), Path("in/a.png"), other)
        with (
            pytest.raises(InfrastructureError, match=r"jsonl: cannot write \(File too large"),
            files_at_most((begun / NAME).stat().st_size + 20),
        ):
            journal.fail(Path("in/c.png"), "why")
    assert (begun / "a.png").read_bytes() == b"picture a"
    assert names(begun) == {NAME, "a.png", "sub/ü\udcff.png"}
    assert (begun / NAME).stat().st_size > length
    with Journal.open(begun) as journal:
        assert journal.standing(begun / "a.png", other) is Standing.OUTDATED
