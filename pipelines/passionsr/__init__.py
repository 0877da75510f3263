"""PassionSR: post-training quantization of one-step super-resolution (Zhu et al., CVPR 2025).

`QuantizedLayer` is loaded on first use: the settings beside it need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.passionsr.layer import QuantizedLayer

__all__ = ["QuantizedLayer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipelines.passionsr import layer

    return getattr(layer, name)
