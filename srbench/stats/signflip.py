"""The sign-flip test: an exact check of the t test that assumes symmetry only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import fsum
from typing import Literal

FEWEST_BLOCKS = 8
"""With fewer blocks the smallest two-sided p, 2 / 2^blocks, is above 1 %: no check at all."""

MOST_BLOCKS = 32
"""Half sums are listed: 2^16 of them at most."""


def sign_flip_p(
    values: Sequence[float], alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float | None:
    """Exact p-value of "no effect": the share of sign patterns with a sum as far out as this one.

    Where both arms are alike, each block's d is as likely as -d (Fisher, The Design of
    Experiments, 1935, section 21). All 2^blocks patterns count; sums of the two halves are paired
    by bisection (Horowitz and Sahni, JACM 21, 1974).

    Args:
        values: d of each block, in log units.
        alternative: `greater` asks only for a mean above zero.

    Returns:
        The p-value, at least 1 / 2^blocks; None with fewer than 8 blocks or more than 32.
    """
    count = len(values)
    if not FEWEST_BLOCKS <= count <= MOST_BLOCKS:
        return None
    observed = fsum(values)
    if alternative == "two-sided":
        observed = abs(observed)
    # Sums of the same terms in another order differ in their last digits and still are ties.
    least = observed - 1e-12 * fsum(map(abs, values))
    left = _signed_sums(values[: count // 2])
    right = sorted(_signed_sums(values[count // 2 :]))
    above = sum(len(right) - bisect_left(right, least - each) for each in left)
    # Patterns come in mirror pairs, so that both tails hold equally many.
    tails = 2 if alternative == "two-sided" else 1
    return float(min(1.0, tails * above / 2**count))


def _signed_sums(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums = [each + value for each in sums] + [each - value for each in sums]
    return sums
