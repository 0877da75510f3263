"""Intervals that hold for a whole family of estimates at once."""

from __future__ import annotations

from collections.abc import Mapping

from srbench.stats.effects import Effect

FAMILY_CONFIDENCE = 0.99


def simultaneous_intervals(
    effects: Mapping[str, Effect], confidence: float = FAMILY_CONFIDENCE
) -> dict[str, tuple[float, float] | None]:
    """Give every effect an interval so that all of them cover with probability `confidence`.

    Each gets an equal share of the error (Dunn, "Multiple comparisons among means", JASA 56,
    1961). That needs no assumption about how cells of the same processes are correlated.

    Args:
        effects: Case name or `geomean` -> effect.
        confidence: Of the family.

    Returns:
        The intervals in the effects' unit; None with one block.
    """
    if not effects:
        return {}
    each = 1 - (1 - confidence) / len(effects)
    return {key: effect.interval(each) for key, effect in effects.items()}
