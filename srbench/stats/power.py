"""How small a slow-down so many blocks can show, by the noncentral t distribution.

The test is the one-sided t test of `Effect.p_greater` over independent blocks (Cohen, Statistical
Power Analysis for the Behavioral Sciences, 1988, chapter 2).
"""

from __future__ import annotations

from math import inf, sqrt

from srbench.stats.effects import t_quantile

POWER = 0.8
"""The usual power at which a minimum detectable effect is stated."""


def minimum_detectable_effect(sd: float, blocks: int, alpha: float, power: float = POWER) -> float:
    """The smallest slow-down, in log units, that is found with probability `power`.

    Args:
        sd: Standard deviation of d over blocks, in log units.
        blocks: Number of blocks, at least 2.
        alpha: One-sided level.
        power: Wanted probability, between `alpha` and 1.

    Raises:
        ValueError: A negative standard deviation, or fewer than 2 blocks.
    """
    _check(sd, blocks)
    return _found(sd / sqrt(blocks), blocks - 1, alpha, power)


def minimum_detectable_difference(
    sd: float, blocks: int, reference_blocks: int, alpha: float, power: float = POWER
) -> float:
    """The same for the difference of two runs, whose blocks scatter alike.

    With equal variances Welch's degrees of freedom are those of Student's two-sample test or fewer:
    where one run is much the shorter, a little more than this is needed.

    Args:
        sd: Standard deviation of d over the blocks of either run, in log units.
        blocks: Of the run under judgement, at least 2.
        reference_blocks: Of the other run, at least 1.
        alpha: One-sided level.
        power: Wanted probability, between `alpha` and 1.

    Raises:
        ValueError: A negative standard deviation, or too few blocks.
    """
    _check(sd, blocks)
    if reference_blocks < 1:
        raise ValueError("a reference without blocks has no difference")
    error = sd * sqrt(1 / blocks + 1 / reference_blocks)
    return _found(error, blocks + reference_blocks - 2, alpha, power)


def required_blocks(
    effect: float, sd: float, alpha: float, power: float = POWER, most: int = 1000
) -> int | None:
    """The fewest blocks whose minimum detectable effect is `effect` or less.

    Args:
        effect: Wanted minimum detectable effect, in log units, > 0.
        sd: Standard deviation of d over blocks, in log units.
        alpha: One-sided level.
        power: Wanted probability of finding the effect.
        most: Where the search ends.

    Returns:
        At least 2, or None when `most` blocks are not enough.
    """
    few, enough = 1, 2
    while minimum_detectable_effect(sd, enough, alpha, power) > effect:
        if enough >= most:
            return None
        few, enough = enough, min(2 * enough, most)
    while enough - few > 1:
        middle = (few + enough) // 2
        if minimum_detectable_effect(sd, middle, alpha, power) <= effect:
            enough = middle
        else:
            few = middle
    return enough


def _found(standard_error: float, dof: int, alpha: float, power: float) -> float:
    from scipy.special import nctdtrinc

    return float(nctdtrinc(dof, 1 - power, t_quantile(dof, alpha))) * standard_error


def _check(sd: float, blocks: int) -> None:
    if not 0 <= sd < inf:
        raise ValueError(f"sd must be a number of 0 or more, not {sd}")
    if blocks < 2:
        raise ValueError(f"{blocks} blocks have no standard deviation, 2 or more do")
