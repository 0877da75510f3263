"""What `srbench upscale` says of a pipeline's choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.contract import Precision, WeightsSource
from srbench.painting import Painter
from srbench.upscaling import Request
from tests.fixtures_pipelines import Bicubic, BicubicOptions


class Chooses(Bicubic):
    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        return {"tile_batch": "1", "arithmetic": "simulated (a reason)", "model_size": "1 MB"}


def test_without_a_card_the_arithmetic_is_told_once(tmp_path: Path) -> None:
    name = f"{__name__}:Chooses"
    request = Request(name, BicubicOptions(), [], 2, 0, "cpu", Precision.FP32)
    said: list[str] = []
    painter = Painter(request, WeightsSource(tmp_path, "folder", "", synthetic=True), said.append)
    painter.load()
    for side in (16, 17):
        (_,) = painter.paint(tmp_path, np.zeros((side, 16, 3), np.uint8), [0])
    assert said == ["  arithmetic: simulated (a reason)"]
