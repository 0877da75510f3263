"""The pytest plugin as a project's own test suite uses it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

# Loaded here: pytester forgets what an inner session imports, and these load once a process.
import scipy.special  # noqa: F401

from srbench.baselines import promote
from srbench.errors import UsageError
from srbench.gate import Policy, Verdict, judge
from srbench.in_process import Design, Measurement, compare_pictures, records_of
from srbench.in_process.measurement import WARMUP
from srbench.in_process.pictures import ARMS, digest
from srbench.in_process.recording import make_head
from srbench.store import RunWriter, read_run

pytest_plugins = "pytester"

SLEEPY = """
import time
import pytest

def slow():
    time.sleep(0.02)

def fast():
    time.sleep(0.001)
"""
"""Twentyfold: no neighbour on the machine turns these around."""
PICTURES = """
import time
import numpy as np
import pytest

SCENE = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)

def same():
    return SCENE.copy()

def ruined():
    picture = SCENE.copy()
    picture[64:, 64:] = 0
    return picture

def smaller():
    return SCENE[:64]
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An inner pytest that loads the two plugins alone, installed or not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    # Under it benchmarks are off; the inner session is no part of what runs beside this test.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    plugins = "-p pytest_benchmark.plugin -p srbench.pytest_plugin"
    pytester.makeini(f"[pytest]\naddopts = {plugins} --strict-markers\nfilterwarnings = error\n")
    return pytester


def _results(folder: Path = Path("results")) -> list[Path]:
    return sorted(folder.glob("cpu/*.jsonl"))


def test_without_the_option_it_is_an_ordinary_benchmark(session: pytest.Pytester) -> None:
    session.makepyfile(
        SLEEPY + "def test_it(srbench_gate):\n"
        "    assert srbench_gate(baseline=slow, candidate=fast) is None\n"
    )
    done = session.runpytest("--benchmark-min-rounds=1", "--benchmark-max-time=0.001")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*benchmark: 1 tests*"])
    done.stdout.no_fnmatch_line("*srbench gate*")
    assert not Path("results").exists()


def test_verdicts_become_outcomes_and_both_formats_are_written(session: pytest.Pytester) -> None:
    session.makepyfile(
        SLEEPY
        + """
@pytest.mark.srbench(blocks=6, pairs=2)
class TestAll:
    def test_faster(self, srbench_gate):
        judgement = srbench_gate(baseline=slow, candidate=fast, case="faster", min_speedup=1.01)
        assert judgement.verdict.value == "pass"

    def test_slower(self, srbench_gate):
        srbench_gate(baseline=fast, candidate=slow, case="slower")

    def test_too_slow(self, srbench_gate):
        srbench_gate(baseline=slow, candidate=fast, case="too slow", min_speedup=1e9)

    def test_open(self, srbench_gate):
        srbench_gate(baseline=fast, candidate=fast, case="open", blocks=1)
"""
    )
    done = session.runpytest("--srbench-gate", "--benchmark-json=b.json", "-rs")
    done.assert_outcomes(passed=1, failed=2, skipped=1)
    done.stdout.fnmatch_lines(
        [
            "srbench gate: FAIL latency slower +*% slower*",
            "srbench gate: FAIL speed-up too slow *is below 1*x*",
            "*= srbench gate =*",
            "case *speed-up *95 % *verdict",
            "faster *x *PASS",
            "slower *x *FAIL",
            "open *INCONCLUSIVE",
            "blocks of one process: weaker evidence*",
            "results: results/cpu/*.jsonl",
            "SKIPPED *srbench gate: INCONCLUSIVE latency open *",
        ]
    )
    runs = [read_run(path) for path in _results()]
    by_cases = {tuple(run.head.cases): run for run in runs}
    assert set(by_cases) == {("faster", "too slow"), ("slower",), ("open",)}
    run = by_cases["faster", "too slow"]
    assert run.ended
    assert run.finished_blocks == set(range(6))
    assert sum(len(cell.samples) for cell in run.cells) == 2 * 6 * 2 * 2
    assert "weaker evidence" in Path(_results()[0]).read_text()
    document = json.loads(Path("b.json").read_text())
    names = [bench["name"] for bench in document["benchmarks"]]
    assert names[:2] == ["test_faster[baseline]", "test_faster[candidate]"]
    stats = document["benchmarks"][0]["stats"]
    stored = [
        sample["latency_ms"]
        for cell in run.cells
        if (cell.case, cell.pipeline) == ("faster", "baseline")
        for sample in cell.samples
    ]
    assert stats["rounds"] == len(stored) == 12
    assert 1e3 * stats["median"] == pytest.approx(median(stored))
    assert min(stored) >= 20


