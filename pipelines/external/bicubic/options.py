"""Options of `bicubic`; torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BicubicOptions:
    """Options of `bicubic`: none."""
