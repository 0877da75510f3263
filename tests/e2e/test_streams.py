"""A reader that leaves, a full disk on stdout, a polite kill: the exit code stays the result's."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from srbench.errors import ExitCode
from tests.e2e.leading import Show, begin_here
from tests.e2e.simulated import Folder, wait_until

pytestmark = pytest.mark.e2e
SHOW = Show(cases=("16x16x1",), blocks=2, pairs=1, noise="quiet")


@pytest.fixture
def folder(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, project_root)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one run in them."""
    out = tmp_path_factory.mktemp("measured") / "results"
    begin_here(SHOW, out)
    return out


@pytest.fixture
def full_folder(folder: Folder, measured: Path) -> Folder:
    """A folder with a run to show."""
    shutil.copytree(measured, folder.folder / "results")
    return folder


def piped(folder: Folder, reader: str, *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout goes into a shell command."""
    words = " ".join(map(str, arguments))
    script = f"{{ {sys.executable} -m srbench {words}; echo $? > code; }} {reader}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder.folder,
        env=folder.environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return int((folder.folder / "code").read_text()), done.stderr


@pytest.mark.parametrize(
    ("plants", "code"), [((), ExitCode.OK), (("bad-tile",), ExitCode.REGRESSION)]
)
def test_a_reader_that_leaves_early_changes_nothing(
    folder: Folder, plants: tuple[str, ...], code: ExitCode
) -> None:
    begin_here(replace(SHOW, plants=plants))
    found, err = piped(folder, "| true", "gate", folder.file, "--junit", "gate.xml")
    assert found == code
    assert "Traceback" not in err
    assert "Broken pipe" not in err
    assert ElementTree.parse("gate.xml").getroot() is not None


@pytest.mark.parametrize("reader", [">&-", "2>&1 >/dev/null | true", "2>&-"])
def test_closed_streams_keep_the_exit_code(full_folder: Folder, reader: str) -> None:
    assert piped(full_folder, reader, "show", "no-such-run")[0] == ExitCode.USAGE
    assert piped(full_folder, reader, "show", full_folder.file)[0] == ExitCode.OK


def test_a_stream_without_our_letters_gets_question_marks(full_folder: Folder) -> None:
    full_folder.environment["PYTHONIOENCODING"] = "ascii"
    found, err = piped(full_folder, "> shown", "show", full_folder.file)
    assert (found, err) == (ExitCode.OK, "")
    assert full_folder.run.head.run_id in Path("shown").read_text()


def test_a_full_disk_behind_stdout_is_one_line(full_folder: Folder) -> None:
    found, err = piped(full_folder, "> /dev/full", "show", full_folder.file)
    assert found == ExitCode.INFRASTRUCTURE
    assert err.splitlines() == ["srbench: [Errno 28] No space left on device"]


def test_a_polite_kill_ends_the_run_with_its_line(folder: Folder) -> None:
    with folder.started("simulate", "--pace", 50, "--cases", "16x16x1") as process:
        assert wait_until(lambda: folder.file is not None)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert err.splitlines()[-1] == "srbench: interrupted; --resume goes on"
    assert wait_until(lambda: not folder.workers())
