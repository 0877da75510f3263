"""Metrics of a folder of pictures against their references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srbench.fidelity.desk import Desk
from srbench.fidelity.journal import Journal, key_of
from srbench.fidelity.metrics import METRICS
from srbench.fidelity.plan import Plan, Skipped
from srbench.fidelity.providers import Measurement, Provider, open_provider
from srbench.fidelity.sheets import Sheet, Slot, measure, version_of

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
        device: Where networks of metrics of single pictures run.
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


Measurers = Callable[[Iterator[Sheet]], Iterator[tuple[int, Iterator[Measurement]]]]
"""Who measures: for every sheet, the number of its picture and a value a slot, each sequence of
them taken before the next."""


def evaluate(
    plan: Plan,
    bench: Bench | None = None,
    done: Callable[[Scores], None] | None = None,
    measurers: Measurers | None = None,
) -> Evaluation:
    """Measure every picture of a plan; what the journal knows is not measured again.

    Args:
        plan: From `make_plan`.
        bench: What to measure with; None is pyiqa on the CPU.
        done: Told of each picture.
        measurers: Who measures single pictures; None is this process, one after another.
    """
    bench = bench or open_bench()
    desks = [Desk(job) for job in plan.jobs]
    papers = _Papers(plan, bench, desks)
    images: dict[int, tuple[Scores, dict[str, str]]] = {}
    for number, found in (measurers or papers.measure_here)(papers.sheets()):
        images[number] = papers.fill(number, found)
        if done is not None:
            done(images[number][0])
    in_order = [images[number] for number in range(len(desks))]
    told = {metric: who for _, providers in in_order for metric, who in providers.items()}
    folders = Scores("")
    for metric in (metric for metric in plan.metrics if METRICS[metric].of_folders):
        _enter(folders, metric, [_measure_folders(desks, metric, bench)], told)
    return Evaluation(
        images=[scores for scores, _ in in_order],
        folders=folders,
        providers=told,
        samples=len(plan.jobs[0].item.samples),
        cropped=sum(job.cropped for job in plan.jobs),
        skipped=plan.skipped,
    )


@dataclass(frozen=True, slots=True)
class _Papers:
    """What is known of every picture, filled in as values come."""

    plan: Plan
    bench: Bench
    desks: list[Desk]
    known: dict[int, dict[Slot, Measurement | str | None]] = field(default_factory=dict)
    """Of pictures that are being measured: a value, or the key that it will have."""

    def sheets(self) -> Iterator[Sheet]:
        """What is missing, picture by picture, as it is then."""
        for number, desk in enumerate(self.desks):
            slots = self.known[number] = {
                slot: self._recall(desk, slot) for slot in self._slots(desk)
            }
            missing = (slot for slot, found in slots.items() if not isinstance(found, Measurement))
            yield Sheet(number, desk.job, tuple(missing))

    def measure_here(self, sheets: Iterator[Sheet]) -> Iterator[tuple[int, Iterator[Measurement]]]:
        """In this process."""
        for sheet in sheets:
            desk = self.desks[sheet.number]
            yield sheet.number, (measure(desk, slot, self.bench.library) for slot in sheet.slots)
            desk.clear()

    def fill(self, number: int, found: Iterator[Measurement]) -> tuple[Scores, dict[str, str]]:
        """The scores of a picture and who computed them, from what was not known of it."""
        slots = self.known.pop(number)
        samples = self.desks[number].job.item.samples
        by_metric: dict[str, list[Measurement]] = {}
        for slot, known in slots.items():
            if not isinstance(known, Measurement):
                name = samples[slot.sample or 0].name
                known = self._keep(known, name, slot.metric, next(found))
            by_metric.setdefault(slot.metric, []).append(known)
        scores = Scores(samples[0].name)
        providers: dict[str, str] = {}
        for metric, measurements in by_metric.items():
            _enter(scores, metric, measurements, providers)
        return scores, providers

    def _slots(self, desk: Desk) -> Iterator[Slot]:
        """One a sample; diversity is one of all."""
        for metric in self.plan.metrics:
            if metric == "diversity":
                yield Slot(metric, None)
            elif not METRICS[metric].of_folders:
                yield from (Slot(metric, index) for index in range(len(desk.job.item.samples)))

    def _recall(self, desk: Desk, slot: Slot) -> Measurement | str | None:
        journal = self.bench.journal
        if journal is None:
            return None
        samples = desk.job.item.samples
        wanted = samples if slot.sample is None else [samples[slot.sample]]
        key = _key(self.bench, self.bench.device, slot.metric, [desk], wanted)
        return journal.recall(key) or key

    def _keep(self, key: str | None, name: str, metric: str, found: Measurement) -> Measurement:
        if key is not None and self.bench.journal is not None:
            self.bench.journal.enter(key, name, metric, found)
        return found


def _enter(
    scores: Scores, metric: str, found: list[Measurement], providers: dict[str, str]
) -> None:
    scores.metrics[metric] = mean_of([sample.value for sample in found])
    reasons = [sample.reason or "" for sample in found if sample.value is None]
    if reasons:
        scores.not_measured[metric] = reasons[0]
    else:
        providers[metric] = found[0].provider


def _measure_folders(desks: Sequence[Desk], metric: str, bench: Bench) -> Measurement:
    samples = [path for desk in desks for path in desk.job.item.samples]

    def measured() -> Measurement:
        ours = (picture for desk in desks for picture in desk.take_samples())
        theirs = (desk.take_hr() for desk in desks)
        return bench.library.measure_folders(metric, ours, theirs)

    if bench.journal is None:
        return measured()
    key = _key(bench, bench.library.device, metric, desks, samples)
    known = bench.journal.recall(key)
    if known is None:
        known = measured()
        bench.journal.enter(key, samples[0].name, metric, known)
    return known


def _key(
    bench: Bench, device: str, metric: str, desks: Sequence[Desk], samples: Sequence[Path]
) -> str:
    """By which the journal knows a value: what it is computed from, and by whom."""
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
    return key_of(metric, version_of(metric, bench.library), device, jobs)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean; None when any is None."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
