"""An optimized one-step pipeline whose UNet and VAE are quantized; mixed in before its class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.contract import Precision, Tier, WeightsSource, WorkCounts
from pipelines.passionsr.bill import HALF_BYTES, Bill, Inputs, Ranks, bill
from pipelines.passionsr.install import (
    SCALE,
    Installed,
    cast_rest,
    choose_arithmetic,
    compute_in,
    install,
)
from pipelines.stable_diffusion.optimized import OptimizedOneStep

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipelines.passionsr.settings import LayerSettings

FLOAT32_ENDS = {
    "unet": ("conv_out",),
    "vae": ("encoder.conv_out", "quant_conv", "post_quant_conv"),
}
"""What touches the noise or the latent, whose errors are multiplied by 14.6."""
_MEGA = 1e6


class QuantizedOneStep(OptimizedOneStep[Any, Any]):
    """Builds in float32, quantizes, and casts the rest.

    A class that mixes this in builds its networks with precision `fp32` and then calls `_quantize`.
    """

    tiers: ClassVar[dict[Precision, Tier]] = {
        Precision.FP32: Tier.APPROX,
        Precision.FP16: Tier.APPROX,
    }
    system: ClassVar[str]
    installed: Installed
    _weights: WeightsSource | None = None
    _known: LayerSettings | None = None

    def load(self, weights: WeightsSource, device: torch.device, precision: Precision) -> None:
        """See `OneStepPipeline.load`.

        Raises:
            PipelineError: Also where the calibration is of other bits, weights or networks.
        """
        self._weights = weights
        super().load(weights, device, precision)

    def _ranks(self) -> Ranks:
        """Layers with an adapter on a path of its own; none where adapters are merged."""
        return {}

    def _quantize(self, checkpoint: Any, precision: Precision) -> None:
        assert self._device is not None
        networks = {"unet": self.unet, "vae": self.vae}
        computed, reason = choose_arithmetic(self.options, self._device, self.card)
        arch = self.architecture
        layers, settings, calibration = install(
            networks,
            self.options,
            self.system,
            self._weights,
            self._paint,
            {"unet": arch.unet, "vae": arch.vae},
            self._known,
        )
        if settings.mode == "paper":
            precision = Precision.FP32  # as published, on every device
        became = compute_in(computed, networks, layers)
        self._begin_build(checkpoint, precision)
        for name, network in networks.items():
            cast_rest(network, self.dtype, FLOAT32_ENDS[name])
        self.installed = Installed(
            plan={
                name: {path: layer.settings for path, layer in part.items()}
                for name, part in layers.items()
            },
            settings=settings,
            computed=computed,
            reason=reason,
            became=became,
            calibration=calibration,
        )
        self._bills: dict[tuple[int, int], Bill] = {}
        self._finish_build()

    def _paint(self, picture: NDArray[np.uint8], seed: int) -> None:
        self._run(picture, SCALE, seed, lambda *_: None)

    def bill_of(self, height: int, width: int, scale: int) -> Bill:
        """Bytes and multiply-adds of an image of that LR size, and the quantized share."""
        latent = self._latent_shape(height, width, scale)[-2:]
        if latent not in self._bills:
            prompts = self._prompting().count
            inputs = Inputs.tiled(*latent, options=self.options, prompts=prompts)
            arch = self.architecture
            self._bills[latent] = bill(
                arch.unet,
                arch.vae,
                self.installed.plan,
                inputs,
                folded=self.options.fold_time and self.options.cache_text_kv,
                ranks=self._ranks(),
            )
        return self._bills[latent]

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """See `OptimizedOneStep.decisions`; and how the quantized layers compute."""
        found = self.installed
        found_bill = self.bill_of(height, width, scale)
        total = found_bill.total
        macs = sum(total.macs.values())
        by_kind = ", ".join(
            f"{kind} {total.macs[kind] / 1e9:.3g} G ({total.quantized_macs[kind] / 1e9:.3g} G "
            "quantized)"
            for kind in total.macs
            if total.macs[kind]
        )
        counts = ", ".join(f"{count} in {kind}" for kind, count in found.became.items())
        return {
            **super().decisions(height, width, scale),
            "arithmetic": f"{found.computed} ({found.reason}); layers: {counts}",
            "quantized": f"{found_bill.share:.1%} of {macs / 1e9:.4g} G multiply-adds: {by_kind}",
            "model_size": f"{total.quantized_bytes / _MEGA:.4g} MB "
            f"(fp16: {HALF_BYTES * total.parameters / _MEGA:.4g} MB)",
            "calibration": found.calibration,
        }

    def work(self, height: int, width: int, scale: int) -> WorkCounts:
        """See `pipelines.contract.Pipeline.work`; in the arithmetic that was loaded."""
        if self._device is None:
            return super().work(height, width, scale)
        twin = type(self)(replace(self.options, arithmetic=self.installed.computed))
        twin.architecture, twin._known = self.architecture, self.installed.settings
        return super(QuantizedOneStep, twin).work(height, width, scale)
