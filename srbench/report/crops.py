"""The crop comparison: the worst region of each case, as both arms paint it."""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from typing import TYPE_CHECKING

from srbench.errors import SrbenchError
from srbench.report.model import Comparison, ReportModel, Row

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DIFFERENCE_GAIN = 8


def crop_figure(model: ReportModel, comparison: Comparison) -> Figure | None:
    """One row a case: input, baseline, optimized, difference x8. None when no crop was stored."""
    from matplotlib.figure import Figure

    rows = [row for row in comparison.rows if row.fidelity and len(row.fidelity.crops) == 3]
    if not rows:
        return None
    figure = Figure(figsize=(9.0, 0.7 + 2.4 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 4, squeeze=False)
    titles = ("input (LR)", "baseline", "optimized", f"difference x{DIFFERENCE_GAIN}")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(list(axes), row)
    figure.suptitle(f"Around the worst 64x64 block, {comparison.candidate}: {model.label}")
    return figure


def _draw_row(axes: list[Axes], row: Row) -> None:
    import numpy as np

    if row.fidelity is None:
        return
    crops = row.fidelity.crops
    lr, baseline, candidate = (
        decode_png(crops[key], f"crop {key} of {row.case}")
        for key in ("input", "baseline", "candidate")
    )
    error = np.abs(baseline.astype(np.int16) - candidate.astype(np.int16))
    amplified = np.clip(DIFFERENCE_GAIN * error, 0, 255).astype(np.uint8)
    for panel, picture in zip(axes, (lr, baseline, candidate, amplified), strict=True):
        panel.imshow(picture, interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
    axes[0].set_ylabel(row.case, fontsize=10)
    worst = row.fidelity.metrics.get("worst_block_psnr")
    text = f"largest error {int(error.max())} of 255"
    if worst is not None:
        text += f"\nworst block {worst:.1f} dB"
    axes[3].set_xlabel(text, fontsize=8)


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