def test_a_crash_is_recorded_and_keeps_its_traceback(session: pytest.Pytester) -> None:
    session.makepyfile(
        SLEEPY
        + """
def broken():
    raise RuntimeError("CUDA out of memory. Tried to allocate 12 GiB")

def test_it(srbench_gate):
    srbench_gate(baseline=fast, candidate=broken, case="c")
"""
    )
    done = session.runpytest("--srbench-gate")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*raise RuntimeError*", "*Tried to allocate 12 GiB*"])
    done.stdout.fnmatch_lines(["c *oom"])
    (cell,) = read_run(_results()[0]).cells
    assert (cell.outcome, cell.pipeline) == ("oom", "candidate")


def test_pictures_are_compared(session: pytest.Pytester) -> None:
    session.makepyfile(
        PICTURES
        + """
@pytest.mark.parametrize("candidate", [same, ruined, smaller], ids=lambda f: f.__name__)
@pytest.mark.srbench(blocks=1, pairs=1)
def test_it(srbench_gate, candidate):
    srbench_gate(baseline=same, candidate=candidate)
"""
    )
    done = session.runpytest("--srbench-gate")
    done.assert_outcomes(failed=2, skipped=1)
    done.stdout.fnmatch_lines(
        [
            "srbench gate: FAIL *worst 64x64 block test_it[[]ruined[]]*",
            "srbench gate: FAIL *candidate's picture is (64, 128, 3)*",
        ]
    )


def test_against_a_promoted_session(session: pytest.Pytester) -> None:
    session.makepyfile(
        PICTURES
        + """
def steady():
    time.sleep(0.01)
    return SCENE

@pytest.mark.srbench(blocks=6, pairs=3)
def test_it(srbench_gate):
    srbench_gate(baseline=steady, candidate=steady, case="scene")
"""
    )
    missing = session.runpytest("--srbench-gate", "--srbench-against=main")
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["srbench gate: no baseline 'main' for cpu*"])
    promote(_results()[0], Path("results"), "main", Policy())
    Path("p.toml").write_text("[gate]\nmargin = 0.9\n")
    done = session.runpytest("--srbench-gate=p.toml", "--srbench-against=main")
    done.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("options", "settings", "line"),
    [
        (["--srbench-gate", "test_it.py"], "", "*--srbench-gate=test_it.py: a policy is a .toml*"),
        (["--srbench-gate=p.toml"], "", "*p.toml: [[]gate[]] unknown key 'margn'. Did you mean*"),
        (["--srbench-gate", "--srbench-results=p.toml"], "", "*p.toml: cannot write there*"),
        (["--srbench-gate"], "bloks=2", "*unknown setting 'bloks'. Did you mean 'blocks'?*"),
        (["--srbench-gate"], "pairs=0", "*gate: pairs 0: must be a whole number of 1 or more"),
        (["--srbench-gate"], "tier='exakt'", "*gate: tier 'exakt'*tier. Did you mean 'exact'?"),
        (["--srbench-gate"], "case=3", "*gate: case 3: must be text"),
        (["--srbench-gate"], r"case='a\tb'", r"*gate: case 'a\tb': must be printable and not*"),
        (["--srbench-gate"], "case=''", "*gate: case '': must be printable and not empty"),
    ],
)
def test_bad_input_is_one_line(
    session: pytest.Pytester, options: list[str], settings: str, line: str
) -> None:
    Path("p.toml").write_text("[gate]\nmargn = 1\n")
    session.makepyfile(
        test_it=SLEEPY + "def test_it(srbench_gate):\n"
        f"    srbench_gate(baseline=fast, candidate=fast, {settings})\n"
    )
    done = session.runpytest(*options)
    assert done.ret != 0
    lines = [*done.outlines, *done.errlines]
    pytest.LineMatcher(lines).fnmatch_lines([line])
    assert "Traceback" not in "\n".join(lines)


