"""Metrics of a folder of pictures against their references."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.matlab_resize import imresize
from srbench.fidelity.compare import as_tensor
from srbench.fidelity.measures import Diversity, lr_psnr, skimage_ssim
from srbench.fidelity.plan import Job, Plan, Skipped
from srbench.fidelity.providers import Measurement, Provider, open_provider
from srbench.images import read_image

Picture = NDArray[np.uint8]


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
        providers: Metric -> who computed it, and what exactly.
        samples: Samples a picture; metrics other than diversity are means over them.
        cropped: Pictures whose reference was cut to their size.
        skipped: Pictures left out because a file of theirs cannot be read.
    """

    images: list[Scores]
    providers: dict[str, str]
    samples: int
    cropped: int
    skipped: list[Skipped]

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean by metric; null when any picture lacks it."""
        return {
            metric: _mean([scores.metrics[metric] for scores in self.images])
            for metric in self.images[0].metrics
        }

    def to_json(self) -> dict[str, Any]:
        """The document of `srbench evaluate --json`."""
        return {
            "images": [
                {"file": s.file, "metrics": s.metrics, "not_measured": s.not_measured}
                for s in self.images
            ],
            "mean": self.mean,
            "providers": self.providers,
            "samples": self.samples,
            "cropped": self.cropped,
            "skipped": [asdict(picture) for picture in self.skipped],
        }


def evaluate(plan: Plan, device: str = "cpu", provider: str = "pyiqa") -> Evaluation:
    """Measure every picture of a plan.

    Args:
        plan: From `make_plan`.
        device: Where networks of metrics run.
        provider: Library for the metrics that srbench does not compute itself.
    """
    library = open_provider(provider, device)
    images = []
    providers: dict[str, str] = {}
    for job in plan.jobs:
        scores = Scores(job.item.samples[0].name)
        for metric, found in _measure(job, plan.metrics, library).items():
            scores.metrics[metric] = _mean([sample.value for sample in found])
            reasons = [sample.reason or "" for sample in found if sample.value is None]
            if reasons:
                scores.not_measured[metric] = reasons[0]
            else:
                providers[metric] = found[0].provider
        images.append(scores)
    return Evaluation(
        images=images,
        providers=providers,
        samples=len(plan.jobs[0].item.samples),
        cropped=sum(job.cropped for job in plan.jobs),
        skipped=plan.skipped,
    )


def _measure(job: Job, metrics: tuple[str, ...], library: Provider) -> dict[str, list[Measurement]]:
    """By metric, one measurement a sample; diversity is one of all."""
    height, width = job.size
    hr = read_image(job.item.hr)[:height, :width]
    reference = as_tensor(hr)
    diversity = Diversity()
    found: dict[str, list[Measurement]] = {metric: [] for metric in metrics}
    lr, origin = _input(job, hr) if "lr_psnr" in found else (hr, "")
    for path in job.item.samples:
        sr = read_image(path)
        candidate = as_tensor(sr)
        for metric, measured in found.items():
            match metric:
                case "diversity":
                    diversity.add(sr)
                case "ssim_skimage":
                    measured.append(skimage_ssim(sr, hr))
                case "lr_psnr":
                    measured.append(lr_psnr(sr, lr, job.scale, origin))
                case _:
                    measured.append(library.measure(metric, candidate, reference))
    if "diversity" in found:
        found["diversity"] = [diversity.measure()]
    return found


def _input(job: Job, hr: Picture) -> tuple[Picture, str]:
    """The LR picture of a job, and where it comes from."""
    if job.item.lr is None:
        return imresize(hr, Fraction(1, job.scale)), f"LR made as imresize(HR, 1/{job.scale})"
    height, width = (side // job.scale for side in job.size)
    return read_image(job.item.lr)[:height, :width], "LR as given"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
