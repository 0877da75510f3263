"""Before and after: the crops of a case as the viewer of the page takes them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from srbench.report.crops import DIFFERENCE_GAIN, decode_crops
from srbench.report.model import Comparison, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of the viewer.

    Attributes:
        role: `baseline`, `candidate`, `difference` or `input`.
        title: Shown above it.
        uri: `data:` URI of a PNG.
        width, height: Its pixels.
    """

    role: str
    title: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Pictures of one region of one case.

    Attributes:
        case: Case name.
        where: What region it is and how far the arms differ in it, a sentence.
        pictures: Baseline, candidate, difference, input.
    """

    case: str
    where: str
    pictures: list[Picture]


def viewers(comparison: Comparison) -> list[Viewer]:
    """A viewer for each case with crops.

    Raises:
        SrbenchError: A stored crop is damaged.
    """
    found = (_viewer(row, comparison) for row in comparison.rows)
    return [viewer for viewer in found if viewer is not None]


def _viewer(row: Row, comparison: Comparison) -> Viewer | None:
    record = row.fidelity
    crops = None if record is None else decode_crops(record)
    if record is None or crops is None:
        return None
    height, width = crops.baseline.shape[:2]
    where = f"{width}x{height} pixels of the output"
    if record.worst_block is not None:
        top, left = record.worst_block
        where += f" around the worst 64x64 block, at row {top}, column {left}"
    where += f"; the largest difference is {crops.largest_error} of 255 levels."
    pictures = [
        _picture("baseline", comparison.baseline, crops.baseline),
        _picture("candidate", comparison.candidate, crops.candidate),
        _picture("difference", f"difference ×{DIFFERENCE_GAIN}", crops.difference),
        _picture("input", "input (LR)", crops.input),
    ]
    return Viewer(case=row.case, where=where, pictures=pictures)


def _picture(role: str, title: str, pixels: NDArray[np.uint8]) -> Picture:
    from PIL import Image

    # Written anew: what the page embeds is a plain PNG, whatever the file held.
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(
        role=role,
        title=title,
        uri=f"data:image/png;base64,{data}",
        width=pixels.shape[1],
        height=pixels.shape[0],
    )