@pytest.mark.parametrize("value", ["x", None, 2.5, True, 0, -1, float("inf")])
@pytest.mark.parametrize("name", ["blocks", "pairs"])
def test_a_number_that_is_none_is_one_line(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{name} .*: must be a whole number of 1 or more$"):
        Design(**{name: value})


@pytest.mark.parametrize("value", ["x", True, 0, -1.0, float("inf"), float("nan"), 10**400])
def test_a_speedup_that_is_none_is_one_line(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^min_speedup .*: must be a finite number above 0$"):
        Design(min_speedup=value)


@pytest.mark.parametrize(
    "setting", [{"seed": "x"}, {"seed": -1}, {"tier": None}, {"tier": ["exact"]}]
)
def test_other_settings_of_wrong_types_are_one_line(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(setting))} "):
        Design(**setting)


def test_settings_without_a_name_are_refused(session: pytest.Pytester) -> None:
    session.makepyfile(
        SLEEPY + "@pytest.mark.srbench(3)\n"
        "def test_it(srbench_gate):\n    srbench_gate(baseline=fast, candidate=fast)\n"
    )
    done = session.runpytest("--srbench-gate")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        ["srbench gate: @pytest.mark.srbench(3): settings are given by name, as blocks=6"]
    )


def test_pictures_that_nothing_was_held_against_are_no_pass(session: pytest.Pytester) -> None:
    """No picture while they are compared, one from the first timed call on."""
    session.makepyfile(
        PICTURES
        + f"""
class Late:
    def __init__(self, pause):
        self.calls, self.pause = 0, pause

    def __call__(self):
        self.calls += 1
        time.sleep(self.pause)
        return SCENE.copy() if self.calls > {1 + WARMUP} else None

@pytest.mark.srbench(blocks=6, pairs=1, min_speedup=1.01)
def test_it(srbench_gate):
    srbench_gate(baseline=Late(0.02), candidate=Late(0.002), case="c")
"""
    )
    done = session.runpytest("--srbench-gate", "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*INCONCLUSIVE psnr c of candidate was not measured*"])


def test_pictures_that_a_promoted_session_had_are_missed(session: pytest.Pytester) -> None:
    session.makepyfile(
        PICTURES
        + """
def steady():
    time.sleep(0.01)
    return SCENE if {pictures} else None

@pytest.mark.srbench(blocks=6, pairs=2)
def test_it(srbench_gate):
    srbench_gate(baseline=steady, candidate=steady, case="scene")
"""
    )
    source = Path(next(iter(Path.cwd().glob("test_*.py"))))
    text = source.read_text()
    Path("p.toml").write_text("[gate]\nmargin = 0.9\n")
    source.write_text(text.format(pictures=True))
    session.runpytest_subprocess("--srbench-gate=p.toml").assert_outcomes(passed=1)
    promote(_results()[0], Path("results"), "main", Policy())
    source.write_text(text.format(pictures=False))
    done = session.runpytest_subprocess("--srbench-gate=p.toml", "--srbench-against=main", "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*INCONCLUSIVE psnr scene of candidate was not measured*"])


def test_a_case_is_measured_by_one_test(session: pytest.Pytester) -> None:
    session.makepyfile(
        SLEEPY
        + """
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.srbench(blocks=1, pairs=1)
def test_it(srbench_gate, n):
    srbench_gate(baseline=fast, candidate=fast, case="c")
"""
    )
    done = session.runpytest("--srbench-gate")
    done.assert_outcomes(skipped=1, failed=1)
    done.stdout.fnmatch_lines(["*case 'c' was measured by another test*"])


def test_disabled_benchmarks_never_pass_the_gate(session: pytest.Pytester) -> None:
    session.makepyfile(
        SLEEPY + "def test_it(srbench_gate):\n    srbench_gate(baseline=fast, candidate=fast)\n"
    )
    done = session.runpytest("--srbench-gate", "--benchmark-disable", "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*nothing was measured*"])


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (1 + WARMUP, "*c candidate: the judged picture is none of those that were timed*"),
        (1 + 2 * (WARMUP + 2), "*c candidate makes 2 different pictures in one process*"),
    ],
)
def test_a_picture_that_is_right_only_while_it_is_compared_fails(
    session: pytest.Pytester, right: int, said: str
) -> None:
    """Zeros from the first timed call on, and from the third block on."""
    session.makepyfile(
        PICTURES
        + f"""
class Fading:
    calls = 0

    def __call__(self):
        self.calls += 1
        time.sleep(0.002)
        return SCENE.copy() if self.calls <= {right} else np.zeros_like(SCENE)

def steady():
    time.sleep(0.002)
    return SCENE.copy()

@pytest.mark.srbench(blocks=4, pairs=2)
def test_it(srbench_gate):
    srbench_gate(baseline=steady, candidate=Fading(), case="c")
"""
    )
    done = session.runpytest("--srbench-gate")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([said])


