"""A data set worked through by actors on Ray Data: in order, and each work to its end.

Ray Data hands the works out, holds back actors that are faster than the driver, and does again
what an actor was at when it died. What a lost machine has taken with it is done in a further round.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from srbench.errors import InfrastructureError
from srbench.executors.crew import Crew
from srbench.executors.hand import COLUMN, GIVEN_UP, Broken, Craft, End, Hand, Sent, Terms
from srbench.executors.ledger import Ledger
from srbench.executors.lookout import watched
from srbench.fingerprint import code_digest
from srbench.outcome import one_line

Reply = Any
Item = TypeVar("Item")

_DEATHS = 3
"""Works in a row that are given up before the whole batch is."""
_ROUNDS = 3
"""Rounds in a row that may bring nothing."""
PORTION = 10_000
"""Works that are handed out at a time, each of which costs Ray Data a millisecond at once."""

logger = logging.getLogger(__name__)


class CutOff:
    """Among replies to a work: the rest of them come again in another sequence."""


class DataSet:
    """Actors of one crew and what they have to do."""

    def __init__(
        self,
        ray: ModuleType,
        crew: Callable[[], Crew],
        craft: Craft,
        note: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Of a connected cluster.

        Args:
            ray: The module.
            crew: Chooses how many actors fit now.
            craft: What they do.
            note: Told lines for the user.
            stop: Asked several times a second whether to begin no more works.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._crew = crew
        self._terms = Terms(craft, Path.cwd(), code_digest())
        self._note = note
        self._stop = stop
        self._told: set[str] = set()
        self._deaths = 0
        self._numbers = 0
        here = ray.get_runtime_context().get_node_id()
        place = NodeAffinitySchedulingStrategy(here, soft=False)
        self._ledger = ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=place).remote()

    def work_through(self, works: Sequence[Any]) -> Iterator[tuple[int, Reply]]:
        """Replies to the works with their numbers, in their order but for what was lost.

        The last reply to a work is an `End`, or `CutOff` where all of its replies come again.
        When `stop` is asked for, works that were not begun get no reply at all.

        Raises:
            InfrastructureError: The cluster is gone, or the actors die whatever they do.
            SrbenchError: As the craft raises it.
            PipelineError: The same.
        """
        first = self._numbers
        self._numbers += len(works)
        left = dict(enumerate(works, start=first))
        barren = 0
        while left and not self._stop():
            before = len(left)
            for number, reply in self._round(left):
                if isinstance(reply, End):
                    left.pop(number, None)
                yield number - first, reply
            barren = barren + 1 if len(left) == before else 0
            if barren == _ROUNDS:
                raise InfrastructureError(
                    "--executor ray: no actor stays alive; the same command goes on"
                )

    def _round(self, left: dict[int, Any]) -> Iterator[tuple[int, Reply]]:
        """What comes of handing out all that is left; ends when all begun are done."""
        current: int | None = None
        ended: set[int] = set()
        try:
            with watched(self._ray, self._ledger, self._note, self._stop):
                for sent in self._sent(left):
                    self._heed(sent)
                    if current is not None and current != sent.work:
                        yield current, CutOff()
                    current = sent.work
                    if isinstance(sent.reply, End):
                        current = None
                        ended.add(sent.work)
                    if sent.reply is not End.NOT_BEGUN:
                        yield sent.work, sent.reply
                    if self._stop() and self._begun() & left.keys() <= ended:
                        return
        except self._ray.exceptions.RayError as error:
            raise InfrastructureError(
                f"--executor ray: {one_line(str(error), 300)}; the same command goes on"
            ) from error
        if current is not None:
            yield current, CutOff()

    def _begun(self) -> set[int]:
        """Works that have been begun, of which there are no more from now on."""
        begun: set[int] = self._ray.get(self._ledger.stop.remote())
        return begun

    def _sent(self, left: dict[int, Any]) -> Iterator[Sent]:
        """What the actors send, in the order of the works."""
        with _manners():
            blocks = _blocks(self._ray, self._crew(), self._terms, self._ledger, left)
            for bundle in blocks:
                for reference in bundle.block_refs:
                    try:
                        table = self._ray.get(reference)
                    except self._ray.exceptions.ObjectLostError:
                        continue  # with its machine; its work is done in another round
                    for item in table[COLUMN].to_pylist():
                        yield pickle.loads(item)

    def _heed(self, sent: Sent) -> None:
        """Tell what is to be told, and end where nothing can go on."""
        for line in sent.notes:
            if line not in self._told:
                self._told.add(line)
                self._note(line)
        for line in sent.warnings:
            logger.warning(line)
        match sent.reply:
            case Broken() as broken:
                if broken.trace:
                    logger.error(broken.trace)
                raise broken.error()
            case End.GIVEN_UP:
                self._deaths += 1
            case End.DONE:
                self._deaths = 0
        if self._deaths == _DEATHS:
            raise InfrastructureError(
                f"{_DEATHS} inputs in a row: {GIVEN_UP}; fewer --actors leave more memory to each"
            )


def in_portions(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Lists of at most `PORTION`, each made when the one before is done with."""
    while portion := list(islice(items, PORTION)):
        yield portion


def in_sequences(
    sent: Iterator[tuple[int, Reply]],
) -> Iterator[tuple[int, Iterator[Reply]]]:
    """Works with their replies up to the `End` or `CutOff`; those not taken are dropped."""
    for number, reply in sent:
        replies = _up_to_the_end(reply, sent)
        yield number, replies
        for _ in replies:
            pass


def _up_to_the_end(reply: Reply, sent: Iterator[tuple[int, Reply]]) -> Iterator[Reply]:
    yield reply
    if isinstance(reply, End | CutOff):
        return
    for _, later in sent:
        yield later
        if isinstance(later, End | CutOff):
            return


def _blocks(
    ray: ModuleType, crew: Crew, terms: Terms, ledger: Any, left: dict[int, Any]
) -> Iterator[Any]:
    """Bundles of references to what comes out of Ray Data."""
    import ray.data as ray_data

    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # A reply leaves the actor when it is there, not when there are many.
    context.target_max_block_size = 1
    context.max_errored_blocks = -1
    items = [{COLUMN: pickle.dumps(work)} for work in left.items()]
    data_set = ray_data.from_items(items, override_num_blocks=len(items)).map_batches(
        Hand,
        fn_constructor_args=(terms, ledger),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray_data.ActorPoolStrategy(size=min(crew.actors, len(items))),
        num_cpus=crew.cpus,
        num_gpus=crew.gpus or None,
    )
    found: Iterator[Any] = data_set.iter_internal_ref_bundles()
    return found


@contextmanager
def _manners() -> Iterator[None]:
    """Ray Data's own reports and warnings are not the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray.data  # noqa: F401  sets the levels of its loggers

        # For good: what is interrupted is still ended, and reported, when this is left.
        for name in ("ray.data", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
