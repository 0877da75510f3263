"""Temporary folders: gone with their run, however it ended, and never somebody else's."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from srbench.scratch import run_folder

HOLD = """
import sys
from srbench.scratch import run_folder
with run_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_gone_with_its_run(temporary: Path) -> None:
    with run_folder() as folder:
        assert folder.parent == temporary
        (folder / "picture.npy").touch()
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_living_process_stays_and_that_of_a_killed_one_goes(
    project_root: Path,
) -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, cwd=project_root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with run_folder():
            assert theirs.is_dir()
        other.kill()
        other.wait()
        assert theirs.is_dir()
        with run_folder():
            assert not theirs.exists()


def test_folders_of_other_names_are_left_alone(temporary: Path) -> None:
    for name in ("srbench-notes", "srbench-12", "srbench-2026-photos of mine"):
        (temporary / name).mkdir()
    (temporary / "srbench-12-file").touch()
    with run_folder():
        pass
    assert len(list(temporary.iterdir())) == 4
