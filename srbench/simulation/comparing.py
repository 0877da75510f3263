"""Pictures of a simulation held against each other, without torch and the metrics' networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srbench.fidelity.blocks import MSE_FLOOR, ErrorMap, flat_blocks
from srbench.fidelity.crops import crops_around
from srbench.fidelity.floats import psnr_float, relative_l2
from srbench.protocol import Judge
from srbench.records import FidelityRecord

_MISSING = "simulated: no metric with a network is computed"
_PROVIDER = "srbench simulation (RGB, 1e-8 added to the MSE: at most 80 dB)"
_PROVIDER_FLOAT = "srbench simulation (RGB float64, 1e-16 added to the MSE: at most 160 dB)"


def compare(request: Judge) -> FidelityRecord:
    """The record of one comparison; `invalid` where an arm computed NaN."""
    theirs, ours = _load(request.reference_files), _load(request.candidate_files)
    named = {request.reference: theirs, request.pipeline: ours}
    for name, arrays in named.items():
        if any(not np.isfinite(values).all() for values in arrays.values()):
            return FidelityRecord(
                case=request.case,
                pipeline=request.pipeline,
                reference=request.reference,
                outcome="invalid",
                reason=f"{name} computed NaN or infinite values",
            )
    errors = ErrorMap(theirs["picture"], ours["picture"])
    worst, band = errors.worst_block(), errors.worst_band()
    levels = theirs["picture"].astype(np.int16) - ours["picture"]
    metrics = {
        "psnr": -10 * math.log10(float(np.square(levels / 255).mean()) + MSE_FLOOR),
        "worst_block_psnr": worst.psnr_db,
        "worst_band_psnr": band.psnr_db,
        "flat_blocks": float(flat_blocks(theirs["picture"], ours["picture"])),
        "max_abs_diff": float(np.abs(levels).max()),
    }
    providers = dict.fromkeys(("psnr", "worst_block_psnr", "worst_band_psnr"), _PROVIDER)
    missing = dict.fromkeys(("ssim", "lpips"), _MISSING)
    if "picture_float" in theirs and "picture_float" in ours:
        metrics["psnr_float"] = psnr_float(theirs["picture_float"], ours["picture_float"])
        providers["psnr_float"] = _PROVIDER_FLOAT
    if "eps" in theirs and "eps" in ours:
        metrics["eps_relative_l2"] = relative_l2(theirs["eps"], ours["eps"])
    return FidelityRecord(
        case=request.case,
        pipeline=request.pipeline,
        reference=request.reference,
        metrics=metrics,
        not_measured=missing,
        providers=providers,
        worst_block=[worst.top, worst.left],
        crops=_crops(request, theirs["picture"], ours["picture"], worst.top, worst.left),
    )


def _load(files: dict[str, str | None]) -> dict[str, NDArray[Any]]:
    return {name: np.load(file, allow_pickle=False) for name, file in files.items() if file}


def _crops(
    request: Judge, theirs: NDArray[np.uint8], ours: NDArray[np.uint8], top: int, left: int
) -> dict[str, str]:
    if request.image is None:
        return {}
    return crops_around(np.load(request.image, allow_pickle=False), theirs, ours, top, left)
