"""The state that a run continues from: one file an interval, whole or not there at all."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.contract import PipelineError
from pipelines.pictures import Note
from pipelines.torch_files import UNREADABLE

KEPT = 2
"""States that are left: the last one, and the one before it."""
_NAME = re.compile(r"state-(\d+)\.pt")


@dataclass(frozen=True, slots=True)
class State:
    """A run between two updates.

    Attributes:
        step: Updates done.
        identity: What decides the numbers of the run: settings and fingerprints of what it reads;
            plain values, which a continued run must share.
        content: State dicts of networks and optimizers.
    """

    step: int
    identity: dict[str, Any]
    content: dict[str, Any]


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it; the lock goes with its process.

    Raises:
        PipelineError: Another run is writing into it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+b")
    except OSError as error:
        raise PipelineError(f"{folder}: cannot write ({error.strerror or error})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PipelineError(
                f"{folder}: another training is writing into it; wait for it, or choose another "
                "folder"
            ) from error
        for left in folder.glob(".state-*.part"):
            left.unlink()
        yield


def save_state(folder: Path, state: State) -> None:
    """Write a state and drop the old ones. After a kill at any moment a whole one is there.

    Raises:
        PipelineError: It cannot be written; earlier states are left.
    """
    path = folder / f"state-{state.step:08d}.pt"
    temporary = folder / f".{path.name}.part"
    document = {"step": state.step, "identity": state.identity, "content": state.content}
    try:
        with temporary.open("wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(folder)
        for old in _states(folder)[KEPT:]:
            old.unlink()
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise PipelineError(
            f"{path}: the state cannot be written ({why_unwritten(error)}); those before are left"
        ) from error


def why_unwritten(error: BaseException) -> str:
    """What the system says of a failed write; torch's own error hides it in its context."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return str(error).split("\n", 1)[0]


def load_state(folder: Path, note: Note) -> State | None:
    """The last state of a folder, None where there is none.

    Args:
        folder: Of the run.
        note: Told of a state that a disk has damaged; the one before it is taken.

    Raises:
        PipelineError: There are states, but all are damaged.
    """
    paths = _states(folder)
    for path in paths:
        try:
            document = torch.load(path, map_location="cpu", weights_only=True)
            return State(document["step"], document["identity"], document["content"])
        except UNREADABLE as error:
            note(f"warning: {path}: damaged ({type(error).__name__}); the state before it is taken")
    if paths:
        raise PipelineError(f"{folder}: its states are damaged; choose another folder")
    return None


def _states(folder: Path) -> list[Path]:
    """Files of states, the newest first."""
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
