"""From settings to a roofline: the card, its ceilings, the counted work, the times of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from srbench.armspec import ArmSpec
from srbench.cases import Case
from srbench.config import Settings
from srbench.counting import META, count_work
from srbench.errors import NotComparableError, UsageError, did_you_mean
from srbench.nvml import Gpu, list_gpus
from srbench.preparation import checked_assignments, chosen_arms, chosen_cases
from srbench.profiles import (
    Profile,
    choose_profile,
    load_profile,
    profile_names,
    profile_or_bare,
)
from srbench.protocol import CountOperators, Load
from srbench.records import Run, RunRecord
from srbench.registry import check_shared
from srbench.resuming import arm_of
from srbench.revisions import checked_out
from srbench.roofline.achieved import achieved_in, newest_achieved
from srbench.roofline.ceilings import CeilingsFile, read_ceilings
from srbench.roofline.limits import Limits, datasheet_limits, measured_limits
from srbench.roofline.measuring import measure_and_store
from srbench.roofline.model import Roofline, build_roofline
from srbench.systems import resolve_weights

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """What the limits are of.

    Attributes:
        profile: Of the card.
        here: Whether this machine can measure it.
        gpu: The card in this machine, None on CPU or where it has none.
        precision: Of operands and bytes.
    """

    profile: Profile
    here: bool
    gpu: Gpu | None
    precision: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is counted.

    Attributes:
        arms: Pipelines.
        cases: Sizes.
        assignments: Options, by arm.
        run: The stored run whose times, options and networks these are; None where none is asked
            for and none answers the settings.
        runs: Others of the profile, newest first: any that timed the same work gives times.
    """

    arms: tuple[ArmSpec, ...]
    cases: tuple[Case, ...]
    assignments: dict[str, dict[str, str]]
    run: Run | None = None
    runs: tuple[Run, ...] = ()


def find_profile(settings: Settings, run: Run | None) -> Profile:
    """The profile of the settings, or that of the run that was asked for.

    Raises:
        UsageError: No such profile, one that nothing is known of, or another than the run's.
    """
    if run is not None:
        if settings.gpu not in ("auto", run.head.profile):
            raise UsageError(
                f"--gpu {settings.gpu}: {run.head.run_id} was measured on {run.head.profile}; "
                "leave --gpu out"
            )
        profile = profile_or_bare(run.head.profile)
    elif settings.gpu == "auto":
        profile, _ = choose_profile("auto", list_gpus())
    else:
        profile = load_profile(settings.gpu)
    if profile.device not in ("cpu", "cuda"):
        raise UsageError(f"--gpu {profile.name}: not a device with limits; give a card or cpu")
    return profile


def newest_answer(runs: Sequence[Run], settings: Settings) -> Run | None:
    """The newest run with times that was to measure all that the settings name.

    Args:
        runs: Of the profile, newest first.
        settings: Of the command.

    Raises:
        UsageError: The settings name no cases.
    """
    if settings.options:
        return None
    cases = {case.name for case in chosen_cases(settings, META)} if settings.cases else set()
    return next(
        (
            run
            for run in runs
            if run.head.purpose == "run"
            and any(cell.samples for cell in run.cells)
            and settings.precision in (None, run.head.precision)
            and cases <= set(run.head.cases)
            and set(settings.pipelines) <= set(run.head.pipelines)
        ),
        None,
    )


def find_target(
    profile: Profile, settings: Settings, run: Run | None, runs: Sequence[Run]
) -> Target:
    """The device and its precision: that of the run, else of the newest one, else its usual one.

    Without a GPU `auto` is no device at all: counts and datasheets are all there is. A CPU is only
    looked at where it is named, or has a run.
    """
    gpu = next((gpu for gpu in list_gpus()[:1] if profile.matches(gpu)), None)
    named_cpu = profile.device == "cpu" and (settings.gpu == "cpu" or run is not None)
    usual = "fp32" if profile.device == "cpu" else "fp16"
    known = [each.head.precision for each in ([run] if run else runs)]
    return Target(
        profile=profile,
        here=named_cpu or gpu is not None,
        gpu=gpu,
        precision=settings.precision or next(iter(known), usual),
    )


