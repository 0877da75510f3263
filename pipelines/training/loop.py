"""The loop of a training: logs, states, pictures, and a stop that loses nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from pipelines.contract import PipelineError
from pipelines.pictures import Note, write_png
from pipelines.training.interruption import Interruption
from pipelines.training.records import Board, Progress, Table
from pipelines.training.states import State, load_state, run_folder, save_state

_NAMED = 6
"""Differing settings that are named before they are only counted."""
VALIDATION_COLUMNS = ("step", "what", "value")


@dataclass(frozen=True, slots=True)
class Look:
    """How good the networks are meanwhile.

    Attributes:
        values: Means over the validation pictures, by name.
        grid: uint8 [H, W, 3], or None.
    """

    values: dict[str, float] = field(default_factory=dict)
    grid: NDArray[np.uint8] | None = None


class Task(Protocol):
    """What is trained: networks, optimizers and data of one process.

    Attributes:
        columns: Names of the scalars of an update.
    """

    columns: tuple[str, ...]

    def begin(self, steps: range) -> None:
        """Get ready for these updates: called once, after a state was loaded."""

    def update(self, step: int) -> dict[str, torch.Tensor]:
        """Make one update of all optimizers.

        Args:
            step: Number of the update, from 0; everything random follows from it.

        Returns:
            Scalars without dimensions, by the names of `columns`, still on the device.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on: tensors and plain values."""

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""

    def batch_names(self, step: int) -> str:
        """What update `step` saw, in words, to find a sample that breaks a training."""

    def look(self, step: int) -> Look:
        """Validate after so many updates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long a training takes, and what it leaves.

    Attributes:
        out: Folder of states and logs.
        steps: Updates.
        identity: What decides the numbers, beside `steps`; plain values by name. A run is only
            continued with the same.
        images: In an update, over all processes.
        resume: Continue what is in `out`.
        save_every: Updates from state to state.
        log_every: Updates from line to line; losses are fetched from the device then.
        look_every: Updates from validation to validation; 0 is never.
    """

    out: Path
    steps: int
    identity: dict[str, Any]
    images: int
    resume: bool = True
    save_every: int = 500
    log_every: int = 50
    look_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "images", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise PipelineError(f"{name} {getattr(self, name)}: must be positive")
        if self.look_every < 0:
            raise PipelineError(f"look_every {self.look_every}: must not be negative")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: Updates done.
        signal: That stopped it, 0 for none.
    """

    step: int
    signal: int


def run(task: Task, plan: Plan, accelerator: Accelerator, note: Note) -> Outcome:
    """Train from the beginning, or from the last state in the folder.

    On the CPU a continued run equals an uninterrupted one, bit by bit, if both use as many threads.

    Raises:
        PipelineError: One line that names what is wrong; states written so far are left.
    """
    main = accelerator.is_main_process
    with run_folder(plan.out) if main else nullcontext():
        accelerator.wait_for_everyone()  # for the folder
        state = _find_state(plan, note)
        step = 0
        if state is not None:
            step = state.step
            task.load_state_dict(state.content)
        if step:
            note(f"{plan.out}: continued at step {step}")
        task.begin(range(step, plan.steps))
        journal = _Journal(plan, task.columns, step, note) if main else None
        try:
            with Interruption() as interruption:
                loop = _Loop(task, plan, accelerator, journal, interruption)
                step = loop.go(step)
        finally:
            if journal is not None:
                journal.board.close()
        return Outcome(step, interruption.signal if step < plan.steps else 0)


