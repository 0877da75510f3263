"""The evidence of a run's pictures, with real workers: repeats, another seed, the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract import Precision, WeightsSource
from srbench.coordinator import Coordinator
from srbench.fidelity.floats import FLOAT_MSE_FLOOR
from srbench.fidelity.roles import FP32, OTHER_SEED, REPEAT, ROLES
from srbench.judging import Evidence, Pairing, judge_run, pairings, sides
from srbench.outcome import Failure, Outcome
from srbench.protocol import Alone
from srbench.records import FidelityRecord
from srbench.worker_process import WorkerProcess
from tests.fixtures_pipelines import BicubicOptions, EitherPrecision
from tests.unit.test_coordinator import FIXTURES, Memory, make_job

CASES = ("32x16x2", "16x16x2")
BASELINE = f"{FIXTURES}:TooLargeInFp32"
CANDIDATE = f"{FIXTURES}:Wavering"

Records = dict[tuple[str, str, str], FidelityRecord]
Judged = tuple[Records, Memory, list[int]]


def judge(job: Any, done: Any = ()) -> tuple[Records, Memory]:
    memory = Memory()
    with Coordinator(job, memory) as coordinator:
        coordinator.open()
        new = judge_run(coordinator, job, sink=memory, observer=memory, done=done)
    assert new == memory.records
    return {(r.case, r.pipeline, r.reference): r for r in new}, memory


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_job(
        tmp_path_factory.mktemp("weights"),
        (BASELINE, CANDIDATE),
        cases=CASES,
        precision="fp16",
        sets=["break_on=16", f"{CANDIDATE}.filter=lanczos"],
    )


@pytest.fixture(scope="module")
def others_alive() -> Iterator[list[int]]:
    """For every worker that is started, how many of the earlier ones live at that moment."""
    counts: list[int] = []
    workers: list[WorkerProcess] = []
    start = WorkerProcess.__init__

    def watched(worker: WorkerProcess, *told: Any) -> None:
        counts.append(sum(earlier.alive for earlier in workers))
        workers.append(worker)
        start(worker, *told)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerProcess, "__init__", watched)
        yield counts


@pytest.fixture(scope="module")
def judged(job: Any, others_alive: list[int]) -> Judged:
    others_alive.clear()
    return *judge(job), list(others_alive)


def outputs(job: Any, case: str, precision: Precision, **options: Any) -> Any:
    """Floats and predicted noise as the pipeline makes them in this process."""
    pipeline = EitherPrecision(BicubicOptions(**options))
    pipeline.load(WeightsSource(job.weights.path, "folder", "00", False), None, precision)
    eps: list[Any] = []
    image = job.inputs[case].pixels
    floats = pipeline.upscale_float(image, 2, seed=7, observe=lambda _, value: eps.append(value))
    return floats, eps[0].float().numpy().astype(np.float64)


def test_what_is_judged(job: Any) -> None:
    plan = replace(job.plan, cases=("a", "b"), arms=("base", "one", "two"))
    first = [
        Pairing("a", "one", "base"),
        Pairing("a", "two", "base"),
        *(Pairing("a", arm, REPEAT) for arm in plan.arms),
        Pairing("a", "base", OTHER_SEED),
    ]
    assert pairings(plan, "fp32") == [*first, *(replace(p, case="b") for p in first)]
    more = set(pairings(plan, "fp16")) - set(pairings(plan, "fp32"))
    assert more == {Pairing(case, arm, FP32) for case in "ab" for arm in plan.arms}


def test_every_pairing_is_stored(job: Any, judged: Judged) -> None:
    records, *_ = judged
    assert list(records) == [
        (p.case, p.arm, p.reference) for p in pairings(job.plan, job.precision)
    ]


def test_crops_are_kept_between_arms_only(judged: Judged) -> None:
    for (_, _, reference), record in judged[0].items():
        assert bool(record.crops) is (reference not in ROLES)


def test_a_pipeline_that_wavers_shows_by_how_much(judged: Judged) -> None:
    records, *_ = judged
    for case in CASES:
        steady, wavering = (records[case, arm, REPEAT].metrics for arm in (BASELINE, CANDIDATE))
        assert steady["psnr"] == pytest.approx(80, abs=1e-3)
        assert (steady["max_abs_diff"], steady["distinct_pictures"]) == (0, 1)
        assert wavering["distinct_pictures"] == 3
        assert wavering["max_abs_diff"] > 50
        assert wavering["psnr"] < 40
        assert records[case, CANDIDATE, REPEAT].worst_block == [0, 0]


def test_another_seed_tells_how_much_the_model_varies(job: Any, judged: Judged) -> None:
    records, *_ = judged
    for case in CASES:
        record = records[case, BASELINE, OTHER_SEED]
        assert record.outcome == "ok"
        assert record.metrics["max_abs_diff"] == 1
        assert (case, CANDIDATE, OTHER_SEED) not in records


def test_both_arms_are_held_against_fp32(job: Any, judged: Judged) -> None:
    records, *_ = judged
    case = "32x16x2"
    exact, exact_eps = outputs(job, case, Precision.FP32)
    for arm, kind in ((BASELINE, "bicubic"), (CANDIDATE, "lanczos")):
        record = records[case, arm, FP32]
        floats, eps = outputs(job, case, Precision.FP16, filter=kind)
        mse = np.square(exact.astype(np.float64) - floats).mean()
        assert record.metrics["psnr_float"] == pytest.approx(-10 * np.log10(mse + FLOAT_MSE_FLOOR))
        distance = np.linalg.norm(eps - exact_eps) / np.linalg.norm(exact_eps)
        assert record.metrics["eps_relative_l2"] == pytest.approx(distance)
        assert distance > 0
    ours, theirs = (records[case, arm, FP32].metrics["psnr"] for arm in (CANDIDATE, BASELINE))
    assert ours < theirs


def test_a_reference_that_does_not_fit_is_a_result(judged: Judged) -> None:
    records, memory, _ = judged
    for arm in (BASELINE, CANDIDATE):
        record = records["16x16x2", arm, FP32]
        assert record.outcome == "oom"
        assert record.reason == "fp32 reference: no room for 30 GiB"
        assert record.metrics == {}
    assert records["16x16x2", CANDIDATE, BASELINE].outcome == "ok"
    assert any("no room for 30 GiB" in note for note in memory.notes)


def test_one_network_at_a_time_is_on_the_device(judged: Judged) -> None:
    # The two arms, then the reference, then the metrics.
    assert judged[2] == [0, 1, 0, 0]


def test_nothing_is_started_when_all_is_stored(job: Any, judged: Judged) -> None:
    memory = Memory()
    coordinator = Coordinator(job, memory)  # not entered: it could not even make a folder
    done = set(judged[0])
    assert judge_run(coordinator, job, sink=memory, observer=memory, done=done) == []
    assert memory.records == []


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ("HalfPrecisionOnly", "does not compute in fp32"),
        pytest.param("TurnsTf32On", "turns TF32 on", marks=pytest.mark.full),
    ],
)
def test_what_is_no_reference_is_refused(tmp_path: Path, baseline: str, words: str) -> None:
    """And of a run that was resumed only what is not stored yet is judged."""
    arm = f"{FIXTURES}:{baseline}"
    job = make_job(tmp_path, (arm,), cases=("16x16x2",), precision="fp16")
    records, _ = judge(job, done={("16x16x2", arm, role) for role in (REPEAT, OTHER_SEED)})
    (record,) = records.values()
    assert (record.reference, record.outcome) == (FP32, "unsupported")
    assert words in (record.reason or "")


def test_an_arm_without_a_picture_fails_in_all_its_pairings(tmp_path: Path) -> None:
    arms = (f"{FIXTURES}:Bicubic", f"{FIXTURES}:Starved")
    records, _ = judge(make_job(tmp_path, arms, cases=("16x16x2",), sets=["break_on=16"]))
    outcomes = {(arm, reference): r.outcome for (_, arm, reference), r in records.items()}
    assert outcomes == {
        (arms[1], arms[0]): "oom",
        (arms[0], REPEAT): "ok",
        (arms[1], REPEAT): "oom",
        (arms[0], OTHER_SEED): "ok",
    }


def test_a_worker_that_tried_once_proves_nothing() -> None:
    once = Alone(
        picture="p",
        picture_float="f",
        eps=None,
        memory={},
        work={},
        energy_j=None,
        energy_reason=None,
        picture_sha256="",
    )
    for role in (REPEAT, OTHER_SEED):
        found = sides(Pairing("a", "base", role), Evidence({"base": once}, {}, None))
        assert isinstance(found, Failure)
        assert found.outcome is Outcome.UNSUPPORTED
    again = replace(once, distinct_pictures=1)
    found = sides(Pairing("a", "base", REPEAT), Evidence({"base": again}, {}, None))
    assert found == ([{"picture": "p"}], {"picture": "p", "picture_float": "f", "eps": None})
