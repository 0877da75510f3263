"""From a pipeline's rungs to a run that only needs workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.contract import Rung
from srbench.armspec import parse_arm
from srbench.brief import Brief
from srbench.built_in import BUILT_IN
from srbench.commands import is_command
from srbench.config import Settings
from srbench.errors import UsageError
from srbench.forecast import Forecast, forecast
from srbench.ladder.arms import LadderArm, climb
from srbench.preparation import brief_run
from srbench.profiles import Profile
from srbench.registry import light_options, load_pipeline, split_assignments
from srbench.systems import common_system

PURPOSE = "ladder"
BASELINE_STEP = "P0"
"""The step before the first rung, in the predictions of a pipeline."""

DESIGN = {"cuda": (3, 3), "cpu": (2, 2)}
"""Device -> blocks and pairs: a ladder has ten times the arms of a run, and nothing judges it."""

Seconds = Mapping[str, Mapping[str, float]]
"""Rung, or `P0` for the baseline -> case name -> predicted seconds an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascent:
    """What of a pipeline's ladder is measured.

    Attributes:
        pipeline: Built-in or installed name, or `module:attribute`.
        rungs: Names of rungs; None for all of them.
        baseline: Whether the baseline pipeline is measured before the first rung.
    """

    pipeline: str
    rungs: tuple[str, ...] | None = None
    baseline: bool = True


def rungs_of(pipeline: str) -> tuple[Rung, ...]:
    """The rungs of a pipeline, first to last.

    Raises:
        UsageError: Unknown pipeline, or one without rungs.
    """
    if not is_command(pipeline) and ("@" in pipeline or "=" in pipeline):
        raise UsageError(
            f"--pipeline {pipeline}: a ladder takes no label and no revision, its arms are the "
            "rungs of the code at hand"
        )
    rungs: tuple[Rung, ...] = tuple(getattr(_options_of(pipeline), "RUNGS", ()))
    if not rungs:
        raise UsageError(
            f"--pipeline {pipeline}: has no ladder; built-in ones that have: "
            f"{', '.join(_with_ladders())}"
        )
    return rungs


def brief_ladder(settings: Settings, ascent: Ascent, profile: Profile) -> Brief:
    """Plan a ladder: one arm after the other, since no card holds them all.

    Args:
        settings: Of the command; the first of its pipelines is the baseline.
        ascent: What is measured.
        profile: Of the card to measure on.

    Raises:
        UsageError: A wrong name, rung, option, input or folder.
        PipelineError: Options that do not go together.
    """
    climbed = climb(rungs_of(ascent.pipeline), ascent.rungs)
    baseline = _baseline(settings, ascent.pipeline) if ascent.baseline else ()
    _refuse_switches(settings.options, [*baseline, *(arm.name for arm, _ in climbed)], climbed)
    switches = [
        f"{arm.name}.{key}={value}" for arm, values in climbed for key, value in values.items()
    ]
    brief = brief_run(
        replace(
            settings,
            pipelines=(*baseline, *(f"{arm.name}={ascent.pipeline}" for arm, _ in climbed)),
            options=(*settings.options, *switches),
            pairing="block",
        ),
        profile,
        purpose=PURPOSE,
    )
    blocks, pairs = DESIGN[profile.device]
    plan = replace(brief.plan, blocks=settings.blocks or blocks, pairs=settings.pairs or pairs)
    predicted = {} if settings.options else _predicted(ascent.pipeline, brief)
    arms = [LadderArm(name=name, rung=False, title="baseline") for name in brief.plan.arms[:1]]
    arms = [*(arms if baseline else []), *(arm for arm, _ in climbed)]
    described = tuple(_with_prediction(arm, predicted, brief.plan.cases) for arm in arms)
    return replace(brief, plan=plan, ladder=described)


def _baseline(settings: Settings, pipeline: str) -> tuple[str, ...]:
    """The first of the settings' pipelines where it is of the same system, else that system's."""
    system = common_system([pipeline])
    first = [parse_arm(text).pipeline for text in settings.pipelines[:1]]
    if common_system(first) != system:
        return (system.baseline,)
    return settings.pipelines[:1]


def expected(brief: Brief, results: Path) -> Forecast:
    """How long a ladder will take, see `srbench.forecast`."""
    predicted: dict[tuple[str, str], float] = {}
    for case in brief.plan.cases:
        seconds: float | None = None
        for arm in brief.ladder:
            # A rung between two steps takes no longer than the one before.
            seconds = arm.predicted_s.get(case, seconds)
            if seconds is not None:
                predicted[case, arm.name] = seconds
    return forecast(brief.plan, brief.profile, results, predicted)


def _with_ladders() -> list[str]:
    return [name for name in BUILT_IN if getattr(light_options(name), "RUNGS", ())]


def _options_of(pipeline: str) -> type:
    light = light_options(pipeline)
    # A foreign pipeline is imported as a whole: only its class knows its options.
    return load_pipeline(pipeline).Options if light is None else light


def _refuse_switches(
    texts: Iterable[str], arms: Sequence[str], climbed: Sequence[tuple[LadderArm, dict[str, str]]]
) -> None:
    """What a ladder switches by itself is nobody else's to set."""
    switched = {arm.name: values for arm, values in climbed}
    for owner, values in split_assignments(texts, arms).items():
        theirs = switched.values() if owner == "" else [switched.get(owner, {})]
        for key in values:
            if any(key in each for each in theirs):
                raise UsageError(f"--set {key}: the ladder switches it by itself; leave it out")


def _predicted(pipeline: str, brief: Brief) -> Seconds:
    """What the pipeline predicts for this card; nothing for networks of another size."""
    predict = getattr(_options_of(pipeline), "predicted_seconds", None)
    small = brief.weights == "mini" or (brief.weights is None and brief.profile.device == "cpu")
    if predict is None or small:
        return {}
    seconds: Seconds = predict(brief.profile.name, brief.precision)
    return seconds


def _with_prediction(arm: LadderArm, predicted: Seconds, cases: Iterable[str]) -> LadderArm:
    known = predicted.get(arm.name if arm.rung else BASELINE_STEP, {})
    return replace(arm, predicted_s={case: known[case] for case in cases if case in known})
