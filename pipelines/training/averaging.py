"""Weights averaged over the updates: what diffusion models are usually sampled with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]


class Average:
    """Exponential moving average of the trained parameters of a module.

    Young averages move faster, so that the initial weights are soon forgotten: the decay after
    update n is min(decay, (1 + n) / (10 + n)).

    Args:
        module: Whose parameters that require gradients are averaged.
        decay: Weight of the past.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._mean = {n: p.detach().clone() for n, p in self._live.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights after so many updates, at least 1."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        live = [parameter.detach() for parameter in self._live.values()]
        torch._foreach_lerp_(list(self._mean.values()), live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> Tensors:
        """The averaged weights by parameter."""
        return dict(self._mean)

    @torch.no_grad()
    def load_state_dict(self, state: Tensors) -> None:
        """Inverse of `state_dict`."""
        for name, mean in self._mean.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            kept = live.clone()
            live.copy_(self._mean[name])
            self._mean[name].copy_(kept)
