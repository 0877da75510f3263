"""PassionSR: post-training quantization of one-step super-resolution (Zhu et al., CVPR 2025).

`QuantizedLayer.wrap` quantizes one layer, `BoundaryQuantizer` is the published quantizer on its
own, `fake_quantize` its function. They are loaded on first use: the settings beside them need no
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.passionsr.layer import QuantizedLayer
    from pipelines.passionsr.lbq import BoundaryQuantizer, fake_quantize

__all__ = ["BoundaryQuantizer", "QuantizedLayer", "fake_quantize"]

_HOMES = {"QuantizedLayer": "layer", "BoundaryQuantizer": "lbq", "fake_quantize": "lbq"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipelines.passionsr.{_HOMES[name]}"), name)
