"""From the first line of a run that was begun to one that only needs workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from srbench.armspec import ArmSpec, parse_arm
from srbench.brief import Brief
from srbench.cases import Case
from srbench.config import Settings
from srbench.errors import NotComparableError
from srbench.inputs import case_input
from srbench.ladder.arms import LadderArm
from srbench.plan import make_plan
from srbench.preparation import Preparation, measured_device, prepare, report_folder
from srbench.profiles import Profile
from srbench.records import RunRecord
from srbench.registry import split_assignments
from srbench.store import check_writable


def brief_resume(head: RunRecord, settings: Settings, profile: Profile) -> Brief:
    """The brief of a run that was begun, from the same inputs.

    Raises:
        NotComparableError: The inputs are others than the run began with.
        UsageError: The folder of reports cannot be written.
    """
    check_writable(report_folder(settings.out))
    inputs = {name: case_input(Case.parse(name), settings.inputs) for name in head.cases}
    for name, image in inputs.items():
        if image.sha256 != head.inputs[name]["sha256"]:
            raise NotComparableError(
                f"--resume: {head.run_id} was begun with another input for {name} "
                f"({head.inputs[name]['source']}); give its folder by --inputs"
            )
    began_with = head.weights["kind"]
    plan = make_plan(
        head.cases,
        head.pipelines,
        device=head.device,
        seed=head.seed,
        blocks=head.blocks,
        pairs=head.pairs,
        looks=head.looks,
    )
    return Brief(
        profile=profile,
        plan=plan,
        assignments=split_assignments(_as_texts(head.options), head.pipelines),
        precision=head.precision,
        weights=settings.weights or (None if began_with == "folder" else began_with),
        inputs=inputs,
        noise_seed=head.noise_seed,
        timeout_s=settings.timeout,
        arms=tuple(arm_of(head, name) for name in head.pipelines),
        pairing=head.pairing,
        ladder=tuple(LadderArm.from_record(entry) for entry in head.ladder),
        purpose=head.purpose,
        against=head.against,
    )


def prepare_resume(head: RunRecord, settings: Settings, note: Callable[[str], None]) -> Preparation:
    """The preparation of a run that was begun, on the same device, weights and inputs.

    Raises:
        NotComparableError: The device, weights or inputs are others than the run began with.
    """
    profile, _ = measured_device(head.profile)
    preparation = prepare(brief_resume(head, settings, profile), note)
    if change := other_weights(head, preparation.job.weights.digest):
        raise NotComparableError(f"--resume: {change}")
    return preparation


def other_weights(head: RunRecord, digest: str) -> str | None:
    """One line where weights are not those that a run was begun with."""
    if digest == head.weights["digest"]:
        return None
    return (
        f"{head.run_id} was begun with the weights {head.weights['label']} "
        f"({head.weights['digest'][:12]}), not {digest[:12]}; give them by --weights"
    )


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