class _Loop:
    def __init__(
        self,
        task: Task,
        plan: Plan,
        accelerator: Accelerator,
        journal: _Journal | None,
        interruption: Interruption,
    ) -> None:
        self._task, self._plan, self._accelerator = task, plan, accelerator
        self._journal, self._interruption = journal, interruption
        self._kept: list[torch.Tensor] = []

    def go(self, step: int) -> int:
        """Make the updates from `step` on; how many there are at the end."""
        plan = self._plan
        while step < plan.steps:
            scalars = self._task.update(step)
            self._kept.append(torch.stack([scalars[name].float() for name in self._task.columns]))
            step += 1
            if self._pause(step):
                break
        return step

    def _pause(self, step: int) -> bool:
        """Log, save and validate where it is time; whether to stop."""
        plan, last = self._plan, step == self._plan.steps
        alone = self._accelerator.num_processes == 1
        stop = alone and self._interruption.signal != 0
        save = last or stop or step % plan.save_every == 0
        if save or step % plan.log_every == 0:
            # Several processes stop together, where they talk to each other anyway.
            stop = self._flush(step)
        if (save or stop) and self._journal is not None:
            save_state(plan.out, State(step, plan.identity, self._task.state_dict()))
        if not stop and plan.look_every and (step % plan.look_every == 0 or last):
            if self._journal is not None:
                self._journal.look(step, self._task.look(step))
            self._accelerator.wait_for_everyone()
        return stop

    def _flush(self, step: int) -> bool:
        """Write down the kept scalars; whether any process was asked to stop.

        Raises:
            PipelineError: One of them is no number any more.
        """
        asked = self._kept[0].new_full((1, len(self._task.columns)), self._interruption.signal != 0)
        exchanged = self._accelerator.reduce(torch.cat([torch.stack(self._kept), asked]), "mean")
        *rows, stops = exchanged.tolist()
        self._kept = []
        first = step - len(rows)
        if self._journal is not None:
            self._journal.log(first, rows)
        for number, row in enumerate(rows, first):
            if not all(map(math.isfinite, row)):
                raise PipelineError(
                    f"{self._plan.out}: update {number + 1} gave a loss that is no number "
                    f"({self._task.batch_names(number)}); the state before it is kept: look at "
                    "these samples, or begin anew with a lower learning rate"
                )
        return any(stops)


class _Journal:
    """What the main process writes for people."""

    def __init__(self, plan: Plan, columns: tuple[str, ...], step: int, note: Note) -> None:
        self._out, self._columns, self._note = plan.out, columns, note
        self._losses = Table(plan.out / "loss.csv", ("step", *columns), step)
        self._validation = Table(plan.out / "validation.csv", VALIDATION_COLUMNS, step)
        self.board = Board(plan.out, step, note)
        self._progress = Progress(step, plan.steps, plan.images, note)

    def log(self, first: int, rows: Sequence[Sequence[float]]) -> None:
        """Scalars of the updates from number `first` on."""
        self._losses.add([(first + i + 1, *row) for i, row in enumerate(rows)])
        step = first + len(rows)
        means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        values = dict(zip(self._columns, means, strict=True))
        speed = self._progress.tell(step, {name: f"{mean:.4g}" for name, mean in values.items()})
        values["img_per_s"] = speed
        self.board.scalars(step, {f"train/{name}": value for name, value in values.items()})

    def look(self, step: int, look: Look) -> None:
        """Numbers and pictures of a validation."""
        self._validation.add([(step, name, value) for name, value in look.values.items()])
        self.board.scalars(step, {f"validation/{k}": v for k, v in look.values.items()})
        if look.grid is not None:
            folder = self._out / "samples"
            folder.mkdir(exist_ok=True)
            write_png(folder / f"step-{step:08d}.png", look.grid)
            self.board.picture(step, "validation/samples", look.grid)
        said = ", ".join(f"{name} {value:.4f}" for name, value in look.values.items())
        self._note(f"step {step}  validation: {said}")


def _find_state(plan: Plan, note: Note) -> State | None:
    """The state to continue from.

    Raises:
        PipelineError: The folder holds a run that is not this one, or that is not to be continued.
    """
    state = load_state(plan.out, note)
    if state is None:
        return None
    if not plan.resume:
        raise PipelineError(
            f"{plan.out}: holds a run of {state.step} steps; continue it with --resume, or choose "
            "another folder"
        )
    changes = differences(state.identity, plan.identity)
    if changes:
        more = f"; and {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
        raise PipelineError(
            f"{plan.out}: begun with {'; '.join(changes[:_NAMED])}{more}; give the same, or choose "
            "another folder"
        )
    if state.step > plan.steps:
        raise PipelineError(
            f"{plan.out}: {state.step} steps are done already, --steps {plan.steps} is less"
        )
    return state


def differences(begun: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, as `loss.lpips 5.0, now 1.0`; tables are entered."""
    changes = []
    for name in dict.fromkeys([*begun, *now]):
        old, new = begun.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            changes.append(f"{prefix}{name} {old}, now {new}")
    return changes
