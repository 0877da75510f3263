"""Metrics of a folder of pictures against their references."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srbench.errors import UsageError
from srbench.fidelity.compare import as_tensor
from srbench.fidelity.providers import open_provider
from srbench.images import list_images, read_image

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one picture: metric -> value, or null with the reason in `not_measured`."""

    file: str
    metrics: dict[str, float | None] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of all pictures.

    Attributes:
        images: In the order of file names.
        providers: Metric -> who computed it.
    """

    images: list[Scores]
    providers: dict[str, str]

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean by metric; null when any picture lacks it."""
        means: dict[str, float | None] = {}
        for metric in self.images[0].metrics:
            values = [scores.metrics[metric] for scores in self.images]
            known = [value for value in values if value is not None]
            complete = len(known) == len(values)
            means[metric] = sum(known) / len(known) if complete else None
        return means

    def to_json(self) -> dict[str, Any]:
        """The document of `srbench evaluate --json`."""
        return {
            "images": [
                {"file": s.file, "metrics": s.metrics, "not_measured": s.not_measured}
                for s in self.images
            ],
            "mean": self.mean,
            "providers": self.providers,
        }


def evaluate(
    sr_dir: Path,
    hr_dir: Path,
    metrics: list[str],
    device: str = "cpu",
    provider: str = "pyiqa",
) -> Evaluation:
    """Measure every picture of `sr_dir` against the one of the same stem in `hr_dir`.

    Raises:
        UsageError: A folder is missing or empty, a picture has no partner or another size.
    """
    pairs = pair_by_stem(sr_dir, hr_dir)
    library = open_provider(provider, device)
    images = []
    providers: dict[str, str] = {}
    for sr_path, hr_path in pairs:
        sr, hr = read_image(sr_path), read_image(hr_path)
        if sr.shape != hr.shape:
            raise UsageError(
                f"{sr_path}: {sr.shape[1]}x{sr.shape[0]} pixels where {hr_path} has "
                f"{hr.shape[1]}x{hr.shape[0]}; metrics need equal sizes"
            )
        scores = Scores(sr_path.name)
        for metric in metrics:
            found = library.measure(metric, as_tensor(sr), as_tensor(hr))
            scores.metrics[metric] = found.value
            if found.value is None:
                scores.not_measured[metric] = found.reason or ""
            else:
                providers[metric] = found.provider
        images.append(scores)
    return Evaluation(images, providers)


def pair_by_stem(sr_dir: Path, hr_dir: Path) -> list[tuple[Path, Path]]:
    """Pairs of files with the same stem, in the order of their names.

    Raises:
        UsageError: A picture without a partner, or two with the same stem.
    """
    ours, theirs = _by_stem(sr_dir), _by_stem(hr_dir)
    for have, lack, folder in ((ours, theirs, hr_dir), (theirs, ours, sr_dir)):
        alone = [path.name for stem, path in have.items() if stem not in lack]
        if alone:
            more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
            raise UsageError(f"{folder}: no picture for {', '.join(alone[:_SHOWN])}{more}")
    return [(path, theirs[stem]) for stem, path in ours.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise UsageError(
                f"{folder}: {found[path.stem].name} and {path.name} have the same stem; "
                "pictures are paired by it"
            )
        found[path.stem] = path
    return found
