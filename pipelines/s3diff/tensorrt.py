"""`s3diff-tensorrt`: the clean baseline with its networks as TensorRT engines.

Of the baseline and not of `s3diff-optimized`, whose merged weights change with every image: an
engine's weights are constants. The UNet becomes an engine for each shape of a tile, the VAE where
it is not tiled, since a tiled one stops all tiles at every normalisation. `fp16` is float16 weights
in the engines, where the baseline has float32 weights under autocast.

Not run here: there was no card.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pipelines.contract import PipelineError, Precision, Tier
from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.compiled_options import TensorRTOptions
from pipelines.s3diff.lora import unet_block, vae_block
from pipelines.s3diff.options import TIMESTEP
from pipelines.s3diff.tensorrt_engines import Compile, Engines, tensorrt_compiler

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint


class S3DiffTensorRT(S3DiffBaseline):
    """Engines are built when a size is prepared; a size that was not runs in PyTorch."""

    name: ClassVar[str] = "s3diff-tensorrt"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = TensorRTOptions
    tiers: ClassVar[dict[Precision, Tier]] = {
        Precision.FP32: Tier.APPROX,
        Precision.FP16: Tier.APPROX,
    }

    options: TensorRTOptions

    def _compiler(self, device: torch.device) -> Compile:
        """What builds engines.

        Raises:
            PipelineError: Not on a card, or torch-tensorrt is not there.
        """
        if device.type != "cuda":
            raise PipelineError(f"{self.name}: TensorRT computes on a CUDA card, not on {device}")
        return tensorrt_compiler(self.options.optimization_level)

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        counting = device.type == "meta"
        compiler = None if counting else self._compiler(device)
        super()._build(checkpoint, device, precision)
        self.engines: dict[str, Engines] = {}
        if compiler is None:
            return
        dtype = torch.float16 if precision is Precision.FP16 else torch.float32
        for name, network, call, block_of in (
            ("unet", self.unet, _noise, unet_block),
            ("vae_encoder", self.vae.encoder, _plain, lambda path: vae_block(f"encoder.{path}")),
            ("vae_decoder", self.vae.decoder, _plain, lambda path: vae_block(f"decoder.{path}")),
        ):
            self.engines[name] = Engines(network, call, block_of, dtype, compiler)
        self.unet = _UNet(self.engines["unet"])
        for name in ("encoder", "decoder"):
            _let_compute(getattr(self.vae, name), self.engines[f"vae_{name}"])

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Build the engines that an image of that LR size needs."""
        if self._device is None:
            raise PipelineError(f"{self.name}: load weights before preparing a size")
        if not self.engines:
            return
        for engines in self.engines.values():
            engines.building = True
        try:
            image = torch.zeros(height, width, 3, dtype=torch.uint8).numpy()
            self.upscale(image, scale, seed=0)
        finally:
            for engines in self.engines.values():
                engines.building = False

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """How many engines there are by now."""
        return {name: f"{len(engines)} TensorRT engines" for name, engines in self.engines.items()}


class _UNet:
    """Engines behind the call that the baseline makes."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def __call__(
        self, latent: torch.Tensor, timestep: torch.Tensor, *, encoder_hidden_states: torch.Tensor
    ) -> SimpleNamespace:
        return SimpleNamespace(sample=self._engines(latent, encoder_hidden_states))


def _noise(unet: Any, latent: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    timestep = torch.full((1,), TIMESTEP, dtype=torch.long, device=latent.device)
    eps: torch.Tensor = unet(latent, timestep, encoder_hidden_states=text).sample
    return eps


def _plain(network: Any, x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = type(network).forward(network, x)
    return made


def _let_compute(network: torch.nn.Module, engines: Engines) -> None:
    """Give calls of a network to its engines; its layers stay for tiles."""
    network.forward = engines
