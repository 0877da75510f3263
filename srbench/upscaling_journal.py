"""What `srbench upscale` made in a folder, and of what: so that it can go on, and harms nothing.

A line is on the disk before the picture it tells of gets its name. A kill between the two leaves
a picture that is missing or an older one, never one that nobody knows.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Self

from srbench.durable import sync_folder
from srbench.errors import InfrastructureError, UsageError
from srbench.images import place_file
from srbench.line_file import LineFile

NAME = ".srbench-upscale.jsonl"
SCHEMA_VERSION = 1
_KIND = "upscale"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a picture is made of; equal recipes make equal pictures.

    Attributes:
        request: Digest of pipeline, options, weights, scale and precision.
        seed: Of the noise.
        input_sha256: Of the input file.
    """

    request: str
    seed: int
    input_sha256: str


class Standing(Enum):
    """How a file stands to the picture that is wanted in its place."""

    MISSING = auto()
    DONE = auto()
    OUTDATED = auto()
    """Made here, of another recipe."""
    FOREIGN = auto()
    """Not what srbench wrote here."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


class Journal:
    """The journal of an output folder, locked while open: one process writes there at a time."""

    def __init__(self, folder: Path, file: LineFile) -> None:
        """Use `open`."""
        self._folder = folder
        self._file = file
        self._known: dict[str, dict[str, set[Recipe]]] = {}
        head = file.lines[0] if file.lines else None
        if head is None:
            head = {
                "kind": _KIND,
                "schema_version": SCHEMA_VERSION,
                "id": secrets.token_hex(4),
            }
            file.append(head)
            sync_folder(folder)
        self._part = f".srbench-upscale-{_identity(file, head)}.part"
        for number, line in enumerate(file.lines[1:], start=2):
            try:
                self._learn(line)
            except (TypeError, KeyError, AttributeError) as error:
                raise file.damaged(number) from error

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Self]:
        """Begin the journal of a folder, or go on with it; a torn last line is cut off.

        Raises:
            UsageError: Another process is at it, it is damaged, or it cannot be written.
        """
        busy = (
            f"{folder}: another srbench upscale is writing into it; wait for it or name another "
            "output"
        )
        remedy = "remove this file and name another output, or --overwrite what is there"
        with LineFile.open(folder / NAME, kind=_KIND, busy=busy, remedy=remedy) as file:
            yield cls(folder, file)

    def refuse_unknown(self, targets: Iterable[Path]) -> None:
        """Make sure that no file would be replaced that is not of this journal.

        Raises:
            UsageError: Such files are there.
        """
        unknown = [t for t in targets if self._key(t) not in self._known and os.path.lexists(t)]
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise UsageError(
                f"{unknown[0]}{more}: there already and not made by srbench upscale here; name "
                "another output, or --overwrite"
            )

    def begin(self, facts: dict[str, Any], place: dict[str, Any]) -> str:
        """Note what is asked for; returns the digest for `Recipe.request`.

        Args:
            facts: What decides the pictures.
            place: What does not: where they are computed.
        """
        text = json.dumps(facts, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._file.append({"kind": "request", "request": digest, **json.loads(text), **place})
        return digest

    def standing(self, target: Path, recipe: Recipe) -> Standing:
        """Compare a file with what the journal tells of it.

        Raises:
            UsageError: The file is there and cannot be read.
        """
        if not os.path.lexists(target):
            return Standing.MISSING
        recipes = self._recipes(target, file_sha256(target))
        if not recipes:
            return Standing.FOREIGN
        return Standing.DONE if recipe in recipes else Standing.OUTDATED

    def holds(self, target: Path) -> bool:
        """Whether a file has the name of a picture."""
        return os.path.lexists(target)

    def place(self, target: Path, content: bytes, source: Path, recipe: Recipe) -> None:
        """Write a picture: first its line, then the file, each whole or not at all.

        Raises:
            InfrastructureError: The disk is full or gone.
        """
        digest = hashlib.sha256(content).hexdigest()
        line = {
            "kind": "picture",
            "file": self._key(target),
            "sha256": digest,
            "source": str(source),
            "request": recipe.request,
            "seed": recipe.seed,
            "input_sha256": recipe.input_sha256,
        }
        if recipe not in self._recipes(target, digest):  # a kill may have left its line
            self._file.append(line)
            self._learn(line)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            place_file(target, content, target.with_name(self._part))
        except OSError as error:
            raise InfrastructureError(f"{target}: cannot write ({error.strerror})") from error

    def fail(self, source: Path, reason: str) -> None:
        """Note why there is no picture of an input; the next run tries again."""
        self._file.append({"kind": "failure", "source": str(source), "reason": reason})

    def _recipes(self, target: Path, digest: str) -> set[Recipe]:
        """Of what a file with this content was made here; empty where it was not."""
        return self._known.get(self._key(target), {}).get(digest, set())

    def _key(self, target: Path) -> str:
        return target.relative_to(self._folder).as_posix()

    def _learn(self, line: dict[str, Any]) -> None:
        if line["kind"] != "picture":
            return
        recipe = Recipe(line["request"], line["seed"], line["input_sha256"])
        self._known.setdefault(line["file"], {}).setdefault(line["sha256"], set()).add(recipe)


def _identity(file: LineFile, head: Any) -> str:
    if not isinstance(head, dict) or head.get("kind") != _KIND:
        raise file.damaged(1)
    version, identity = head.get("schema_version"), head.get("id")
    if not isinstance(version, int) or not isinstance(identity, str) or not identity.isalnum():
        raise file.damaged(1)
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{file.path}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest "
            "that this srbench reads; upgrade srbench"
        )
    return identity
