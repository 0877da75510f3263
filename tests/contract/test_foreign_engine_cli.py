"""Foreign engines from the command line: another environment, its crash, its hang, --resume."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from pipelines.cache import cache_folder
from srbench.config import Settings
from srbench.preparation import prepare_run
from srbench.resuming import prepare_resume
from srbench.running import Conduct, begin, resume
from srbench.store import read_run
from tests.contract.foreign import CASE, TOY, Memory
from tests.e2e.conftest import Srbench, srbench

__all__ = ["srbench"]
OURS = "tests.fixtures_pipelines:Bicubic"
OTHER_TORCH = "torch==2.13.0+cpu"
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment that has nothing but the standard library."""
    folder = tmp_path_factory.mktemp("other") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    return str(folder / "bin" / "python")


def cells_of(file: Path) -> dict[str, Any]:
    return {cell.pipeline: cell for cell in read_run(file).cells}


def only_run(root: Path) -> Path:
    (found,) = (root / "results" / "cpu").glob("*.jsonl")
    return found


def test_an_engine_of_another_environment_stands_beside_a_pipeline(
    srbench: Srbench, environment: str, tmp_path: Path
) -> None:
    """Its crash is its own outcome, the run is whole, and every reader copes with such arms."""
    toy = f'cmd:"{environment} {TOY}"'
    arguments = ["--gpu", "cpu", "--cases", CASE, "--pipelines", f"{OURS},toy={toy},gone={toy}"]
    sets = ["--set", "gone.crash_on=16", "--set", "toy.note=a=b, c"]
    done = srbench("run", *arguments, *sets, "--blocks", 1, "--pairs", 1)
    assert done.code == 4, done.err
    assert f"{CASE} gone crash (the worker ended with exit code 3)" in done.err
    run = read_run(only_run(tmp_path))
    assert run.ended
    cells = cells_of(only_run(tmp_path))
    assert {name: cell.outcome for name, cell in cells.items()} == {
        OURS: "ok",
        "toy": "ok",
        "gone": "crash",
    }
    assert run.head.arms["toy"]["pipeline"] == toy
    assert run.head.options["toy"]["note"] == "a=b, c"
    judged = {(r.pipeline, r.reference): r for r in run.fidelity}
    assert judged["toy", OURS].metrics["psnr"] > 20
    assert judged["toy", "repeat"].metrics["distinct_pictures"] == 1
    page = (tmp_path / "reports" / "cpu.md").read_text()
    assert "toy" in page
    assert "the worker ended with exit code 3" in page
    for command, code in (("show", 0), ("report", 0), ("gate", 1)):
        after = srbench(command, run.head.run_id)
        assert after.code == code, (command, after.err)
    planned = srbench("plan", *arguments[:-1], f"toy={toy}", "--json")
    assert json.loads(planned.out)["not_counted"] == ["toy"]


def test_a_run_of_engines_goes_on_where_it_was_broken_off(environment: str, tmp_path: Path) -> None:
    toy = f'cmd:"{environment} {TOY}"'
    settings = Settings(
        gpu="cpu",
        cases=(CASE,),
        pipelines=(f"a={toy}", f"b={toy}"),
        options=("b.shift=2", "a.note=none"),
        blocks=3,
        pairs=1,
        out=tmp_path / "results",
    )
    path, memory = _broken_off(settings, blocks=1), Memory()
    head = read_run(path).head
    assert head.options["b"] == {"mode": "plain", "crash_on": 0, "hang_on": 0, "shift": 2.0,
                                 "note": None}  # fmt: skip
    asked = iter([False, True, True])
    going_on = prepare_resume(head, settings, memory.note)
    run = resume(path, going_on, Conduct(memory, stop=lambda: next(asked)))
    assert run.finished_blocks == {0, 1}
    for name in ("a", "b"):
        cells = [cell for cell in run.cells if cell.pipeline == name]
        assert len({sample["output_sha256"] for cell in cells for sample in cell.samples}) == 1
        assert len(cells) == 2


