"""The reverse process on one device: a step that changes the sample in place, replayed or eager."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from pipelines import kernels
from pipelines.diffusion.graphs import Replayed
from pipelines.srdiff.fast_unet import FastUNet
from pipelines.srdiff.sampling import Noise
from pipelines.srdiff.steps import Steps
from pipelines.srdiff.tiles import Tiles
from pipelines.work import note_call, replayed


@dataclass(frozen=True, slots=True)
class _Place:
    """What the steps of one size read beside the sample; stays where it is for captured graphs.

    Attributes:
        noise: [B, 3, H, W].
        step: [1], row of the steps.
        condition: Of `FastUNet.prepare_condition`.
        tiles: None where the picture is one.
        weights: Of the tiles.
    """

    noise: torch.Tensor
    step: torch.Tensor
    condition: torch.Tensor
    tiles: Tiles | None
    weights: list[torch.Tensor]


class FastSampler:
    """Samples residuals with one UNet and one list of steps.

    Args:
        unet: Made for the timesteps of `steps`.
        steps: On the device, in the dtype of the sample.
        fused: One kernel for x0, clamp, posterior mean and noise.
    """

    def __init__(self, unet: FastUNet, steps: Steps, *, fused: bool) -> None:
        self._unet = unet
        self._steps = steps
        self._fused = fused
        self._places: dict[torch.Size, _Place] = {}
        self._advance_quickly = Replayed(self._advance)

    def sample(
        self,
        x: torch.Tensor,
        maps: torch.Tensor,
        noises: Sequence[Noise],
        tiles: Tiles | None,
    ) -> torch.Tensor:
        """Denoise.

        Args:
            x: [B, 3, H, W], standard normal, contiguous; overwritten.
            maps: Encoder's condition of the one picture, [1, C, h, w].
            noises: Of each sample; their first noise is x.
            tiles: None for the whole picture at once.

        Returns:
            The residuals, in [-1, 1] but for rounding.
        """
        place = self._arrange(x, self._unet.prepare_condition(maps), tiles)
        last = len(self._steps) - 1
        for row in range(len(self._steps)):
            place.step.fill_(row)
            if row < last:  # the last step adds none
                for index, noise in enumerate(noises):
                    noise.fill(place.noise[index : index + 1])
            x = replayed(("step", x.shape), partial(self._advance_quickly, x))
        return x

    def first_noise(self, x: torch.Tensor, maps: torch.Tensor, tiles: Tiles | None) -> torch.Tensor:
        """The prediction of the first step alone, in float32 at least; x stays as it is."""
        place = self._arrange(x, self._unet.prepare_condition(maps), tiles)
        place.step.zero_()
        return self._biased(self._predict(x, place), x.dtype)

    def capture(self, x: torch.Tensor, maps: torch.Tensor, tiles: Tiles | None) -> str | None:
        """Capture the step of a size; None, or why that could not be done."""
        self._arrange(x, self._unet.prepare_condition(maps), tiles).step.zero_()
        return self._advance_quickly.capture(x)

    @property
    def graph_bytes(self) -> int:
        """Device memory that captured graphs keep."""
        return self._advance_quickly.pool_bytes

    def _arrange(self, x: torch.Tensor, condition: torch.Tensor, tiles: Tiles | None) -> _Place:
        place = self._places.get(x.shape)
        if place is not None and place.tiles == tiles:
            place.condition.copy_(condition)
            return place
        captured = self._advance_quickly.has
        self._places = {key: kept for key, kept in self._places.items() if captured(kept.noise)}
        height, width = x.shape[-2:]
        place = _Place(
            noise=torch.zeros_like(x),
            step=torch.zeros(1, dtype=torch.int64, device=x.device),
            condition=condition,
            tiles=tiles,
            weights=[] if tiles is None else tiles.weights(height, width, x),
        )
        self._places[x.shape] = place
        return place

    def _advance(self, x: torch.Tensor) -> torch.Tensor:
        """One step, in place."""
        place = self._places[x.shape]
        eps, table = self._predict(x, place), self._steps.coefficients
        if self._fused:
            bias = self._unet.final_bias
            kernels.diffusion_step(x, eps, bias, place.noise, table, place.step)
        else:
            row = table.index_select(0, place.step)[0]
            eps = self._biased(eps, x.dtype)
            x0 = (row[0] * x - row[1] * eps).clamp(-1, 1)
            x.copy_(row[2] * x0 + row[3] * x + row[4] * place.noise)
        return x

    def _biased(self, eps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The whole prediction, with the bias that is left to the sampler step."""
        bias = self._unet.final_bias
        eps = eps.to(dtype)
        return eps if bias is None else eps + bias.to(dtype)[:, None, None]

    def _predict(self, x: torch.Tensor, place: _Place) -> torch.Tensor:
        if place.tiles is None:
            note_call("unet", len(x))
            return self._unet(x, place.step, place.condition)
        tiles = place.tiles
        side = tiles.height, tiles.width
        blended = torch.zeros_like(x)
        for (top, left), weight in zip(tiles.offsets, place.weights, strict=True):
            rows, columns = slice(top, top + side[0]), slice(left, left + side[1])
            condition = self._unet.crop_condition(place.condition, top, left, side)
            eps = self._unet(x[..., rows, columns], place.step, condition)
            blended[..., rows, columns] += weight * eps
            note_call("unet", len(x))
        return blended
