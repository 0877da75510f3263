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
    from scipy.special import nctdtrinc

    dof = blocks - 1
    shift = float(nctdtrinc(dof, 1 - power, t_quantile(dof, alpha)))
    return shift * sd / sqrt(blocks)


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


def _check(sd: float, blocks: int) -> None:
    if not 0 <= sd < inf:
        raise ValueError(f"sd must be a number of 0 or more, not {sd}")
    if blocks < 2:
        raise ValueError(f"{blocks} blocks have no standard deviation, 2 or more do")
