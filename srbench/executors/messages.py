"""What the driver of a run and the machines of a cluster tell each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from srbench.errors import NotComparableError
from srbench.gallery import Place
from srbench.preparation import Preparation
from srbench.records import CellRecord, Record, RunRecord

Prepare = Callable[[Callable[[str], None]], Preparation]
"""Makes a run ready on the machine where it is called; given what to tell a person by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What every task of a run is told.

    Attributes:
        prepare: Makes the run ready on the machine.
        argv: The command line.
        terms: Of the looks at a sequential run.
        folder: Where the command was given; tasks work there where the machine has it.
        threads: `OMP_NUM_THREADS` of the command: what Ray sets instead is not what a run at home
            would have.
        head: Of a run that was begun; None where the first task is to make it.
    """

    prepare: Prepare
    argv: Sequence[str]
    terms: Mapping[str, str]
    folder: str
    threads: str | None
    head: RunRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOrder(Order):
    """A block to be measured.

    Attributes:
        index: Of it.
        attempt: Number of the first attempt, from 1.
        elsewhere: Place -> hashes of pictures that are kept already.
    """

    index: int
    attempt: int = 1
    elsewhere: Mapping[Place, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOrder(Order):
    """The pictures of a run to be judged.

    Attributes:
        cells: Of the finished blocks.
        done: Case, arm and reference of what is judged already.
    """

    cells: Sequence[CellRecord]
    done: frozenset[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Started:
    """A task runs: the machine's card and all of its cores are its own."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person at the terminal should read."""

    text: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Records for the run's file."""

    records: Sequence[Record]


@dataclass(frozen=True, slots=True)
class Kept:
    """The next object of the stream is a `Painting`, to be passed on and not looked at.

    Attributes:
        place: Of it.
        hashes: Of its pictures.
    """

    place: Place
    hashes: frozenset[str]


class RefusedError(NotComparableError):
    """This machine may not go on with the run; another one may."""
