"""Upscale a folder: one picture after another, resumable, and no bad one stops the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.contract import PipelineError, WeightsSource
from srbench.batch_results import Fate, Result
from srbench.errors import UsageError
from srbench.images import encode_image, image_profile
from srbench.painting import Painter, PictureTooLargeError
from srbench.upscaling import Request, read_input
from srbench.upscaling_journal import Journal, Recipe, Standing, file_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


_PICTURE_ERRORS = (UsageError, PipelineError, PictureTooLargeError)
"""Of one picture; all others end the batch."""


def upscale_batch(
    request: Request, weights: WeightsSource, journal: Journal, conduct: Conduct
) -> Iterator[Result]:
    """Upscale files in their order, yielding what became of each.

    Weights are read when the first picture needs them.

    Raises:
        UsageError: The pipeline does not take this precision.
        PipelineError: The weights are wrong.
        InfrastructureError: They do not fit, or the disk is full.
    """
    painter = Painter(request, weights, conduct.note)
    batch = _Batch(
        request, painter, journal, conduct, _announce(request, weights, painter, journal)
    )
    for source, outputs in request.files:
        if conduct.stop():
            return
        start = time.monotonic()
        result = batch.upscale(source, outputs)
        yield replace(result, seconds=time.monotonic() - start)


def _announce(request: Request, weights: WeightsSource, painter: Painter, journal: Journal) -> str:
    facts = {
        "pipeline": request.pipeline,
        "version": painter.version,
        "options": asdict(request.options),
        "weights": weights.digest,
        "scale": request.scale,
        "precision": str(request.precision),
    }
    return journal.begin(facts, {"device": request.device})


@dataclass(frozen=True, slots=True)
class _Batch:
    request: Request
    painter: Painter
    journal: Journal
    conduct: Conduct
    digest: str

    def upscale(self, source: Path, outputs: tuple[Path, ...]) -> Result:
        """Make the pictures of one input that are not there."""
        done = Result(source, Fate.WRITTEN, outputs)
        try:
            recipes = self._missing(source, outputs)
            if not recipes:
                return replace(done, fate=Fate.SKIPPED)
            image = read_input(source)
            profile = image_profile(source, outputs[0])
        except _PICTURE_ERRORS as error:
            return self._failed(done, error)
        self.painter.load()
        done = replace(done, height=image.shape[0], width=image.shape[1])
        try:
            finished = self._paint(source, image, profile, recipes)
        except _PICTURE_ERRORS as error:
            done = self._failed(done, error)
        else:
            return done if finished else replace(done, fate=Fate.INTERRUPTED)
        self.painter.recover()  # here, where the error holds on to nothing any more
        return done

    def _missing(self, source: Path, outputs: tuple[Path, ...]) -> dict[Path, Recipe]:
        """Pictures that have to be made, with their recipes."""
        content = file_sha256(source)
        recipes = {
            output: Recipe(self.digest, seed, content)
            for seed, output in enumerate(outputs, start=self.request.seed)
        }
        if self.conduct.overwrite:
            return recipes
        return {o: recipe for o, recipe in recipes.items() if not self._stands(o, recipe)}

    def _stands(self, output: Path, recipe: Recipe) -> bool:
        standing = self.journal.standing(output, recipe)
        if standing is Standing.FOREIGN:
            raise UsageError(
                f"{output}: changed since srbench wrote it; move it away, or --overwrite"
            )
        return standing is Standing.DONE

    def _paint(
        self,
        source: Path,
        image: NDArray[np.uint8],
        profile: bytes | None,
        recipes: dict[Path, Recipe],
    ) -> bool:
        """Make and write pictures; False where the user stopped before the last."""
        seeds = [recipe.seed for recipe in recipes.values()]
        left = len(recipes)
        pictures = self.painter.paint(source, image, seeds)
        for (output, recipe), picture in zip(recipes.items(), pictures, strict=True):
            content = encode_image(output, picture, profile)
            self.journal.place(output, content, source, recipe)
            self.conduct.written(output)
            left -= 1
            if left and self.conduct.stop():
                return False
        return True

    def _failed(self, result: Result, error: Exception) -> Result:
        reason = " ".join(str(error).removeprefix(f"{result.source}: ").split())
        self.journal.fail(result.source, reason)
        bad = not isinstance(error, PictureTooLargeError)
        return replace(result, fate=Fate.FAILED, reason=reason, bad_input=bad)
