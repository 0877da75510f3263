"""`s3diff-w8a8` and `s3diff-w6a6`: the base weights quantized, the adapters beside them floating.

Every image modulates its adapters anew, so merged weights would have to be quantized for every
image. Instead y = Q(W) Q(x) + s B(M^T A x): the low-rank branch computes in the pipeline's own
precision (the structure of SVDQuant, Li et al. 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipelines.contract import Precision
from pipelines.passionsr.quantized import QuantizedOneStep
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.quantized_options import W6A6Options, W8A8Options

if TYPE_CHECKING:
    import torch

    from pipelines.passionsr.bill import Ranks
    from pipelines.s3diff.weights import Checkpoint


class _S3DiffQuantized(QuantizedOneStep, S3DiffOptimized):
    system: ClassVar[str] = "s3diff"
    version: ClassVar[str] = "1"

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        S3DiffOptimized._build(self, checkpoint, device, Precision.FP32)
        self._adapted = {
            network: {path: pair.down.shape[0] for path, pair in pairs.items()}
            for network, pairs in (("unet", checkpoint.unet_lora), ("vae", checkpoint.vae_lora))
        }
        self._quantize(checkpoint, precision)
        self.estimator.to(self.dtype).fc_degree.float()

    def _ranks(self) -> Ranks:
        return self._adapted


class S3DiffW8A8(_S3DiffQuantized):
    """Eight bits: integers on a card, simulated elsewhere."""

    name: ClassVar[str] = "s3diff-w8a8"
    Options: ClassVar[type] = W8A8Options


class S3DiffW6A6(_S3DiffQuantized):
    """Six bits, simulated: accuracy only."""

    name: ClassVar[str] = "s3diff-w6a6"
    Options: ClassVar[type] = W6A6Options
