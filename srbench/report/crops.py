"""The crop comparison: the worst region of each case, as both arms paint it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from srbench.errors import SrbenchError
from srbench.records import FidelityRecord
from srbench.report.model import Comparison, ReportModel, Row

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DIFFERENCE_GAIN = 8


def crop_figure(model: ReportModel, comparison: Comparison) -> Figure | None:
    """One row a case: input, both arms, difference x8. None when no crop was stored."""
    from matplotlib.figure import Figure

    rows = [row for row in comparison.rows if row.fidelity and len(row.fidelity.crops) == 3]
    if not rows:
        return None
    figure = Figure(figsize=(9.0, 0.7 + 2.4 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 4, squeeze=False)
    titles = ("input (LR)", *comparison.roles, f"difference x{DIFFERENCE_GAIN}")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(list(axes), row)
    figure.suptitle(f"Around the worst 64x64 block, {comparison.candidate}: {model.label}")
    return figure


def _draw_row(axes: list[Axes], row: Row) -> None:
    crops = None if row.fidelity is None else decode_crops(row.fidelity)
    if row.fidelity is None or crops is None:
        return
    panels = (crops.input, crops.baseline, crops.candidate, crops.difference)
    for panel, picture in zip(axes, panels, strict=True):
        panel.imshow(picture, interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
    axes[0].set_ylabel(row.case, fontsize=10)
    worst = row.fidelity.metrics.get("worst_block_psnr")
    text = f"largest error {crops.largest_error} of 255"
    if worst is not None:
        text += f"\nworst block {worst:.1f} dB"
    axes[3].set_xlabel(text, fontsize=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """One region of three pictures, [H, W, 3] uint8 each.

    Attributes:
        input: The LR picture; it may have fewer pixels.
        baseline, candidate: What the arms made of it.
        difference: Their absolute difference times `DIFFERENCE_GAIN`, clipped at 255.
        largest_error: Largest absolute difference, in 8-bit levels.
    """

    input: NDArray[np.uint8]
    baseline: NDArray[np.uint8]
    candidate: NDArray[np.uint8]
    difference: NDArray[np.uint8]
    largest_error: int


def decode_crops(record: FidelityRecord) -> Crops | None:
    """The stored crops of a record and their difference; None when it has none.

    Raises:
        SrbenchError: They are no pictures, or not of one size.
    """
    import numpy as np

    if {"input", "baseline", "candidate"} - record.crops.keys():
        return None
    lr, baseline, candidate = (
        decode_png(record.crops[key], f"crop {key} of {record.case}")
        for key in ("input", "baseline", "candidate")
    )
    if baseline.shape != candidate.shape:
        raise SrbenchError(
            f"crops of {record.case} have different sizes: the results file is damaged"
        )
    error = np.abs(baseline.astype(np.int16) - candidate.astype(np.int16))
    return Crops(
        input=lr,
        baseline=baseline,
        candidate=candidate,
        difference=np.clip(DIFFERENCE_GAIN * error, 0, 255).astype(np.uint8),
        largest_error=int(error.max()),
    )


def decode_png(text: str, what: str) -> NDArray[np.uint8]:
    """A base64 PNG as [H, W, 3] uint8.

    Raises:
        SrbenchError: The text holds no picture; `what` names it.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(base64.b64decode(text, validate=True))) as picture:
            return np.asarray(picture.convert("RGB"))
    except (binascii.Error, UnidentifiedImageError, OSError) as error:
        raise SrbenchError(f"{what} is not a PNG: the results file is damaged") from error
