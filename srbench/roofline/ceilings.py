"""What the libraries of a machine really reach: `results/<profile>/ceilings.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from srbench.documents import DocumentKind, read_document, write_document
from srbench.shape import misfit

_KIND = DocumentKind(
    "ceilings", "record of ceilings", 1, "measure again: srbench roofline --measure"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """One operation, timed alone.

    Attributes:
        name: Unique.
        kind: `linear`, `int8_linear`, `conv`, `attention`, `copy`, `norm` or `fold`.
        shape: What was computed, in words.
        flops: Of one call.
        bytes: Of one call: inputs read, outputs written.
        times_ms: One repetition each, an average over the calls in it; empty when not measured.
        reason: Why it was not measured.
    """

    name: str
    kind: str
    shape: str
    flops: int
    bytes: int
    times_ms: list[float] = field(default_factory=list)
    reason: str | None = None

    @property
    def seconds(self) -> float | None:
        """Median of the repetitions."""
        return median(self.times_ms) / 1e3 if self.times_ms else None

    @property
    def flops_per_s(self) -> float | None:
        """Arithmetic rate; None where nothing was multiplied or measured."""
        return self.flops / self.seconds if self.seconds and self.flops else None

    @property
    def bytes_per_s(self) -> float | None:
        """Traffic rate."""
        return self.bytes / self.seconds if self.seconds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingsFile:
    """All of one machine.

    Attributes:
        profile: `cpu`, `h100`, …
        device: `cpu` or `cuda`.
        precision: `fp32` or `fp16`, of the operands.
        measured_at: ISO 8601, UTC.
        srbench_version: What measured.
        fingerprint: See `srbench.fingerprint`.
        ceilings: In the order measured.
        states: Readings of the card before and after; empty on CPU.
    """

    profile: str
    device: str
    precision: str
    measured_at: str
    srbench_version: str
    fingerprint: dict[str, Any]
    ceilings: list[Ceiling]
    states: list[dict[str, Any]] = field(default_factory=list)

    def of(self, name: str) -> Ceiling | None:
        """The ceiling of that name."""
        return next((each for each in self.ceilings if each.name == name), None)

    def best_flops_per_s(self, kind: str) -> float | None:
        """The highest arithmetic rate of a kind; None where none was measured."""
        rates = (each.flops_per_s for each in self.ceilings if each.kind == kind)
        return max((rate for rate in rates if rate is not None), default=None)

    def best_bytes_per_s(self, kind: str) -> float | None:
        """The highest traffic rate of a kind."""
        rates = (each.bytes_per_s for each in self.ceilings if each.kind == kind)
        return max((rate for rate in rates if rate is not None), default=None)


def ceilings_path(root: Path, profile: str) -> Path:
    """Where a profile's ceilings lie under the results folder `root`."""
    return root / profile / "ceilings.json"


def write_ceilings(root: Path, ceilings: CeilingsFile) -> Path:
    """Replace a profile's ceilings at once.

    Returns:
        The file.

    Raises:
        UsageError: It cannot be written.
    """
    path = ceilings_path(root, ceilings.profile)
    write_document(path, _KIND, asdict(ceilings))
    return path


def read_ceilings(root: Path, profile: str) -> CeilingsFile | None:
    """Read a profile's ceilings; None where none were measured.

    Raises:
        UsageError: The file is damaged, or written by a newer srbench.
    """
    path = ceilings_path(root, profile)
    content = read_document(path, _KIND)
    if content is None:
        return None
    found = content.get("ceilings")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _KIND.damaged(path, "ceilings is no list of records")
    ceilings = [_built(Ceiling, each, path) for each in found]
    if any(time <= 0 for each in ceilings for time in each.times_ms):
        raise _KIND.damaged(path, "a time is not above 0")
    known: CeilingsFile = _built(CeilingsFile, {**content, "ceilings": ceilings}, path)
    if known.profile != profile:
        raise _KIND.damaged(path, f"it is of profile {known.profile!r}")
    return known


def _built(cls: type[Any], content: dict[str, Any], path: Path) -> Any:
    """A record of a file; keys of later minor additions are ignored."""
    names = {each.name for each in fields(cls)}
    values = {key: value for key, value in content.items() if key in names}
    try:
        wrong = misfit(cls, values)
        found = None if wrong else cls(**values)
    except TypeError as error:
        raise _KIND.damaged(path, str(error)) from error
    if found is None:
        raise _KIND.damaged(path, str(wrong))
    return found