def _broken_off(settings: Settings, blocks: int) -> Path:
    """A run that ended after some blocks."""
    asked, memory = iter([False] * blocks + [True] * 9), Memory()
    preparation = prepare_run(settings, memory.note)
    run = begin(preparation, settings.out, [], Conduct(memory, stop=lambda: next(asked)))
    assert (run.ended, len(run.finished_blocks)) == (False, blocks)
    return settings.out / run.head.profile / f"{run.head.run_id}.jsonl"


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("x=cmd:", "names no program after 'cmd:'"),
        ("x=cmd:/no/such/python engine.py", "x=cmd:/no/such/python: no such program"),
        ("x=cmd:no-such-program-at-all", "no such program on the PATH"),
        (f"x=cmd:{TOY.parent}", "no such program"),
        (f"x=cmd:{Path(__file__).with_name('__init__.py')}", "cannot be executed; chmod +x"),
        ('x=cmd:"python', 'a quotation mark (") is not closed'),
        ("a b=cmd:python", "the label 'a b'"),
        ("fp32=cmd:python", "names a reference in the records"),
    ],
)
def test_a_command_that_is_none_is_refused(srbench: Srbench, arm: str, words: str) -> None:
    done = srbench("run", "--gpu", "cpu", "--cases", CASE, "--pipelines", arm)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["upscale", "in.png", "out.png", "--scale", "2", "--pipeline", "cmd:python x.py"],
        ["ladder", "--gpu", "cpu", "--pipeline", "cmd:env A=b python x.py"],
        ["run", "--gpu", "meta", "--cases", CASE, "--pipelines", f"cmd:{sys.executable} {TOY}"],
        ["roofline", "--gpu", "a10", "--cases", CASE, "--pipelines", f"cmd:{sys.executable}"],
    ],
)
def test_what_needs_a_class_says_so(srbench: Srbench, command: list[str]) -> None:
    done = srbench(*command)
    assert done.code == 2, done.err
    assert "a program of its own" in done.err


@pytest.fixture(scope="session")
def other_torch() -> str:
    """The interpreter of an environment with another torch, kept in srbench's cache folder."""
    folder = cache_folder() / "environments" / OTHER_TORCH.replace("==", "-")
    python = folder / "bin" / "python"
    known = [python, "-c", "import torch; print(torch.__version__)"]
    if not python.is_file() or subprocess.run(known, check=False).returncode:
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
        install = [python, "-m", "pip", "install", "--quiet", OTHER_TORCH, "numpy"]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{OTHER_TORCH} cannot be installed: {done.stderr.strip()[-200:]}")
    return str(python)


@pytest.mark.full
def test_another_torch_is_measured_in_the_same_run(
    srbench: Srbench, other_torch: str, tmp_path: Path
) -> None:
    """Beside it the same engine crashes and hangs; both are told, and --resume goes on."""
    toy = f"cmd:{other_torch} {TOY}"
    arms = [OURS, *(f"{name}={toy}" for name in ("toy", "gone", "hung"))]
    sets = ["mode=torch", "gone.crash_on=16", "hung.hang_on=16"]
    done = srbench(
        *("run", "--gpu", "cpu", "--cases", CASE, "--blocks", 2, "--pairs", 2, "--timeout", 60),
        *(word for arm in arms for word in ("--pipelines", arm)),
        *(word for text in sets for word in ("--set", text)),
    )
    assert done.code == 4, done.err
    path = only_run(tmp_path)
    run = read_run(path)
    ours = run.head.fingerprint["versions"]["torch"]
    assert run.head.versions["toy"] == "1 (torch 2.13.0+cpu)"
    assert not ours.startswith("2.13")
    assert {(c.pipeline, c.outcome) for c in run.cells} == {
        (OURS, "ok"),
        ("toy", "ok"),
        ("gone", "crash"),
        ("hung", "timeout"),
    }
    page = (tmp_path / "reports" / "cpu.md").read_text()
    assert "no answer within 60 s" in page
    lines = path.read_text().splitlines(keepends=True)
    first = next(n for n, text in enumerate(lines) if text.startswith('{"kind": "block"'))
    path.write_text("".join(lines[: first + 1]))
    again = srbench("run", "--resume", "--timeout", 60)
    assert again.code == 4, again.err
    whole = read_run(path)
    assert whole.ended
    assert whole.finished_blocks == {0, 1}
    assert (whole.head.run_id, len(whole.cells)) == (run.head.run_id, len(run.cells))
    planned = srbench("plan", "--gpu", "cpu", "--cases", CASE, "--pipelines", f"{OURS},toy={toy}")
    assert planned.code == 0
    assert "not counted: toy (programs of their own)" in planned.out
