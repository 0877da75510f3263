"""The quantized OSEDiff pipelines: merged weights in eight or six bits.

`osediff-w8a8` and `osediff-w6a6` compute with learned scales and bounds. Beside each, one with
ranges from statistics and smoothing scales, and one with neither: what learning brings is seen by
comparison.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pipelines.contract import Precision
from pipelines.osediff.optimized import OSEDiffOptimized
from pipelines.osediff.quantized_options import (
    QuantizedOptions,
    W6A6MaxMinOptions,
    W6A6Options,
    W6A6SmoothQuantOptions,
    W8A8MaxMinOptions,
    W8A8Options,
    W8A8SmoothQuantOptions,
)
from pipelines.passionsr.quantized import QuantizedOneStep

if TYPE_CHECKING:
    import torch

    from pipelines.osediff.weights import Checkpoint


class _OSEDiffQuantized(QuantizedOneStep, OSEDiffOptimized):
    system: ClassVar[str] = "osediff"
    version: ClassVar[str] = "1"

    def __init__(self, options: QuantizedOptions) -> None:
        if options.is_published:  # it quantizes what is constant, too
            options = replace(options, fold_time=False, cache_text_kv=False)
        super().__init__(options)

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        OSEDiffOptimized._build(self, checkpoint, device, Precision.FP32)
        self._quantize(checkpoint, precision)


class OSEDiffW8A8(_OSEDiffQuantized):
    """Eight bits: integers on a card, simulated elsewhere."""

    name: ClassVar[str] = "osediff-w8a8"
    Options: ClassVar[type] = W8A8Options


class OSEDiffW8A8SmoothQuant(_OSEDiffQuantized):
    """Eight bits, smoothed by statistics at load."""

    name: ClassVar[str] = "osediff-w8a8-smoothquant"
    Options: ClassVar[type] = W8A8SmoothQuantOptions


class OSEDiffW8A8MaxMin(_OSEDiffQuantized):
    """Eight bits between the least and the greatest values seen at load."""

    name: ClassVar[str] = "osediff-w8a8-maxmin"
    Options: ClassVar[type] = W8A8MaxMinOptions


class OSEDiffW6A6(_OSEDiffQuantized):
    """Six bits, simulated: accuracy only."""

    name: ClassVar[str] = "osediff-w6a6"
    Options: ClassVar[type] = W6A6Options


class OSEDiffW6A6SmoothQuant(_OSEDiffQuantized):
    """Six bits, simulated, smoothed by statistics at load."""

    name: ClassVar[str] = "osediff-w6a6-smoothquant"
    Options: ClassVar[type] = W6A6SmoothQuantOptions


class OSEDiffW6A6MaxMin(_OSEDiffQuantized):
    """Six bits, simulated, between the least and the greatest values seen at load."""

    name: ClassVar[str] = "osediff-w6a6-maxmin"
    Options: ClassVar[type] = W6A6MaxMinOptions
