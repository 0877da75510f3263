"""What is minimised, as modules whose forward is the loss, so that wrappers see one call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.srdiff import schedule
from pipelines.srdiff.checkpoint import Tensors
from pipelines.srdiff.config import Config
from pipelines.srdiff.rrdb import RRDBNet, condition
from pipelines.srdiff.sampling import to_residual
from pipelines.srdiff.schedule import Schedule
from pipelines.srdiff.training.settings import Loss
from pipelines.srdiff.unet import UNet

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


class EncoderObjective(nn.Module):
    """Stage 1: L1 between the encoder's picture and HR.

    Attributes:
        rrdb: Trained.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.rrdb = RRDBNet(config)

    def forward(
        self, hr: torch.Tensor, lr: torch.Tensor, lr_up: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Mean loss of a part of a batch; nothing is random here."""
        return F.l1_loss(self.rrdb(lr).float(), hr)

    def tensors(self) -> Tensors:
        """What a checkpoint holds, by name."""
        return dict(self.rrdb.state_dict())


class DiffusionObjective(nn.Module):
    """Stage 2: distance between the noise of a random timestep and its prediction.

    Args:
        config: Of both networks.
        encoder: Weights of stage 1.
        loss: The distance.
        consistency: Weight of the L1 distance of the noises on the LR grid.
        train_encoder: The encoder learns too, from the same loss and from the L1 loss of its own
            picture. The published code means to do this, but leaves the encoder out of the
            optimizer just when it should be in it.

    Attributes:
        unet: Trained.
        rrdb: Trained or frozen.
    """

    def __init__(
        self,
        config: Config,
        encoder: Tensors,
        loss: Loss,
        *,
        consistency: float,
        train_encoder: bool,
    ) -> None:
        super().__init__()
        self.unet = UNet(config)
        self.rrdb = RRDBNet(config)
        self.rrdb.load_state_dict(encoder, strict=True)
        self.rrdb.requires_grad_(train_encoder).train(train_encoder)
        self._loss, self._consistency, self._train_encoder = loss, consistency, train_encoder
        self._scale = config.scale
        self._tables = schedule.buffers(schedule.betas(config))
        self._schedule = Schedule.from_buffers(self._tables, torch.float32)

    def forward(
        self, hr: torch.Tensor, lr: torch.Tensor, lr_up: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Mean loss of a part of a batch at timesteps and noise drawn from the generator."""
        self._to(hr.device)
        steps = self._schedule.steps
        t = torch.randint(steps, (len(hr),), generator=generator, device=hr.device)
        eps = torch.empty_like(hr).normal_(generator=generator)
        with torch.set_grad_enabled(self._train_encoder and torch.is_grad_enabled()):
            features = self.rrdb.encode(lr)
        x = self._schedule.add_noise(to_residual(hr, lr_up), t, eps)
        predicted = self.unet(x, t, condition(features)).float()
        loss = distance(self._loss, predicted, eps)
        if self._consistency:
            loss = loss + self._consistency * coarse_distance(predicted, eps, self._scale)
        if self._train_encoder:
            loss = loss + F.l1_loss(self.rrdb.decode(features[-1]).float(), hr)
        return loss

    def tensors(self) -> Tensors:
        """What a checkpoint holds, by name."""
        unet = {f"denoise_fn.{name}": value for name, value in self.unet.state_dict().items()}
        rrdb = {f"rrdb.{name}": value for name, value in self.rrdb.state_dict().items()}
        return {name: table.cpu() for name, table in self._tables.items()} | unet | rrdb

    def _to(self, device: torch.device) -> None:
        # Kept out of the module's buffers: their names are not those of the published layout.
        if self._schedule.signal.device != device:
            tables = {name: table.to(device) for name, table in self._tables.items()}
            self._schedule = Schedule.from_buffers(tables, torch.float32)


Objective = EncoderObjective | DiffusionObjective


def distance(kind: Loss, predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mean distance of two noises [B, C, H, W], as the authors' three losses."""
    match kind:
        case Loss.L1:
            return F.l1_loss(predicted, noise)
        case Loss.L2:
            return F.mse_loss(predicted, noise)
        case Loss.SSIM:
            return F.l1_loss(predicted, noise) + 1 - window_ssim(predicted, noise)


def coarse_distance(predicted: torch.Tensor, noise: torch.Tensor, scale: int) -> torch.Tensor:
    """Mean L1 distance of two noises [B, C, H, W] after averaging squares of `scale` pixels."""
    return F.avg_pool2d(predicted - noise, scale).abs().mean()


def window_ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean SSIM of [B, C, H, W] in windows of 11x11, Gaussian with sigma 1.5, zeros around.

    For a dynamic range of 1 (Wang et al. 2004).
    """
    channels = a.shape[1]
    offsets = torch.arange(_WINDOW, dtype=a.dtype, device=a.device) - _WINDOW // 2
    bell = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    bell = bell / bell.sum()
    window = torch.outer(bell, bell).expand(channels, 1, _WINDOW, _WINDOW)

    def blurred(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, window, padding=_WINDOW // 2, groups=channels)

    mean_a, mean_b = blurred(a), blurred(b)
    var_a = blurred(a * a) - mean_a.square()
    var_b = blurred(b * b) - mean_b.square()
    covariance = blurred(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    sizes = (mean_a.square() + mean_b.square() + _C1) * (var_a + var_b + _C2)
    return (likeness / sizes).mean()
