"""The published evaluation: `python -m pipelines.s3diff.evaluate SR_DIR HR_DIR`.

The metrics of the authors' `evaluate_img.py` and its summary, `results.txt`. Pipelines know nothing
of the harness, so this runs `srbench evaluate` as a program of its own. Two things differ from the
published script on purpose: pictures pair by stem, not by sorted position, and metrics without a
reference are computed in float32, not under autocast.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

METRICS = ("psnr", "ssim", "lpips", "dists", "clipiqa", "niqe", "musiq", "maniqa", "fid")
"""Those with a reference (psnr and ssim on Y), those of the picture alone, that of the set."""

_INTERRUPTED = 130


def summary(document: dict[str, Any]) -> str:
    """The published summary: five decimals, two of FID.

    Args:
        document: What `srbench evaluate --json` prints.

    Returns:
        A line a metric; one that was not measured says why.
    """
    folders = document["folders"]
    values = {**document["mean"], **folders["metrics"]}
    reasons = dict(folders["not_measured"])
    for image in document["images"]:
        reasons = {**image["not_measured"], **reasons}
    lines = []
    for metric, value in values.items():
        if value is None:
            lines.append(f"{metric}: not measured: {reasons[metric]}")
        else:
            lines.append(f"{metric}: {value:.2f}" if metric == "fid" else f"{metric}: {value:.5f}")
    return "\n".join(lines) + "\n"


def evaluate(
    sr_dir: Annotated[Path, typer.Argument(help="Pictures to judge.")],
    hr_dir: Annotated[Path, typer.Argument(help="References, paired by name without suffix.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Keep results and results.txt here: the same command goes on."),
    ] = None,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `auto`.")] = "auto",
) -> None:
    """Evaluate pictures by S3Diff's published protocol."""
    kept = [] if out is None else ["--out", str(out)]
    command = [
        *(sys.executable, "-m", "srbench", "evaluate", str(sr_dir), str(hr_dir), "--json"),
        *("--metrics", ",".join(METRICS), "--device", device),
        *kept,
    ]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    if done.returncode != 0:
        raise typer.Exit(done.returncode)
    text = summary(json.loads(done.stdout))
    if out is not None:
        _write(out / "results.txt", text)
    typer.echo(text, nl=False)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        typer.echo(f"{path}: cannot be written ({error.strerror})", err=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Run the command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(evaluate)
    app()


if __name__ == "__main__":
    main()
