"""Which timesteps a sampler visits, and the five coefficients of each of its steps.

Every sampler here has the form x0 = clamp(c0 x - c1 eps, -1, 1), x <- c2 x0 + c3 x + c4 z, so one
kernel and one loop serve all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.srdiff.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Steps:
    """A sampler.

    Attributes:
        timesteps: [steps], int64, in the order visited.
        coefficients: [steps, 5], c0 to c4.
    """

    timesteps: torch.Tensor
    coefficients: torch.Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device) -> Steps:
        """On a device."""
        return Steps(self.timesteps.to(device), self.coefficients.to(device))


def ancestral_steps(schedule: Schedule) -> Steps:
    """All timesteps, as published."""
    visited = torch.arange(schedule.steps - 1, -1, -1)
    return Steps(visited, schedule.coefficients().flip(0))


def ddim_steps(schedule: Schedule, count: int, eta: float) -> Steps:
    """Evenly spaced timesteps from the last to the first (Song et al. 2021, equation 12).

    The noise that leads on is that between x_t and the clamped x0, as the posterior's is. With all
    timesteps and eta 1 it is ancestral sampling.

    Args:
        schedule: Of the network, on the CPU.
        count: Timesteps visited, at most all.
        eta: Share of the posterior's noise that is drawn anew.
    """
    last = schedule.steps - 1
    visited = torch.linspace(last, 0, count, dtype=torch.float64).round().long()
    kept = schedule.signal.double().square()
    at = kept[visited]
    before = torch.cat([kept[visited[1:]], kept.new_ones(1)])
    variance = eta**2 * (1 - before) / (1 - at) * (1 - at / before)
    leading = (1 - before - variance).clamp_min(0).sqrt()
    on_xt = leading / (1 - at).sqrt()
    columns = (
        at.rsqrt(),
        (1 / at - 1).sqrt(),
        before.sqrt() - on_xt * at.sqrt(),
        on_xt,
        variance.sqrt(),
    )
    return Steps(visited, torch.stack(columns, dim=1).to(schedule.signal.dtype))
