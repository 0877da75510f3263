"""`srbench ladder` as a user types it, with real workers and a small pipeline."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.store import read_run
from tests.e2e.test_run import FAST, Place, await_block

pytestmark = pytest.mark.e2e

STEPPING = "tests.ladder_pipelines:Stepping"
QUICK = ["--pipeline", STEPPING, "--gpu", "cpu", "--cases", "16x16x2"]


@pytest.fixture
def place(tmp_path: Path, project_root: Path) -> Place:
    return _place(tmp_path, project_root)


def _place(folder: Path, project: Path) -> Place:
    place = Place(folder, project)
    place.environment |= {"SRBENCH_PIPELINES": FAST, "SRBENCH_WEIGHTS": str(place.weights)}
    return place


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = _place(tmp_path_factory.mktemp("done"), Path(__file__).resolve().parents[2])
    arguments = ["--rungs", "S1", "T,S2", "--blocks", "2", "--pairs", "2", "--json"]
    return place, place.srbench("ladder", *QUICK, *arguments)


def test_a_ladder_ends_with_one_document(done: Any) -> None:
    place, (code, out, err) = done
    assert code == ExitCode.INFRASTRUCTURE, err
    assert err.splitlines()[-1].startswith("srbench: no result for 16x16x2 T oom")
    assert "4 arms x 1 cases x 2 blocks x 2 images; time: about 1.5 minutes (predicted" in err
    document = json.loads(out)
    (case,) = document["cases"]
    assert case["case"] == "16x16x2"
    assert case["baseline"]["name"] == FAST
    first, second, top = case["rungs"]
    assert (first["name"], second["name"], top["name"]) == ("S1", "S2", "T")
    assert second["options"] == {"wait_ms": "1"}
    assert second["title"] == "no wait, with S2-a"
    assert second["over_previous"]["reference"] == "S1"
    assert second["over_previous"]["value"] > 2
    assert second["fidelity_to_previous"]["max_abs_diff"] == 0
    assert first["fidelity"]["max_abs_diff"] > 0
    assert (top["outcome"], top["seconds"]) == ("oom", None)
    assert place.folder / document["results"] == place.files[0]


def test_all_records_are_stored(done: Any) -> None:
    place, _ = done
    run = read_run(place.files[0])
    assert run.ended
    assert (run.head.purpose, run.head.pairing) == ("ladder", "block")
    assert run.head.pipelines == [FAST, "S1", "S2", "T"]
    assert [entry["name"] for entry in run.head.ladder] == run.head.pipelines
    assert len(run.cells) == 8
    assert run.head.options["S2"]["wait_ms"] == 1
    assert {(r.pipeline, r.reference) for r in run.fidelity} == {
        ("S1", FAST),
        ("S2", FAST),
        ("T", FAST),
        ("S2", "S1"),
        ("T", "S2"),
    }


def test_it_is_reported_shown_and_not_gated(done: Any) -> None:
    place, _ = done
    assert (place.folder / "reports" / "cpu_ladder_16x16x2.svg").is_file()
    code, out, err = place.srbench("report", "--out", "again")
    assert code == ExitCode.OK, err
    assert "## Ladder of 16x16x2" in (place.folder / out.strip()).read_text()
    run_id = place.files[0].stem
    code, out, _ = place.srbench("show", run_id)
    assert "Ladder of 16x16x2" in out
    code, _, err = place.srbench("gate", run_id)
    assert code == ExitCode.NOT_COMPARABLE
    assert "is a ladder" in err
    code, _, err = place.srbench("run", "--resume", run_id)
    assert code == ExitCode.USAGE


@pytest.mark.full  # tests/e2e/test_run.py and test_kill.py kill and resume the same machinery
def test_killed_and_interrupted_it_goes_on(place: Place) -> None:
    few = [*QUICK, "--rungs", "S1,S2", "--no-baseline", "--pairs", "1", "--blocks", "3"]
    with place.start("ladder", *few) as process:
        await_block(place, process, 0)
        process.kill()
    (path,) = place.files
    assert read_run(path).head.pipelines == ["S1", "S2"]
    with place.start("ladder", "--resume") as process:
        await_block(place, process, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED
    stored = path.read_bytes()
    code, _, err = place.srbench("ladder", "--resume", "--rungs", "S1")
    assert code == ExitCode.USAGE
    assert "cannot be changed with --resume" in err
    code, _, err = place.srbench("run", "--resume")
    assert (code, "srbench ladder --resume" in err) == (ExitCode.USAGE, True)
    code, out, err = place.srbench("ladder", "--resume", path.stem)
    assert code == ExitCode.OK, err
    assert "Ladder of 16x16x2" in out
    assert path.read_bytes().startswith(stored)
    run = read_run(path)
    assert run.finished_blocks == {0, 1, 2}
    assert {(r.pipeline, r.reference) for r in run.fidelity} == {("S2", "S1")}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--rungs", "S9"], 2, "Did you mean 'S3'"),
        (["--pipeline", "s3diff-baseline"], 2, "has no ladder"),
        (["--set", "wait_ms=1"], 2, "the ladder switches it by itself"),
        (["--gpu", "a10"], 5, "--gpu a10: found"),
        (["--cases", "smok"], 2, "Did you mean 'smoke'"),
        (["--resume"], 2, "no results in it; `srbench ladder` makes some"),
    ],
)
def test_mistakes_are_found_first_in_one_line(
    place: Place, arguments: list[str], code: int, words: str
) -> None:
    quick = [] if arguments == ["--resume"] else QUICK
    seen, out, err = place.srbench("ladder", *quick, *arguments)
    assert (seen, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1
    assert place.files == []


def test_preparing_a_ladder_of_ours_imports_no_torch(project_root: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from srbench.ladder.preparing import rungs_of; rungs_of('s3diff-optimized');"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.check_output(command, cwd=project_root, text=True) == "False\n"
