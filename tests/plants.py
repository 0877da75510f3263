"""Planted regressions: `s3diff-optimized` with one thing wrong, for the gate to find.

Named on the command line as `tests.plants:Slow` and so on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from pipelines.s3diff.optimized import S3DiffOptimized

if TYPE_CHECKING:
    from pipelines.contract import Observer


class Slow(S3DiffOptimized):
    """Takes 30 % longer."""

    def _infer(self, *args: Any) -> torch.Tensor:
        start = time.perf_counter()
        result = super()._infer(*args)
        time.sleep(0.3 * (time.perf_counter() - start))
        return result


class BadTile(S3DiffOptimized):
    """One 64x64 tile of every picture is grey."""

    def _infer(self, *args: Any) -> torch.Tensor:
        result = super()._infer(*args)
        result[:, 16:80, 16:80] = 0.5
        return result


class Hungry(S3DiffOptimized):
    """Holds 20 % more tensor bytes at its peak."""

    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        size = int(0.2 * self._peak(image, scale))
        held = torch.empty(size, dtype=torch.uint8, device=image.device)
        result = super()._infer(image, scale, noise, observe)
        del held
        return result

    def _peak(self, image: torch.Tensor, scale: int) -> int:
        """What the honest pipeline holds, from the meta device, once a size."""
        key = (image.shape, scale)
        cache = self.__dict__.setdefault("_peaks", {})
        if key not in cache:
            height, width = image.shape[-2:]
            honest = S3DiffOptimized(self.options)
            honest.architecture = self.architecture
            cache[key] = honest.work(height, width, scale).peak_tensor_bytes
        return int(cache[key])

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Count before the timed images: counters do not nest."""
        image = torch.empty(1, 3, height, width, device="meta")
        self._peak(image, scale)
