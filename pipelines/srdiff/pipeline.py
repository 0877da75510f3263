"""What the SRDiff pipelines share: the contract's surface around one `_sample`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F

from pipelines.contract import (
    Observer,
    PipelineError,
    Precision,
    Tier,
    WeightsSource,
    WorkCounts,
    stage,
)
from pipelines.diffusion.transfer import download
from pipelines.matlab_resize import upsample_lr
from pipelines.srdiff import schedule
from pipelines.srdiff.checkpoint import Checkpoint, from_tensors, read_checkpoint
from pipelines.srdiff.config import CONFIGS, SIZE_MULTIPLE, Config, checkpoint_shapes
from pipelines.srdiff.options import SRDiffOptions
from pipelines.srdiff.sampling import to_levels
from pipelines.srdiff.synthetic import synthesize
from pipelines.srdiff.weight_sources import SEEDED
from pipelines.work import WorkCounter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

MIN_SIDE = 16
OptionsT = TypeVar("OptionsT", bound=SRDiffOptions)


@dataclass(frozen=True, slots=True)
class Inputs:
    """One picture as the network takes it, padded to sides that it can halve.

    Attributes:
        lr: [1, 3, h, w] in [-1, 1].
        lr_up: [1, 3, s h, s w], float32.
    """

    lr: torch.Tensor
    lr_up: torch.Tensor


class SRDiffPipeline(ABC, Generic[OptionsT]):
    """One SRDiff pipeline; subclasses build networks from a checkpoint and sample."""

    name: ClassVar[str]
    version: ClassVar[str]
    Options: ClassVar[type]
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16)
    tiers: ClassVar[dict[Precision, Tier]] = {
        Precision.FP32: Tier.EXACT,
        Precision.FP16: Tier.REDUCED,
    }

    pinned_transfers = False
    maps: ClassVar[float]
    """Live bytes of one sample over a full-resolution map of the UNet's base width (counted)."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options
        self.config = CONFIGS["df2k-x4"]
        self._device: torch.device | None = None
        self._precision = Precision.FP32

    @abstractmethod
    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        """Make the networks."""

    @abstractmethod
    def _sample(
        self, inputs: Inputs, seeds: Sequence[int], observe: Observer | None
    ) -> Iterator[torch.Tensor]:
        """One picture -> batches [b, 3, s h, s w] of its samples, float32, about [-1, 1]."""

    def load(self, weights: WeightsSource, device: torch.device, precision: Precision) -> None:
        """Read the checkpoint and build the networks on `device`.

        Raises:
            PipelineError: The file is missing, damaged or of another model.
        """
        seeded = weights.kind == "synthetic"
        checkpoint = synthesize(SEEDED) if seeded else read_checkpoint(weights.path)
        self._load_checkpoint(checkpoint, device, precision)

    @torch.inference_mode()
    def _load_checkpoint(
        self, checkpoint: Checkpoint, device: torch.device, precision: Precision
    ) -> None:
        self.config = checkpoint.config
        self._device = device
        self._precision = precision
        self._build(checkpoint, device, precision)

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Nothing to prepare."""

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """Nothing to choose."""
        return {}

    def upscale(self, image: NDArray[np.uint8], scale: int, *, seed: int) -> NDArray[np.uint8]:
        """See `pipelines.contract.Pipeline.upscale`."""
        (picture,) = self.upscale_samples(image, scale, seeds=[seed])
        return picture

    @torch.inference_mode()
    def upscale_samples(
        self, image: NDArray[np.uint8], scale: int, *, seeds: Sequence[int]
    ) -> Iterator[NDArray[np.uint8]]:
        """Several samples of one picture, which is encoded once, as they come.

        Each equals `upscale` with its seed, but for the rounding of other batch sizes.
        """
        for pictures in self._run(image, scale, seeds, None):
            with stage("postprocess"):
                batch = download(to_levels(pictures), pinned=self.pinned_transfers)
            yield from batch

    @torch.inference_mode()
    def upscale_float(
        self,
        image: NDArray[np.uint8],
        scale: int,
        *,
        seed: int,
        observe: Observer | None = None,
    ) -> NDArray[np.float32]:
        """See `pipelines.contract.Pipeline.upscale_float`. Observed: `eps` of the first step."""
        ((picture,),) = self._run(image, scale, [seed], observe)
        unit = ((picture + 1) / 2).clamp(0, 1)
        pixels: NDArray[np.float32] = unit.permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels

    def _run(
        self, image: NDArray[np.uint8], scale: int, seeds: Sequence[int], observe: Observer | None
    ) -> Iterator[torch.Tensor]:
        if self._device is None:
            raise PipelineError(f"{self.name}: load weights before upscaling")
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise PipelineError(
                f"image of {width}x{height} px: sides must be at least {MIN_SIDE} px"
            )
        self._check_scale(scale)
        with stage("preprocess"):
            inputs = self._inputs(torch.from_numpy(image.copy(order="C")), self._device)
        for pictures in self._sample(inputs, seeds, observe):
            yield pictures[..., : height * scale, : width * scale]

    def _check_scale(self, scale: int) -> None:
        if scale != self.config.scale:
            raise PipelineError(
                f"{self.name}: these weights upscale by {self.config.scale}, not by {scale}"
            )

    def _inputs(self, image: torch.Tensor, device: torch.device) -> Inputs:
        """Of [h, w, 3] uint8 on the CPU, as the authors' loader does: all there, in numpy."""
        padded = pad_to_cells(image, self._cell())
        values = upsample_lr(padded.numpy(), self.config.scale, divisor=self.options.divisor)
        lr_up = torch.from_numpy(values).float().permute(2, 0, 1)[None].contiguous()
        lr = padded.permute(2, 0, 1)[None].float() / 255 * 2 - 1
        return Inputs(lr.contiguous().to(device), lr_up.to(device))

    def _cell(self) -> int:
        """LR sides must be multiples of this."""
        return SIZE_MULTIPLE // self.config.scale

    def hr_size(self, height: int, width: int) -> tuple[int, int]:
        """HR size that is sampled for an LR size."""
        cell, scale = self._cell(), self.config.scale
        return -(-height // cell) * cell * scale, -(-width // cell) * cell * scale

    @torch.inference_mode()
    def work(self, height: int, width: int, scale: int) -> WorkCounts:
        """See `pipelines.contract.Pipeline.work`: the very same code, on the meta device."""
        meta = torch.device("meta")
        twin = type(self)(self.options)
        if self._device is None:
            twin.config = _released_for(scale)
        else:
            self._check_scale(scale)
            twin.config = self.config
        twin._load_checkpoint(_empty_checkpoint(twin.config), meta, Precision.FP32)
        rows, columns = twin.hr_size(height, width)
        inputs = Inputs(
            torch.empty(1, 3, rows // scale, columns // scale, device=meta),
            torch.empty(1, 3, rows, columns, device=meta),
        )
        twin.prepare(height, width, scale)
        with WorkCounter() as counter:
            list(twin._sample(inputs, [0], None))
        return counter.counts()

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """See `pipelines.contract.Pipeline.memory_estimate`."""
        self._check_scale(scale)
        rows, columns = self.hr_size(height, width)
        return self._map_bytes(rows * columns)

    def _map_bytes(self, pixels: int) -> int:
        element = 2 if self._precision is Precision.FP16 else 4
        return int(self.maps * self.config.hidden_size * element * pixels)


def pad_to_cells(image: torch.Tensor, cell: int) -> torch.Tensor:
    """[h, w, 3] -> sides that are multiples of `cell`, last row and column repeated."""
    height, width = image.shape[:2]
    missing = (0, -width % cell, 0, -height % cell)
    if not any(missing):
        return image
    planes = image.permute(2, 0, 1)[None].float()
    padded = F.pad(planes, missing, mode="replicate")[0]
    return padded.permute(1, 2, 0).to(image.dtype).contiguous()


def _released_for(scale: int) -> Config:
    """The released network of a factor; that of x4 on another grid for x2."""
    return CONFIGS["celeba-x8"] if scale == 8 else replace(CONFIGS["df2k-x4"], scale=scale)


def _empty_checkpoint(config: Config) -> Checkpoint:
    """Networks without storage; the schedule has its numbers, which samplers are made of."""
    shapes = checkpoint_shapes(config).items()
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes}
    return from_tensors(config, empty | schedule.buffers(schedule.betas(config)))
