"""Parameters of very different sizes as one vector in units of their own.

A bound may be 0.4 or 200, a scale 1, a shift 0.01: one absolute learning rate moves some by nothing
and others far. Adam's steps do not depend on the size of gradients, so in units they are shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from pipelines.passionsr.calibration.quantized import Layer
from pipelines.passionsr.calibration.schedule import Learned
from pipelines.passionsr.layer import QuantizedLayer

_SMALLEST_SCALE = 0.05
"""Of a scale in units of what it was: it must stay positive."""
_SMALLEST_UNIT = 1e-8
_FREE = -float("inf")


class Coordinates:
    """A vector that parameters follow: parameter = vector * unit.

    Args:
        parameters: Live; are written.
        units: Of the same shapes, positive.
        floors: Least coordinate of each parameter; `-inf` for none.

    Attributes:
        vector: float32; its gradient is what an optimizer steps by.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        units: Sequence[torch.Tensor],
        floors: Sequence[float],
    ) -> None:
        self._parameters = list(parameters)
        self._sizes = [parameter.numel() for parameter in parameters]
        self._units = _flat(units)
        self._floors = _flat(
            torch.full_like(p, floor) for p, floor in zip(parameters, floors, strict=True)
        )
        self.vector = nn.Parameter(_flat(parameters) / self._units)
        for parameter in self._parameters:
            parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, torch.Tensor | None]:
        """Vector, units, and the gradient, which mode `paper` adds to until an epoch ends."""
        vector = self.vector.detach().clone()
        return {"vector": vector, "units": self._units, "gradient": self.vector.grad}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Inverse of `state_dict`; writes nothing."""
        self._units, self.vector.grad = content["units"], content["gradient"]
        with torch.no_grad():
            self.vector.copy_(content["vector"])

    def take_gradient(self) -> None:
        """Add the gradients of the parameters to the vector's, and clear them."""
        gradient = _flat(
            torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters
        )
        gradient *= self._units
        self.vector.grad = gradient if self.vector.grad is None else self.vector.grad + gradient
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def write(self) -> None:
        """Let the parameters follow the vector."""
        self.vector.clamp_(min=self._floors)
        parts = (self.vector * self._units).split(self._sizes)
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))


def coordinates(layers: Iterable[Layer], learned: Learned, *, relative: bool) -> Coordinates:
    """Those of a stage.

    Args:
        layers: Whose parameters.
        learned: Which of them.
        relative: In units of their sizes now; else as they are.
    """
    parameters: list[nn.Parameter] = []
    units: list[torch.Tensor] = []
    floors: list[float] = []
    for layer in layers:
        let = learned is Learned.LET
        its = layer.let_parameters() if let else layer.bound_parameters()
        parameters += its
        if relative:
            assert isinstance(layer, QuantizedLayer)  # attention is learned as published, or not
            units += _transform_units(layer) if let else _bound_units(layer)
            floors += [_SMALLEST_SCALE, _FREE] if let else [_FREE] * len(its)
        else:
            units += [torch.ones_like(parameter) for parameter in its]
            floors += [_FREE] * len(its)
    return Coordinates(parameters, units, floors)


def _transform_units(layer: QuantizedLayer) -> list[torch.Tensor]:
    """Of a scale itself; of a shift the width of the activations' bounds before they are scaled."""
    scale = layer.scale_factor.detach().clone()
    widths = [_width(q) for n, q in layer.named_children() if n.startswith("act_quantizer")]
    return [scale, scale * torch.stack(widths).amax()]


def _bound_units(layer: QuantizedLayer) -> list[torch.Tensor]:
    """The width between both bounds, for each parameter of `bound_parameters`."""
    owners = {id(p): q for q in layer.children() for p in q.parameters()}
    return [
        _width(owners[id(parameter)]).expand_as(parameter).clone()
        for parameter in layer.bound_parameters()
    ]


def _width(quantizer: Any) -> torch.Tensor:
    width: torch.Tensor = quantizer.x_max - quantizer.x_min
    return width.detach().clamp_min(_SMALLEST_UNIT)


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().float() for tensor in tensors])
