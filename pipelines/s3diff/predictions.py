"""How fast each step of the optimized pipeline was predicted to be; nothing here is measured."""

from __future__ import annotations

import tomllib
from importlib.resources import files


def predicted_seconds(card: str, precision: str) -> dict[str, dict[str, float]]:
    """Predicted seconds an image of the full-size architecture with the published options.

    Args:
        card: `a10`, `l20` or `h100`; nothing was predicted for others.
        precision: Nothing was predicted for other than `fp16`.

    Returns:
        Step -> case name -> seconds. A step holds all before it; its number is that of the rung
        named exactly like it, and `P0` is the baseline.
    """
    if precision != "fp16":
        return {}
    cards = tomllib.loads((files(__package__) / "predictions.toml").read_text("utf-8"))
    steps: dict[str, dict[str, float]] = cards.get(card, {})
    return steps