def find_question(settings: Settings, run: Run | None, runs: Sequence[Run]) -> Question:
    """Arms, cases and options of the settings; those of a stored run are its own.

    Args:
        settings: Of the command.
        run: The stored run that is shown, if any.
        runs: Others of the profile, newest first.

    Raises:
        UsageError: A wrong name or option, or a case or pipeline that the run has not.
    """
    if run is None:
        arms = chosen_arms(settings)
        assignments = checked_assignments(settings.options, arms)
        return Question(arms, chosen_cases(settings, META), assignments, runs=tuple(runs))
    head = run.head
    cases = chosen_cases(settings, META) if settings.cases else map(Case.parse, head.cases)
    recorded = {
        arm: {key: "none" if value is None else str(value) for key, value in options.items()}
        for arm, options in head.options.items()
    }
    question = Question(
        arms=tuple(arm_of(head, name) for name in settings.pipelines),
        cases=tuple(cases),
        assignments={"": {}, **recorded},
        run=run,
    )
    for option, names, known in (
        ("cases", [case.name for case in question.cases], head.cases),
        ("pipelines", settings.pipelines, head.pipelines),
    ):
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                raise UsageError(f"--{option} {name}: not in {head.run_id}.{hint}")
    return question


def find_ceilings(
    target: Target, settings: Settings, note: Note, *, measure: bool
) -> CeilingsFile | None:
    """The stored ceilings of the target, or measured ones where it is this machine's device.

    Raises:
        NotComparableError: They are to be measured, and the device is not in this machine.
    """
    stored = read_ceilings(settings.out, target.profile.name)
    if measure and not target.here:
        name = target.profile.name
        raise NotComparableError(
            f"--measure: this machine has no {target.profile.title} to measure; leave it out"
            + ("" if target.profile.device == "cuda" else f", or give --gpu {name}")
        )
    if not target.here or (stored is not None and not measure):
        return stored
    return measure_and_store(target.profile, target.gpu, settings.out, settings.timeout, note)


def assemble(
    question: Question,
    target: Target,
    ceilings: CeilingsFile | None,
    settings: Settings,
    note: Note,
) -> Roofline:
    """Count the work and hold it against everything that is known.

    Args:
        question: What is counted.
        target: Device.
        ceilings: Of it.
        settings: Of the command.
        note: Told of what takes a while or is left out.

    Raises:
        UsageError: A wrong name or option.
        InfrastructureError: A worker broke.
    """
    run, assignments = question.run, question.assignments
    arms = tuple(checked_out(arm, note) for arm in question.arms)
    load = None if run is None else _mini_weights(run.head)
    note(f"counting {_plural(question.cases, 'case')} x {_plural(arms, 'pipeline')}")
    counting = count_work(arms, assignments, question.cases, settings.timeout, CountOperators, load)
    described = counting.described
    check_shared(assignments, (key for facts in described.values() for key in facts.options))
    options = {name: facts.options for name, facts in described.items()}
    if run is not None:
        achieved = achieved_in(run, target.precision, counting.work, options)
    else:
        achieved = newest_achieved(question.runs, target.precision, counting.work, options)
    found = (
        datasheet_limits(target.profile, target.precision),
        measured_limits(ceilings, target.precision),
    )
    limits = [each for each in found if each is not None]
    return build_roofline(
        target.profile, target.precision, counting.work, achieved, ceilings, limits
    )


def card_limits() -> dict[str, Limits]:
    """Profile -> datasheet limits at fp16, of every card whose datasheet is known."""
    found = {name: datasheet_limits(load_profile(name), "fp16") for name in profile_names()}
    return {name: limits for name, limits in found.items() if limits is not None}


def _plural(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _mini_weights(head: RunRecord) -> Load | None:
    """Networks that are smaller than the published ones must be loaded to be counted."""
    if head.weights.get("kind") != "mini":
        return None
    found = resolve_weights((arm_of(head, name).pipeline for name in head.pipelines), "mini", "cpu")
    return Load(
        path=str(found.path),
        kind=found.kind,
        digest=found.digest,
        synthetic=found.synthetic,
        device="cpu",
        precision="fp32",
    )
