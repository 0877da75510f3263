"""What the arms of a run painted: the judged pictures, and what other processes painted instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from srbench.arm import Arm, Job
from srbench.cases import Case
from srbench.errors import InfrastructureError
from srbench.outcome import Failure, Outcome
from srbench.protocol import Alone, Repaint, Repainted, Solo
from srbench.records import CellRecord
from srbench.scratch import keep

Place = tuple[str, str]
"""Case and arm."""
Snapshot = tuple[dict[Place, set[str]], dict[Place, dict[str, str]]]
"""By place: hashes of timed images; hash -> file of pictures of other processes."""


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
            self._timed[place] |= {str(sample["output_sha256"]) for sample in cell.samples}

    def strange(self, place: Place, hashes: Iterable[str]) -> set[str]:
        """Those hashes of timed images that are neither the judged picture's nor kept already."""
        found = set(hashes)
        self._timed[place] |= found
        judged = self.alone.get(place)
        known = {judged.picture_sha256} if isinstance(judged, Alone) else set()
        return found - known - self._others[place].keys()

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
