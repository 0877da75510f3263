"""What the two callables return, where it is a picture."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from srbench.records import FidelityRecord

ARMS = ("baseline", "candidate")


def compare_pictures(case: str, baseline: Any, candidate: Any) -> FidelityRecord | None:
    """PSNR and worst block of the candidate's picture; None where no result is a picture.

    Args:
        case: Case name.
        baseline: A picture is a uint8 array [H, W], [H, W, 1] or [H, W, 3].
        candidate: Of the same shape, or the record's outcome is `invalid`.
    """
    import numpy as np

    from srbench.fidelity.blocks import MSE_FLOOR, ErrorMap

    shapes = [value.shape if _is_picture(value) else None for value in (baseline, candidate)]
    if shapes == [None, None]:
        return None
    if shapes[0] != shapes[1]:
        words = [str(shape) if shape else "none" for shape in shapes]
        reason = f"the candidate's picture is {words[1]}, the baseline's {words[0]}"
        return _fidelity(case, outcome="invalid", reason=reason)
    ours, theirs = (_three_channels(picture) for picture in (candidate, baseline))
    worst = ErrorMap(theirs, ours).worst_block()
    difference = np.abs(theirs.astype(np.int32) - ours)
    mse = float(np.square(difference).mean()) / 255**2
    return _fidelity(
        case,
        metrics={
            "psnr": -10 * math.log10(mse + MSE_FLOOR),
            "worst_block_psnr": worst.psnr_db,
            "max_abs_diff": float(difference.max()),
        },
        worst_block=[worst.top, worst.left],
    )


def _fidelity(case: str, **facts: Any) -> FidelityRecord:
    return FidelityRecord(case=case, pipeline=ARMS[1], reference=ARMS[0], **facts)


def _is_picture(value: Any) -> bool:
    import numpy as np

    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.size == 0:
        return False
    return value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3))


def _three_channels(picture: Any) -> Any:
    import numpy as np

    planes = picture if picture.ndim == 3 else picture[..., None]
    return planes if planes.shape[2] == 3 else np.repeat(planes, 3, axis=2)


def digest(value: Any) -> str:
    """SHA-256 of a picture, empty for anything else."""
    return hashlib.sha256(value.tobytes()).hexdigest() if _is_picture(value) else ""
