"""Manipulate pictures: `python -m pipelines.srdiff.manipulate --help` (SRDiff section 4.5).

`interpolate` paints pictures between two that have the same LR picture; `fuse` redraws a region of
one picture so that it fits into another. Noise is drawn on the CPU, so a seed means the same
everywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pipelines.contract import PipelineError
from pipelines.matlab_resize import upsample_lr
from pipelines.pictures import SUFFIXES, Note, read_picture, write_png
from pipelines.srdiff.model import MIN_HR_SIDE, Indexing, SRDiff
from pipelines.srdiff.sampling import to_levels
from pipelines.srdiff.weight_sources import resolve_weights
from pipelines.srdiff.windows import Rgb, crop_to_multiple, hr_multiple


class Start(StrEnum):
    """Where the denoising of an interpolation starts, see `SRDiff.interpolate`."""

    CORRECTED = "corrected"
    REFERENCE = "reference"


class Device(StrEnum):
    """Where the network computes."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Scene:
    """An LR picture and HR pictures over it, cropped alike, in [-1, 1].

    Attributes:
        lr: [1, 3, h, w].
        lr_up: [1, 3, s h, s w].
        pictures: Each like `lr_up`.
    """

    lr: torch.Tensor
    lr_up: torch.Tensor
    pictures: tuple[torch.Tensor, ...]


