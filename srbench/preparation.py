"""From settings to a run that only needs workers: everything that can be checked before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from srbench.arm import Job
from srbench.armspec import ArmSpec, parse_arm
from srbench.brief import Brief
from srbench.cases import Case, parse_cases
from srbench.config import Settings
from srbench.doctor_card import require_driver
from srbench.engines import launched
from srbench.errors import UsageError
from srbench.inputs import case_input
from srbench.nvml import Gpu, list_gpus
from srbench.plan import make_plan
from srbench.profiles import Profile, choose_profile
from srbench.registry import (
    assignments_for,
    check_shared,
    find_pipeline,
    light_options,
    option_names,
    parse_options,
    split_assignments,
)
from srbench.revisions import checked_out
from srbench.store import check_writable
from srbench.systems import common_system, resolve_weights
from srbench.worker_process import Launch


@dataclass(frozen=True, slots=True)
class Preparation:
    """A run that only needs workers.

    Attributes:
        job: What workers are told.
        profile: Where results go.
        gpu: The card, None on CPU.
        purpose: See `srbench.records.RunRecord`.
        against: What a sequential run is held against at its looks.
    """

    job: Job
    profile: Profile
    gpu: Gpu | None
    purpose: str = "run"
    against: str | None = None


def chosen_cases(settings: Settings, device: str) -> tuple[Case, ...]:
    """The cases of a command: the given ones, else those of the pipelines' system.

    Raises:
        UsageError: A wrong name, or pipelines of several systems.
    """
    if settings.cases:
        return parse_cases(settings.cases)
    system = common_system(arm.pipeline for arm in chosen_arms(settings))
    return parse_cases([system.smoke if device == "cpu" else system.matrix])


def chosen_arms(settings: Settings) -> tuple[ArmSpec, ...]:
    """The arms of a command, their pipelines checked by name.

    Raises:
        UsageError: An unknown one, one named twice, or none.
    """
    arms = tuple(parse_arm(text) for text in settings.pipelines)
    if not arms:
        raise UsageError("--pipelines: name at least one")
    names = [arm.name for arm in arms]
    for arm in arms:
        find_pipeline(arm.pipeline)
        if names.count(arm.name) > 1:
            raise UsageError(
                f"--pipelines: '{arm.name}' is named twice; give each a label, as in "
                f"a={arm.pipeline},b={arm.pipeline}"
            )
    return arms


def checked_assignments(texts: Iterable[str], arms: Sequence[ArmSpec]) -> dict[str, dict[str, str]]:
    """Sort `--set` texts by arm and refuse what can be refused without importing a pipeline.

    Raises:
        UsageError: See `srbench.registry`.
    """
    values = split_assignments(texts, [arm.name for arm in arms])
    known: list[str] | None = []
    for arm in arms:
        # Another revision may have other options: its worker tells.
        options = None if arm.revision else light_options(arm.pipeline)
        if options is None:
            known = None
            continue
        parse_options(options, assignments_for(arm.name, option_names(options), values))
        if known is not None:
            known += option_names(options)
    if known is not None:
        check_shared(values, known)
    return values


def brief_run(
    settings: Settings,
    profile: Profile,
    *,
    purpose: str = "run",
    looks: Sequence[int] = (),
    against: str | None = None,
) -> Brief:
    """Check everything of a new run that can be checked on any machine.

    Args:
        settings: Of the command; its card counts for nothing.
        profile: Of the card to measure on.
        purpose: Of the run.
        looks: Of a sequential plan.
        against: What it is held against at its looks.

    Raises:
        UsageError: A wrong name, option or input, or a folder that cannot be written.
    """
    device = profile.device
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--gpu {profile.name}: nothing can be timed on it")
    arms = chosen_arms(settings)
    cases = chosen_cases(settings, device)
    assignments = checked_assignments(settings.options, arms)
    check_writable(settings.out / profile.name)
    check_writable(report_folder(settings.out))
    plan = make_plan(
        [case.name for case in cases],
        [arm.name for arm in arms],
        device=device,
        seed=settings.seed,
        blocks=settings.blocks,
        pairs=settings.pairs,
        looks=looks,
    )
    return Brief(
        profile=profile,
        plan=plan,
        assignments=assignments,
        precision=settings.precision or ("fp16" if device == "cuda" else "fp32"),
        weights=settings.weights,
        inputs={case.name: case_input(case, settings.inputs) for case in cases},
        noise_seed=settings.noise_seed,
        timeout_s=settings.timeout,
        arms=arms,
        pairing=settings.pairing,
        purpose=purpose,
        against=against,
    )


def prepare(brief: Brief, note: Callable[[str], None]) -> Preparation:
    """Make a run ready on the machine that measures it: its card, its weights, its code.

    Args:
        brief: What is measured.
        note: Told when something takes a while.

    Raises:
        NotComparableError: The card here is not of the brief's profile.
        InfrastructureError: The driver is too old for the installed torch.
        UsageError: A revision that is not to be had.
        PipelineError: No such weights.
    """
    profile, gpu = measured_device(brief.profile.name)
    # How workers are started is this machine's own, whoever has written the brief.
    arms = (replace(arm, launch=Launch()) for arm in brief.arms)
    job = Job(
        plan=brief.plan,
        assignments=brief.assignments,
        device=profile.device,
        precision=brief.precision,
        arms={arm.name: checked_out(launched(arm, brief.assignments), note) for arm in arms},
        weights=resolve_weights((a.pipeline for a in brief.arms), brief.weights, profile.device),
        inputs=dict(brief.inputs),
        noise_seed=brief.noise_seed,
        timeout_s=brief.timeout_s,
        gpu_uuid=None if gpu is None else gpu.uuid,
        pairing=brief.pairing,
        ladder=brief.ladder,
    )
    return Preparation(job, profile, gpu, brief.purpose, brief.against)


def prepare_run(
    settings: Settings,
    note: Callable[[str], None],
    *,
    purpose: str = "run",
    looks: Sequence[int] = (),
    against: str | None = None,
) -> Preparation:
    """Check everything of a run on this machine that can be checked before a worker starts.

    See `brief_run` and `prepare`.
    """
    profile, _ = measured_device(settings.gpu)
    brief = brief_run(settings, profile, purpose=purpose, looks=looks, against=against)
    return prepare(brief, note)


def measured_device(name: str) -> tuple[Profile, Gpu | None]:
    """The profile to measure under and its card, one that torch can use; None on CPU.

    Raises:
        NotComparableError: The profile is of another device.
        InfrastructureError: The driver is too old for the installed torch.
    """
    profile, gpu = choose_profile(name, list_gpus())
    if gpu is not None:
        require_driver(gpu)
    return profile, gpu


def report_folder(out: Path) -> Path:
    """Where reports of a results folder go: `reports` beside it."""
    return out.parent / "reports"
