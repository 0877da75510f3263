"""One arm's picture against another's, as a record."""

from __future__ import annotations

import base64
import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from srbench.fidelity.blocks import BLOCK, worst_block
from srbench.fidelity.providers import Provider, open_provider
from srbench.records import FidelityRecord

if TYPE_CHECKING:
    import torch

CROP = 128
FLOAT_MSE_FLOOR = 1e-16
"""Added to the mean squared error of float pictures: equal ones read 160 dB."""
_OWN = "srbench (RGB, 1e-8 added to the MSE: at most 80 dB)"
_OWN_FLOAT = "srbench (RGB float64, 1e-16 added to the MSE: at most 160 dB)"
_PROVIDED = {"psnr": "psnr_rgb", "ssim": "ssim", "lpips": "lpips"}

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]


def judge_pictures(
    case: str,
    pipeline: str,
    reference: str,
    lr: Picture,
    reference_u8: Picture,
    candidate_u8: Picture,
    reference_float: Floats | None,
    candidate_float: Floats | None,
    eps_reference: Floats | None,
    eps_candidate: Floats | None,
    device: str,
) -> FidelityRecord:
    """Compare a candidate's output with a reference's.

    Args:
        case: Name of the case.
        pipeline: The arm judged.
        reference: The arm it is held against.
        lr: The input, [h, w, 3].
        reference_u8: Output of the reference, [H, W, 3].
        candidate_u8: Output of the arm judged, of the same shape.
        reference_float: The same before rounding, in [0, 1].
        candidate_float: The same before rounding, in [0, 1].
        eps_reference: Predicted noise, any shape.
        eps_candidate: Predicted noise of the same number of values.
        device: Where networks of metrics run.

    Returns:
        The record; `outcome` is `invalid` when there is nothing to compare, with the reason.
    """
    reason = _nothing_to_compare(
        reference_u8, candidate_u8, {reference: reference_float, pipeline: candidate_float}
    ) or _nothing_to_compare(
        reference_u8, candidate_u8, {reference: eps_reference, pipeline: eps_candidate}
    )
    if reason:
        return FidelityRecord(
            case=case, pipeline=pipeline, reference=reference, outcome="invalid", reason=reason
        )
    metrics: dict[str, float] = {}
    missing: dict[str, str] = {}
    providers: dict[str, str] = {}
    _measure(_provider(device), reference_u8, candidate_u8, metrics, missing, providers)
    if reference_float is None or candidate_float is None:
        missing["psnr_float"] = "no picture before rounding was kept"
    else:
        metrics["psnr_float"] = _psnr_float(reference_float, candidate_float)
        providers["psnr_float"] = _OWN_FLOAT
    _measure_eps(eps_reference, eps_candidate, metrics, missing)
    worst = worst_block(reference_u8, candidate_u8)
    metrics["worst_block_psnr"] = worst.psnr_db
    providers["worst_block_psnr"] = _OWN
    levels = np.abs(reference_u8.astype(np.int16) - candidate_u8.astype(np.int16))
    metrics["max_abs_diff"] = float(levels.max())
    return FidelityRecord(
        case=case,
        pipeline=pipeline,
        reference=reference,
        metrics=metrics,
        not_measured=missing,
        providers=providers,
        worst_block=[worst.top, worst.left],
        crops=_crops(lr, reference_u8, candidate_u8, worst.top, worst.left),
    )


@lru_cache(maxsize=2)
def _provider(device: str) -> Provider:
    return open_provider("pyiqa", device)


def _nothing_to_compare(
    reference: Picture, candidate: Picture, floats: dict[str, Floats | None]
) -> str | None:
    if reference.shape != candidate.shape:
        return f"the pictures differ in size: {reference.shape} and {candidate.shape}"
    for arm, values in floats.items():
        if values is not None and not np.isfinite(values).all():
            share = 1 - float(np.isfinite(values).mean())
            return f"{arm} computed NaN or infinite values ({share:.2%} of them)"
    for name, picture in (("reference", reference), ("candidate", candidate)):
        if (picture == picture[:1, :1]).all():
            return f"the picture of the {name} is one flat colour"
    return None


def _measure(
    provider: Provider,
    reference: Picture,
    candidate: Picture,
    metrics: dict[str, float],
    missing: dict[str, str],
    providers: dict[str, str],
) -> None:
    ours, theirs = as_tensor(candidate), as_tensor(reference)
    for name, asked in _PROVIDED.items():
        found = provider.measure(asked, ours, theirs)
        if found.value is None:
            missing[name] = found.reason or ""
        else:
            metrics[name] = found.value
            providers[name] = found.provider


def as_tensor(picture: Picture) -> torch.Tensor:
    """[H, W, 3] uint8 -> [1, 3, H, W] float32 in [0, 1]."""
    import torch

    channels_first = np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
    return torch.from_numpy(channels_first).float() / 255


def _psnr_float(reference: Floats, candidate: Floats) -> float:
    mse = float(np.square(reference.astype(np.float64) - candidate).mean())
    return -10 * math.log10(mse + FLOAT_MSE_FLOOR)


def _measure_eps(
    reference: Floats | None,
    candidate: Floats | None,
    metrics: dict[str, float],
    missing: dict[str, str],
) -> None:
    name = "eps_relative_l2"
    if reference is None or candidate is None:
        missing[name] = "an arm does not show its predicted noise"
    elif reference.size != candidate.size:
        missing[name] = f"{reference.size} values of one arm against {candidate.size}"
    else:
        theirs = reference.astype(np.float64).ravel()
        scale = float(np.linalg.norm(theirs))
        if scale == 0:
            missing[name] = "the reference's predicted noise is all zeros"
        else:
            metrics[name] = float(np.linalg.norm(candidate.ravel() - theirs)) / scale


def _crops(
    lr: Picture, reference: Picture, candidate: Picture, top: int, left: int
) -> dict[str, str]:
    """The same region of all pictures around a block, the input enlarged by repetition."""
    height, width = reference.shape[:2]
    rows = _around(top, height)
    columns = _around(left, width)
    region = np.ix_(rows * lr.shape[0] // height, columns * lr.shape[1] // width)
    return {
        "input": _png(lr[region]),
        "baseline": _png(reference[np.ix_(rows, columns)]),
        "candidate": _png(candidate[np.ix_(rows, columns)]),
    }


def _around(start: int, length: int) -> NDArray[np.int64]:
    size = min(CROP, length)
    first = min(max(start + (min(BLOCK, length) - size) // 2, 0), length - size)
    return np.arange(first, first + size)


def _png(picture: Picture) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
