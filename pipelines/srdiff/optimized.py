"""`srdiff-optimized`: the same function, with what repeats or waits removed.

Every optimization is exact and one named option (see `OptimizedOptions`). With `fp16` the UNet's
weights and maps are half precision while the sample, x0 and the posterior stay float32: at high
noise x0 is the difference of numbers in the thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F

from pipelines.contract import Observer, PipelineError, Precision, Tier, stage
from pipelines.diffusion.arithmetic import arithmetic
from pipelines.diffusion.memory import free_card_bytes
from pipelines.diffusion.transfer import upload
from pipelines.srdiff.checkpoint import Checkpoint
from pipelines.srdiff.fast_sampler import FastSampler
from pipelines.srdiff.fast_unet import FastUNet
from pipelines.srdiff.model import SRDiff
from pipelines.srdiff.options import AUTO, DdimOptions, OptimizedOptions
from pipelines.srdiff.pipeline import Inputs, SRDiffPipeline, pad_to_cells
from pipelines.srdiff.rrdb import condition
from pipelines.srdiff.sampling import Noise, to_picture
from pipelines.srdiff.schedule import Schedule
from pipelines.srdiff.steps import Steps, ancestral_steps, ddim_steps
from pipelines.srdiff.tiles import Tiles, largest_tile, plan_tiles

OptionsT = TypeVar("OptionsT", bound=OptimizedOptions)
_REACH = 4
"""Pixels on each side that MATLAB's bicubic mirrors, two more than it reads at a border."""
_SHARE = 0.8
"""Of the free memory that an untiled picture may take."""
_MAX_BATCH = 16
_SAMPLE_BYTES = 80
"""Of an HR pixel: sample, noise, upsampled LR, blended prediction and the encoder's maps."""


