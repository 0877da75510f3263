"""A toy in a few lines: every pixel again and again; by torch, where it is told to."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines" / "external"))
from srbench_engine import Engine, Image, Refused, Weights, serve


class Toy(Engine):
    """Nearest neighbours; `crash_on` and `hang_on` name the width of an input."""

    defaults: ClassVar[dict[str, Any]] = {
        "mode": "plain",
        "crash_on": 0,
        "hang_on": 0,
        "shift": 0.0,
        "note": None,
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"mode": ("plain", "torch")}

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        if not 0 <= options["shift"] <= 9:
            raise Refused(f"option shift={options['shift']}: must be between 0 and 9 levels")
        if options["mode"] == "torch":
            import torch

            self.version = f"1 (torch {torch.__version__})"

    def load(self, weights: Weights, device: str, precision: str) -> None:
        print("chatter on stdout must not reach the protocol")  # noqa: T201
        os.write(1, b"nor that of a C library\n")

    def prepare(self, height: int, width: int, scale: int) -> dict[str, str]:
        return {"interpreter": sys.version.split()[0]}

    def upscale(self, image: Image, scale: int, seed: int) -> Any:
        if image.width == self.options["crash_on"]:
            os._exit(3)
        if image.width == self.options["hang_on"]:
            time.sleep(600)
        with self.stage("unet"):
            return (
                self._torch(image, scale)
                if self.options["mode"] == "torch"
                else self._plain(image, scale)
            )

    def _plain(self, image: Image, scale: int) -> Image:
        brighter = bytes(min(255, value + round(self.options["shift"])) for value in range(256))
        data, width = image.data.translate(brighter), 3 * image.width
        rows = [data[start : start + width] for start in range(0, len(data), width)]
        wide = (b"".join(row[x : x + 3] * scale for x in range(0, width, 3)) for row in rows)
        return Image(image.height * scale, image.width * scale, b"".join(r * scale for r in wide))

    def _torch(self, image: Image, scale: int) -> Any:
        import torch

        values = torch.frombuffer(bytearray(image.data), dtype=torch.uint8)
        values = values.reshape(1, image.height, image.width, 3).permute(0, 3, 1, 2)
        wide = torch.nn.functional.interpolate(values.float(), scale_factor=scale, mode="nearest")
        picture = wide[0].permute(1, 2, 0).to(torch.uint8).contiguous()
        return Image(picture.shape[0], picture.shape[1], bytes(picture.flatten().tolist()))


if __name__ == "__main__":
    serve(Toy)