def test_pictures_that_stop_coming_are_no_pass(session: pytest.Pytester) -> None:
    session.makepyfile(
        PICTURES
        + """
class Ending:
    calls = 0

    def __call__(self):
        self.calls += 1
        time.sleep(0.002)
        return SCENE.copy() if self.calls <= 6 else None

def slow():
    time.sleep(0.02)
    return SCENE.copy()

@pytest.mark.srbench(blocks=6, pairs=2, min_speedup=1.01)
def test_it(srbench_gate):
    srbench_gate(baseline=slow, candidate=Ending(), case="c")
"""
    )
    done = session.runpytest("--srbench-gate", "-rs")
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*determinism c of candidate: 10 timed pictures have no hash*"])


def test_the_judged_picture_is_stored_with_its_hash() -> None:
    scene = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    measured = Measurement("c", Design(blocks=2, pairs=1))
    measured.measure(lambda: scene, lambda: scene + 1)
    hashes = [digest(scene), digest(scene + 1)]
    assert [cell.picture_sha256 for cell in measured.cells] == [*hashes, None, None]
    assert {len(cell.samples) for cell in measured.cells} == {make_head([measured]).pairs}
    assert [record.picture_sha256 for record in measured.fidelity] == hashes[1:]
    nothing = Measurement("c", Design(blocks=1, pairs=1))
    nothing.measure(lambda: None, lambda: None)
    assert [cell.picture_sha256 for cell in nothing.cells] == [None, None]


def test_pictures_of_other_kinds() -> None:
    grey = np.zeros((70, 70), np.uint8)
    record = compare_pictures("c", grey, grey + 1)
    assert record is not None
    assert record.metrics["max_abs_diff"] == 1
    assert record.metrics["psnr"] == pytest.approx(48.13, abs=0.01)
    assert compare_pictures("c", 1, 2) is None
    assert compare_pictures("c", grey / 255, grey / 255) is None
    one_sided = compare_pictures("c", grey, None)
    assert one_sided is not None
    assert one_sided.outcome == "invalid"


def test_quick_callables_are_repeated_inside_a_sample() -> None:
    measured = Measurement("c", Design(blocks=1, pairs=1))
    before = time.perf_counter()
    measured.measure(lambda: None, lambda: None)
    around_ms = 1e3 * (time.perf_counter() - before)
    assert measured.iterations > 10
    assert "mean of" in measured.blocks[0].notes[1]
    means = [cell.samples[0]["latency_ms"] for cell in measured.cells]
    assert min(means) > 0
    assert measured.iterations * sum(means) <= around_ms


class Breaking:
    """A callable that raises at its n-th call."""

    def __init__(self, at: float = float("inf")) -> None:
        self.left = at

    def __call__(self) -> None:
        time.sleep(0.002)
        self.left -= 1
        if self.left <= 0:
            raise ValueError("broken")


CALLS = WARMUP + 1
"""Of each callable in a block of one pair, beside the very first."""


def _measured(case: str, *, baseline: float = float("inf"), candidate: float = float("inf")) -> Any:
    measured = Measurement(case, Design(blocks=6, pairs=1))
    with contextlib.suppress(ValueError), measured:
        measured.measure(Breaking(baseline), Breaking(candidate))
    return measured


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("at", "block"),
    [
        pytest.param(1, 0, id="first call"),
        pytest.param(2, 0, id="warm-up"),
        pytest.param(1 + 3 * CALLS, 2, id="timed"),
    ],
)
def test_the_arm_that_raised_is_the_one_that_crashed(arm: str, at: int, block: int) -> None:
    measured = _measured("c", **{arm: at})
    assert [cell.block for cell in measured.cells[:-1]] == [
        each for n in range(block) for each in (n, n)
    ]
    broken = measured.cells[-1]
    assert (broken.block, broken.pipeline, broken.outcome) == (block, arm, "crash")
    assert broken.reason == "ValueError: broken"
    assert [record.block for record in measured.blocks] == list(range(block + 1))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_crash_of_several_in_one_file_is_lost(tmp_path: Path, order: tuple[int, int]) -> None:
    late, early = _measured("late", candidate=2 + 3 * CALLS), _measured("early", baseline=2 + CALLS)
    group = [(late, early)[index] for index in order]
    head, records = records_of(group, interrupted=False)
    with RunWriter.create(tmp_path, head) as writer:
        writer.append(records)
    run = read_run(writer.path)
    broken = {(cell.case, cell.block, cell.pipeline) for cell in run.cells if cell.outcome != "ok"}
    assert broken == {("late", 3, "candidate"), ("early", 1, "baseline")}
    assert run.finished_blocks == {0, 1, 2, 3}
    assert judge(run, Policy()).verdict is Verdict.ERROR


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, srbench.pytest_plugin\n"
        "heavy = {'numpy', 'scipy', 'pandas', 'torch', 'matplotlib', 'srbench.gate'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
