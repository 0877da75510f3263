"""SRDiff as a Python object: encode, predict, sample, train on, manipulate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch

from pipelines.contract import PipelineError
from pipelines.srdiff.checkpoint import Checkpoint, read_checkpoint
from pipelines.srdiff.config import SIZE_MULTIPLE, Config
from pipelines.srdiff.rrdb import RRDBNet, condition
from pipelines.srdiff.sampling import Noise, Watch, reverse, to_picture, to_residual
from pipelines.srdiff.schedule import Schedule
from pipelines.srdiff.unet import UNet

Indexing = Literal["reference", "corrected"]
MIN_HR_SIDE = 16


class SRDiff:
    """A loaded network. Pictures are NCHW float tensors in [-1, 1], RGB.

    Attributes:
        config: Its architecture.
        rrdb: Encoder.
        unet: Noise prediction.
        schedule: Tables of the diffusion.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = checkpoint.config
        self.dtype = dtype
        with torch.device("meta"):
            self.rrdb, self.unet = RRDBNet(self.config), UNet(self.config)
        for network, tensors in ((self.rrdb, checkpoint.rrdb), (self.unet, checkpoint.unet)):
            network.load_state_dict(tensors, strict=True, assign=True)
            network.requires_grad_(False).eval().to(device=device, dtype=dtype)
        tables = {name: table.to(device) for name, table in checkpoint.buffers.items()}
        # At high noise x0 is the difference of numbers in the thousands.
        self.schedule = Schedule.from_buffers(tables, torch.promote_types(dtype, torch.float32))

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **expected: Any,
    ) -> Self:
        """Load a published or own checkpoint.

        Args:
            path: See `pipelines.srdiff.checkpoint.read_checkpoint`.
            device: Where it computes.
            dtype: What its networks compute in; the diffusion stays in float32 at least.
            expected: Fields of `Config` that the checkpoint must have (`hidden_size=16`,
                `dim_mults=(1, 2, 2, 4)`); all are read from the checkpoint.

        Raises:
            PipelineError: Not readable, or of another configuration.
        """
        unknown = set(expected) - set(Config.__dataclass_fields__)
        if unknown:
            raise PipelineError(f"{', '.join(sorted(unknown))}: no setting of an SRDiff network")
        if "dim_mults" in expected:
            expected["dim_mults"] = tuple(expected["dim_mults"])
        return cls(read_checkpoint(Path(path), **expected), device, dtype)

    def encode(self, lr: torch.Tensor) -> list[torch.Tensor]:
        """Features of the LR picture [B, 3, h, w]: after each block, then the trunk's last."""
        return self.rrdb.encode(lr.to(self.dtype))

    def encoder_picture(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The encoder's own super-resolution, [B, 3, s h, s w] in [-1, 1]."""
        return self.rrdb.decode(features[-1])

    def predict_noise(
        self, x: torch.Tensor, t: int | torch.Tensor, features: list[torch.Tensor]
    ) -> torch.Tensor:
        """Noise in x_t.

        Args:
            x: x_t of the doubled residual, [B, 3, s h, s w].
            t: Timestep from 0, one or [B].
            features: Of `encode`; those of one picture serve a batch of samples.

        Raises:
            PipelineError: Sides that the UNet cannot halve three times.
        """
        check_sides(*x.shape[-2:])
        if isinstance(t, int):  # of a tensor on a device it would have to be waited for
            t = self._timestep(t, lowest=0)
        steps = torch.as_tensor(t, device=x.device)
        maps = condition(features)
        maps = maps.expand(len(x), *maps.shape[1:])
        eps: torch.Tensor = self.unet(x.to(self.dtype), steps.expand(len(x)), maps)
        return eps.to(x.dtype)

    @torch.no_grad()
    def sample(
        self,
        lr: torch.Tensor,
        lr_up: torch.Tensor,
        *,
        seed: int = 1234,
        samples: int = 1,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        """Super-resolve by all timesteps.

        Args:
            lr: [B, 3, h, w].
            lr_up: [B, 3, s h, s w], upsampled as in training.
            seed: Of the noise: the starting point, then one draw a step.
            samples: Of the one picture (B = 1), which is encoded once.
            watch: Called with t, x_t and the estimate of x0.

        Returns:
            [B, 3, s h, s w], or [samples, ...]; may leave [-1, 1] a little.
        """
        lr_up = lr_up.to(self.schedule.signal.dtype)
        if samples < 1:
            raise PipelineError(f"samples={samples}: expected at least 1")
        if samples > 1:
            if len(lr) != 1:
                raise PipelineError(f"samples={samples}: of one picture at a time, not {len(lr)}")
            lr_up = lr_up.expand(samples, *lr_up.shape[1:])
        noise = Noise(seed, lr_up)
        return self._denoise(noise.draw(), self.schedule.steps - 1, lr, lr_up, noise, watch)

    @torch.no_grad()
    def interpolate(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        lr: torch.Tensor,
        lr_up: torch.Tensor,
        *,
        t: int | None = None,
        weight: float = 0.5,
        indexing: Indexing = "corrected",
        seed: int = 1234,
    ) -> torch.Tensor:
        """Between two pictures of one LR picture, in the latents of timestep t (paper 4.5).

        Args:
            a: [B, 3, H, W], the result at weight 0.
            b: The result at weight 1.
            lr: [B, 3, h, w].
            lr_up: [B, 3, H, W].
            t: Noise level of the latents; the last one by default.
            weight: Of b, 0 to 1.
            indexing: The published code starts one step too low (`reference`), with noise that the
                network is not told of; `corrected` starts at t.
            seed: Of the noise: a's, b's, then one draw a step.
        """
        lr_up = lr_up.to(self.schedule.signal.dtype)
        _check_same_size(lr_up, a, b)
        if indexing not in get_args(Indexing):
            known = " or ".join(get_args(Indexing))
            raise PipelineError(f"indexing='{indexing}': expected {known}")
        t = self._timestep(t, lowest=1 if indexing == "reference" else 0)
        noise = Noise(seed, lr_up)
        ends = [self._to_latent(end, lr_up, t, noise) for end in (a, b)]
        mixed = (1 - weight) * ends[0] + weight * ends[1]
        start = t - 1 if indexing == "reference" else t
        return self._denoise(mixed, start, lr, lr_up, noise)

    @torch.no_grad()
    def fuse(
        self,
        target: torch.Tensor,
        source: torch.Tensor,
        mask: torch.Tensor,
        lr: torch.Tensor,
        lr_up: torch.Tensor,
        *,
        t: int = 50,
        seed: int = 1234,
    ) -> torch.Tensor:
        """Content fusion: a region of `source`, redrawn to fit `target` (paper algorithm 3).

        Args:
            target: [B, 3, H, W].
            source: Like target.
            mask: [B or 1, 1, H, W] in [0, 1]; 1 is taken from the source.
            lr: [B, 3, h, w], of the target.
            lr_up: [B, 3, H, W], of the target.
            t: How much is redrawn: low keeps the source, high moves to the target (30 to 70).
            seed: Of the noise.

        Returns:
            The target, with what was redrawn inside the mask.
        """
        lr_up = lr_up.to(self.schedule.signal.dtype)
        _check_same_size(lr_up, target, source, mask)
        t = self._timestep(t, lowest=0)
        pasted = torch.lerp(target, source, mask)
        noise = Noise(seed, lr_up)
        latent = self._to_latent(pasted, lr_up, t, noise)
        return torch.lerp(target, self._denoise(latent, t, lr, lr_up, noise), mask)

    def _to_latent(
        self, picture: torch.Tensor, lr_up: torch.Tensor, t: int, noise: Noise
    ) -> torch.Tensor:
        residual = to_residual(picture, lr_up)
        return self.schedule.add_noise(residual, t, noise.draw_like(residual))

    def _denoise(
        self,
        x: torch.Tensor,
        start: int,
        lr: torch.Tensor,
        lr_up: torch.Tensor,
        noise: Noise,
        watch: Watch | None = None,
    ) -> torch.Tensor:
        scale = self.config.scale
        if [side * scale for side in lr.shape[-2:]] != list(lr_up.shape[-2:]):
            raise PipelineError(f"lr_up of {_size(lr_up)} is not {scale} times lr, {_size(lr)}")
        if len(lr) not in (1, len(lr_up)):
            raise PipelineError(f"{len(lr)} pictures lr, but {len(lr_up)} lr_up")
        features = self.encode(lr)

        def predict(x: torch.Tensor, t: int) -> torch.Tensor:
            return self.predict_noise(x, t, features)

        return to_picture(reverse(self.schedule, x, start, predict, noise, watch), lr_up)

    def _timestep(self, t: int | None, lowest: int) -> int:
        last = self.schedule.steps - 1
        t = last if t is None else t
        if not lowest <= t <= last:
            raise PipelineError(f"t={t}: expected a timestep from {lowest} to {last}")
        return t


def _check_same_size(lr_up: torch.Tensor, *pictures: torch.Tensor) -> None:
    for picture in pictures:
        if picture.shape[-2:] != lr_up.shape[-2:]:
            raise PipelineError(f"picture of {_size(picture)}, but lr_up is {_size(lr_up)}")


def _size(picture: torch.Tensor) -> str:
    return f"{picture.shape[-1]}x{picture.shape[-2]}"


def check_sides(height: int, width: int) -> None:
    """Refuse HR sizes that the UNet cannot halve three times.

    Raises:
        PipelineError: Naming the size.
    """
    if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or min(height, width) < MIN_HR_SIDE:
        raise PipelineError(
            f"HR size {width}x{height}: sides must be multiples of {SIZE_MULTIPLE} "
            f"and at least {MIN_HR_SIDE}"
        )
