"""What is missing of one picture, and how each value of it is measured, wherever that is done."""

from __future__ import annotations

from dataclasses import dataclass

from srbench.fidelity.compare import as_tensor
from srbench.fidelity.desk import Desk
from srbench.fidelity.measures import OWN, Diversity, lr_psnr, own_version, skimage_ssim
from srbench.fidelity.plan import Job
from srbench.fidelity.providers import Measurement, Provider


@dataclass(frozen=True, slots=True)
class Slot:
    """One value of one picture.

    Attributes:
        metric: Its name.
        sample: Number of the sample it is of; None is all of them.
    """

    metric: str
    sample: int | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """One picture and what has to be measured of it.

    Attributes:
        number: Of the picture in the plan.
        job: Its files.
        slots: What is not known yet.
    """

    number: int
    job: Job
    slots: tuple[Slot, ...]


def measure(desk: Desk, slot: Slot, library: Provider) -> Measurement:
    """One value of a picture.

    Raises:
        PipelineError: A file of it cannot be read any more.
    """
    if slot.sample is None:
        return _diversity(desk)
    sample = desk.sr(slot.sample)
    match slot.metric:
        case "ssim_skimage":
            return skimage_ssim(sample, desk.hr)
        case "lr_psnr":
            return lr_psnr(sample, desk.lr[0], desk.job.scale, desk.lr[1])
    return library.measure(slot.metric, as_tensor(sample), desk.reference)


def _diversity(desk: Desk) -> Measurement:
    diversity = Diversity()
    for index in range(len(desk.job.item.samples)):
        diversity.add(desk.sr(index))
    return diversity.measure()


def version_of(metric: str, library: Provider) -> str:
    """What computes a metric; values of another are not its."""
    return own_version(metric) if metric in OWN else library.describe(metric)
