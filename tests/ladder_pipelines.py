"""A small honest pipeline with a ladder: rungs that bring time, cost fidelity, or break."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipelines.contract import Rung
from tests.fixtures_pipelines import Bicubic, BicubicOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SteppingOptions(BicubicOptions):
    """`wait_ms` makes it slower; the defaults are those of the last rung but the one on top."""

    RUNGS: ClassVar[tuple[Rung, ...]] = (
        Rung("S1", "everything off", {"wait_ms": "80", "filter": "lanczos", "break_on": "0"}),
        Rung("S2-a", "half the wait", {"wait_ms": "40"}),
        Rung("S2", "no wait", {"wait_ms": "1"}),
        Rung("S3", "another filter", {"filter": "bicubic"}),
        Rung("T", "breaks at 16 pixels", {"break_on": "16"}, on_top=True),
    )

    wait_ms: int = 1

    @staticmethod
    def predicted_seconds(card: str, precision: str) -> dict[str, dict[str, float]]:
        """Made up."""
        assert (card, precision) == ("cpu", "fp32")
        return {"P0": {"16x16x2": 0.5}, "S1": {"16x16x2": 0.08}, "S2": {"16x16x2": 0.002}}


class Stepping(Bicubic):
    Options: ClassVar[type] = SteppingOptions

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        time.sleep(self.options.wait_ms / 1000)
        return super().upscale(image, scale, seed=seed)

    def break_down(self) -> Any:
        raise MemoryError("no room for this rung")
