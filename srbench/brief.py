"""What the machine that measures a run is told of it: all that does not depend on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from srbench.armspec import ArmSpec
from srbench.inputs import CaseInput
from srbench.ladder.arms import LadderArm
from srbench.plan import Plan
from srbench.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """A run before anybody looked at a card, at weights or at the code of a revision.

    It can be pickled: the pixels of the inputs travel in it.

    Attributes:
        profile: Of the card it is measured on.
        plan: What is measured in which order.
        assignments: Of `srbench.registry.split_assignments`.
        precision: `fp32` or `fp16`.
        weights: Folder, `mini` or `synthetic`; None for the default of the machine.
        inputs: Case name -> image.
        noise_seed: Of the posterior noise, the same in all arms.
        timeout_s: Longest that one step of a worker may take.
        arms: What is measured; the code of revisions is not checked out yet.
        pairing: `interleaved` or `block`, see `srbench.records.RunRecord`.
        ladder: Of a ladder, its arms.
        purpose: See `srbench.records.RunRecord`.
        against: What a sequential run is held against at its looks.
    """

    profile: Profile
    plan: Plan
    assignments: dict[str, dict[str, str]]
    precision: str
    weights: str | None
    inputs: Mapping[str, CaseInput]
    noise_seed: int
    timeout_s: float
    arms: tuple[ArmSpec, ...]
    pairing: str = "interleaved"
    ladder: tuple[LadderArm, ...] = ()
    purpose: str = "run"
    against: str | None = None