class FastPipeline(SRDiffPipeline[OptionsT]):
    """Shared by the optimized pipeline and those with other steps."""

    maps: ClassVar[float] = 5.6

    def __init__(self, options: OptionsT) -> None:
        super().__init__(options)
        self._tiles: dict[tuple[int, int], Tiles | None] = {}
        self._uncaptured: dict[tuple[int, int], str | None] = {}

    def _steps(self, schedule: Schedule) -> Steps:
        """What the sampler visits."""
        raise NotImplementedError

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        options = self.options
        half = precision is Precision.FP16
        self.pinned_transfers = options.pinned_transfers
        self._autocast_on = device if half and not options.half_weights else None
        dtype = torch.float16 if half and options.half_weights else torch.float32
        model = SRDiff(checkpoint, device)
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        schedule = Schedule.from_buffers(checkpoint.buffers, torch.float32)
        steps = self._steps(schedule).to(device)
        unet = FastUNet(model.unet, steps.timesteps, options, dtype)
        self._rrdb = model.rrdb.to(dtype=dtype).to(memory_format=layout)
        self._dtype, self._layout = dtype, layout
        self._sampler = FastSampler(unet, steps, fused=options.fused_step)
        self._tiles.clear()
        self._uncaptured.clear()

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Choose tiles; on CUDA capture the step, which also autotunes its convolutions."""
        self._check_scale(scale)
        size = self.hr_size(height, width)
        tiles = self._tiles_of(size)
        if self._device is None or self._device.type != "cuda" or not self.options.cuda_graphs:
            return
        x = torch.zeros(1, 3, *size, device=self._device)
        maps = self._empty_maps(size)
        with torch.inference_mode(), self._arithmetic():
            self._uncaptured[size] = self._sampler.capture(x, maps, tiles)

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """Tiles and graphs."""
        size = self.hr_size(height, width)
        tiles = self._tiles_of(size)
        told = {
            "tiles": "none" if tiles is None else f"{len(tiles)} of {tiles.width}x{tiles.height}"
        }
        if size in self._uncaptured:
            told["cuda_graphs"] = self._uncaptured[size] or "one step captured"
        return told

    def _arithmetic(self) -> AbstractContextManager[None]:
        return arithmetic(autocast_on=self._autocast_on, tune=self.options.cudnn_autotune)

    def _sample(
        self, inputs: Inputs, seeds: Sequence[int], observe: Observer | None
    ) -> Iterator[torch.Tensor]:
        with self._arithmetic(), stage("encode"):
            maps = condition(self._encode(inputs.lr))
        size = 1 if len(seeds) == 1 else self._batch(*inputs.lr_up.shape[2:])
        for start in range(0, len(seeds), size):
            with self._arithmetic():
                batch = self._sample_batch(inputs.lr_up, maps, seeds[start : start + size], observe)
            yield batch

    def _sample_batch(
        self,
        lr_up: torch.Tensor,
        maps: torch.Tensor,
        seeds: Sequence[int],
        observe: Observer | None,
    ) -> torch.Tensor:
        _, _, height, width = lr_up.shape
        tiles = self._tiles_of((height, width))
        with stage("unet"):
            place = "cpu" if self.options.noise == "cpu" else lr_up.device
            noises = [Noise(seed, lr_up, place) for seed in seeds]
            x = lr_up.new_empty(len(seeds), 3, height, width)
            for index, noise in enumerate(noises):
                noise.fill(x[index : index + 1])
            if observe is not None:
                observe("eps", self._sampler.first_noise(x, maps, tiles))
            residual = self._sampler.sample(x, maps, noises, tiles)
        with stage("postprocess"):
            return to_picture(residual, lr_up)

    def _encode(self, lr: torch.Tensor) -> list[torch.Tensor]:
        return self._rrdb.encode(lr.to(dtype=self._dtype, memory_format=self._layout))

    def _empty_maps(self, size: tuple[int, int]) -> torch.Tensor:
        height, width = (side // self.config.scale for side in size)
        channels = self.config.condition_channels
        return torch.zeros(1, channels, height, width, device=self._device, dtype=self._dtype)

    def _inputs(self, image: torch.Tensor, device: torch.device) -> Inputs:
        if not self.options.device_resize:
            return super()._inputs(image, device)
        pixels = upload(pad_to_cells(image, self._cell()), device, pinned=self.pinned_transfers)
        planes = pixels.permute(2, 0, 1)[None].contiguous()
        lr_up = upsample(planes.double() / self.options.divisor, self.config.scale)
        return Inputs(planes.float() / 255 * 2 - 1, (2 * lr_up - 1).float())

    def _tiles_of(self, size: tuple[int, int]) -> Tiles | None:
        """Decided once a size: captured graphs rely on it."""
        if size not in self._tiles:
            self._tiles[size] = self._choose_tiles(*size)
        return self._tiles[size]

    def _choose_tiles(self, height: int, width: int) -> Tiles | None:
        side, overlap = self.options.tile, self.options.tile_overlap
        if side == AUTO:
            free = self._free_bytes()
            if free is None or self._map_bytes(height * width) <= _SHARE * free:
                return None
            left = _SHARE * free - self._picture_bytes(height * width)
            side = largest_tile(max(0, int(left / self._map_bytes(1))), overlap)
        tiles = plan_tiles(height, width, side, overlap)
        return tiles if len(tiles) > 1 else None

    def _batch(self, height: int, width: int) -> int:
        free = self._free_bytes()
        if free is None or self._device is None or self._device.type != "cuda":
            return 1
        return max(1, min(_MAX_BATCH, int(_SHARE * free / self._map_bytes(height * width))))

    def _free_bytes(self) -> int | None:
        captured = 0 if self._device is None else self._sampler.graph_bytes
        return free_bytes(self._device, captured)

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """See `pipelines.contract.Pipeline.memory_estimate`."""
        self._check_scale(scale)
        rows, columns = self.hr_size(height, width)
        tiles = self._tiles_of((rows, columns))
        if tiles is None:
            return super().memory_estimate(height, width, scale)
        tile = self._map_bytes(tiles.height * tiles.width)
        return tile + self._picture_bytes(rows * columns)

    def _picture_bytes(self, pixels: int) -> int:
        """What a picture in tiles keeps beside its largest tile: condition, sample and the like."""
        return int(self._map_bytes(pixels) / self.maps) + _SAMPLE_BYTES * pixels


class SRDiffOptimized(FastPipeline[OptimizedOptions]):
    """All timesteps, as published."""

    name: ClassVar[str] = "srdiff-optimized"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = OptimizedOptions

    def _steps(self, schedule: Schedule) -> Steps:
        return ancestral_steps(schedule)


class SRDiffDdim(FastPipeline[DdimOptions]):
    """Fewer timesteps: another function, whose cost in fidelity is to be measured."""

    name: ClassVar[str] = "srdiff-ddim"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = DdimOptions
    tiers: ClassVar[dict[Precision, Tier]] = dict.fromkeys(Precision, Tier.APPROX)

    def _steps(self, schedule: Schedule) -> Steps:
        if self.options.steps > schedule.steps:
            raise PipelineError(
                f"option steps={self.options.steps}: this network has {schedule.steps}"
            )
        return ddim_steps(schedule, self.options.steps, self.options.eta)


def upsample(planes: torch.Tensor, scale: int) -> torch.Tensor:
    """MATLAB's bicubic upsampling, as `pipelines.matlab_resize.imresize` does it.

    Args:
        planes: [B, C, h, w], float32 or float64.
        scale: Whole factor.

    Returns:
        [B, C, scale h, scale w].
    """
    for dim in (2, 3):
        planes = planes.index_select(dim, _mirrored(planes.shape[dim], planes.device))
    grown = F.interpolate(
        planes, scale_factor=scale, mode="bicubic", antialias=True, align_corners=False
    )
    rim = _REACH * scale
    return grown[..., rim:-rim, rim:-rim]


def _mirrored(length: int, device: torch.device) -> torch.Tensor:
    """Indices of a side with its border mirrored, the edge repeated."""
    inside = torch.arange(length, device=device)
    before = torch.arange(_REACH - 1, -1, -1, device=device)
    return torch.cat([before, inside, length - 1 - before.flip(0)])


def free_bytes(device: torch.device | None, graph_bytes: int) -> int | None:
    """What can still be allocated on a card or, by Linux, in host memory; None without numbers."""
    if device is None or device.type == "meta":
        return None
    if device.type == "cuda":
        return free_card_bytes(device, graph_bytes)
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024
