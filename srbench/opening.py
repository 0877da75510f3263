"""Before the first block: is the card ours, what do the pipelines say, do their weights fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from srbench.arm import Arm, Job
from srbench.cases import Case
from srbench.errors import InfrastructureError, UsageError
from srbench.nvml import Monitor
from srbench.outcome import Failure, Outcome
from srbench.probes.disturbance import exclusive
from srbench.protocol import Described, Estimate, Estimated
from srbench.wire import Message

WATCH_S = 2.0
"""A process that has just ended shows in the card's utilisation for a second."""

STARTED_TOGETHER = 4
"""Imports overlap, and the twenty arms of a ladder do not fill the host's memory."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pipelines say of themselves before anything is measured.

    Attributes:
        described: Arm name -> facts.
        tf32: Whether TF32 arithmetic is allowed in any arm.
        pairing: `interleaved`, or `block` where the arms do not fit on the device together.
    """

    described: dict[str, Described]
    tf32: bool
    pairing: str


def require_exclusive(gpu_uuid: str) -> None:
    """Refuse a card on which somebody else computes, before any worker of ours is on it.

    Raises:
        InfrastructureError: Who, or how busy it is; or the driver answers no more.
    """
    try:
        why = exclusive(Monitor(gpu_uuid).watch(WATCH_S))
    except OSError as error:
        raise InfrastructureError(f"the card cannot be watched: {error}") from error
    if why:
        raise InfrastructureError(f"the card is not exclusive: {why}; wait, or choose another card")


def describe_all(arms: Mapping[str, Arm], precision: str) -> dict[str, Described]:
    """What the pipelines say of themselves.

    Raises:
        UsageError: An unknown pipeline, option or precision.
        InfrastructureError: A worker broke before it could say anything.
    """
    described = {}
    for name, arm in arms.items():
        facts = arm.describe()
        if isinstance(facts, Failure):
            if facts.outcome is Outcome.UNSUPPORTED:
                raise UsageError(facts.reason)
            raise InfrastructureError(f"{name}: the worker broke at its start: {facts.reason}")
        described[name] = facts
    for name, facts in described.items():
        if precision not in facts.precisions:
            known = ", ".join(facts.precisions)
            raise UsageError(f"--precision {precision}: {name} supports only {known}")
    return described


def started_together(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Arms that are measured one after the other, in groups whose workers may start together."""
    for start in range(0, len(names), STARTED_TOGETHER):
        yield names[start : start + STARTED_TOGETHER]


def arms_to_load(job: Job) -> set[str]:
    """Arms whose loading tells something before the first block.

    The rungs of a ladder differ in options alone: one of them loads for all.
    """
    names = job.plan.arms
    if not job.ladder:
        return set(names)
    return set({job.arm(name).pipeline: name for name in reversed(names)}.values())


def load_all(arms: Mapping[str, Arm], *, one_by_one: bool, cases: Iterable[str] = ()) -> None:
    """Load the weights of all arms; one that cannot for want of memory says so cell by cell.

    Args:
        arms: Described already.
        one_by_one: Each leaves before the next one loads.
        cases: Those that the weights must be for, such as those of a scale.

    Raises:
        UsageError: The weights are unusable, or not for one of the cases.
    """
    for arm in arms.values():
        loaded = arm.load()
        if refused := _refusal(loaded):
            raise UsageError(refused)
        if not isinstance(loaded, Failure):
            for case in map(Case.parse, cases):
                if refused := _refusal(arm.ask(Estimated, _estimate(case))):
                    raise UsageError(f"--cases {case.name}: {refused}")
        if one_by_one:
            arm.stop()


def _refusal(reply: Message | Failure) -> str | None:
    """Why the pipeline does not take what it was given; None where it does, or broke."""
    if isinstance(reply, Failure) and reply.outcome is Outcome.UNSUPPORTED:
        return reply.reason
    return None


def _estimate(case: Case) -> Estimate:
    return Estimate(width=case.width, height=case.height, scale=case.scale)


def fit_together(arms: Mapping[str, Arm], cases: Iterable[str]) -> bool:
    """Whether the largest image of every arm fits beside all the weights, as they foretell.

    An arm whose weights have no room beside the others' does not fit either. True where an arm
    cannot tell for another reason: it will fail cell by cell, which is recorded.
    """
    needed: int = 0
    free: int | None = None
    for arm in arms.values():
        largest = 0
        for case in map(Case.parse, cases):
            reply = arm.ask(Estimated, _estimate(case))
            if isinstance(reply, Failure):
                return reply.outcome is not Outcome.OUT_OF_MEMORY
            # A foreign engine need not know: it then counts for nothing here.
            largest = max(largest, reply.needed_bytes or 0)
            free = free if reply.free_bytes is None else reply.free_bytes
        needed += largest
    return free is None or needed <= free
