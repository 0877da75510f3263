"""What a run leaves for people: `loss.csv`, `validation.csv`, TensorBoard files, progress lines."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract import PipelineError
from pipelines.pictures import Note


class Table:
    """A CSV file whose first column is the step, appended to and synced line by line.

    Args:
        path: Of the file.
        columns: Its header.
        upto: Rows of later steps are cut off: the run continues from here.
    """

    def __init__(self, path: Path, columns: Sequence[str], upto: int) -> None:
        self._path, self._columns = path, columns
        kept = [row for row in self._rows() if int(row[0]) <= upto]
        temporary = path.with_name(f".{path.name}.part")
        try:
            with temporary.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([columns, *kept])
            temporary.replace(path)
        except OSError as error:
            raise self._unwritable(error) from error

    def add(self, rows: Sequence[Sequence[float | str]]) -> None:
        """Append rows; they stay after a kill."""
        try:
            with self._path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _rows(self) -> list[list[str]]:
        """Whole rows that are there; a torn last one is none."""
        if not self._path.is_file():
            return []
        text = self._path.read_text(errors="replace")  # what a crash left may be anything
        lines = text[: text.rfind("\n") + 1].splitlines()
        rows = [row for row in csv.reader(lines[1:]) if len(row) == len(self._columns)]
        return [row for row in rows if row[0].isdecimal()]

    def _unwritable(self, error: OSError) -> PipelineError:
        return PipelineError(f"{self._path}: cannot write ({error.strerror or error})")


class Board:
    """TensorBoard files, where the package is installed.

    Args:
        folder: Of the run; the files go to `tensorboard` in it.
        step: Where the run continues; what an earlier process logged beyond it is hidden.
        note: Told that the package is missing.
    """

    def __init__(self, folder: Path, step: int, note: Note) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is None:
            note("no TensorBoard files: the package tensorboard is not installed")
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log numbers by name."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """Log a picture, [H, W, 3]."""
        if self._writer is not None:
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is pending."""
        if self._writer is not None:
            self._writer.close()


class Progress:
    """One line an interval: step, values, speed, time left."""

    def __init__(self, step: int, steps: int, batch: int, note: Note) -> None:
        self._begun_step, self._steps, self._batch, self._note = step, steps, batch, note
        self._last = (time.monotonic(), step)
        self._begun_s = self._last[0]

    def tell(self, step: int, values: dict[str, str]) -> float:
        """Say the line; images a second since the last one.

        Args:
            step: Updates done.
            values: What is shown, by name, as it is shown.
        """
        now, before = time.monotonic(), self._last
        self._last = (now, step)
        rate = (step - before[1]) * self._batch / max(now - before[0], 1e-9)
        per_step = (now - self._begun_s) / max(step - self._begun_step, 1)
        left = time.strftime("%H:%M:%S", time.gmtime(per_step * (self._steps - step) % 86400))
        days = int(per_step * (self._steps - step) // 86400)
        eta = f"{days}d {left}" if days else left
        said = "  ".join(f"{name} {value}" for name, value in values.items())
        self._note(f"step {step}/{self._steps}  {said}  {rate:.1f} img/s  ETA {eta}")
        return rate
