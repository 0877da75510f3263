"""`realesrgan-x4plus`: one forward pass of a trained RRDBNet, in tiles where memory asks for it.

What the published script does (`inference_realesrgan.py`, `RealESRGANer`): RGB / 255, the network,
clamped, times 255 and rounded; another factor than 4 is resampled from the picture at 4 by a
Lanczos filter: there OpenCV's, which does not widen where it shrinks; here Pillow's, which does.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from PIL import Image

from pipelines.contract import (
    Observer,
    PipelineError,
    Precision,
    Tier,
    WeightsSource,
    WorkCounts,
    stage,
)
from pipelines.diffusion.memory import free_card_bytes
from pipelines.diffusion.transfer import upload
from pipelines.external.realesrgan.checkpoint import read_network
from pipelines.external.realesrgan.network import SCALE, X4PLUS, RRDBNet, receptive_radius
from pipelines.external.realesrgan.options import AUTO, MIN_TILE, RealESRGANOptions
from pipelines.external.realesrgan.tiles import Span, largest_tile, plan_tiles
from pipelines.external.realesrgan.weight_sources import file_digest, find_network
from pipelines.stable_diffusion.device import check_device
from pipelines.work import WorkCounter, note_call, replayed

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SIDE = 16
_MAPS = 2.3
"""Live bytes of a picture over one map of the network's width at four times the sides: the second
upsampling's input and output (counted on the meta device)."""
_HOST_BYTES = 8 * 2**30
"""What a picture may use without a card: the same everywhere, so that pictures are."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a picture is cut.

    Attributes:
        side: Of a core, LR pixels; None where the picture is one.
        reason: Why.
    """

    side: int | None
    reason: str


