"""The pictures of a simulated pipeline: the input enlarged, with noise from seeds alone."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from srbench.simulation.plants import Plants

TILE = 64
DETAIL = 0.01
"""Standard deviation of what the noise seed adds, in [0, 1]: the model's own variation."""
ROUNDING = 0.3 / 255
"""Standard deviation of the error of fp16: some 58 dB, as of a healthy half-precision arm."""
EPS_VALUES = 1024
EPS_ROUNDING = 1e-3

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]


def paint(
    image: Picture,
    scale: int,
    *,
    seed: int,
    arm: str,
    precision: str,
    plants: Plants,
    turn: int,
    block: int,
) -> Floats:
    """The picture before its rounding to 8 bits.

    Args:
        image: [h, w, 3].
        scale: Factor.
        seed: Of the posterior noise.
        arm: Name of the arm, for the errors of its own rounding.
        precision: `fp32` has no error, `fp16` has.
        plants: What is wrong.
        turn: How many pictures this process painted before; only a nondeterministic arm cares.
        block: That the process belongs to.

    Returns:
        [h scale, w scale, 3], in [0, 1] unless planted otherwise.
    """
    large = image.repeat(scale, axis=0).repeat(scale, axis=1).astype(np.float32)
    large /= 255
    large += DETAIL * _normal(large.shape, "detail", seed)
    if precision != "fp32":
        large += ROUNDING * _normal(large.shape, "rounding", arm, seed)
    if plants.nondeterministic:
        large += 2 * ROUNDING * _normal(large.shape, "turn", arm, block, turn)
    np.clip(large, 0, 1, out=large)
    tile = large[_middle(large.shape[0]), _middle(large.shape[1])]
    if plants.bad_tile or (plants.late_bad_tile and block > 0):
        tile[:] = 0.5
    if plants.nan:
        tile[0, 0] = np.nan
    return large


def rounded(picture: Floats) -> Picture:
    """The 8-bit picture; a value that is none becomes black."""
    return np.asarray(np.rint(np.nan_to_num(picture) * 255), np.uint8)


def predicted_noise(seed: int, arm: str, precision: str) -> Floats:
    """A stand-in for the network's noise prediction, [EPS_VALUES]."""
    eps = _normal((EPS_VALUES,), "eps", seed)
    if precision != "fp32":
        eps = eps + EPS_ROUNDING * _normal(eps.shape, "eps rounding", arm, seed)
    return eps


def _middle(length: int) -> slice:
    """A tile's extent in the middle of a side, half of one that is short."""
    size = min(TILE, length // 2)
    return slice((length - size) // 2, (length + size) // 2)


def _normal(shape: tuple[int, ...], *key: object) -> Floats:
    text = "\x1f".join(["srbench picture", *map(str, key)])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
