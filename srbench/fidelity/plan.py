"""What an evaluation will compare: every file is read once before any network is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srbench.errors import UsageError
from srbench.fidelity.layouts import Item, find_inputs, find_items
from srbench.images import read_image
from srbench.upscaling import MAX_SCALE

Size = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What the user asks.

    Attributes:
        sr_dir: Pictures to judge, or folders of samples.
        hr_dir: References, or a layout that has them.
        metrics: Names of `METRICS`.
        lr_dir: Inputs of the pipeline; None takes those of the layout.
        scale: Whole factor; None finds it from the sizes of SR and LR.
        crop: Cut larger references and inputs to the size of the SR, from the top left.
        skip_broken: Leave out what cannot be read, and count it.
    """

    sr_dir: Path
    hr_dir: Path
    metrics: tuple[str, ...]
    lr_dir: Path | None = None
    scale: int | None = None
    crop: bool = False
    skip_broken: bool = False

    @property
    def needs_scale(self) -> bool:
        """Whether sizes must be brought together."""
        return self.crop or "lr_psnr" in self.metrics


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to judge, checked.

    Attributes:
        item: Its files.
        size: Height and width of the SR; HR is cut to it, and LR to it divided by `scale`.
        scale: Whole factor; 1 where nothing needs it.
        cropped: Whether the HR is larger.
    """

    item: Item
    size: tuple[int, int]
    scale: int
    cropped: bool


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that cannot be judged because one of its files cannot be read."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All pictures to judge."""

    metrics: tuple[str, ...]
    jobs: list[Job]
    skipped: list[Skipped]


def read_size(path: Path) -> Size:
    """Height and width of a picture that has been decoded to its last pixel.

    Raises:
        UsageError: It cannot be read.
    """
    return read_image(path).shape[:2]


def make_plan(question: Question, size_of: Callable[[Path], Size] = read_size) -> Plan:
    """Find and read all files.

    Args:
        question: What to compare.
        size_of: As `read_size`; two plans of the same references can share what it knows.

    Raises:
        UsageError: Pictures that do not pair, cannot be read or do not fit in size; a scale that
            is needed and cannot be told.
    """
    layout_lr = find_inputs(question.hr_dir, question.scale) if question.needs_scale else None
    items = find_items(question.sr_dir, question.hr_dir, question.lr_dir or layout_lr)
    jobs: list[Job] = []
    skipped: list[Skipped] = []
    for item in items:
        try:
            sizes = {path: size_of(path) for path in item.files}
        except UsageError as error:
            skipped.append(Skipped(item.samples[0].name, str(error)))
        else:
            jobs.append(_job(item, sizes, question))
    _check_skipped(skipped, jobs, question)
    return Plan(question.metrics, jobs, skipped)


def whole_scale(sr: Size, lr: Size, known: int | None = None, slack: int = 0) -> int | None:
    """Whole factor between two sizes.

    Args:
        sr: Height and width of the output.
        lr: Height and width of the input.
        known: The only factor to consider.
        slack: Pixels by which a side of the input may be larger than the output asks for.

    Returns:
        The factor, 2 to 8; None where no factor fits.
    """
    excess = {
        scale: [small - large // scale for large, small in zip(sr, lr, strict=True)]
        for scale in ([known] if known else range(2, MAX_SCALE + 1))
        if all(large % scale == 0 for large in sr)
    }
    fits = [s for s, sides in excess.items() if min(sides) >= 0 and max(sides) <= slack]
    return min(fits, key=lambda scale: max(excess[scale]), default=None)


def _job(item: Item, sizes: dict[Path, Size], question: Question) -> Job:
    first, hr = item.samples[0], item.hr
    size = sizes[first]
    for path in item.samples[1:]:
        if sizes[path] != size:
            raise UsageError(
                f"{path}: {_words(sizes[path])} pixels where {first} has {_words(size)}"
            )
    scale = _scale(item, sizes, question) if question.needs_scale else 1
    excess = [large - small for large, small in zip(sizes[hr], size, strict=True)]
    room = 2 * scale if question.crop else 1
    if min(excess) < 0 or max(excess) >= room:
        allowed = (
            f"--crop cuts less than {room} pixels a side"
            if question.crop
            else "metrics need equal sizes (--crop cuts references a little larger)"
        )
        raise UsageError(
            f"{first}: {_words(size)} pixels where {hr} has {_words(sizes[hr])}; {allowed}"
        )
    return Job(item, (size[0], size[1]), scale, max(excess) > 0)


def _scale(item: Item, sizes: dict[Path, Size], question: Question) -> int:
    if item.lr is None:
        if question.scale is None:
            raise UsageError("lr_psnr and --crop need the factor: --scale N or --lr-dir DIR")
        return question.scale
    first = item.samples[0]
    # A network that takes multiples of 2 drops one row of the input, a last partial one another.
    slack = 2 if question.crop else 0
    scale = whole_scale(sizes[first], sizes[item.lr], question.scale, slack)
    if scale is None:
        factor = question.scale or f"a whole number from 2 to {MAX_SCALE}"
        raise UsageError(
            f"{item.lr}: {_words(sizes[item.lr])} pixels; times {factor} this is not "
            f"{_words(sizes[first])} as {first} has"
        )
    return scale


def _check_skipped(skipped: list[Skipped], jobs: list[Job], question: Question) -> None:
    if not skipped:
        return
    if not question.skip_broken:
        more = f" (and {len(skipped) - 1} more pictures)" if len(skipped) > 1 else ""
        raise UsageError(f"{skipped[0].reason}{more}; --skip-broken leaves such pictures out")
    if not jobs:
        raise UsageError(f"{question.sr_dir}: no picture is left; first: {skipped[0].reason}")


def _words(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
