"""The contract's surface around one `_infer`, which every one-step pipeline shares."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

import torch

from pipelines.contract import (
    Observer,
    PipelineError,
    Precision,
    Tier,
    WeightsSource,
    WorkCounts,
    posterior_noise,
    stage,
)
from pipelines.diffusion.color_fix import truncate_to_uint8
from pipelines.diffusion.transfer import download, upload
from pipelines.stable_diffusion.architecture import StableDiffusion
from pipelines.stable_diffusion.device import check_device
from pipelines.stable_diffusion.options import (
    MIN_SIDE,
    PICTURE_OPTIONS,
    VAE_DECODER_PAD,
    VAE_FACTOR,
    OneStepOptions,
)
from pipelines.stable_diffusion.steps import pixels_to_tensor
from pipelines.work import WorkCounter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Sized(Protocol):
    """A checkpoint, as far as it is alike in all systems."""

    @property
    def architecture(self) -> StableDiffusion:
        """The sizes that its tensors have."""


OptionsT = TypeVar("OptionsT", bound=OneStepOptions)
CheckpointT = TypeVar("CheckpointT", bound=Sized)


def _ignore(name: str, tensor: torch.Tensor) -> None:
    """An observer that does not look."""


class OneStepPipeline(ABC, Generic[OptionsT, CheckpointT]):
    """One one-step pipeline; a system says how it reads and prepares, its pipelines infer."""

    name: ClassVar[str]
    version: ClassVar[str]
    Options: ClassVar[type]
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16)
    tiers: ClassVar[dict[Precision, Tier]] = {
        Precision.FP32: Tier.EXACT,
        Precision.FP16: Tier.REDUCED,
    }
    picture_options: ClassVar[frozenset[str]] = PICTURE_OPTIONS

    architecture: StableDiffusion
    pinned_transfers = False

    def __init__(self, options: OptionsT) -> None:
        self.options = options
        self._device: torch.device | None = None
        self._precision = Precision.FP32

    @abstractmethod
    def _read(self, weights: WeightsSource) -> CheckpointT:
        """Read and check the weights; PipelineError names the file that is wrong."""

    @abstractmethod
    def _meta_checkpoint(self) -> CheckpointT:
        """All tensors of `architecture` on the meta device."""

    @abstractmethod
    def _build(self, checkpoint: CheckpointT, device: torch.device, precision: Precision) -> None:
        """Make the networks."""

    @abstractmethod
    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        """[1, 3, H, W] float32 in [0, 1] on the device -> [3, H', W'] in [0, 1].

        H and W are those of `_input_size`.
        """

    @abstractmethod
    def _canvas(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Height and width of the picture that the VAE encodes, for an LR size."""

    def _input_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Height and width of what goes to the device for an LR size."""
        return height, width

    def _on_host(self, image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        """What is done with the LR image [H, W, 3] before it goes to the device."""
        return image

    def load(self, weights: WeightsSource, device: torch.device, precision: Precision) -> None:
        """Read the checkpoint and build the networks on `device`.

        Raises:
            PipelineError: A file is missing, damaged or of another model.
        """
        self._load_checkpoint(self._read(weights), device, precision)

    @torch.inference_mode()
    def _load_checkpoint(
        self, checkpoint: CheckpointT, device: torch.device, precision: Precision
    ) -> None:
        self.card = check_device(device)
        self.architecture = checkpoint.architecture
        self._device = device
        self._precision = precision
        self._build(checkpoint, device, precision)
        if device.type != "meta":
            gc.collect()

    def retune(self, options: OptionsT) -> bool:
        """Take other options without loading again; sizes must be prepared again.

        Returns:
            False, and nothing has changed, where the networks depend on what differs.
        """
        differ = {
            field.name
            for field in fields(options)
            if getattr(options, field.name) != getattr(self.options, field.name)
        }
        if not differ <= self.picture_options:
            return False
        self.options = options
        return True

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Nothing to prepare: nothing is compiled."""

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """Nothing to choose."""
        return {}

    def upscale(self, image: NDArray[np.uint8], scale: int, *, seed: int) -> NDArray[np.uint8]:
        """See `pipelines.contract.Pipeline.upscale`."""
        result = self._run(image, scale, seed, _ignore)
        with torch.inference_mode(), stage("postprocess"):
            pixels = truncate_to_uint8(result).permute(1, 2, 0).contiguous()
            return download(pixels, pinned=self.pinned_transfers)

    def upscale_float(
        self,
        image: NDArray[np.uint8],
        scale: int,
        *,
        seed: int,
        observe: Observer | None = None,
    ) -> NDArray[np.float32]:
        """See `pipelines.contract.Pipeline.upscale_float`."""
        result = self._run(image, scale, seed, observe or _ignore)
        pixels: NDArray[np.float32] = result.permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels

    @torch.inference_mode()
    def _run(
        self, image: NDArray[np.uint8], scale: int, seed: int, observe: Observer
    ) -> torch.Tensor:
        if self._device is None:
            raise PipelineError(f"{self.name}: load weights before upscaling")
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise PipelineError(
                f"image of {width}x{height} px: sides must be at least {MIN_SIDE} px"
            )
        with stage("preprocess"):
            pixels = torch.from_numpy(self._on_host(image, scale))
            pixels = upload(pixels, self._device, pinned=self.pinned_transfers)
            noise = posterior_noise(seed, self._latent_shape(height, width, scale))
            noise = upload(noise, self._device, pinned=self.pinned_transfers)
            tensor = pixels_to_tensor(pixels)
        return self._infer(tensor, scale, noise, observe)

    def _latent_shape(self, height: int, width: int, scale: int) -> tuple[int, int, int, int]:
        channels = int(self.architecture.vae["latent_channels"])
        rows, columns = self._canvas(height, width, scale)
        return (1, channels, rows // VAE_FACTOR, columns // VAE_FACTOR)

    @torch.inference_mode()
    def work(self, height: int, width: int, scale: int) -> WorkCounts:
        """See `pipelines.contract.Pipeline.work`: the very same code, on the meta device."""
        meta = torch.device("meta")
        twin = type(self)(self.options)
        twin._load_checkpoint(self._meta_checkpoint(), meta, Precision.FP32)
        image = torch.empty(1, 3, *twin._input_size(height, width, scale), device=meta)
        noise = torch.empty(twin._latent_shape(height, width, scale), device=meta)
        twin.prepare(height, width, scale)
        with WorkCounter() as counter:
            twin._infer(image, scale, noise, _ignore)
        return counter.counts()

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """See `pipelines.contract.Pipeline.memory_estimate`.

        The VAE's full-resolution maps of its second level decide: two of them are alive over all
        tiles, three where one tile is the whole image (counted on the meta device).
        """
        rows, columns = self._canvas(height, width, scale)
        limit = VAE_FACTOR * (self.options.vae_decoder_tile + 2 * VAE_DECODER_PAD)
        maps = 3.2 if max(rows, columns) <= limit else 2.2
        widths = self.architecture.vae["block_out_channels"]
        element = 2 if self._precision is Precision.FP16 else 4
        return int(maps * element * widths[min(1, len(widths) - 1)] * rows * columns)
