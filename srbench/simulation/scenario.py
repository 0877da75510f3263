"""What a simulated worker is told before the protocol begins: the plan it is a part of."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal, Self

from srbench.plan import Plan, make_plan
from srbench.worker_process import Launch

DEVICE = "simulated"


@dataclass(frozen=True, slots=True)
class SimulatedOptions:
    """Options of a simulated arm, in every record as those of a pipeline are.

    Attributes:
        noise: Name of a noise profile.
        speedup: How much faster than the simulated baseline.
        plants: What is wrong, as `srbench.simulation.plants.parse_plants` reads it.
    """

    noise: Literal["quiet", "typical", "noisy"] = "typical"
    speedup: float = 1.0
    plants: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What decides the noise of an image beside its arm, and how fast the show goes.

    Attributes:
        cases, arms, blocks, pairs, seed: Of the plan.
        pace_ms: Real time that an image takes at least; the latency told is an invented one.
    """

    cases: tuple[str, ...]
    arms: tuple[str, ...]
    blocks: int
    pairs: int
    seed: int
    pace_ms: float = 0.0

    @classmethod
    def of(cls, plan: Plan, pace_ms: float) -> Self:
        """The scenario of a plan."""
        return cls(
            cases=plan.cases,
            arms=plan.arms,
            blocks=plan.blocks,
            pairs=plan.pairs,
            seed=plan.seed,
            pace_ms=pace_ms,
        )

    @classmethod
    def decode(cls, text: str) -> Self:
        """Inverse of what `launch` puts on the command line."""
        fields = json.loads(text)
        return cls(**{**fields, "cases": tuple(fields["cases"]), "arms": tuple(fields["arms"])})

    def launch(self) -> Launch:
        """How the workers of this scenario are started."""
        return Launch(
            command=(sys.executable, "-m", "srbench.simulation.worker", json.dumps(asdict(self)))
        )

    @property
    def plan(self) -> Plan:
        """The plan again."""
        return make_plan(
            self.cases,
            self.arms,
            device=DEVICE,
            seed=self.seed,
            blocks=self.blocks,
            pairs=self.pairs,
        )

    @property
    def images(self) -> int:
        """Timed images of a block, all arms together."""
        return len(self.cases) * len(self.arms) * self.pairs

    def starts(self, block: int) -> dict[str, int]:
        """Case -> timed images of a block before those of the case, all arms together."""
        images = len(self.arms) * self.pairs
        return {cell.case: turn * images for turn, cell in enumerate(self.plan.block(block))}
