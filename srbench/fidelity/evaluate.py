"""Metrics of a folder of pictures against their references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from srbench.fidelity.compare import as_tensor
from srbench.fidelity.desk import Desk
from srbench.fidelity.journal import Journal, key_of
from srbench.fidelity.measures import OWN, Diversity, lr_psnr, own_version, skimage_ssim
from srbench.fidelity.metrics import METRICS
from srbench.fidelity.plan import Plan, Skipped
from srbench.fidelity.providers import Measurement, Provider, open_provider

PAIRING = "by stem; the published program pairs by sorted position"


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
        folders: Of all pictures together, for metrics that have no value of one.
        providers: Metric -> who computed it, and what exactly.
        samples: Samples a picture; metrics other than diversity are means over them.
        cropped: Pictures whose reference was cut to their size.
        skipped: Pictures left out because a file of theirs cannot be read.
    """

    images: list[Scores]
    folders: Scores
    providers: dict[str, str]
    samples: int
    cropped: int
    skipped: list[Skipped]

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean by metric; null when any picture lacks it."""
        return {
            metric: mean_of([scores.metrics[metric] for scores in self.images])
            for metric in self.images[0].metrics
        }

    @property
    def summary(self) -> dict[str, float | None]:
        """Means, and the metrics of all pictures together."""
        return {**self.mean, **self.folders.metrics}

    @property
    def reasons(self) -> dict[str, str]:
        """Metric -> why it was not measured, the first reason met."""
        found: dict[str, str] = {}
        for scores in (*self.images, self.folders):
            for metric, reason in scores.not_measured.items():
                found.setdefault(metric, reason)
        return found

    def to_json(self) -> dict[str, Any]:
        """The document of `srbench evaluate --json`."""
        return {
            "images": [
                {"file": s.file, "metrics": s.metrics, "not_measured": s.not_measured}
                for s in self.images
            ],
            "mean": self.mean,
            "folders": {
                "metrics": self.folders.metrics,
                "not_measured": self.folders.not_measured,
            },
            "providers": self.providers,
            "pairing": PAIRING,
            "samples": self.samples,
            "cropped": self.cropped,
            "skipped": [asdict(picture) for picture in self.skipped],
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """What pictures are measured with.

    Attributes:
        library: For the metrics that srbench does not compute itself.
        device: Where networks of metrics run.
        journal: Keeps every value; None keeps nothing.
    """

    library: Provider
    device: str
    journal: Journal | None = None


def open_bench(
    device: str = "cpu", provider: str = "pyiqa", journal: Journal | None = None
) -> Bench:
    """Library and journal for `evaluate`.

    Raises:
        UsageError: Unknown provider.
    """
    return Bench(open_provider(provider, device), device, journal)


def evaluate(
    plan: Plan, bench: Bench | None = None, done: Callable[[Scores], None] | None = None
) -> Evaluation:
    """Measure every picture of a plan; what the journal knows is not measured again.

    Args:
        plan: From `make_plan`.
        bench: What to measure with; None is pyiqa on the CPU.
        done: Told of each picture.
    """
    bench = bench or open_bench()
    each = [metric for metric in plan.metrics if not METRICS[metric].of_folders]
    desks = [Desk(job) for job in plan.jobs]
    providers: dict[str, str] = {}
    images = []
    for desk in desks:
        scores = Scores(desk.job.item.samples[0].name)
        for metric in each:
            _enter(scores, metric, _measure(desk, metric, bench), providers)
        desk.clear()
        images.append(scores)
        if done is not None:
            done(scores)
    folders = Scores("")
    for metric in (metric for metric in plan.metrics if METRICS[metric].of_folders):
        _enter(folders, metric, [_measure_folders(desks, metric, bench)], providers)
    return Evaluation(
        images=images,
        folders=folders,
        providers=providers,
        samples=len(plan.jobs[0].item.samples),
        cropped=sum(job.cropped for job in plan.jobs),
        skipped=plan.skipped,
    )


def _enter(
    scores: Scores, metric: str, found: list[Measurement], providers: dict[str, str]
) -> None:
    scores.metrics[metric] = mean_of([sample.value for sample in found])
    reasons = [sample.reason or "" for sample in found if sample.value is None]
    if reasons:
        scores.not_measured[metric] = reasons[0]
    else:
        providers[metric] = found[0].provider


def _measure(desk: Desk, metric: str, bench: Bench) -> list[Measurement]:
    """One measurement a sample; diversity is one of all."""
    samples = desk.job.item.samples
    if metric == "diversity":
        return [_kept(bench, metric, [desk], samples, lambda: _diversity(desk))]
    return [
        _kept(bench, metric, [desk], [path], partial(_measure_one, desk, index, metric, bench))
        for index, path in enumerate(samples)
    ]


def _measure_one(desk: Desk, index: int, metric: str, bench: Bench) -> Measurement:
    match metric:
        case "ssim_skimage":
            return skimage_ssim(desk.sr(index), desk.hr)
        case "lr_psnr":
            return lr_psnr(desk.sr(index), desk.lr[0], desk.job.scale, desk.lr[1])
    return bench.library.measure(metric, as_tensor(desk.sr(index)), desk.reference)


def _diversity(desk: Desk) -> Measurement:
    diversity = Diversity()
    for index in range(len(desk.job.item.samples)):
        diversity.add(desk.sr(index))
    return diversity.measure()


def _measure_folders(desks: Sequence[Desk], metric: str, bench: Bench) -> Measurement:
    samples = [path for desk in desks for path in desk.job.item.samples]

    def measure() -> Measurement:
        ours = (picture for desk in desks for picture in desk.take_samples())
        theirs = (desk.take_hr() for desk in desks)
        return bench.library.measure_folders(metric, ours, theirs)

    return _kept(bench, metric, desks, samples, measure)


def _kept(
    bench: Bench,
    metric: str,
    desks: Sequence[Desk],
    samples: Sequence[Path],
    measure: Callable[[], Measurement],
) -> Measurement:
    """What the journal knows, else measured and entered into it."""
    if bench.journal is None:
        return measure()
    version = own_version(metric) if metric in OWN else bench.library.describe(metric)
    wanted = set(samples)
    jobs = [
        [
            *(desk.digest(path) for path in desk.job.item.samples if path in wanted),
            desk.digest(desk.job.item.hr) if METRICS[metric].needs_reference else None,
            desk.digest(desk.job.item.lr) if metric == "lr_psnr" and desk.job.item.lr else None,
            desk.job.size,
            desk.job.scale,
        ]
        for desk in desks
    ]
    key = key_of(metric, version, bench.device, jobs)
    known = bench.journal.recall(key)
    if known is None:
        known = measure()
        bench.journal.enter(key, samples[0].name, metric, known)
    return known


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean; None when any is None."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
