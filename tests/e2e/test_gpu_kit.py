"""`.ci/gpu`, the script behind `make gpu`, run as a user does from a copy of the tree."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.osediff.options import OPTIMIZED_RUNGS as OSEDIFF_RUNGS
from pipelines.s3diff.options import OPTIMIZED_RUNGS as S3DIFF_RUNGS
from pipelines.srdiff.options import OPTIMIZED_RUNGS as SRDIFF_RUNGS
from srbench.records import Run
from srbench.store import list_runs, read_run

pytestmark = pytest.mark.e2e
STEPS = (
    *("tests", "ceilings", "layers", "core", "osediff", "s3diff"),
    *("srdiff", "ladder", "compiled", "as-shipped"),
)
LADDERS = {
    "s3diff-optimized": S3DIFF_RUNGS,
    "osediff-optimized": OSEDIFF_RUNGS,
    "srdiff-optimized": SRDIFF_RUNGS,
}


class Kit:
    """A copy of the tree, which nobody edits meanwhile: edited code is another run's."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder / "tree"
        for name in (".ci", "srbench", "pipelines"):
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(project / name, self.folder / name, ignore=unwanted)
        self.back = folder / "out"
        self.back.mkdir()

    def start(self, **settings: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "KIT_PYTHON": sys.executable, **settings,
        }  # fmt: skip
        environment.pop("PYTHONPATH", None)
        return subprocess.Popen(
            [self.folder / ".ci" / "gpu"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, **settings: str) -> tuple[int, str, str]:
        with self.start(**settings) as process:
            out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    @property
    def runs(self) -> list[Run]:
        return [read_run(path) for path in list_runs(self.folder / "results")]


@pytest.fixture
def kit(tmp_path: Path, project_root: Path) -> Kit:
    return Kit(tmp_path, project_root)


def states(out: str) -> dict[str, str]:
    """Step -> state of the table that ends every call."""
    lines = out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("step  "))
    rows = [re.split(r"\s{2,}", line) for line in lines[head + 1 :]]
    return {row[0]: row[1] for row in rows}


def test_the_script_is_sound(kit: Kit) -> None:
    script = kit.folder / ".ci" / "gpu"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK)


def test_without_a_card_it_says_so_at_once(kit: Kit) -> None:
    code, out, err = kit.call()
    assert code == 4
    assert out == ""
    assert err == "kit: no CUDA device here, nothing to do (KIT_GPU=cpu tries the kit)\n"
    assert not (kit.folder / "results").exists()


def test_a_dry_run_plans_every_step_in_its_order(kit: Kit) -> None:
    code, out, err = kit.call(DRY="1")
    assert (code, err) == (0, "")
    planned = states(out)
    assert set(planned.values()) == {"planned"}
    order = list(dict.fromkeys(name.split()[0] for name in planned))
    assert [name for name in order if name != "tests"] == [
        name for name in STEPS if name != "tests"
    ]
    for case in ("128x128x4,512x512x2", "720x1280x2", "1024x1024x2", "1920x1080x2"):
        assert (
            len(re.findall(rf"--cases {case} .*s3diff-(baseline|compiled|optimized,P1)", out)) == 3
        )
        assert len(re.findall(rf"--cases {case} .*osediff-baseline,osediff-optimized\n", out)) == 1
    for pipeline, rungs in LADDERS.items():
        found = re.findall(rf"--pipeline {pipeline} .*--rungs (\S+)", out)
        parts = [part.split(",") for part in found]
        # One after the other, each beginning where the one before ended.
        assert [names[0] for names in parts[1:]] == [names[-1] for names in parts[:-1]]
        names = [name for part in parts for name in part]
        assert list(dict.fromkeys(names)) == [rung.name for rung in rungs]
    arms = "--pipelines srdiff-baseline,srdiff-optimized"
    for case in ("80x68x4,128x128x4", "512x512x4", "510x339x4"):
        assert len(re.findall(rf"--cases {case} .* --weights synthetic {arms}\n", out)) == 1
    assert out.count("--pipelines srdiff-baseline,srdiff-ddim\n") == 1
    for system in ("osediff", "s3diff"):
        for how in ("int8", "fp8"):
            arms = f"--pipelines {system}-optimized,{system}-w8a8"
            assert out.count(f"{arms} --set {system}-w8a8.arithmetic={how}\n") == 1
    assert "--set P1.merge_lora=false" in out
    assert "--pipelines s3diff-compiled,s3diff-optimized" in out
    assert "--set as-shipped.as_shipped=true" in out
    assert not (kit.folder / "results").exists()