class RealESRGAN:
    """The network in float32 or, with `fp16`, in float16 throughout. The seed changes nothing."""

    name: ClassVar[str] = "realesrgan-x4plus"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = RealESRGANOptions
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16)
    tiers: ClassVar[dict[Precision, Tier]] = dict.fromkeys(precisions, Tier.APPROX)

    def __init__(self, options: RealESRGANOptions) -> None:
        self.options = options
        self._shape = X4PLUS
        self._network: RRDBNet | None = None
        self._device = torch.device("cpu")
        self._dtype = torch.float32
        self._digest = ""

    def own_weights(self) -> str:
        """Digest of its network's file; empty where there is none, which `load` refuses."""
        with suppress(PipelineError):
            return file_digest(find_network(self.options.weights))
        return ""

    def load(self, weights: WeightsSource, device: torch.device, precision: Precision) -> None:
        """Read the network of its own option, whatever the weights of a run are.

        Raises:
            PipelineError: The file is missing, damaged or of another network.
        """
        path = find_network(self.options.weights)
        check_device(device)
        self._shape, tensors = read_network(path)
        self._digest = file_digest(path)
        self._device = device
        self._dtype = torch.float16 if precision is Precision.FP16 else torch.float32
        network = RRDBNet(self._shape)
        network.load_state_dict(tensors)
        network.eval().requires_grad_(False).to(device, self._dtype)
        if device.type == "cuda":
            network.to(memory_format=torch.channels_last)
        self._network = network

    def prepare(self, height: int, width: int, scale: int) -> None:
        """On a card one picture for nothing: cuDNN chooses its algorithms."""
        if self._device.type == "cuda":
            self.upscale_float(np.zeros((height, width, 3), np.uint8), scale, seed=0)

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """Which file computes, and how the picture is cut."""
        tiling = self._tiling(height, width)
        cut = f"{tiling.side} px and {self.options.tile_pad} px around them"
        chosen = {
            "network": f"sha256 {self._digest[:16]}" if self._digest else "not loaded",
            "tiles": f"{'none' if tiling.side is None else cut} ({tiling.reason})",
        }
        if scale != SCALE:
            chosen["resample"] = f"from x{SCALE} to x{scale} by Lanczos, on the host"
        return chosen

    def upscale(self, image: NDArray[np.uint8], scale: int, *, seed: int) -> NDArray[np.uint8]:
        """See `pipelines.contract.Pipeline.upscale`."""
        exact = self.upscale_float(image, scale, seed=seed)
        with stage("postprocess"):
            pixels: NDArray[np.uint8] = (exact * np.float32(255)).round().astype(np.uint8)
            return pixels

    @torch.inference_mode()
    def upscale_float(
        self,
        image: NDArray[np.uint8],
        scale: int,
        *,
        seed: int,
        observe: Observer | None = None,
    ) -> NDArray[np.float32]:
        """See `pipelines.contract.Pipeline.upscale_float`; nothing is observed."""
        if self._network is None:
            raise PipelineError(f"{self.name}: load weights before upscaling")
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise PipelineError(
                f"image of {width}x{height} px: sides must be at least {MIN_SIDE} px"
            )
        with stage("preprocess"):
            pixels = upload(torch.from_numpy(image.copy(order="C")), self._device, pinned=False)
        picture = self._infer(pixels)
        with stage("postprocess"):
            exact: NDArray[np.float32] = picture.cpu().numpy()
            return exact if scale == SCALE else resampled(exact, height * scale, width * scale)

    def _infer(self, pixels: torch.Tensor) -> torch.Tensor:
        """[h, w, 3] uint8 on the device -> [4h, 4w, 3] float32 in [0, 1]."""
        height, width = pixels.shape[:2]
        with stage("preprocess"):
            lr = pixels.permute(2, 0, 1)[None].to(self._dtype) / 255
        with stage("network"):
            side = self._tiling(height, width).side
            picture = self._forward(lr) if side is None else self._tiled(lr, side)
        with stage("postprocess"):
            return picture[0].float().clamp(0, 1).permute(1, 2, 0).contiguous()

    def _tiled(self, lr: torch.Tensor, side: int) -> torch.Tensor:
        height, width = lr.shape[-2:]
        picture = lr.new_empty((1, 3, SCALE * height, SCALE * width))
        for rows, columns in plan_tiles(height, width, side, self.options.tile_pad):
            seen = lr[..., _seen(rows), _seen(columns)]
            made = replayed(("tile", seen.shape), lambda seen=seen: self._forward(seen))  # type: ignore[misc]
            picture[..., _placed(rows), _placed(columns)] = made[..., _kept(rows), _kept(columns)]
        return picture

    def _forward(self, lr: torch.Tensor) -> torch.Tensor:
        assert self._network is not None
        note_call("network")
        picture: torch.Tensor = self._network(lr)
        return picture

    def _tiling(self, height: int, width: int) -> Tiling:
        options = self.options
        if options.tile != AUTO:
            whole = max(height, width) <= options.tile
            return Tiling(None if whole else options.tile, f"tile={options.tile}")
        budget = self._budget() - self._picture_bytes(height * width)
        needed = self._bytes(height * width)
        told = f"{needed / 2**30:.1f} GiB needed, {budget / 2**30:.1f} GiB to use"
        if needed <= budget:
            return Tiling(None, told)
        pixels = int(budget / self._bytes(1))
        return Tiling(largest_tile(pixels, options.tile_pad, MIN_TILE), told)

    def _budget(self) -> int:
        return free_card_bytes(self._device) if self._device.type == "cuda" else _HOST_BYTES

    def _bytes(self, pixels: int) -> int:
        """Of so many LR pixels in one forward pass."""
        element = 2 if self._dtype is torch.float16 else 4
        return int(_MAPS * element * self._shape.features * SCALE**2 * pixels)

    def _picture_bytes(self, pixels: int) -> int:
        """Of the output for so many LR pixels: as it is made, in float32, and clamped."""
        element = 2 if self._dtype is torch.float16 else 4
        return 3 * SCALE**2 * pixels * (element + 8)

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """See `pipelines.contract.Pipeline.memory_estimate`; of the tiles chosen now."""
        side = self._tiling(height, width).side
        seen = max(height, width) if side is None else side + 2 * self.options.tile_pad
        network = self._bytes(min(seen, height) * min(seen, width))
        return network + self._picture_bytes(height * width)

    @torch.inference_mode()
    def work(self, height: int, width: int, scale: int) -> WorkCounts:
        """See `pipelines.contract.Pipeline.work`: the very same code, on the meta device."""
        meta = torch.device("meta")
        twin = type(self)(self.options)
        twin._shape = self._shape
        with meta:
            twin._network = RRDBNet(self._shape)
            pixels = torch.empty(height, width, 3, dtype=torch.uint8)
        with WorkCounter() as counter:
            twin._infer(pixels)
        return counter.counts()

    @property
    def receptive_radius(self) -> int:
        """Context in LR pixels with which tiles equal the whole picture."""
        return receptive_radius(self._shape)


def resampled(picture: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """[H, W, 3] -> [height, width, 3] in [0, 1], by Pillow's Lanczos filter in float32."""
    planes = [
        Image.fromarray(np.ascontiguousarray(picture[..., channel])).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(0, 1)


def _seen(span: Span) -> slice:
    return slice(span.read_start, span.read_stop)


def _placed(span: Span) -> slice:
    return slice(SCALE * span.start, SCALE * span.stop)


def _kept(span: Span) -> slice:
    offset = SCALE * (span.start - span.read_start)
    return slice(offset, offset + SCALE * (span.stop - span.start))
