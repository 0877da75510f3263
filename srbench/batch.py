"""Upscale a folder: resumable, and no bad picture stops the rest; who paints is told from outside.

The plan, the journal and the files are one process's, wherever the pictures are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipelines.contract import WeightsSource
from srbench.batch_results import Fate, Result
from srbench.errors import UsageError
from srbench.making import PICTURE_ERRORS, Made, Refused, Reply, Work, make_pictures, refused
from srbench.painting import Painter
from srbench.upscaling import Request
from srbench.upscaling_journal import Journal, Recipe, Standing, file_sha256


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a batch is led.

    Attributes:
        note: Told lines for the user.
        written: Told each picture that was written.
        stop: Asked after each picture whether to stop.
        overwrite: Make again what is there.
    """

    note: Callable[[str], None]
    written: Callable[[Path], None]
    stop: Callable[[], bool]
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """One input.

    Attributes:
        result: What became of it if nothing has to be made.
        work: What has to be made.
    """

    result: Result
    work: Work | None = None


class LostError(Exception):
    """Raised among replies: the rest of them comes later, in a sequence of its own."""


Painters = Callable[[Iterator[Plan]], Iterator[tuple[Plan, Iterator[Reply]]]]
"""Who paints: gives back every plan with the replies to its work, each sequence of them taken
before the next; a plan that was not begun when the user stopped does not come back."""


def upscale_batch(
    request: Request, weights: WeightsSource, journal: Journal, conduct: Conduct
) -> Generator[Result]:
    """Upscale files in their order in this process, yielding what became of each.

    Weights are read when the first picture needs them.

    Raises:
        UsageError: The pipeline does not take this precision.
        PipelineError: The weights are wrong.
        InfrastructureError: They do not fit, or the disk is full.
    """
    painter = Painter(request, weights, conduct.note)

    def paint(plans: Iterator[Plan]) -> Iterator[tuple[Plan, Iterator[Reply]]]:
        for plan in plans:
            yield plan, _until(conduct.stop, make_pictures(painter, plan.work) if plan.work else ())

    yield from lead_batch(request, weights, journal, conduct, painter.version, paint)


def lead_batch(
    request: Request,
    weights: WeightsSource,
    journal: Journal,
    conduct: Conduct,
    version: str,
    painters: Painters,
) -> Generator[Result]:
    """Plan what is missing, have it painted, and place it; yields results as they come.

    Args:
        request: What is asked for.
        weights: What the painters compute with.
        journal: Of the output folder.
        conduct: How it is led.
        version: Of the pipeline's semantics.
        painters: Who paints.

    Raises:
        InfrastructureError: The disk is full.
    """
    batch = _Batch(request, journal, conduct, _announce(request, weights, version, journal))
    plans = (batch.plan(source, outputs) for source, outputs in _open_until(request, conduct.stop))
    for plan, replies in painters(plans):
        result = batch.settle(plan, replies)
        if result is not None:
            yield result


def _open_until(
    request: Request, stop: Callable[[], bool]
) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    for source, outputs in request.files:
        if stop():
            return
        yield source, outputs


def _until(stop: Callable[[], bool], replies: Iterable[Reply]) -> Iterator[Reply]:
    for reply in replies:
        yield reply
        if stop():
            return


def _announce(request: Request, weights: WeightsSource, version: str, journal: Journal) -> str:
    facts = {
        "pipeline": request.pipeline,
        "version": version,
        "options": asdict(request.options),
        "weights": weights.digest,
        "scale": request.scale,
        "precision": str(request.precision),
    }
    return journal.begin(facts, {"device": request.device})


@dataclass(frozen=True, slots=True)
class _Batch:
    request: Request
    journal: Journal
    conduct: Conduct
    digest: str

    def plan(self, source: Path, outputs: tuple[Path, ...]) -> Plan:
        """Which pictures of an input are missing."""
        done = Result(source, Fate.WRITTEN, outputs)
        try:
            work = self._missing(source, outputs)
        except PICTURE_ERRORS as error:
            return Plan(self._failed(done, refused(source, error)))
        return Plan(done, work) if work.targets else Plan(replace(done, fate=Fate.SKIPPED))

    def _missing(self, source: Path, outputs: tuple[Path, ...]) -> Work:
        seeds = range(self.request.seed, self.request.seed + len(outputs))
        wanted = dict(zip(outputs, seeds, strict=True))
        content = None
        if not self.conduct.overwrite and any(self.journal.holds(output) for output in outputs):
            content = file_sha256(source)
            wanted = {o: seed for o, seed in wanted.items() if not self._stands(o, seed, content)}
        return Work(source, tuple(wanted), tuple(wanted.values()), content)

    def _stands(self, output: Path, seed: int, content: str) -> bool:
        standing = self.journal.standing(output, Recipe(self.digest, seed, content))
        if standing is Standing.FOREIGN:
            raise UsageError(
                f"{output}: changed since srbench wrote it; move it away, or --overwrite"
            )
        return standing is Standing.DONE

    def settle(self, plan: Plan, replies: Iterator[Reply]) -> Result | None:
        """Place the pictures of an input as they come; None where the rest comes later."""
        if plan.work is None:
            return plan.result
        done = plan.result
        left = list(zip(plan.work.targets, plan.work.seeds, strict=True))
        try:
            for reply in replies:
                done = replace(
                    done,
                    height=reply.height,
                    width=reply.width,
                    seconds=done.seconds + reply.seconds,
                )
                if isinstance(reply, Refused):
                    return self._failed(done, reply)
                done = self._place(done, *left.pop(0), reply)
        except LostError:
            return None
        return replace(done, fate=Fate.INTERRUPTED) if left else done

    def _place(self, done: Result, target: Path, seed: int, made: Made) -> Result:
        start = time.monotonic()
        recipe = Recipe(self.digest, seed, made.input_sha256)
        self.journal.place(target, made.content, done.source, recipe)
        self.conduct.written(target)
        seconds = done.seconds + time.monotonic() - start
        return replace(done, pixels=done.pixels + made.pixels, seconds=seconds)

    def _failed(self, done: Result, refusal: Refused) -> Result:
        self.journal.fail(done.source, refusal.reason)
        return replace(done, fate=Fate.FAILED, reason=refusal.reason, bad_input=refusal.bad_input)
