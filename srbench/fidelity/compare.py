"""One arm's output against another's, as a record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from srbench.fidelity.blocks import ErrorMap, flat_blocks
from srbench.fidelity.crops import crops_around
from srbench.fidelity.floats import Floats, psnr_float, relative_l2
from srbench.fidelity.providers import Provider, open_provider
from srbench.records import FidelityRecord

if TYPE_CHECKING:
    import torch

_OWN = "srbench (RGB, 1e-8 added to the MSE: at most 80 dB)"
_OWN_FLOAT = "srbench (RGB float64, 1e-16 added to the MSE: at most 160 dB)"
_PROVIDED = {"psnr": "psnr_rgb", "ssim": "ssim", "lpips": "lpips"}

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Output:
    """What a pipeline made of one image.

    Attributes:
        picture: [H, W, 3], uint8.
        picture_float: The same before rounding, in [0, 1]; None where it was not kept.
        eps: Predicted noise, any shape; None where it is not shown or was not kept.
    """

    picture: Picture
    picture_float: Floats | None = None
    eps: Floats | None = None


def compare_outputs(
    case: str,
    pipeline: str,
    reference: str,
    theirs: Output,
    ours: Output,
    device: str,
    lr: Picture | None = None,
) -> FidelityRecord:
    """Hold an output against a reference.

    Args:
        case: Name of the case.
        pipeline: The arm judged.
        reference: The arm or role it is held against.
        theirs: Output of the reference.
        ours: Output of the arm judged.
        device: Where networks of metrics run.
        lr: The input, [h, w, 3], for crops around the worst block; None makes no crops.

    Returns:
        The record; `outcome` is `invalid` when there is nothing to compare, with the reason.
    """
    if reason := _nothing_to_compare({reference: theirs, pipeline: ours}):
        return FidelityRecord(
            case=case, pipeline=pipeline, reference=reference, outcome="invalid", reason=reason
        )
    metrics: dict[str, float] = {}
    missing: dict[str, str] = {}
    providers: dict[str, str] = {}
    _measure(_provider(device), theirs.picture, ours.picture, metrics, missing, providers)
    if theirs.picture_float is None or ours.picture_float is None:
        missing["psnr_float"] = "no picture before rounding was kept"
    else:
        metrics["psnr_float"] = psnr_float(theirs.picture_float, ours.picture_float)
        providers["psnr_float"] = _OWN_FLOAT
    _measure_eps(theirs.eps, ours.eps, metrics, missing)
    errors = ErrorMap(theirs.picture, ours.picture)
    worst = errors.worst_block()
    metrics["worst_block_psnr"] = worst.psnr_db
    metrics["worst_band_psnr"] = errors.worst_band().psnr_db
    providers["worst_block_psnr"] = providers["worst_band_psnr"] = _OWN
    metrics["flat_blocks"] = float(flat_blocks(theirs.picture, ours.picture))
    levels = np.abs(theirs.picture.astype(np.int16) - ours.picture)
    metrics["max_abs_diff"] = float(levels.max())
    at = worst.top, worst.left
    return FidelityRecord(
        case=case,
        pipeline=pipeline,
        reference=reference,
        metrics=metrics,
        not_measured=missing,
        providers=providers,
        worst_block=list(at),
        crops={} if lr is None else crops_around(lr, theirs.picture, ours.picture, *at),
    )


@lru_cache(maxsize=2)
def _provider(device: str) -> Provider:
    return open_provider("pyiqa", device)


def _nothing_to_compare(outputs: dict[str, Output]) -> str | None:
    shapes = {name: output.picture.shape for name, output in outputs.items()}
    if len(set(shapes.values())) > 1:
        return f"the pictures differ in size: {' and '.join(map(str, shapes.values()))}"
    for name, output in outputs.items():
        for values in (output.picture_float, output.eps):
            if values is not None and not np.isfinite(values).all():
                share = 1 - float(np.isfinite(values).mean())
                return f"{name} computed NaN or infinite values ({share:.2%} of them)"
        if (output.picture == output.picture[:1, :1]).all():
            return f"the picture of {name} is one flat colour"
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
        elif not isfinite(found.value):
            missing[name] = f"{found.provider} gives {found.value}"
        else:
            metrics[name] = found.value
            providers[name] = found.provider


def as_tensor(picture: Picture) -> torch.Tensor:
    """[H, W, 3] uint8 -> [1, 3, H, W] float32 in [0, 1]."""
    import torch

    channels_first = np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
    return torch.from_numpy(channels_first).float() / 255


def _measure_eps(
    reference: Floats | None,
    candidate: Floats | None,
    metrics: dict[str, float],
    missing: dict[str, str],
) -> None:
    name = "eps_relative_l2"
    if reference is None or candidate is None:
        missing[name] = "no predicted noise of both was kept"
        return
    try:
        metrics[name] = relative_l2(reference, candidate)
    except ValueError as error:
        missing[name] = str(error)
