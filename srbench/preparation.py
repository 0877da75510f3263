"""From settings to a run that only needs workers: everything that can be checked before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srbench.arm import Job
from srbench.armspec import ArmSpec, parse_arm
from srbench.cases import Case, parse_cases
from srbench.config import Settings
from srbench.doctor_card import require_driver
from srbench.errors import NotComparableError, UsageError
from srbench.inputs import case_input
from srbench.ladder.arms import LadderArm
from srbench.nvml import Gpu, list_gpus
from srbench.plan import make_plan
from srbench.profiles import Profile, choose_profile
from srbench.records import RunRecord
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


def prepare_run(
    settings: Settings,
    note: Callable[[str], None],
    *,
    purpose: str = "run",
    looks: Sequence[int] = (),
    against: str | None = None,
) -> Preparation:
    """Check everything that can be checked before a worker starts.

    Args:
        settings: Of the command.
        note: Told when something takes a while.
        purpose: Of the run.
        looks: Of a sequential plan.
        against: What it is held against at its looks.

    Raises:
        UsageError: A wrong name, option, input or folder.
        NotComparableError: The profile asked for is of another device.
        InfrastructureError: The driver is too old for the installed torch.
        PipelineError: No such weights.
    """
    profile, gpu = _measured_device(settings.gpu)
    device = profile.device
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--gpu {profile.name}: nothing can be timed on it")
    arms = chosen_arms(settings)
    cases = chosen_cases(settings, device)
    assignments = checked_assignments(settings.options, arms)
    check_writable(settings.out / profile.name)
    check_writable(report_folder(settings.out))
    code = {arm.name: checked_out(arm, note) for arm in arms}
    inputs = {case.name: case_input(case, settings.inputs) for case in cases}
    plan = make_plan(
        [case.name for case in cases],
        [arm.name for arm in arms],
        device=device,
        seed=settings.seed,
        blocks=settings.blocks,
        pairs=settings.pairs,
        looks=looks,
    )
    job = Job(
        plan=plan,
        assignments=assignments,
        device=device,
        precision=settings.precision or ("fp16" if device == "cuda" else "fp32"),
        weights=resolve_weights((arm.pipeline for arm in arms), settings.weights, device),
        inputs=inputs,
        noise_seed=settings.noise_seed,
        timeout_s=settings.timeout,
        gpu_uuid=None if gpu is None else gpu.uuid,
        arms=code,
        pairing=settings.pairing,
    )
    return Preparation(job, profile, gpu, purpose, against)


def prepare_resume(head: RunRecord, settings: Settings, note: Callable[[str], None]) -> Preparation:
    """The preparation of a run that was begun, on the same device, weights and inputs.

    Raises:
        NotComparableError: The device, weights or inputs are others than the run began with.
    """
    profile, gpu = _measured_device(head.profile)
    check_writable(report_folder(settings.out))
    began_with = head.weights["kind"]
    weights = resolve_weights(
        (arm_of(head, name).pipeline for name in head.pipelines),
        settings.weights or (None if began_with == "folder" else began_with),
        head.device,
    )
    if weights.digest != head.weights["digest"]:
        raise NotComparableError(
            f"--resume: {head.run_id} was begun with the weights {head.weights['label']} "
            f"({head.weights['digest'][:12]}), not {weights.digest[:12]}; give them by --weights"
        )
    inputs = {name: case_input(Case.parse(name), settings.inputs) for name in head.cases}
    for name, image in inputs.items():
        if image.sha256 != head.inputs[name]["sha256"]:
            raise NotComparableError(
                f"--resume: {head.run_id} was begun with another input for {name} "
                f"({head.inputs[name]['source']}); give its folder by --inputs"
            )
    plan = make_plan(
        head.cases,
        head.pipelines,
        device=head.device,
        seed=head.seed,
        blocks=head.blocks,
        pairs=head.pairs,
        looks=head.looks,
    )
    job = Job(
        plan=plan,
        assignments=split_assignments(_as_texts(head.options), head.pipelines),
        device=head.device,
        precision=head.precision,
        weights=weights,
        inputs=inputs,
        noise_seed=head.noise_seed,
        timeout_s=settings.timeout,
        gpu_uuid=None if gpu is None else gpu.uuid,
        arms={name: checked_out(arm_of(head, name), note) for name in head.pipelines},
        pairing=head.pairing,
        ladder=tuple(LadderArm.from_record(entry) for entry in head.ladder),
    )
    return Preparation(job, profile, gpu, head.purpose, head.against)


def _measured_device(name: str) -> tuple[Profile, Gpu | None]:
    """The profile to measure under and its card, one that torch can use; None on CPU."""
    profile, gpu = choose_profile(name, list_gpus())
    if gpu is not None:
        require_driver(gpu)
    return profile, gpu


def arm_of(head: RunRecord, name: str) -> ArmSpec:
    """An arm of a stored run, of the very commit that it was begun with."""
    facts = head.arms.get(name)
    if facts is None:
        return parse_arm(name)
    return ArmSpec(
        name=name,
        pipeline=facts["pipeline"],
        revision=facts["revision"],
        commit=facts["commit"],
    )


def _as_texts(options: dict[str, dict[str, Any]]) -> Iterable[str]:
    for arm, values in options.items():
        for key, value in values.items():
            yield f"{arm}.{key}={'none' if value is None else value}"


def report_folder(out: Path) -> Path:
    """Where reports of a results folder go: `reports` beside it."""
    return out.parent / "reports"
