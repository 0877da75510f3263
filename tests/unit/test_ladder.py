"""From the rungs of a pipeline to the arms of a run, and what such a run asks of its workers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.s3diff.options import OPTIMIZED_RUNGS, OptimizedOptions
from pipelines.s3diff.predictions import predicted_seconds
from srbench.brief import Brief
from srbench.config import Settings
from srbench.coordinator import Coordinator
from srbench.errors import NotComparableError, UsageError
from srbench.gate import Policy, judge
from srbench.gate.verdict import blemishes
from srbench.judging import Pairing, ladder_pairings
from srbench.ladder.arms import LadderArm, climb
from srbench.ladder.preparing import Ascent, brief_ladder, expected, rungs_of
from srbench.opening import STARTED_TOGETHER, arms_to_load, started_together
from srbench.plan import CPU_WARMUP, Plan
from srbench.preparation import prepare
from srbench.profiles import load_profile
from srbench.protocol import Alone
from srbench.registry import parse_options
from tests.e2e.test_run import weights_folder
from tests.factories import make_run
from tests.unit.test_coordinator import ARM, FIXTURES, Memory, make_job

STEPPING = "tests.ladder_pipelines:Stepping"
CASES = ["128x128x4", "512x512x2", "720x1280x2", "1024x1024x2", "1920x1080x2"]


def test_each_rung_has_the_options_of_all_before_it() -> None:
    climbed = climb(OPTIMIZED_RUNGS, None)
    assert [arm.name for arm, _ in climbed] == [rung.name for rung in OPTIMIZED_RUNGS]
    seen: dict[str, str] = {}
    for rung, (arm, options) in zip(OPTIMIZED_RUNGS, climbed, strict=True):
        assert arm.options == rung.options
        seen |= rung.options
        assert options == seen
        assert parse_options(OptimizedOptions, options) is not None


def test_the_last_rung_that_is_not_on_top_is_the_pipeline_as_it_comes() -> None:
    options = [options for arm, options in climb(OPTIMIZED_RUNGS, None) if not arm.on_top][-1]
    assert parse_options(OptimizedOptions, options) == OptimizedOptions()


def test_picked_rungs_take_along_what_lies_between_them() -> None:
    (first, _), (second, options) = climb(OPTIMIZED_RUNGS, ["P4", "P1"])
    assert (first.name, second.name) == ("P1", "P4")
    assert set(second.options) == {"half_weights", "cache_prompts", "merge_lora"}
    assert second.title == "adapters merged once an image, with P2 to P3"
    assert options["merge_lora"] == "true"
    assert options["channels_last"] == "false"


@pytest.mark.parametrize(
    ("picked", "words"), [(["P44"], "Did you mean 'P4'"), ([], "name at least one")]
)
def test_rungs_that_are_none_are_refused(picked: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        climb(OPTIMIZED_RUNGS, picked)


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("s3diff-baseline", "has no ladder; built-in ones that have: s3diff-optimized"),
        ("s3diff-optimised", "Did you mean 's3diff-optimized'"),
        ("s3diff-optimized@HEAD", "no label and no revision"),
        (f"{FIXTURES}:Bicubic", "ones that have: (?!.*baseline)s3diff-optimized"),
    ],
)
def test_pipelines_without_a_ladder_are_refused(pipeline: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        rungs_of(pipeline)


@pytest.mark.parametrize("card", ["a10", "l20", "h100"])
def test_every_step_of_the_ladder_was_predicted_for_every_documented_case(card: str) -> None:
    predicted = predicted_seconds(card, "fp16")
    assert list(predicted) == ["P0", *dict.fromkeys(r.step for r in OPTIMIZED_RUNGS[:-1])]
    names = {rung.name for rung in OPTIMIZED_RUNGS}
    assert names >= predicted.keys() - {"P0"}
    for case in CASES:
        seconds = [step[case] for step in predicted.values()]
        assert seconds == sorted(seconds, reverse=True)
    assert predicted_seconds(card, "fp32") == predicted_seconds("h200", "fp16") == {}


def test_an_arm_survives_its_record_and_damage_is_told() -> None:
    (arm, _), *_ = climb(OPTIMIZED_RUNGS, ["P7"])
    arm = replace(arm, predicted_s={"128x128x4": 0.034})
    assert LadderArm.from_record(arm.to_record()) == arm
    for damage in ({"name": 3}, {"more": 1}):
        with pytest.raises(UsageError, match="damaged"):
            LadderArm.from_record(arm.to_record() | damage)
    with pytest.raises(UsageError, match="damaged"):
        LadderArm.from_record({"name": "P7"})


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(
        **{
            "gpu": "cpu",
            "cases": ("16x16x2", "32x16x2"),
            "pipelines": (ARM,),
            "weights": str(weights_folder(folder / "weights")),
            "out": folder / "results",
            **changes,
        }
    )


def briefed(folder: Path, *, ascent: Any = None, **changes: Any) -> Brief:
    chosen = ascent or Ascent(pipeline=STEPPING)
    return brief_ladder(settings(folder, **changes), chosen, load_profile("cpu"))


def prepared(folder: Path, **changes: Any) -> Any:
    return prepare(briefed(folder, **changes), lambda _: None)


def test_a_ladder_is_a_run_with_an_arm_a_rung(tmp_path: Path) -> None:
    preparation = prepared(tmp_path)
    job = preparation.job
    assert preparation.purpose == "ladder"
    assert job.pairing == "block"
    assert job.plan.arms == (ARM, "S1", "S2-a", "S2", "S3", "T")
    assert (job.plan.blocks, job.plan.pairs) == (2, 2)
    assert {job.arm(name).pipeline for name in job.plan.arms[1:]} == {STEPPING}
    assert job.assignments["S2"] == {"wait_ms": "1", "filter": "lanczos", "break_on": "0"}
    assert job.assignments[ARM] == {}
    assert [arm.rung for arm in job.ladder] == [False, *[True] * 5]
    assert [arm.predicted_s for arm in job.ladder[:3]] == [
        {"16x16x2": 0.5},
        {"16x16x2": 0.08},
        {},
    ]


def test_without_the_baseline_the_first_rung_is_the_first_arm(tmp_path: Path) -> None:
    ascent = Ascent(pipeline=STEPPING, rungs=("S3", "S1"), baseline=False)
    job = prepared(tmp_path, ascent=ascent, blocks=7, pairs=1).job
    assert job.plan.arms == ("S1", "S3") == tuple(arm.name for arm in job.ladder)
    assert (job.plan.blocks, job.plan.pairs) == (7, 1)


def test_other_options_or_small_networks_were_not_predicted(tmp_path: Path) -> None:
    for changes in ({"options": ("repeats=2",)}, {"weights": "mini"}):
        assert not any(arm.predicted_s for arm in prepared(tmp_path, **changes).job.ladder)


@pytest.mark.parametrize("text", ["wait_ms=3", "S2.filter=bicubic"])
def test_what_the_ladder_switches_nobody_sets(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="the ladder switches it by itself"):
        prepared(tmp_path, options=(text,))
    assert prepared(tmp_path, options=("repeats=2", f"{ARM}.filter=lanczos"))


def test_the_forecast_of_a_first_ladder_is_made_of_predictions(tmp_path: Path) -> None:
    first = briefed(tmp_path, cases=("16x16x2",))
    time = expected(first, tmp_path / "results")
    assert time.source.startswith("predicted")
    # Two blocks of three images and eight more, of 0.5, 2 x 0.08 and 3 x 0.002 s; six workers.
    assert time.seconds == pytest.approx(2 * 6 * 10 + (2 * 3 + 8) * (0.5 + 0.16 + 0.006))
    assert expected(briefed(tmp_path), tmp_path / "results").seconds is None


def plan(*arms: str) -> Plan:
    return Plan(cases=("a",), arms=arms, blocks=1, pairs=1, seed=0, warmup=CPU_WARMUP)


def test_pictures_are_held_against_the_first_arm_and_the_one_before() -> None:
    found = ladder_pairings(plan("base", "S1", "S2"), "fp32")
    assert found == [
        Pairing("a", "S1", "base"),
        Pairing("a", "S2", "base"),
        Pairing("a", "S2", "S1"),
    ]
    more = ladder_pairings(plan("base", "S1"), "fp16")
    assert more[1:] == [Pairing("a", "base", "fp32"), Pairing("a", "S1", "fp32")]


def test_few_workers_start_together_and_one_loads_for_all_rungs(tmp_path: Path) -> None:
    job = prepared(tmp_path).job
    groups = list(started_together(job.plan.arms))
    assert [name for group in groups for name in group] == list(job.plan.arms)
    assert max(map(len, groups)) == STARTED_TOGETHER
    assert arms_to_load(job) == {ARM, "S1"}
    assert arms_to_load(replace(job, ladder=())) == set(job.plan.arms)


class Counting(Coordinator):
    """A real coordinator that knows how many workers it ever had at once."""

    most = 0

    def _workers(self, *only: str) -> Any:
        arms = super()._workers(*only)
        self.most = max(self.most, len(arms))
        return arms


def test_a_ladder_asks_little_of_its_workers_and_never_has_them_all(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e")
    arms = {arm.name: arm for arm in (prepared(tmp_path).job.arm("S3"),)}
    job = make_job(tmp_path, names, cases=("16x16x2",), pairs=1, pairing="block")
    job = replace(
        job,
        arms={name: replace(arms["S3"], name=name) for name in names},
        ladder=tuple(LadderArm(name=name, rung=True, title=name) for name in names),
    )
    with Counting(job, Memory()) as coordinator:
        coordinator.open()
        assert coordinator.most == STARTED_TOGETHER
        alone = coordinator.gallery.solo(coordinator._workers("e")["e"], "16x16x2")
    assert isinstance(alone, Alone)
    assert (alone.distinct_pictures, alone.other_seed, alone.energy_reason) == (None, None, None)
    assert alone.work["launches"] > 0


def test_nothing_gates_a_ladder() -> None:
    run = make_run(head={"purpose": "ladder"})
    for ask in (judge, blemishes):
        with pytest.raises(NotComparableError, match="is a ladder"):
            ask(run, Policy())
    with pytest.raises(NotComparableError, match="other purpose"):
        judge(make_run(), Policy(), run, "that")
