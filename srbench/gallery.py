"""What the arms of a run painted: the judged pictures, and what other processes painted instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srbench.arm import Arm, Job
from srbench.cases import Case
from srbench.errors import InfrastructureError
from srbench.outcome import Failure, Outcome
from srbench.protocol import Alone, Repaint, Repainted, Solo
from srbench.records import CellRecord
from srbench.samples import values_of
from srbench.scratch import keep

if TYPE_CHECKING:
    from numpy.typing import NDArray

Place = tuple[str, str]
"""Case and arm."""
Snapshot = tuple[dict[Place, set[str]], dict[Place, dict[str, str]]]
"""By place: hashes of timed images; hash -> file of pictures of other processes."""

_FILES = ("picture", "picture_float", "eps", "repeat", "other_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Painting:
    """What one arm made of one case, with the contents of its files: to be hung elsewhere.

    Attributes:
        place: Case and arm.
        alone: Its solo phase, where that was here.
        others: Hash -> file of pictures of other processes.
        arrays: Name of a file -> its array.
    """

    place: Place
    alone: Alone | Failure | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def hashes(self) -> frozenset[str]:
        """Of the pictures in it, as those of timed images are taken."""
        judged = {self.alone.picture_sha256} if isinstance(self.alone, Alone) else set()
        return frozenset(judged | self.others.keys())


class Gallery:
    """Pictures by case and arm.

    The judged picture is the solo phase's, of one process. Timed images are known by their hashes;
    where a process paints something else, it is asked for that picture while it lives.

    Attributes:
        alone: (case, arm) -> its solo phase.
        inputs: Case -> `.npy` file of its image.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        """Lay the inputs out in a folder; nothing is painted yet.

        Raises:
            InfrastructureError: No room for them.
        """
        self.alone: dict[Place, Alone | Failure] = {}
        self.inputs: dict[str, str] = {}
        self._job = job
        self._folder = folder
        self._timed: defaultdict[Place, set[str]] = defaultdict(set)
        self._others: defaultdict[Place, dict[str, str]] = defaultdict(dict)
        self._elsewhere: dict[Place, frozenset[str]] = {}
        try:
            for number, (case, image) in enumerate(job.inputs.items()):
                self.inputs[case] = keep(image.pixels, str(folder / "input"), str(number))
        except OSError as error:
            raise InfrastructureError(f"{folder}: cannot write ({error.strerror})") from error

    def solo(self, arm: Arm, case: str) -> Alone | Failure:
        """Have an arm measured alone and its judged picture made."""
        # What a single picture does not tell is asked of runs, which are judged by it.
        thorough = not self._job.ladder
        varied = thorough and arm.name == self._job.plan.arms[0]
        return arm.ask(
            Alone,
            Solo(
                image=self.inputs[case],
                scale=Case.parse(case).scale,
                seed=self._job.noise_seed,
                outputs=self._outputs(arm, case, "alone"),
                other_seed=self._job.noise_seed + 1 if varied else None,
                thorough=thorough,
            ),
        )

    def recall(self, cells: Iterable[CellRecord]) -> None:
        """Take over what an earlier session timed; its pictures are gone."""
        for cell in cells:
            place = cell.case, cell.pipeline
            self._timed[place] |= set(map(str, values_of(cell.samples, "output_sha256")))

    def strange(self, place: Place, hashes: Iterable[str]) -> set[str]:
        """Those hashes of timed images that are neither the judged picture's nor kept already."""
        found = set(hashes)
        self._timed[place] |= found
        judged = self.alone.get(place)
        known = {judged.picture_sha256} if isinstance(judged, Alone) else set()
        return found - known - self._others[place].keys() - self._elsewhere.get(place, frozenset())

    def knows(self, place: Place) -> bool:
        """Whether the solo phase of a place was, here or elsewhere, so that others may differ."""
        return place in self.alone or place in self._elsewhere

    def told(self, elsewhere: Mapping[Place, Collection[str]]) -> None:
        """Take note of pictures, by hash, that are kept on other machines."""
        self._elsewhere = {place: frozenset(hashes) for place, hashes in elsewhere.items()}

    def packed(self) -> Iterator[Painting]:
        """All that is kept here, a place at a time."""
        import numpy as np

        for place in dict.fromkeys([*self.alone, *self._others]):
            alone, others = self.alone.get(place), dict(self._others[place])
            files = [*others.values()]
            if isinstance(alone, Alone):
                files += filter(None, (getattr(alone, name) for name in _FILES))
            arrays = {Path(file).name: np.load(file, allow_pickle=False) for file in files}
            if alone is not None or others:
                yield Painting(place=place, alone=alone, others=others, arrays=arrays)

    def hang(self, painting: Painting) -> None:
        """Keep what was packed on another machine as if it had been painted here.

        Raises:
            InfrastructureError: No room for it.
        """
        alone = painting.alone
        try:
            here = {
                name: keep(array, str(self._folder / "hung"), name.removesuffix(".npy"))
                for name, array in painting.arrays.items()
            }
        except OSError as error:
            raise InfrastructureError(f"{self._folder}: cannot write ({error.strerror})") from error
        if isinstance(alone, Alone):
            files: dict[str, Any] = {name: getattr(alone, name) for name in _FILES}
            moved: dict[str, Any] = {
                name: here[Path(file).name] for name, file in files.items() if file
            }
            alone = replace(alone, **moved)
        if alone is not None:
            self.alone[painting.place] = alone
        others = {digest: here[Path(file).name] for digest, file in painting.others.items()}
        self._others[painting.place] |= others

    def paint_again(self, arm: Arm, case: str, block: int) -> None:
        """Have a process paint what it has timed, and keep that picture."""
        reply = arm.ask(
            Repainted,
            Repaint(
                image=self.inputs[case],
                scale=Case.parse(case).scale,
                seed=self._job.noise_seed,
                outputs=self._outputs(arm, case, str(block)),
            ),
        )
        if isinstance(reply, Repainted):
            self._others[case, arm.name][reply.picture_sha256] = reply.picture

    def others(self, place: Place) -> list[str] | Failure:
        """Files of pictures of other processes that are not the judged one.

        Of an arm that paints one picture a process: all that were timed, or a failure where one of
        them is not kept. Of an arm that varies within a process, or was not asked: a sample.
        """
        judged = self.alone[place]
        if isinstance(judged, Failure):
            return []
        kept = self._others[place]
        if judged.distinct_pictures != 1:
            return [file for digest, file in kept.items() if digest != judged.picture_sha256]
        unjudged = self._timed[place] - {judged.picture_sha256}
        if gone := unjudged - kept.keys():
            return Failure(
                Outcome.UNSUPPORTED,
                f"{len(gone)} of its pictures went with the processes that painted them",
            )
        return [kept[digest] for digest in sorted(unjudged)]

    def snapshot(self) -> Snapshot:
        """What is known now, for `restore` after a block that does not count."""
        return {p: set(h) for p, h in self._timed.items()}, {
            p: dict(k) for p, k in self._others.items()
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Forget what was painted since."""
        self._timed = defaultdict(set, snapshot[0])
        self._others = defaultdict(dict, snapshot[1])

    def _outputs(self, arm: Arm, case: str, what: str) -> str:
        """Prefix of the files of an arm's pictures; names of arms may hold anything."""
        plan = self._job.plan
        number = f"{plan.cases.index(case)}-{plan.arms.index(arm.name)}"
        return str(self._folder / f"output-{number}-{what}")