def read_scene(
    lr: Path, pictures: Sequence[Path], scale: int, divisor: int, device: torch.device, note: Note
) -> Scene:
    """Read an LR picture and HR pictures of its size times `scale`.

    Args:
        lr: File.
        pictures: Files. Sides are cropped to what the published loader keeps, see `hr_multiple`.
        scale: Of the network.
        divisor: Of the LR before upsampling, see `upsample_lr`.
        device: Of the results.
        note: Told that pictures are cropped, and what `read_picture` has to tell.

    Raises:
        PipelineError: A file that is no picture, too small, or of another size.
    """
    low = read_picture(lr, note)
    high = [read_picture(path, note) for path in pictures]
    height, width = high[0].shape[:2]
    _check_enlarged(pictures[0], (height, width), lr, (low.shape[0], low.shape[1]), scale)
    for path, picture in zip(pictures, high, strict=True):
        if picture.shape != high[0].shape:
            raise PipelineError(
                f"{path}: {picture.shape[1]}x{picture.shape[0]}, but {pictures[0]} is "
                f"{width}x{height}"
            )
    multiple = hr_multiple(scale)
    kept = crop_to_multiple(high[0], multiple).shape[:2]
    if min(kept) < MIN_HR_SIDE:
        raise PipelineError(
            f"{pictures[0]}: {width}x{height} is too small, sides must be at least {MIN_HR_SIDE}"
        )
    if kept != (height, width):
        note(f"{width}x{height} is cropped to {kept[1]}x{kept[0]}: multiples of {multiple}")
    low = np.ascontiguousarray(low[: kept[0] // scale, : kept[1] // scale])
    return Scene(
        lr=_planes(_normalised(low), device),
        lr_up=_planes(upsample_lr(low, scale, divisor=divisor), device),
        pictures=tuple(
            _planes(_normalised(crop_to_multiple(picture, multiple)), device) for picture in high
        ),
    )


def parse_weights(text: str) -> list[float]:
    """`0,0.4,1` -> numbers from 0 to 1.

    Raises:
        PipelineError: Something else.
    """
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(0 <= weight <= 1 for weight in weights):
        raise PipelineError(
            f"--weight {text}: expected a number from 0 to 1, or several separated by commas"
        )
    return weights


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Weights = Annotated[
    str | None,
    typer.Option(help="Checkpoint, or a folder that holds one; else the small one shipped."),
]
Lr = Annotated[Path, typer.Argument(help="The low-resolution picture.")]
Out = Annotated[Path, typer.Argument(help="PNG file, or a folder.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the noise.")]
Divisor = Annotated[
    int, typer.Option(min=255, max=256, help="Of the LR before upsampling, as in training.")
]
Where = Annotated[Device | None, typer.Option(help="CUDA by default where there is a card.")]


@app.command()
def interpolate(
    lr: Lr,
    a: Annotated[Path, typer.Argument(help="HR picture, the result at weight 0.")],
    b: Annotated[Path, typer.Argument(help="HR picture, the result at weight 1.")],
    out: Out,
    weights: Weights = None,
    t: Annotated[int, typer.Option(min=0, help="Timestep whose latents are mixed.")] = 40,
    weight: Annotated[
        str, typer.Option(help="Of B, 0 to 1; several separated by commas.")
    ] = "0,0.4,0.8,1",
    indexing: Annotated[
        Start, typer.Option(help="reference starts one step too low, as the published code.")
    ] = Start.CORRECTED,
    seed: Seed = 1234,
    divisor: Divisor = 256,
    device: Where = None,
) -> None:
    """Paint pictures between A and B, which have the same LR picture.

    A file OUT shows them side by side; in a folder OUT each has its own, `weight_0.4.png`.
    """
    shares = parse_weights(weight)
    _check_out(out)
    model = _load(weights, device)
    scene = read_scene(lr, [a, b], model.config.scale, divisor, _device_of(model), _note)
    first, last = scene.pictures
    start: Indexing = "reference" if indexing is Start.REFERENCE else "corrected"
    painted = []
    for share in shares:
        _note(f"weight {share:g}: {t} steps")
        painted.append(
            model.interpolate(
                first,
                last,
                scene.lr,
                scene.lr_up,
                t=t,
                weight=share,
                indexing=start,
                seed=seed,
            )
        )
    if _is_file(out):
        _write(out, torch.cat(painted, dim=3))
        return
    for share, picture in zip(shares, painted, strict=True):
        _write(out / f"weight_{share:g}.png", picture)


@app.command()
def fuse(
    lr: Annotated[Path, typer.Argument(help="The low-resolution picture of the target.")],
    target: Annotated[Path, typer.Argument(help="HR picture that gets the region.")],
    source: Annotated[Path, typer.Argument(help="HR picture that the region is of.")],
    mask: Annotated[Path, typer.Argument(help="HR picture, white where the source is taken.")],
    out: Out,
    weights: Weights = None,
    t: Annotated[
        int, typer.Option(min=0, help="Low keeps the source, high moves to the target.")
    ] = 50,
    seed: Seed = 1234,
    divisor: Divisor = 256,
    device: Where = None,
) -> None:
    """Put a region of SOURCE into TARGET and redraw it to fit; nothing else changes.

    In a folder OUT the result is `fused.png`.
    """
    _check_out(out)
    model = _load(weights, device)
    files = [target, source, mask]
    scene = read_scene(lr, files, model.config.scale, divisor, _device_of(model), _note)
    onto, taken, white = scene.pictures
    share = (white.mean(dim=1, keepdim=True) + 1) / 2
    fused = model.fuse(onto, taken, share, scene.lr, scene.lr_up, t=t, seed=seed)
    _write(out if _is_file(out) else out / "fused.png", fused)


def _check_enlarged(
    path: Path, size: tuple[int, int], lr: Path, low: tuple[int, int], scale: int
) -> None:
    """A side of the LR picture may have been rounded down or up."""
    for short, long in zip(low, size, strict=True):
        if short not in (long // scale, -(-long // scale)):
            raise PipelineError(
                f"{path}: {size[1]}x{size[0]} is not {lr} ({low[1]}x{low[0]}) enlarged by {scale}"
            )


def _load(weights: str | None, device: Device | None) -> SRDiff:
    has_card = torch.cuda.is_available()
    if device is Device.CUDA and not has_card:
        raise PipelineError("--device cuda: there is no CUDA device; use --device cpu")
    place = device or (Device.CUDA if has_card else Device.CPU)
    found = resolve_weights(weights or os.environ.get("SRBENCH_WEIGHTS") or "mini", place)
    if found.kind == "synthetic":
        raise PipelineError("--weights synthetic: paints noise; give a trained checkpoint or mini")
    return SRDiff.from_checkpoint(found.path, device=place)


def _device_of(model: SRDiff) -> torch.device:
    return model.schedule.signal.device


def _check_out(out: Path) -> None:
    """Before the work, so that its result is not lost."""
    if _is_file(out):
        if out.suffix.lower() != ".png":
            raise PipelineError(f"{out}: results are PNG files; name one .png, or a folder")
        if not out.parent.is_dir():
            raise PipelineError(f"{out.parent}: no such folder")
        return
    out.mkdir(parents=True, exist_ok=True)


def _is_file(out: Path) -> bool:
    return out.suffix.lower() in SUFFIXES and not out.is_dir()


def _normalised(picture: Rgb) -> NDArray[np.float64]:
    return picture / np.float64(255) * 2 - 1


def _planes(picture: NDArray[np.float64], device: torch.device) -> torch.Tensor:
    """[H, W, 3] -> [1, 3, H, W], float32."""
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes)[None].to(device)


def _write(path: Path, picture: torch.Tensor) -> None:
    write_png(path, to_levels(picture)[0].cpu().numpy())
    typer.echo(path)


def _note(line: str) -> None:
    typer.echo(line, err=True)


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    try:
        app()
    except (PipelineError, OSError) as error:
        typer.echo(f"manipulate: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
