"""When something is logged, validated and drawn; the device is asked for numbers only then."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator

from pipelines.contract import PipelineError
from pipelines.pictures import Note, write_png
from pipelines.srdiff.pairs import open_pairs
from pipelines.srdiff.training.data import Picture, validation_pictures
from pipelines.srdiff.training.objective import Objective
from pipelines.srdiff.training.settings import Settings
from pipelines.srdiff.training.validation import measure_quality, validation_loss
from pipelines.training.averaging import Average
from pipelines.training.records import Board, Progress, Table

LOSS_COLUMNS = ("step", "loss", "lr", "grad_norm")
VALIDATION_COLUMNS = ("step", "what", "pictures", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How often a run is looked at, in updates; 0 is never.

    Attributes:
        log_every: Lines of progress; losses are fetched from the device then.
        validate_every: The loss on all validation pictures.
        sample_every: Pictures are super-resolved, measured and drawn.
        samples: How many.
    """

    log_every: int = 100
    validate_every: int = 0
    sample_every: int = 0
    samples: int = 4

    def __post_init__(self) -> None:
        if self.log_every < 1 or min(self.validate_every, self.sample_every, self.samples) < 0:
            raise PipelineError("--log-every must be positive, the others not negative")


class Reporter:
    """Logs of one run; in all processes but the main one it only takes part in the exchange.

    Args:
        out: Folder of the run.
        data: Where the validation pictures are found.
        settings: Of the run.
        watched: How often.
        step: Where the run continues.
        note: Told the lines of progress.
        main: Whether this is the main process.

    Attributes:
        steps: Of the whole run.
    """

    def __init__(
        self,
        out: Path,
        data: Path,
        settings: Settings,
        watched: Watched,
        step: int,
        note: Note,
        *,
        main: bool,
    ) -> None:
        self.steps = settings.steps
        self._out, self._settings, self._watched, self._main = out, settings, watched, main
        self._note = note
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._pictures: list[Picture] = []
        if main:
            self._loss_table = Table(out / "loss.csv", LOSS_COLUMNS, step)
            self._validation = Table(out / "validation.csv", VALIDATION_COLUMNS, step)
            self._board = Board(out, step, note)
            self._progress = Progress(step, self.steps, settings.batch, note)
            if watched.validate_every or watched.sample_every:
                self._pictures = _read_pictures(data, settings, note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._main:
            self._board.close()

    def keep(self, loss: torch.Tensor, norm: torch.Tensor | None) -> None:
        """Take in an update's loss and norm without waiting for the device."""
        self._losses.append(loss)
        self._norms.append(torch.zeros_like(loss) if norm is None else norm.float())

    def flush(self, accelerator: Accelerator, step: int, stop: bool) -> bool:
        """Write down what was kept, the last of it of update `step`.

        Args:
            accelerator: Of the process.
            step: Updates done.
            stop: Whether this process was asked to stop.

        Returns:
            Whether any process was.

        Raises:
            PipelineError: The loss is no number any more.
        """
        asked = self._losses[0].new_tensor([float(stop)])
        exchanged = accelerator.reduce(torch.cat([torch.stack(self._losses), asked]), "mean")
        *losses, stops = exchanged.tolist()
        norms = torch.stack(self._norms).tolist()
        self._losses, self._norms = [], []
        first = step - len(losses)
        rates = [self._settings.lr_at(first + offset) for offset in range(len(losses))]
        if self._main:
            rows = [
                (first + offset + 1, loss, rate, norm)
                for offset, (loss, rate, norm) in enumerate(zip(losses, rates, norms, strict=True))
            ]
            self._loss_table.add(rows)
            mean = math.fsum(losses) / len(losses)
            shown = {"loss": f"{mean:.4f}", "lr": f"{rates[-1]:.2e}", "grad": f"{norms[-1]:.3f}"}
            speed = self._progress.tell(step, shown)
            values = {"loss": mean, "lr": rates[-1], "grad_norm": norms[-1], "img_per_s": speed}
            self._board.scalars(step, {f"train/{name}": v for name, v in values.items()})
        if not all(map(math.isfinite, losses)):
            raise PipelineError(
                f"{self._out}: the loss is no number any more before step {step}; the states "
                "before are kept: try a lower --lr or --clip, or --precision bf16, elsewhere"
            )
        return bool(stops)

    def look(
        self, objective: Objective, average: Average | None, step: int, accelerator: Accelerator
    ) -> None:
        """Validate and draw where it is time, with the averaged weights where there are any."""
        validate = _is_due(step, self._watched.validate_every)
        draw = _is_due(step, self._watched.sample_every)
        if not (validate or draw):
            return
        if self._pictures:
            if average is None:
                self._look(objective, step, accelerator.device, validate=validate, draw=draw)
            else:
                with average.applied():
                    self._look(objective, step, accelerator.device, validate=validate, draw=draw)
        accelerator.wait_for_everyone()

    def _look(
        self, objective: Objective, step: int, device: torch.device, *, validate: bool, draw: bool
    ) -> None:
        values: dict[str, tuple[int, float]] = {}
        seed = self._settings.seed
        if validate:
            loss = validation_loss(objective, self._pictures, seed, device)
            values["loss"] = (len(self._pictures), loss)
        if draw and (drawn := self._pictures[: self._watched.samples]):
            quality = measure_quality(objective, self._settings.architecture, drawn, seed, device)
            values["psnr"] = (len(drawn), quality.psnr)
            values["lr_psnr"] = (len(drawn), quality.lr_psnr)
            folder = self._out / "samples"
            folder.mkdir(exist_ok=True)
            write_png(folder / f"step-{step:08d}.png", quality.grid)
            self._board.picture(step, "validation/samples", quality.grid)
        self._validation.add([(step, name, n, value) for name, (n, value) in values.items()])
        self._board.scalars(step, {f"validation/{k}": v for k, (_, v) in values.items()})
        said = ", ".join(f"{name} {value:.4f}" for name, (_, value) in values.items())
        self._note(f"step {step}  validation: {said}")


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _read_pictures(data: Path, settings: Settings, note: Note) -> list[Picture]:
    try:
        pairs = open_pairs(data, "val", settings.architecture.scale, note)
    except PipelineError as error:
        raise PipelineError(f"{error}; or --validate-every 0 --sample-every 0") from error
    return validation_pictures(pairs, settings.divisor, note)