def test_each_system_has_cases_and_weights_of_its_own(kit: Kit) -> None:
    """A folder is S3Diff's, and its cases may have scales that SRDiff's weights have not."""
    settings = {"DRY": "1", "KIT_CASES": "32x32x2 16x16x2", "KIT_WEIGHTS": "my/s3diff"}
    _, out, _ = kit.call(**settings)
    ours = [line for line in out.splitlines() if line.startswith("srdiff ")]
    assert len(ours) == 4
    assert all("--weights synthetic " in line and "--cases 80x68x4 " in line for line in ours)
    _, out, _ = kit.call(**settings, KIT_SRDIFF="16x16x8 24x16x8", KIT_SRDIFF_WEIGHTS="my.ckpt")
    ours = [line for line in out.splitlines() if line.startswith("srdiff ")]
    assert all("--weights my.ckpt " in line for line in ours)
    assert [re.search(r"--cases (\S+)", line)[1] for line in ours] == [  # type: ignore[index]
        *["16x16x8,24x16x8"] * 2,
        *["16x16x8"] * 2,
    ]


def test_a_budget_that_is_spent_leaves_everything_to_the_next_call(kit: Kit) -> None:
    settings = {"KIT_GPU": "cpu", "KIT_CASES": "16x16x2", "KIT_WEIGHTS": "mini", "BUDGET_S": "20"}
    steps = "ceilings core srdiff ladder peers verdicts reports"
    code, out, _ = kit.call(**settings, KIT_STEPS=steps)
    found = states(out)
    assert code == 3
    assert found.pop("weights") == "done"
    assert set(found.values()) == {"left"}
    assert kit.runs == []


@pytest.mark.full  # four starts of torch in three workers: a minute and more on two cores
def test_killed_in_the_matrix_the_next_call_goes_on(kit: Kit) -> None:
    settings = {
        "KIT_GPU": "cpu", "KIT_CASES": "16x16x2", "KIT_WEIGHTS": "mini", "KIT_BLOCKS": "2",
        "KIT_PAIRS": "1", "KIT_STEPS": "core verdicts reports", "OUT": str(kit.back),
    }  # fmt: skip
    with kit.start(**settings) as process:
        deadline = time.monotonic() + 200
        while not any(run.finished_blocks for run in kit.runs):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    (begun,) = kit.runs
    assert not begun.ended
    code, out, err = kit.call(**settings)
    assert f"going on with {begun.head.run_id}" in err
    (run,) = kit.runs
    assert run.ended
    assert run.finished_blocks == {0, 1}
    assert run.head.pipelines == ["s3diff-baseline", "s3diff-optimized", "P1"]
    assert run.head.options["P1"]["merge_lora"] is False
    kept = [cell for cell in begun.cells if cell.block in begun.finished_blocks]
    assert kept
    assert all(cell in run.cells for cell in kept)
    found = states(out)
    assert found["core 16x16x2"] == "done"
    # Two blocks of one pair on a busy CPU: whichever verdict, it is the gate's and has its code.
    assert found[f"gate {run.head.run_id}"] in ("pass", "regression", "open")
    assert code == (1 if found[f"gate {run.head.run_id}"] == "regression" else 0)
    assert (kit.folder / "reports" / "cpu.md").is_file()
    names = {path.name for path in kit.back.iterdir()}
    assert {"kit-results.tar.gz", "kit-reports.tar.gz.aa"} <= names
    again, out, _ = kit.call(**settings)
    assert again == code
    assert "in an earlier call" in out
    assert [other.head.run_id for other in kit.runs] == [run.head.run_id]
