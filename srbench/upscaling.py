"""Upscale files with a pipeline: everything that can be wrong is found before weights are read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.contract import Precision, WeightsSource
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
    import torch

    from pipelines.contract import Pipeline

MIN_SIDE = 16
MAX_SCALE = 8


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, checked.

    Attributes:
        pipeline: Its name.
        options: Of the pipeline's own options class.
        files: Input and output paths.
        scale: Integer factor.
        seed: Of the posterior noise.
        device: `cpu` or `cuda`.
        precision: Arithmetic.
    """

    pipeline: str
    options: Any
    files: list[tuple[Path, Path]]
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


def plan_files(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Pair inputs with outputs and make sure that outputs can be written.

    A folder goes into a folder, names kept; a file may go into an existing folder.

    Raises:
        UsageError: No input, an output of unknown format, or a folder that cannot be written.
    """
    if source.is_dir():
        if target.is_file():
            raise UsageError(f"{target}: a file, but the input {source} is a folder")
        pairs = [(path, target / path.name) for path in list_images(source)]
        folder = target
    else:
        target = target / source.name if target.is_dir() else target
        if target.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{target}: cannot write '{target.suffix}' files; use .png")
        pairs = [(source, target)]
        folder = target.parent
    for path, _ in pairs:
        check_size(path)
    _check_writable(folder)
    return pairs


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
        for source, target in request.files:
            image = read_image(source)
            height, width = image.shape[:2]
            _check_memory(pipeline, source, height, width, request.scale, device)
            note(f"{source.name}: {width}x{height}, x{request.scale}")
            pipeline.prepare(height, width, request.scale)
            if device.type == "cuda":  # elsewhere there is nothing to choose
                choices = decisions_of(pipeline, height, width, request.scale)
                note("  " + "; ".join(f"{what}: {words}" for what, words in choices.items()))
            write_image(target, pipeline.upscale(image, request.scale, seed=request.seed))
            yield target
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and "allocate memory" not in str(error):
            raise
        raise InfrastructureError(
            f"{request.pipeline}: out of memory on {request.device} "
            f"({' '.join(str(error).split())[:120]}); take a smaller image"
        ) from error


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
