"""`srbench upscale` of a folder by the actors of a Ray cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType

from pipelines.contract import WeightsSource
from srbench.batch import Conduct, LostError, Plan, lead_batch
from srbench.batch_results import Result
from srbench.errors import NotComparableError
from srbench.executors.crew import Crew
from srbench.executors.data_set import CutOff, DataSet, in_portions, in_sequences
from srbench.executors.hand import GIVEN_UP, Do, End
from srbench.making import Made, Refused, Reply, Work, make_pictures
from srbench.painting import Painter
from srbench.systems import resolve_weights
from srbench.upscaling import Request
from srbench.upscaling_journal import Journal

SHARED = "inputs must be in a folder that all machines of the cluster see under the same name"


@dataclass(frozen=True, slots=True)
class Painting:
    """The craft of making pictures.

    Attributes:
        request: Without its files.
        weights: As the user names them, absolute; None is the default of the actor's machine.
        digest: What they must be.
        version: What the pipeline must be there, weights of its own included.
        threads: That compute on a CPU; sums depend on their number.
    """

    request: Request
    weights: str | None
    digest: str
    version: str
    threads: int

    def open(self, note: Callable[[str], None]) -> Do:
        """Find the weights here; they are read when the first picture needs them.

        Raises:
            NotComparableError: Other weights than the driver's, or another pipeline.
            PipelineError: No such weights here.
        """
        # Threads of several actors on the same cores must not spin while they wait.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch

        torch.set_num_threads(self.threads)
        found = resolve_weights([self.request.pipeline], self.weights, self.request.device)
        if found.digest != self.digest:
            raise NotComparableError(
                f"--weights: {found.path} on {socket.gethostname()} is {found.digest[:12]}, here "
                f"it is {self.digest[:12]}; every machine needs the same"
            )
        painter = Painter(self.request, found, note)
        if painter.version != self.version:
            raise NotComparableError(
                f"{self.request.pipeline} on {socket.gethostname()} is version {painter.version}, "
                f"here it is {self.version}; every machine needs the same"
            )

        def paint(work: Work) -> Iterator[Reply]:
            if work.source.exists():
                yield from make_pictures(painter, work)
            else:
                yield Refused(f"not on {socket.gethostname()}; {SHARED}", bad_input=True)

        return paint


def upscale_on_ray(
    ray: ModuleType,
    crew: Callable[[], Crew],
    painting: Painting,
    request: Request,
    weights: WeightsSource,
    journal: Journal,
    conduct: Conduct,
) -> Generator[Result]:
    """As `srbench.batch.upscale_batch`, with the painting done by actors; lost works come last.

    Args:
        ray: The module, connected.
        crew: Chooses the actors.
        painting: What they do.
        request: What is asked for.
        weights: Here.
        journal: Of the output folder.
        conduct: How the batch is led.

    Raises:
        InfrastructureError: The cluster is gone, the actors die whatever they do, the weights do
            not fit into memory, or the disk is full.
        UsageError: The pipeline does not take this precision.
        PipelineError: The weights are wrong.
        NotComparableError: Another machine has other weights or sources.
    """
    data_set = DataSet(ray, crew, painting, conduct.note, conduct.stop)

    def paint(planned: Iterator[Plan]) -> Iterator[tuple[Plan, Iterator[Reply]]]:
        for plans in in_portions(planned):
            yield from _painted(data_set, plans)

    return lead_batch(request, weights, journal, conduct, painting.version, paint)


def _painted(data_set: DataSet, plans: list[Plan]) -> Iterator[tuple[Plan, Iterator[Reply]]]:
    numbers = [number for number, plan in enumerate(plans) if plan.work]
    placed = dict.fromkeys(numbers, 0)
    settled = (plan for plan in plans if not plan.work)
    works = [_absolute(plan.work) for plan in plans if plan.work]
    reached = 0
    for place, sent in in_sequences(data_set.work_through(works)):
        number = numbers[place]
        # What needs no painting is told where it stands among the others.
        for plan in islice(settled, max(0, number - place - reached)):
            reached += 1
            yield plan, iter(())
        yield plans[number], _replies(sent, placed, number)
    yield from ((plan, iter(())) for plan in settled)


def _replies(
    sent: Iterator[Made | Refused | End | CutOff], placed: dict[int, int], number: int
) -> Iterator[Reply]:
    """Replies to one work but those that were placed already."""
    for index, reply in enumerate(sent):
        match reply:
            case CutOff():
                raise LostError
            case End.GIVEN_UP:
                yield Refused(GIVEN_UP, bad_input=False)
            case End():
                pass
            case Made() if index < placed[number]:
                pass
            case _:
                placed[number] = index + 1
                yield reply


def _absolute(work: Work) -> Work:
    return replace(work, source=Path(os.path.abspath(work.source)))  # noqa: PTH100  links stay
