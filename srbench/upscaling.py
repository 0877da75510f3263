"""Upscale files with a pipeline: everything that can be wrong is found before weights are read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Precision, WeightsSource
from srbench.config import MAX_SEED
from srbench.cpu_kernels import prefer_avx2
from srbench.errors import InfrastructureError, UsageError
from srbench.images import SUFFIXES, list_images, read_image, write_image
from srbench.registry import (
    decisions_of,
    light_options,
    load_pipeline,
    parse_options,
    split_assignments,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipelines.contract import Pipeline

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

    A folder goes into a folder, names kept; a file may go into an existing folder.

    Raises:
        UsageError: No input, an output of unknown format, or a folder that cannot be written.
    """
    if source.is_dir():
        if target.is_file():
            raise UsageError(f"{target}: a file, but the input {source} is a folder")
        pairs: Files = [(path, (target / path.name,)) for path in list_images(source)]
        folder = target
    else:
        target = target / source.name if target.is_dir() else target
        if target.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{target}: cannot write '{target.suffix}' files; use .png")
        pairs = [(source, (target,))]
        folder = target.parent
    for path, _ in pairs:
        check_size(path)
    _check_writable(folder)
    return pairs


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
    paths = list_images(source) if source.is_dir() else [source]
    stems: dict[str, Path] = {}
    for path in paths:
        check_size(path)
        if (other := stems.setdefault(path.stem, path)) != path:
            raise UsageError(
                f"{source}: {other.name} and {path.name} would both become {path.stem}.png; "
                "rename one"
            )
    folders = [target / SAMPLE.format(number) for number in range(samples)]
    if left := sorted(set(target.glob(f"{SAMPLE.partition('{')[0]}*")) - set(folders)):
        raise UsageError(
            f"{left[0]}: of an earlier run with more than {samples} samples; remove it or name "
            "another output"
        )
    for folder in folders:
        _check_writable(folder)
    return [(path, tuple(folder / f"{path.stem}.png" for folder in folders)) for path in paths]


def check_size(path: Path) -> None:
    """Raise UsageError unless the file is an image with sides of at least 16 pixels."""
    height, width = read_image(path).shape[:2]
    if min(height, width) < MIN_SIDE:
        raise UsageError(
            f"{path}: {width}x{height} pixels; sides must be at least {MIN_SIDE} pixels"
        )


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

    Raises:
        UsageError: The pipeline does not take this precision.
        InfrastructureError: Not enough memory.
    """
    if request.device == "cpu":
        prefer_avx2()
    import torch

    kind = load_pipeline(request.pipeline)
    if request.precision not in kind.precisions:
        known = ", ".join(kind.precisions)
        raise UsageError(f"--precision {request.precision}: {request.pipeline} computes in {known}")
    device = torch.device(request.device)
    pipeline = kind(request.options)
    try:
        pipeline.load(weights, device, request.precision)
        for source, targets in request.files:
            image = read_image(source)
            height, width = image.shape[:2]
            _check_memory(pipeline, source, height, width, request.scale, device)
            samples = f", {len(targets)} samples" if len(targets) > 1 else ""
            note(f"{source.name}: {width}x{height}, x{request.scale}{samples}")
            pipeline.prepare(height, width, request.scale)
            if device.type == "cuda":  # elsewhere there is nothing to choose
                choices = decisions_of(pipeline, height, width, request.scale)
                note("  " + "; ".join(f"{what}: {words}" for what, words in choices.items()))
            seeds = range(request.seed, request.seed + len(targets))
            pictures = _pictures(pipeline, image, request.scale, seeds)
            for target, picture in zip(targets, pictures, strict=True):
                write_image(target, picture)
                yield target
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and "allocate memory" not in str(error):
            raise
        raise InfrastructureError(
            f"{request.pipeline}: out of memory on {request.device} "
            f"({' '.join(str(error).split())[:120]}); take a smaller image"
        ) from error


def _pictures(
    pipeline: Pipeline, image: NDArray[np.uint8], scale: int, seeds: Sequence[int]
) -> Iterator[NDArray[np.uint8]]:
    """One picture a seed; together where the pipeline shares work between samples of one image."""
    together = getattr(pipeline, "upscale_samples", None)
    if together is not None and len(seeds) > 1:
        yield from together(image, scale, seeds=list(seeds))
        return
    for seed in seeds:
        yield pipeline.upscale(image, scale, seed=seed)


def _check_memory(
    pipeline: Pipeline, path: Path, height: int, width: int, scale: int, device: torch.device
) -> None:
    needed, free = pipeline.memory_estimate(height, width, scale), free_memory(device)
    if needed > free:
        raise InfrastructureError(
            f"{path}: upscaling {width}x{height} by {scale} needs about {needed / 2**30:.1f} GiB "
            f"beside the weights and {free / 2**30:.1f} GiB are free on {device}; "
            "take a smaller image or scale"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return available
    return min(available, max(limit - used, 0))
