"""The diffusion's tables: noise schedule, forward process, posterior (SRDiff sections 3.1, 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipelines.srdiff.config import SCHEDULE_BUFFERS, Config

COSINE_OFFSET = 0.008
MAX_BETA = 0.999
_LOG_FLOOR = 1e-20


def betas(config: Config) -> torch.Tensor:
    """Variances of the forward process, [T], float64.

    Cosine: Nichol and Dhariwal 2021, clipped to 0.999. Linear: 1e-4 to 0.02, the last 0.999.
    """
    steps = config.timesteps
    if config.schedule == "linear":
        linear = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)
        linear[-1] = MAX_BETA
        return linear
    places = torch.arange(steps + 1, dtype=torch.float64) / steps
    angles = (places + COSINE_OFFSET) / (1 + COSINE_OFFSET) * (math.pi / 2)
    kept = torch.cos(angles).square()
    return (1 - kept[1:] / kept[:-1]).clamp(0, MAX_BETA)


def buffers(beta: torch.Tensor) -> dict[str, torch.Tensor]:
    """All tables that a published checkpoint stores, [T], float32, computed in float64."""
    alpha = 1 - beta
    kept = torch.cumprod(alpha, dim=0)
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    variance = beta * (1 - before) / (1 - kept)
    tables = (
        beta,
        kept,
        before,
        kept.sqrt(),
        (1 - kept).sqrt(),
        (1 - kept).log(),
        (1 / kept).sqrt(),
        (1 / kept - 1).sqrt(),
        variance,
        variance.clamp_min(_LOG_FLOOR).log(),
        beta * before.sqrt() / (1 - kept),
        (1 - before) * alpha.sqrt() / (1 - kept),
    )
    return {name: table.float() for name, table in zip(SCHEDULE_BUFFERS, tables, strict=True)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tables of T steps, each [T], in the dtype that the diffusion is computed in.

    Attributes:
        signal: sqrt of alpha-bar: weight of x0 in x_t.
        noise: sqrt of 1 - alpha-bar: weight of the noise in x_t.
        recip: 1 / signal.
        recipm1: sqrt(1 / alpha-bar - 1).
        mean_x0: Weight of x0 in the posterior's mean.
        mean_xt: Weight of x_t in the posterior's mean.
        sigma: Standard deviation of the posterior; 0 at t = 0.
    """

    signal: torch.Tensor
    noise: torch.Tensor
    recip: torch.Tensor
    recipm1: torch.Tensor
    mean_x0: torch.Tensor
    mean_xt: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def from_buffers(cls, tables: dict[str, torch.Tensor], dtype: torch.dtype) -> Schedule:
        """Of the tables of a checkpoint. The last step of the reverse process adds no noise."""
        sigma = (0.5 * tables["posterior_log_variance_clipped"].to(dtype)).exp()
        sigma = torch.where(torch.arange(len(sigma), device=sigma.device) > 0, sigma, 0)
        return cls(
            signal=tables["sqrt_alphas_cumprod"].to(dtype),
            noise=tables["sqrt_one_minus_alphas_cumprod"].to(dtype),
            recip=tables["sqrt_recip_alphas_cumprod"].to(dtype),
            recipm1=tables["sqrt_recipm1_alphas_cumprod"].to(dtype),
            mean_x0=tables["posterior_mean_coef1"].to(dtype),
            mean_xt=tables["posterior_mean_coef2"].to(dtype),
            sigma=sigma,
        )

    @property
    def steps(self) -> int:
        """T."""
        return len(self.signal)

    def add_noise(self, x0: torch.Tensor, t: int | torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """q(x_t | x0).

        Args:
            x0: [B, C, H, W].
            t: A timestep, or one for each sample, [B].
            eps: Standard normal, like x0.
        """
        if isinstance(t, int):
            return self.signal[t] * x0 + self.noise[t] * eps
        column = (-1, 1, 1, 1)
        return self.signal[t].view(column) * x0 + self.noise[t].view(column) * eps

    def coefficients(self) -> torch.Tensor:
        """[T, 5]: x0 = clamp(c0 x - c1 eps), then x <- c2 x0 + c3 x + c4 z."""
        columns = (self.recip, self.recipm1, self.mean_x0, self.mean_xt, self.sigma)
        return torch.stack(columns, dim=1)
