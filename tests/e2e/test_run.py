"""`srbench run` and its neighbours as a user types them, with real workers and small pipelines."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.store import list_runs, read_run

pytestmark = pytest.mark.e2e

FIXTURES = "tests.fixtures_pipelines"
FAST, SLOW = f"{FIXTURES}:Bicubic", f"{FIXTURES}:Slow"
QUICK = ["--gpu", "cpu", "--cases", "16x16x2", "--pairs", "1", "--blocks", "1"]


class Place:
    """A working folder of a user who has weights of their own."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        self.weights = weights_folder(folder / "weights")
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "COLUMNS"},
            "PYTHONPATH": str(project),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "srbench", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def srbench(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return self.srbench("run", "--weights", str(self.weights), *arguments)

    @property
    def files(self) -> list[Path]:
        return list_runs(self.folder / "results")


def weights_folder(folder: Path) -> Path:
    """The published layout with contents that the pipelines of these tests never open."""
    from pipelines.s3diff.weight_sources import S3DIFF_FILES, SNAPSHOT_FILES

    names = [*S3DIFF_FILES, *(f"sd-turbo/{name}" for name in SNAPSHOT_FILES)]
    stems = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
    for name in [*names, *(f"sd-turbo/{stem}.safetensors" for stem in stems)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def place(tmp_path: Path, project_root: Path) -> Place:
    return Place(tmp_path, project_root)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = Place(tmp_path_factory.mktemp("done"), Path(__file__).resolve().parents[2])
    arguments = ["--gpu", "cpu", "--cases", "24x16x2", "16x16x2", "--pairs", "2", "--blocks", "2"]
    options = ["--set", "repeats=2", "--set", f"{FAST}.mark=a, b=c", "--noise-seed", "5"]
    return place, place.run(*arguments, *options, "--pipelines", f"{SLOW},{FAST}")


def test_a_run_ends_with_table_file_and_report(done: Any) -> None:
    place, (code, out, err) = done
    assert code == ExitCode.OK, err
    (path,) = place.files
    assert path.parent == place.folder / "results" / "cpu"
    assert "24x16" in out
    assert str(path.relative_to(place.folder)) in out
    assert (place.folder / "reports" / "cpu.md").is_file()
    assert "[8/8]" in err
    assert "chatter" not in out
    assert "\x1b" not in out + err


def test_the_file_holds_everything(done: Any) -> None:
    place, _ = done
    run = read_run(place.files[0])
    assert run.ended
    assert run.finished_blocks == {0, 1}
    assert {(c.block, c.case, c.pipeline) for c in run.cells} == {
        (b, c, p) for b in (0, 1) for c in ("24x16x2", "16x16x2") for p in (FAST, SLOW)
    }
    head = run.head
    assert head.pipelines == [SLOW, FAST]
    assert head.options[FAST]["mark"] == "a, b=c"
    assert head.options[SLOW] == {**head.options[FAST], "mark": ""}
    assert (head.seed, head.noise_seed, head.precision, head.device) == (0, 5, "fp32", "cpu")
    assert head.weights["label"] == "weights"
    assert head.argv[0] == "run"
    judged = {(r.case, r.pipeline, r.reference): r for r in run.fidelity}
    cases = ("24x16x2", "16x16x2")
    assert judged.keys() == {
        pairing
        for case in cases
        for pairing in (
            (case, FAST, SLOW),
            (case, FAST, "repeat"),
            (case, SLOW, "repeat"),
            (case, SLOW, "other_seed"),
        )
    }
    for record in (judged[case, FAST, SLOW] for case in cases):
        assert record.outcome == "ok"
        assert record.metrics["max_abs_diff"] == 0
        assert record.metrics["eps_relative_l2"] == 0


def test_a_finished_run_is_not_resumed_and_can_be_shown(done: Any) -> None:
    place, _ = done
    code, _, err = place.run("--resume")
    assert code == ExitCode.USAGE
    assert "is finished" in err
    run_id = place.files[0].stem
    code, out, _ = place.srbench("show", run_id, "--json")
    assert code == 0
    assert len(json.loads(out)["cells"]) == 8
    code, out, _ = place.srbench("show", run_id)
    assert "finished, 2 of 2 blocks" in out
    code, out, _ = place.srbench("plan", "--no-work", "--cases", "16x16x2", "--pipelines", FAST)
    assert "about" in out
    assert f"times of {run_id}" in out


def test_broken_cells_are_stored_and_end_in_4_also_as_json(place: Place) -> None:
    starved = f"{FIXTURES}:Starved"
    arms = ["--pipelines", f"{FAST},{starved}", "--set", "break_on=16", "--json"]
    code, out, err = place.run(*QUICK, *arms, "--cases", "32x16x2")
    assert code == ExitCode.INFRASTRUCTURE
    assert err.splitlines()[-1].startswith("srbench: no result for 16x16x2")
    (path,) = place.files
    outcomes = {(c.case, c.pipeline): c.outcome for c in read_run(path).cells}
    assert outcomes.pop(("16x16x2", starved)) == "oom"
    assert list(outcomes.values()) == ["ok"] * 3
    document = json.loads(out)
    assert document["exit_code"] == code
    assert place.folder / document["results"] == path
    (comparison,) = document["comparisons"]
    rows = {row["case"]: row for row in comparison["rows"]}
    assert rows["16x16x2"]["candidate"]["outcome"] == "oom"
    assert rows["32x16x2"]["baseline"]["latency"]["n"] == 1
    assert "crops" not in rows["32x16x2"]["fidelity"]


def test_a_worker_that_dies_once_is_replaced(place: Place) -> None:
    mark = place.folder / "mark"
    arms = ["--pipelines", f"{FIXTURES}:KilledOnce", "--set", f"mark={mark}"]
    code, _, err = place.run(*QUICK, *arms, "--set", "break_on=16", "--blocks", "2")
    assert code == ExitCode.INFRASTRUCTURE
    assert "SIGKILL" in err
    outcomes = {c.block: c.outcome for c in read_run(place.files[0]).cells}
    assert outcomes == {0: "crash", 1: "ok"}


@pytest.mark.full
def test_killed_and_resumed(place: Place) -> None:
    arguments = ["run", "--weights", str(place.weights), *QUICK[:-2], "--pipelines"]
    with place.start(*arguments, f"{SLOW},{FAST}", "--blocks", "3") as process:
        await_block(place, process, 0)
        process.kill()
    (path,) = place.files
    before = read_run(path)
    assert not before.ended
    first = before.finished_blocks
    assert first >= {0}
    assert first < {0, 1, 2}
    sound = path.read_bytes()
    path.write_bytes(sound + b'{"kind": "cell", "blo')
    assert place.run("--resume", "--blocks", "4")[0] == ExitCode.USAGE
    code, _, err = place.srbench("run", "--resume", path.stem)
    assert code != ExitCode.OK, "other weights must not be taken silently"
    code, _, err = place.run("--resume")
    assert code == ExitCode.OK, err
    assert place.files == [path]
    after = read_run(path)
    assert after.ended
    assert after.finished_blocks == {0, 1, 2}
    assert path.read_bytes().startswith(sound)
    assert len({(r.pipeline, r.reference) for r in after.fidelity}) == len(after.fidelity) == 4
    assert [c for c in after.cells if c.block in first] == [
        c for c in before.cells if c.block in first
    ]


@pytest.mark.full
def test_ctrl_c_once_stores_the_block_and_twice_stops(place: Place) -> None:
    arguments = ["run", "--weights", str(place.weights), *QUICK[:-2], "--pairs", "9"]
    process = place.start(*arguments, "--pipelines", SLOW, "--blocks", "50")
    with process:
        await_block(place, process, 0)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED
        err = process.stderr.read() if process.stderr else ""
    run = read_run(place.files[0])
    assert not run.ended
    assert {c.block for c in run.cells} == run.finished_blocks
    assert all(len(c.samples) == 9 for c in run.cells)
    assert "Ctrl-C again" in err
    assert f"--resume {run.head.run_id}" in err.splitlines()[-1]

    process = place.start("run", "--weights", str(place.weights), "--resume")
    with process:
        await_block(place, process, max(run.finished_blocks) + 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == ExitCode.INTERRUPTED
        err = process.stderr.read() if process.stderr else ""
    assert err.splitlines()[-1].startswith("srbench: interrupted")


def test_ctrl_c_again_and_again_ends_in_130(place: Place) -> None:
    """Also where it comes while the report is written or the interpreter leaves."""
    arguments = ["run", "--weights", str(place.weights), *QUICK[:-2]]
    process = place.start(*arguments, "--pipelines", SLOW, "--blocks", "50")
    with process:
        await_block(place, process, 0)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.002)
        assert process.returncode == ExitCode.INTERRUPTED
        err = process.stderr.read() if process.stderr else ""
    assert err.splitlines()[-1].startswith("srbench: interrupted")


def await_block(place: Place, process: subprocess.Popen[str], block: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if place.files and place.files[0].read_bytes().count(b'"kind": "block"') > block:
            return
        time.sleep(0.01)
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--cases", "smok"], 2, "Did you mean 'smoke'"),
        (["--pipelines", "s3diff-optimised"], 2, "Did you mean 's3diff-optimized'"),
        (["--pipelines", f"{FAST},{FAST}"], 2, "named twice"),
        (["--set", "latent_til=3"], 2, "Did you mean 'latent_tile'"),
        (["--set", "s3diff-baseline.guidance=x"], 2, "expected a number"),
        (["--gpu", "a9"], 2, "no such profile"),
        (["--precision", "bf16"], 2, "expected fp32 or fp16"),
        (["--blocks", "0"], 2, "at least 1"),
        (["--inputs", "nowhere"], 2, "nowhere: no such folder"),
        (["--out", "/proc/srbench"], 2, "cannot write there"),
        (["--resume", "20990101T000000Z-cpu-0000"], 2, "none of that id"),
        (["--pipelines", f"{FAST},{FIXTURES}:Nothing"], 2, "has no 'Nothing'"),
        (["--gpu", "cpu", "--pipelines", FAST, "--set", "filtr=x"], 2, "Did you mean 'filter'"),
    ],
)
def test_mistakes_are_found_first_in_one_line(
    place: Place, arguments: list[str], code: int, words: str
) -> None:
    seen, out, err = place.run(*arguments)
    assert seen == code
    assert out == ""
    assert words in err
    assert err.startswith("srbench: ")
    assert err.count("\n") == 1
    assert place.files == []


def test_figures_of_another_device_are_refused(place: Place) -> None:
    from srbench.nvml import list_gpus
    from srbench.profiles import profile_of

    found = list_gpus()
    other = "a10" if not found or profile_of(found[0]).name != "a10" else "l20"
    code, _, err = place.run("--gpu", other)
    assert code == ExitCode.NOT_COMPARABLE
    assert f"--gpu {other}: found {found[0].name if found else 'no GPU'}" in err
    code, out, _ = place.srbench("plan", "--gpu", other, "--no-work", "--json")
    assert code == 0
    assert json.loads(out)["profile"] == other


def test_the_plan_counts_the_work_of_each_arm(place: Place) -> None:
    code, out, err = place.srbench(
        "plan", "--pipelines", FAST, "--cases", "16x16x2,32x16x4", "--json"
    )
    assert code == 0, err
    flops = json.loads(out)["flops"]
    assert flops["16x16x2"][FAST]["total"] == 32 * 16 * 16 * 4
    assert flops["32x16x4"][FAST]["stages"] == {"unet": 32 * 32 * 16 * 16}


@pytest.mark.parametrize("what", ["pipelines", "cases", "profiles", "metrics"])
def test_lists(place: Place, what: str) -> None:
    code, out, _ = place.srbench("list", what, "--json")
    assert code == 0
    names = [row["name"] for row in json.loads(out)]
    code, out, _ = place.srbench("list", what)
    assert all(name in out for name in names)
    assert len(names) >= 2


def test_the_doctor_sees_what_is_bad(place: Place) -> None:
    code, out, _ = place.srbench("doctor", "--json")
    assert code == 0
    words = {finding["what"]: finding["word"] for finding in json.loads(out)}
    assert words["torch"] == words["results folder"] == "ok"
    code, out, err = place.srbench("doctor", "--weights", str(place.folder / "none"))
    assert code == ExitCode.INFRASTRUCTURE
    assert "bad   weights" in out
    assert err == "srbench: doctor: weights will not work\n"


def test_the_command_line_is_light(place: Place) -> None:
    script = "import sys, srbench.cli; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    modules = subprocess.check_output(command, env=place.environment, text=True).split()
    assert not {"torch", "numpy", "pandas", "matplotlib", "scipy", "PIL"} & set(modules)
