"""What became of the inputs of a batch, and how a command ends that upscaled them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from srbench.errors import InfrastructureError, SrbenchError, UsageError


class Fate(StrEnum):
    """What became of an input."""

    WRITTEN = "written"
    SKIPPED = "skipped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Result:
    """One input and its pictures.

    Attributes:
        source: The input.
        fate: `skipped` where an earlier run made all of its pictures, `interrupted` where some
            samples are missing because the user stopped.
        outputs: Its pictures, whether or not they are there.
        seconds: From its file to theirs.
        width: Of the input, None where it was not read.
        height: Of the input.
        reason: Why it failed, in one line.
        bad_input: It failed because of what the user gave, not for want of memory.
        pixels: Of the pictures that were written.
    """

    source: Path
    fate: Fate
    outputs: tuple[Path, ...]
    seconds: float = 0.0
    width: int | None = None
    height: int | None = None
    reason: str = ""
    bad_input: bool = False
    pixels: int = 0

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "file": str(self.source),
            "outcome": str(self.fate),
            "outputs": [str(path) for path in self.outputs],
            "seconds": self.seconds,
            "reason": self.reason or None,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """A batch that has ended, or was stopped.

    Attributes:
        results: In the order of the inputs.
        left: Inputs that were not reached.
        others: Files in the input folder that are no images.
        seconds: Of all.
        actors: That worked on a Ray cluster; None where this process did.
    """

    results: tuple[Result, ...]
    left: int
    others: int
    seconds: float
    actors: int | None = None

    def count(self, fate: Fate) -> int:
        """Inputs of one fate."""
        return sum(result.fate is fate for result in self.results)

    @property
    def pictures_per_s(self) -> float:
        """Inputs whose pictures were written, over the time of all."""
        return self.count(Fate.WRITTEN) / self.seconds if self.seconds else 0.0

    @property
    def megapixels_per_s(self) -> float:
        """Of written pictures, millions."""
        pixels = sum(result.pixels for result in self.results)
        return pixels / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def failures(self) -> list[Result]:
        """Inputs without pictures."""
        return [result for result in self.results if result.fate is Fate.FAILED]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "images": [result.to_json() for result in self.results],
            **{str(fate): self.count(fate) for fate in Fate},
            "left": self.left,
            "other_files": self.others,
            "seconds": self.seconds,
            "pictures_per_s": self.pictures_per_s,
            "megapixels_per_s": self.megapixels_per_s,
            "actors": self.actors,
        }

    def error(self) -> SrbenchError | None:
        """What the command ends with if it was not interrupted: exit 2 where no input is usable."""
        failures = self.failures
        if not failures:
            return None
        first = failures[0]
        if len(self.results) == 1:
            kind = UsageError if first.bad_input else InfrastructureError
            return kind(f"{first.source}: {first.reason}")
        if len(failures) == len(self.results) and all(f.bad_input for f in failures):
            return UsageError(
                f"none of {len(failures)} inputs can be upscaled; {first.source}: {first.reason}"
            )
        return InfrastructureError(
            f"{len(failures)} of {len(self.results)} inputs failed; {first.source}: {first.reason}"
        )
