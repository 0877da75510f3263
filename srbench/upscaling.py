"""Upscale files with a pipeline: everything that can be wrong is found before weights are read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Precision, WeightsSource
from srbench.config import MAX_SEED
from srbench.errors import UsageError
from srbench.images import SUFFIXES, find_images, image_profile, read_image, write_image
from srbench.painting import Painter
from srbench.registry import light_options, load_pipeline, parse_options, split_assignments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "MAX_SCALE",
    "MIN_SIDE",
    "Files",
    "Request",
    "check_options",
    "check_scale",
    "plan_files",
    "plan_samples",
    "read_input",
    "upscale_files",
]

MIN_SIDE = 16
MAX_SCALE = 8
SAMPLE = "sample-{:04d}"
"""Folder of one sample of every image, counted from 0."""

Files = list[tuple[Path, tuple[Path, ...]]]
"""Inputs, each with its outputs: one a sample."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, checked.

    Attributes:
        pipeline: Its name.
        options: Of the pipeline's own options class.
        files: Inputs and outputs; samples of one input have seeds `seed`, `seed + 1`, ….
        scale: Integer factor.
        seed: Of the noise of the first sample.
        device: `cpu` or `cuda`.
        precision: Arithmetic.
    """

    pipeline: str
    options: Any
    files: Files
    scale: int
    seed: int
    device: str
    precision: Precision


def check_options(pipeline: str, assignments: list[str], color_fix: str | None) -> Any:
    """Build the options of a pipeline without loading its networks where that is possible.

    Raises:
        UsageError: Unknown pipeline or option, or a bad value.
    """
    options = light_options(pipeline)
    if options is None:
        options = load_pipeline(pipeline).Options
    by_arm = split_assignments(assignments, [pipeline])
    values: Mapping[str, str] = {**by_arm[""], **by_arm[pipeline]}
    if color_fix is not None:
        values = {**values, "color_fix": color_fix}
    return parse_options(options, values)


def check_scale(scale: int) -> None:
    """Raise UsageError unless `scale` is a factor that pipelines take."""
    if not 1 <= scale <= MAX_SCALE:
        raise UsageError(f"--scale {scale}: expected a whole number from 1 to {MAX_SCALE}")


def plan_files(source: Path, target: Path) -> Files:
    """Pair each input with its output and make sure that outputs can be written.

    A folder goes into a folder, names and folders in it kept; a file may go into an existing
    folder. Of a folder only the names are looked at, a file is read.

    Raises:
        UsageError: No input, an output of unknown format, one that is an input, or a folder that
            cannot be written.
    """
    if not source.is_dir():
        target = target / source.name if target.is_dir() else target
        if target.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{target}: cannot write '{target.suffix}' files; use .png")
        read_input(source)
        single: Files = [(source, (target,))]
        _check_apart(single)
        _check_writable(target.parent)
        return single
    if target.is_file():
        raise UsageError(f"{target}: a file, but the input {source} is a folder")
    files: Files = [
        (path, (target / path.relative_to(source),)) for path in _inputs(source, target)
    ]
    _check_apart(files)
    _check_writable(target)
    return files


def plan_samples(source: Path, target: Path, samples: int, seed: int) -> Files:
    """Give each input one output a sample: `TARGET/sample-0000/NAME.png` and on.

    They are PNG whatever the input is: a lossy format would add to how much samples differ.

    Raises:
        UsageError: As `plan_files`; two inputs of one stem, seeds beyond the largest, or samples
            of an earlier run that would be counted among these.
    """
    if target.is_file() or (not target.is_dir() and target.suffix.lower() in SUFFIXES):
        raise UsageError(f"{target}: --samples writes a folder of folders; name a folder")
    if seed + samples - 1 > MAX_SEED:
        raise UsageError(f"--seed {seed}: no room for {samples} seeds up to {MAX_SEED}")
    if source.is_dir():
        names = {path: path.relative_to(source) for path in _inputs(source, target)}
    else:
        read_input(source)
        names = {source: Path(source.name)}
    stems: dict[Path, Path] = {}
    for path, name in names.items():
        if (other := stems.setdefault(name.with_suffix(".png"), path)) != path:
            raise UsageError(
                f"{source}: {names[other]} and {name} would both become "
                f"{name.with_suffix('.png')}; rename one"
            )
    folders = [target / SAMPLE.format(number) for number in range(samples)]
    if left := sorted(set(target.glob(f"{SAMPLE.partition('{')[0]}*")) - set(folders)):
        raise UsageError(
            f"{left[0]}: of an earlier run with more than {samples} samples; remove it or name "
            "another output"
        )
    files: Files = [
        (path, tuple(folder / name for folder in folders)) for name, path in stems.items()
    ]
    _check_apart(files)
    for folder in folders:
        _check_writable(folder)
    return files


def _inputs(source: Path, target: Path) -> list[Path]:
    if target.resolve() == source.resolve():
        raise UsageError(f"{target}: both input and output; name another folder for the output")
    return find_images(source, target)[0]


def _check_apart(files: Files) -> None:
    inputs = {path.resolve() for path, _ in files}
    for path, targets in files:
        for target in targets:
            if target.resolve() in inputs:
                raise UsageError(
                    f"{target}: the output of {path} would replace an input; name another output"
                )


def read_input(path: Path) -> NDArray[np.uint8]:
    """Read a picture that is to be upscaled: [H, W, 3] RGB.

    Raises:
        UsageError: The file is no image, or has a side under 16 pixels.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise UsageError(
            f"{path}: {width}x{height} pixels; sides must be at least {MIN_SIDE} pixels"
        )
    return image


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another output"
        ) from error


def upscale_files(
    request: Request, weights: WeightsSource, note: Callable[[str], None]
) -> Iterator[Path]:
    """Upscale one file after another, yielding each output that was written.

    Whatever is there is written over, and the first failure ends it; `srbench.batch` is for
    folders.

    Raises:
        UsageError: The pipeline does not take this precision.
        InfrastructureError: Not enough memory.
    """
    painter = Painter(request, weights, note)
    painter.load()
    for source, targets in request.files:
        image = read_image(source)
        height, width = image.shape[:2]
        samples = f", {len(targets)} samples" if len(targets) > 1 else ""
        note(f"{source.name}: {width}x{height}, x{request.scale}{samples}")
        profile = image_profile(source, targets[0])
        seeds = range(request.seed, request.seed + len(targets))
        pictures = painter.paint(source, image, seeds)
        for target, picture in zip(targets, pictures, strict=True):
            write_image(target, picture, profile)
            yield target
