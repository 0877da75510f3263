"""The real coordinator with real worker processes and small honest pipelines."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from pipelines.contract import WeightsSource
from srbench.arm import Arm, Job
from srbench.cases import Case
from srbench.coordinator import Coordinator
from srbench.errors import InfrastructureError, UsageError
from srbench.inputs import case_input
from srbench.outcome import Failure
from srbench.plan import Plan, Warmup
from srbench.protocol import Alone, Describe, Described, Timed, Upscale
from srbench.records import BlockRecord, CellRecord, VoidRecord
from srbench.registry import split_assignments
from srbench.worker_process import WorkerProcess
from tests.fixtures_pipelines import Bicubic, BicubicOptions

FIXTURES = "tests.fixtures_pipelines"
ARM = f"{FIXTURES}:Bicubic"


class Memory:
    """A sink and observer that keeps everything."""

    def __init__(self) -> None:
        self.records, self.notes = [], []

    def append(self, records: Any) -> None:
        self.records += records

    def cell_done(self, cell: CellRecord) -> None:
        assert cell in self.records

    def note(self, text: str) -> None:
        self.notes.append(text)

    def cells(self) -> list[CellRecord]:
        return [r for r in self.records if isinstance(r, CellRecord)]


def make_job(
    folder: Path,
    arms: Any,
    *,
    cases: Any = ("32x16x2", "16x16x2"),
    blocks: Any = 1,
    pairs: Any = 2,
    **changes: Any,
) -> Job:
    sets = changes.pop("sets", ())
    return Job(
        plan=Plan(
            cases=cases,
            arms=arms,
            blocks=blocks,
            pairs=pairs,
            seed=3,
            warmup=Warmup(first=2, later=1, until_steady=False),
        ),
        assignments=split_assignments(sets, arms),
        device="cpu",
        precision=changes.pop("precision", "fp32"),
        weights=WeightsSource(folder, "folder", "00", False),
        inputs={case: case_input(Case.parse(case), None) for case in cases},
        noise_seed=7,
        timeout_s=changes.pop("timeout_s", 60.0),
        **changes,
    )


def measure(job: Any, finished: Any = (), stop: Any = lambda: False) -> Any:
    memory = Memory()
    with Coordinator(job, memory) as coordinator:
        facts = coordinator.open()
        completed = coordinator.run(memory, finished, stop)
        pictures = {case: coordinator.pictures(case) for case in job.plan.cases}
        loaded = {
            key: np.load(alone.picture)
            for case, arms in pictures.items()
            for key, alone in ((f"{case} {arm}", value) for arm, value in arms.items())
            if isinstance(alone, Alone)
        }
    return memory, facts, completed, loaded, pictures


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("weights")
    arms = (ARM, f"{FIXTURES}:Slow")
    job = make_job(folder, arms, blocks=2, sets=["repeats=2", f"{ARM}.filter=lanczos"])
    return job, *measure(job)


def test_facts_and_options_of_both_arms(plain_run: Any) -> None:
    _, _, facts, *_ = plain_run
    options = facts.described[ARM].options
    assert (options["filter"], options["repeats"]) == ("lanczos", 2)
    assert facts.described[f"{FIXTURES}:Slow"].options["filter"] == "bicubic"
    assert facts.described[ARM].tiers == {"fp32": "exact"}
    assert facts.tf32 is False


def test_every_cell_of_every_block_is_measured(plain_run: Any) -> None:
    job, memory, _, completed, *_ = plain_run
    assert completed
    cells = memory.cells()
    assert len({(c.block, c.case, c.pipeline) for c in cells}) == len(cells) == 2 * 2 * 2
    assert all(c.outcome == "ok" and len(c.samples) == job.plan.pairs for c in cells)
    assert [r.block for r in memory.records if isinstance(r, BlockRecord)] == [0, 1]
    assert all(c.load_ms > 0 and c.prepare_ms >= 0 for c in cells)


def test_warmup_is_longer_for_the_first_case_of_a_worker(plain_run: Any) -> None:
    job, memory, *_ = plain_run
    for block in (0, 1):
        first = job.plan.block(block)[0].case
        for cell in memory.cells():
            if cell.block == block:
                assert len(cell.warmup_ms) == (2 if cell.case == first else 1)


def test_samples_follow_the_planned_order(plain_run: Any) -> None:
    job, memory, *_ = plain_run
    for planned in job.plan.block(1):
        done = {
            sample["position"]: (sample["pair"], cell.pipeline)
            for cell in memory.cells()
            if (cell.block, cell.case) == (1, planned.case)
            for sample in cell.samples
        }
        expected = [(i, arm) for i, order in enumerate(planned.rounds) for arm in order]
        assert [done[position] for position in range(len(done))] == expected


def test_times_are_those_of_the_pipeline(plain_run: Any) -> None:
    _, memory, *_ = plain_run
    for cell in memory.cells():
        for sample in cell.samples:
            slow = cell.pipeline.endswith("Slow")
            assert (sample["latency_ms"] > 100) is slow
            assert {"preprocess", "unet", "postprocess"} == set(sample["stages_ms"])
            assert sum(sample["stages_ms"].values()) < sample["latency_ms"]
            assert sample["gpu_ms"] is None
            assert sample["state"] == {}


def test_solo_phase_happens_once(plain_run: Any) -> None:
    _, memory, *_ = plain_run
    for cell in memory.cells():
        if cell.block:
            assert cell.memory == {}
            continue
        width, height, scale = (int(n) for n in cell.case.split("x"))
        values = width * height * scale**2 * 3
        assert cell.memory["rss_peak_bytes"] > 20e6
        assert cell.memory["allocator_peak_bytes"] is None
        # The float result and its quotient live together; the int64 source joins them.
        assert cell.memory["peak_tensor_bytes"] >= 4 * values
        assert cell.work["launches"] >= 2
        assert cell.energy_j is None


def test_pictures_are_those_of_the_pipeline(plain_run: Any) -> None:
    job, memory, _, _, pictures, _ = plain_run
    for case, image in job.inputs.items():
        pipeline = Bicubic(BicubicOptions(filter="lanczos"))
        expected = pipeline.upscale(image.pixels, Case.parse(case).scale, seed=7)
        np.testing.assert_array_equal(pictures[f"{case} {ARM}"], expected)
    hashes = {(c.case, c.pipeline, s["output_sha256"]) for c in memory.cells() for s in c.samples}
    assert len(hashes) == 4


def test_failures_are_results_and_the_rest_goes_on(tmp_path: Path) -> None:
    expected = {
        "Killed": ("crash", "SIGKILL"),
        "Starved": ("oom", "no room for 9 GiB"),
        "Raising": ("crash", "ZeroDivisionError: a bug of two lines"),
        "Refusing": ("unsupported", "this size is not supported"),
    }
    arms = (ARM, *(f"{FIXTURES}:{name}" for name in expected))
    job = make_job(tmp_path, arms, sets=["break_on=32"], pairs=1)
    memory, _, completed, _, pictures = measure(job)
    assert completed
    cells = {(c.case, c.pipeline): c for c in memory.cells()}
    assert len(cells) == 10
    for (case, arm), cell in cells.items():
        name = arm.partition(":")[2]
        if case != "32x16x2" or name not in expected:
            assert cell.outcome == "ok"
            continue
        outcome, words = expected[name]
        assert cell.outcome == outcome
        assert words in cell.reason
        assert "\n" not in cell.reason
        assert cell.samples == []
        failure = pictures[case][arm]
        assert isinstance(failure, Failure)
        assert failure.outcome == outcome
    assert any("in break_down" in note for note in memory.notes)


def test_weights_that_do_not_fit_are_a_result(tmp_path: Path) -> None:
    arms = (f"{FIXTURES}:Heavy", f"{FIXTURES}:Forgetful")
    job = make_job(tmp_path, arms, cases=("16x16x2",), pairs=4)
    memory, *_ = measure(job)
    heavy, other = memory.cells()
    assert (heavy.outcome, heavy.reason) == ("oom", "weights of 99 GiB")
    assert other.outcome == "ok"
    (block,) = (r for r in memory.records if isinstance(r, BlockRecord))
    assert f"16x16x2 {arms[1]}: timed images differ from the judged one" in block.notes


def test_a_hanging_worker_is_killed(tmp_path: Path) -> None:
    name = f"{FIXTURES}:Hanging"
    worker = WorkerProcess(tmp_path / "log")
    settings = {"break_on": "16"}
    request = Describe(arm=name, pipeline=name, assignments={"": settings, name: {}})
    assert isinstance(worker.ask(Described, request, 60), Described)
    np.save(tmp_path / "image.npy", np.zeros((16, 16, 3), np.uint8))
    image = Upscale(image=str(tmp_path / "image.npy"), scale=2, seed=0)
    answer = worker.ask(Timed, image, 0.3)
    assert isinstance(answer, Failure)
    assert (answer.outcome, answer.reason) == ("timeout", "no answer within 0.3 s")
    assert not worker.alive
    assert not _runs(worker.pid)


def test_stop_ends_the_run_after_the_current_block(tmp_path: Path) -> None:
    stops = iter([False, True, True])
    memory = Memory()
    job = make_job(tmp_path, (ARM,), cases=("16x16x2",), blocks=3, pairs=1)
    with Coordinator(job, memory) as coordinator:
        coordinator.open()
        assert not coordinator.run(memory, set(), lambda: next(stops))
    assert {c.block for c in memory.cells()} == {0}


def test_finished_blocks_are_skipped(tmp_path: Path) -> None:
    job = make_job(tmp_path, (ARM,), cases=("16x16x2",), blocks=2, pairs=1)
    memory, *_, pictures = measure(job, finished={0})
    assert {c.block for c in memory.cells()} == {1}
    assert isinstance(pictures["16x16x2"][ARM], Alone)  # made again, though block 0 was skipped


@pytest.mark.parametrize(("finished", "looked"), [({0}, [0]), ({0, 1}, [])])
def test_a_resumed_run_makes_no_look_that_lies_behind_it(
    tmp_path: Path, finished: set[int], looked: list[int]
) -> None:
    job = make_job(tmp_path, (ARM,), cases=("16x16x2",), blocks=3, pairs=1)
    memory, cells_at_look = Memory(), []

    def decided() -> bool:
        cells_at_look.append(len(memory.cells()))
        return False

    with Coordinator(replace(job, plan=replace(job.plan, looks=(1, 3))), memory) as coordinator:
        coordinator.open()
        assert coordinator.run(memory, finished, lambda: False, decided) == 3
    assert cells_at_look == looked
    assert {c.block for c in memory.cells()} == {0, 1, 2} - finished


class Heated(Arm):
    """A real arm whose card is too hot in its first solo phase."""

    hot: ClassVar[list[bool]] = []

    def ask(self, kind: Any, request: Any) -> Any:
        reply = super().ask(kind, request)
        if isinstance(reply, Alone) and self.hot:
            reply = replace(reply, states=[{"throttle_reasons": 0x40 if self.hot.pop() else 0}])
        return reply


def test_a_disturbed_solo_phase_voids_its_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srbench.coordinator.Arm", Heated)
    monkeypatch.setattr(Heated, "hot", [False, True])
    job = make_job(tmp_path, (ARM,), cases=("16x16x2",), blocks=1, pairs=1)
    memory, *_ = measure(job)
    assert [type(r) for r in memory.records] == [CellRecord, VoidRecord, CellRecord, BlockRecord]
    assert memory.records[1].reasons == ["hardware thermal slowdown in 1 of 1 readings"]


@pytest.mark.parametrize(
    ("arm", "sets", "changes", "error", "words"),
    [
        (f"{FIXTURES}:Bicubik", [], {}, UsageError, "Did you mean 'Bicubic'"),
        ("tests.no_such:Thing", [], {}, UsageError, "no module named"),
        (f"{FIXTURES}:NOT_A_PIPELINE", [], {}, UsageError, "no pipeline"),
        (ARM, [f"{ARM}.filtre=x"], {}, UsageError, "Did you mean 'filter'"),
        (ARM, ["filter=box"], {}, UsageError, "one of bicubic, lanczos"),
        (ARM, ["repeats=0"], {}, UsageError, "at least 1"),
        (f"{FIXTURES}:HalfPrecisionOnly", [], {}, UsageError, "supports only fp16"),
        (f"{FIXTURES}:Unloadable", [], {}, UsageError, "weights of another model"),
        (ARM, [], {"timeout_s": 0.01}, InfrastructureError, "broke at its start"),
    ],
)
def test_what_cannot_be_run_is_refused_first(
    tmp_path: Path, arm: Any, sets: Any, changes: Any, error: Any, words: str
) -> None:
    job = make_job(tmp_path, (arm,), cases=("16x16x2",), sets=sets, **changes)
    with Coordinator(job, Memory()) as coordinator, pytest.raises(error, match=words):
        coordinator.open()


def test_workers_die_with_the_coordinator_and_so_does_what_they_started(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from srbench.protocol import Describe, Described
from srbench.worker_process import WorkerProcess
worker = WorkerProcess(Path({str(tmp_path / "log")!r}))
pipeline = "{FIXTURES}:Parent"
sets = {{"": {{}}, pipeline: {{"mark": {str(tmp_path / "child")!r}}}}}
worker.ask(Described, Describe(arm=pipeline, pipeline=pipeline, assignments=sets), 60)
print(worker.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        child = int((tmp_path / "child").read_text())
        assert _runs(child)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (_runs(pid) or _runs(child)):
        time.sleep(0.05)
    assert not _runs(pid)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
