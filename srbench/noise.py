"""The measured noise of a machine: `results/noise/<profile>.json`, written by `srbench aa`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import expm1
from pathlib import Path
from typing import Any

from srbench.documents import DocumentKind, read_document, write_document
from srbench.outcome import one_line
from srbench.stats.power import minimum_detectable_difference, minimum_detectable_effect
from srbench.stats.sequential import look_against, look_for

_KIND = DocumentKind("noise", "noise record", 1, "measure again: srbench aa")
MOST_SD = 10.0
"""In log units: blocks that differ by a factor of 20,000 are no measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFile:
    """How far d of two equal arms scatters from block to block.

    Attributes:
        profile: `cpu`, `h100`, …
        device_name: Of the card or the CPU, as the driver or the system names it.
        driver: Version; None on CPU.
        run_id: The A/A run behind it.
        measured_at: When that run began, ISO 8601, UTC.
        pipeline: In both arms.
        precision: `fp32` or `fp16`.
        weights: Their label.
        pairs: Timed pairs of a case in each block; fewer would be noisier.
        blocks: Blocks behind each standard deviation.
        sd: Case name or `geomean` -> standard deviation of d over blocks, in log units.
    """

    profile: str
    device_name: str
    driver: str | None
    run_id: str
    measured_at: str
    pipeline: str
    precision: str
    weights: str
    pairs: int
    blocks: int
    sd: dict[str, float]


def smallest_margin(
    noise: NoiseFile, case: str, blocks: int, reference_blocks: int | None = None
) -> float:
    """The slow-down that so many blocks show with 80 % power: the least margin worth setting.

    Args:
        noise: Of the machine.
        case: Case name or `geomean`, one that the file has.
        blocks: At least 2; their look says at which alpha.
        reference_blocks: Of the run that it is held against, whose noise adds to its own; None
            where the arms of one run are held against each other.

    Returns:
        A fraction: 0.02 is 2 %.
    """
    sd = noise.sd[case]
    if reference_blocks is None:
        return expm1(minimum_detectable_effect(sd, blocks, look_for(blocks).alpha))
    alpha = look_against(blocks, reference_blocks).alpha
    return expm1(minimum_detectable_difference(sd, blocks, reference_blocks, alpha))


def noise_path(root: Path, profile: str) -> Path:
    """Where a profile's noise lies under the results folder `root`."""
    return root / "noise" / f"{profile}.json"


def read_noise(root: Path, profile: str) -> NoiseFile | None:
    """Read a profile's noise; None where no A/A run has been made.

    Args:
        root: Results folder.
        profile: Its name.

    Raises:
        UsageError: The file is damaged, or written by a newer srbench.
    """
    path = noise_path(root, profile)
    content = read_document(path, _KIND)
    return None if content is None else _parse(path, content)


def write_noise(root: Path, noise: NoiseFile) -> Path:
    """Replace a profile's noise at once: a reader sees the old file or the new one.

    Returns:
        The file.

    Raises:
        UsageError: It cannot be written.
    """
    path = noise_path(root, noise.profile)
    write_document(path, _KIND, asdict(noise))
    return path


_TEXTS = tuple(f.name for f in fields(NoiseFile) if f.type == "str")


def _parse(path: Path, content: dict[str, Any]) -> NoiseFile:
    known = [f.name for f in fields(NoiseFile)]
    if missing := [name for name in known if name not in content]:
        raise _KIND.damaged(path, f"no {missing[0]}")
    for name in _TEXTS:
        if not isinstance(content[name], str):
            raise _KIND.damaged(path, f"{name} is no text")
    if not isinstance(content["driver"], str | None):
        raise _KIND.damaged(path, "driver is no text")
    for name in ("pairs", "blocks"):
        if type(content[name]) is not int or content[name] < 1:
            raise _KIND.damaged(path, f"{name} is no number of 1 or more")
    if content["profile"] != path.stem:
        raise _KIND.damaged(path, f"it is of profile {one_line(content['profile'], 40)!r}")
    sd = content["sd"]
    if not isinstance(sd, dict) or not sd or not all(map(_is_deviation, sd.values())):
        raise _KIND.damaged(path, f"sd is no table of numbers from 0 to {MOST_SD:g}")
    return NoiseFile(**{name: content[name] for name in known})


def _is_deviation(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MOST_SD
