"""SRDiff: super-resolution by diffusion of the residual (Li et al., Neurocomputing 479, 2022).

`SRDiff` is imported when it is asked for: options and data preparation need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.srdiff.model import SRDiff

__all__ = ["SRDiff"]


def __getattr__(name: str) -> Any:
    if name == "SRDiff":
        from pipelines.srdiff.model import SRDiff

        return SRDiff
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
