"""`srbench evaluate` by the actors of a Ray cluster: each holds the networks of the metrics."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.contract import PipelineError
from srbench.errors import NotComparableError, UsageError
from srbench.executors.data_set import CutOff, DataSet, in_portions, in_sequences
from srbench.executors.hand import GIVEN_UP, Do, End
from srbench.fidelity.desk import Desk
from srbench.fidelity.layouts import Item
from srbench.fidelity.providers import Measurement, Provider, open_provider
from srbench.fidelity.sheets import Sheet, measure, version_of

Values = tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class Measuring:
    """The craft of measuring pictures.

    Attributes:
        provider: Name of the library.
        device: Where its networks run.
        threads: That compute on a CPU; sums depend on their number.
        versions: Metric -> what must compute it.
    """

    provider: str
    device: str
    threads: int
    versions: dict[str, str]

    def open(self, note: Callable[[str], None]) -> Do:
        """Find the library here; its networks are read when a metric is first measured.

        Raises:
            NotComparableError: Another version than the driver's.
        """
        # Threads of several actors on the same cores must not spin while they wait.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch

        torch.set_num_threads(self.threads)
        library = open_provider(self.provider, self.device)
        for metric, version in self.versions.items():
            if (found := version_of(metric, library)) != version:
                raise NotComparableError(
                    f"{metric}: {found} on {socket.gethostname()}, here {version}; every machine "
                    "needs the same"
                )

        def values(sheet: Sheet) -> Iterator[Values]:
            yield tuple(_values(sheet, library))

        return values


def versions(metrics: tuple[str, ...], library: Provider) -> dict[str, str]:
    """What computes each metric here."""
    return {metric: version_of(metric, library) for metric in metrics}


def _values(sheet: Sheet, library: Provider) -> Iterator[Measurement]:
    """A value a slot; a file that cannot be read is the reason why there is none."""
    desk = Desk(sheet.job)
    for slot in sheet.slots:
        try:
            yield measure(desk, slot, library)
        except (PipelineError, UsageError) as error:
            reason = f"{error} on {socket.gethostname()}"
            yield Measurement(None, reason, version_of(slot.metric, library))


def by_actors(
    data_set: DataSet, library: Provider, sheets: Iterator[Sheet]
) -> Iterator[tuple[int, Iterator[Measurement]]]:
    """As `srbench.fidelity.evaluate.Measurers`; pictures of a lost machine come last.

    Args:
        data_set: Of actors whose craft is `Measuring`.
        library: Here, which computes nothing.
        sheets: What has to be measured.

    Raises:
        InfrastructureError: The cluster is gone, or the actors die whatever they measure.
        NotComparableError: Another machine has other sources or another library.
    """
    for portion in in_portions(sheets):
        yield from _measured(data_set, library, portion)


def _measured(
    data_set: DataSet, library: Provider, sheets: list[Sheet]
) -> Iterator[tuple[int, Iterator[Measurement]]]:
    wanted = [sheet for sheet in sheets if sheet.slots]
    yield from ((sheet.number, iter(())) for sheet in sheets if not sheet.slots)
    for place, replies in in_sequences(data_set.work_through([_absolute(s) for s in wanted])):
        sheet = wanted[place]
        match next(replies):
            case CutOff():
                continue
            case End():
                reasons = (
                    Measurement(None, GIVEN_UP, version_of(slot.metric, library))
                    for slot in sheet.slots
                )
                yield sheet.number, reasons
            case found:
                yield sheet.number, iter(found)


def _absolute(sheet: Sheet) -> Sheet:
    """The same for a process with another working directory."""
    item = sheet.job.item
    here = Item(
        samples=tuple(_place(path) for path in item.samples),
        hr=_place(item.hr),
        lr=None if item.lr is None else _place(item.lr),
    )
    return replace(sheet, job=replace(sheet.job, item=here))


def _place(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  links stay
