"""The block plan: what is measured in which order, all of it from one seed."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srbench.probes.disturbance import clocks_steady

STEADY_WINDOW = 5
STEADY_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Warmup:
    """How many images are discarded before the timed ones.

    Attributes:
        first: Most images for the first case of a worker, which also pays for one-time set-up.
        later: Most images for its other cases.
        until_steady: Stop as soon as the last five agree with the five before.
        seconds: Stop after two images or more that took this long together: a card warms with time,
            and ten images of 20 s would be most of a run.
    """

    first: int
    later: int
    until_steady: bool
    seconds: float = math.inf


CUDA_WARMUP = Warmup(first=20, later=20, until_steady=True, seconds=30.0)
CPU_WARMUP = Warmup(first=2, later=1, until_steady=False)


@dataclass(frozen=True, slots=True)
class CellPlan:
    """One case in one block.

    Attributes:
        case: Case name.
        rounds: Per pair the arms in order of execution; consecutive rounds are reversed (ABBA).
    """

    case: str
    rounds: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the first measurement.

    Attributes:
        cases: Case names in the order of the tables.
        arms: Pipeline names, the baseline first.
        blocks: Fresh process pairs.
        pairs: Timed pairs per case in a block.
        seed: Of all orders.
        warmup: Discarded images.
        looks: Numbers of blocks after which a sequential run may end.
    """

    cases: tuple[str, ...]
    arms: tuple[str, ...]
    blocks: int
    pairs: int
    seed: int
    warmup: Warmup
    looks: tuple[int, ...] = ()

    def block(self, index: int) -> tuple[CellPlan, ...]:
        """Cases of a block in their random order, each with its ABBA rounds.

        The order of a block depends on the seed and its index alone, so a resumed run goes on as
        the uninterrupted one would have.
        """
        generator = random.Random(f"srbench {self.seed} {index}")
        cases = list(self.cases)
        generator.shuffle(cases)
        return tuple(CellPlan(case, self._rounds(generator.randrange(2))) for case in cases)

    def _rounds(self, start: int) -> tuple[tuple[str, ...], ...]:
        forward, backward = self.arms, self.arms[::-1]
        return tuple(forward if (pair + start) % 2 == 0 else backward for pair in range(self.pairs))

    @property
    def timed_images(self) -> int:
        """Timed images of the whole run."""
        return self.blocks * len(self.cases) * len(self.arms) * self.pairs


DEFAULT_DESIGN = {"cuda": (10, 5), "simulated": (10, 5), "cpu": (3, 2), "meta": (1, 1)}
"""Device -> blocks and pairs: on CUDA what simulation shows to keep a 1 % false-alarm rate."""


def make_plan(
    cases: Sequence[str],
    arms: Sequence[str],
    *,
    device: str,
    seed: int,
    blocks: int | None = None,
    pairs: int | None = None,
    looks: Sequence[int] = (),
) -> Plan:
    """A plan with the defaults of a device for what is not given.

    A sequential plan, one with `looks`, has the last of them as its blocks unless told otherwise.
    """
    default_blocks, default_pairs = DEFAULT_DESIGN[device]
    blocks = blocks or (max(looks) if looks else None)
    return Plan(
        cases=tuple(cases),
        arms=tuple(arms),
        blocks=blocks or default_blocks,
        pairs=pairs or default_pairs,
        seed=seed,
        warmup=CPU_WARMUP if device == "cpu" else CUDA_WARMUP,
        looks=tuple(looks),
    )


def is_warm(
    latencies_ms: Sequence[float],
    readings: Sequence[Mapping[str, Any]],
    warmup: Warmup,
    *,
    first_case: bool,
) -> bool:
    """Whether the discarded images are enough: steady, or as many or as long as is granted.

    Steady means that the median of the last five is within 1 % of the median of the five before,
    and that the card's clock stands still.

    Args:
        latencies_ms: Of the images so far.
        readings: Of the card after each of them.
        warmup: What is granted.
        first_case: Whether the worker pays for one-time set-up.
    """
    if len(latencies_ms) >= (warmup.first if first_case else warmup.later):
        return True
    if len(latencies_ms) >= 2 and sum(latencies_ms) / 1000 >= warmup.seconds:
        return True
    if not warmup.until_steady or len(latencies_ms) < 2 * STEADY_WINDOW:
        return False
    last = statistics.median(latencies_ms[-STEADY_WINDOW:])
    before = statistics.median(latencies_ms[-2 * STEADY_WINDOW : -STEADY_WINDOW])
    return abs(last - before) <= STEADY_TOLERANCE * before and clocks_steady(readings)


def estimate_seconds(
    plan: Plan, image_s: Mapping[tuple[str, str], float], load_s: float
) -> float | None:
    """Expected duration of a run.

    Args:
        plan: The plan.
        image_s: (case, arm) -> seconds an image.
        load_s: Seconds from the start of a worker to its first image, the arms one after another.

    Returns:
        Seconds, or None when a cell's time is not known.
    """
    warmup = 2 * STEADY_WINDOW if plan.warmup.until_steady else plan.warmup.later
    solo_images = 8
    total = plan.blocks * len(plan.arms) * load_s
    for case in plan.cases:
        for arm in plan.arms:
            seconds = image_s.get((case, arm))
            if seconds is None:
                return None
            long_enough = max(min(2, warmup), math.ceil(min(warmup, plan.warmup.seconds / seconds)))
            total += seconds * (plan.blocks * (plan.pairs + long_enough) + solo_images)
    return total
