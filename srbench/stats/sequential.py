"""The gate's decision rule: a few planned looks, an error budget, Holm over the hypotheses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from srbench.stats.effects import Effect

LOOKS = ((6, 0.004), (10, 0.003), (16, 0.003))
"""Blocks and one-sided alpha of each look. By the union bound a run that is extended from look to
look until it is decided raises a false alarm with probability 0.01 at most."""

FIXED_LOOK_ALPHA = 0.01
"""Alpha of the only look at a run with fewer blocks than the first planned look."""


@dataclass(frozen=True, slots=True)
class Look:
    """When the data is looked at, and at what level.

    Attributes:
        alpha: One-sided level of this look for the whole family of hypotheses.
        fixed: True for the one look at fewer than 6 blocks. There a proven slow-down fails and
            everything else passes with the smallest slow-down that the data excludes: a margin of
            a few per cent cannot be proven from so few blocks, and a verdict that never comes
            would make short runs useless.
        number: 1, 2, 3 for planned looks, 0 for the fixed one.
        least: Blocks that a hypothesis needs to be judged at it. A case that lost some of them is
            open: neither an earlier look's level nor the fixed look's leniency is its due.
    """

    alpha: float
    fixed: bool
    number: int
    least: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rule says of one hypothesis.

    Attributes:
        verdict: `pass`, `fail` or `inconclusive`.
        p_adjusted: Holm-adjusted one-sided p-value of "slower"; None with one block.
        excluded: Effects above this are excluded at the look's alpha; None with one block.
        improved: Whether the mirrored rule declares an improvement: faster by more than the
            margin, and proven faster at all. Looking in both directions raises no more false
            alarms, since `improved` fails nothing.
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    p_adjusted: float | None
    excluded: float | None
    improved: bool = False


def look_for(blocks: int) -> Look:
    """The look that a run with this many finished blocks has reached; it uses all its blocks."""
    look = Look(FIXED_LOOK_ALPHA, fixed=True, number=0, least=1)
    for number, (least, alpha) in enumerate(LOOKS, 1):
        if blocks >= least:
            look = Look(alpha, fixed=False, number=number, least=least)
    return look


def look_against(blocks: int, reference_blocks: int) -> Look:
    """The look at a run that is held against another: its own, unless that has too few blocks.

    Args:
        blocks: Finished ones of the run under judgement.
        reference_blocks: Of the other; fewer than the first planned look's make it the fixed look.
    """
    reference = look_for(reference_blocks)
    return reference if reference.fixed else look_for(blocks)


def is_decided(verdicts: Iterable[str]) -> bool:
    """Whether a sequential run ends at this look: the one stop rule, whoever walks the looks.

    A proven slow-down ends it, since no later look could take it back; else it ends when no
    question is open. Nothing asked is nothing decided.

    Args:
        verdicts: `pass`, `fail` or `inconclusive` of every hypothesis at this look.
    """
    words = set(verdicts)
    return "fail" in words or (bool(words) and "inconclusive" not in words)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values that keep the family-wise error rate (Holm, Scand. J. Statist. 6, 1979)."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = running
    return adjusted


def decide(
    effects: Mapping[str, Effect], margins: Mapping[str, float], look: Look
) -> dict[str, Decision]:
    """Judge a family of slow-downs (log time ratios, above 0 is slower).

    FAIL if the estimate is past the margin and the lower bound is above zero, bounds corrected by
    Holm over the family. PASS if the upper bound is under the margin; that side needs no
    correction, since the run passes only if every member does (an intersection-union test,
    Berger 1982). Else INCONCLUSIVE, or at the fixed look PASS. An effect of fewer blocks than the
    look needs, or one that is no finite number, is INCONCLUSIVE whatever it says.

    Args:
        effects: Hypothesis (case name or `geomean`) -> effect.
        margins: Hypothesis -> tolerated slow-down, in log units.
        look: The level and kind of this look.
    """
    slower = _adjusted(effects)
    faster = _adjusted({key: effect.mirrored() for key, effect in effects.items()})
    return {
        key: _decide_one(effect, margins[key], look, slower.get(key), faster.get(key))
        for key, effect in effects.items()
    }


def _adjusted(effects: Mapping[str, Effect]) -> dict[str, float]:
    return holm(
        {
            key: p
            for key, effect in effects.items()
            if (p := effect.p_greater()) is not None and isfinite(p)
        }
    )


def _decide_one(
    effect: Effect, margin: float, look: Look, slower: float | None, faster: float | None
) -> Decision:
    upper = effect.upper(look.alpha)
    if slower is None or faster is None or upper is None or not isfinite(upper):
        return Decision("inconclusive", None, None)
    if effect.blocks < look.least:
        return Decision("inconclusive", slower, upper)
    if _declared(effect, margin, look, slower):
        return Decision("fail", slower, upper)
    improved = _declared(effect.mirrored(), margin, look, faster)
    verdict: Literal["pass", "inconclusive"] = (
        "pass" if look.fixed or upper < margin else "inconclusive"
    )
    return Decision(verdict, slower, upper, improved)


def _declared(effect: Effect, margin: float, look: Look, p: float) -> bool:
    return effect.estimate > margin and p <= look.alpha
