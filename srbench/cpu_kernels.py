"""One set of CPU kernels for pictures that must be the same on every x86 machine."""

from __future__ import annotations

import os

AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def prefer_avx2() -> None:
    """Ask torch for AVX2 kernels; what the user has set stays.

    Must run before torch computes anything.

    AVX-512 convolutions sum in another order. The difference is 1e-6 of a latent, which the
    one-step formula turns into flipped roundings, and AdaIN into whole shifted grey levels.
    """
    for name, value in AVX2.items():
        os.environ.setdefault(name, value)
