"""The degradation estimator of the optimized pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipelines.s3diff.degradation import DegradationEstimator
from pipelines.s3diff.options import OptimizedOptions
from pipelines.stable_diffusion.assembly import placed

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint


def build_estimator(
    checkpoint: Checkpoint, options: OptimizedOptions, device: torch.device, dtype: torch.dtype
) -> DegradationEstimator:
    """The degradation estimator in `dtype`; the heads that give the scores in float32."""
    arch = checkpoint.architecture
    with torch.device("meta"):
        estimator = DegradationEstimator(
            arch.degradation_width, arch.degradation_wide, arch.degradation_hidden
        )
    estimator.to(dtype).fc_degree.to(torch.float32)
    return placed(estimator, checkpoint.degradation, options, device)
