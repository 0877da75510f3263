"""What can be wrong with a simulated candidate or its device, on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from srbench.errors import UsageError, did_you_mean

EVERY_BLOCK = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plants:
    """Planted effects; the defaults are an honest candidate on an undisturbed device.

    Attributes:
        slow, memory, energy, work: Factors on time, allocated bytes, joules and work counters.
        bimodal: Every process lands in one of two modes.
        bad_tile: One 64x64 tile of every picture is grey.
        late_bad_tile: The same from the second block on, after the judged picture is made.
        nondeterministic: No two pictures are equal.
        nan: The picture before rounding holds NaN.
        oom, crash, hang: Case in which the worker runs out of memory, dies, or waits for a child
            that never ends; empty for none.
        throttle, foreign: Block whose first attempt a thermal event or a foreign process disturbs;
            `EVERY_BLOCK` disturbs every attempt of all, None nothing.
    """

    slow: float = 1.0
    memory: float = 1.0
    energy: float = 1.0
    work: float = 1.0
    bimodal: bool = False
    bad_tile: bool = False
    late_bad_tile: bool = False
    nondeterministic: bool = False
    nan: bool = False
    oom: str = ""
    crash: str = ""
    hang: str = ""
    throttle: int | None = None
    foreign: int | None = None


def disturbed(planted: int | None, block: int, attempt: int) -> bool:
    """Whether a planted disturbance hits this attempt of a block."""
    return planted == EVERY_BLOCK or (planted == block and attempt == 1)


def parse_plants(texts: Iterable[str]) -> Plants:
    """Read `KIND[=VALUE]` texts, each perhaps several by commas; the last of a kind counts.

    Raises:
        UsageError: An unknown kind, or a value that the kind does not take.
    """
    values: dict[str, Any] = {}
    parts = (part.strip() for text in texts for part in text.split(","))
    for text in filter(None, parts):
        kind, equals, value = text.partition("=")
        if kind not in _KINDS:
            raise UsageError(f"--plant '{text}': unknown.{did_you_mean(kind, list(_KINDS))}")
        values[kind.replace("-", "_")] = _KINDS[kind](text, value if equals else None)
    return Plants(**values)


def check_plants(plants: Plants, cases: Sequence[str], blocks: int) -> None:
    """Refuse an effect that would hit nothing.

    Raises:
        UsageError: A case or block that the run does not have.
    """
    for kind in ("oom", "crash", "hang"):
        case = getattr(plants, kind)
        if case and case not in cases:
            raise UsageError(f"--plant {kind}={case}: no case of this run.{_known(case, cases)}")
    for kind in ("throttle", "foreign"):
        block = getattr(plants, kind)
        if block is not None and block >= blocks:
            raise UsageError(f"--plant {kind}={block}: the run has blocks 0 to {blocks - 1}")


def _known(case: str, cases: Sequence[str]) -> str:
    return did_you_mean(case, list(cases))


def _flag(text: str, value: str | None) -> bool:
    if value is not None:
        raise UsageError(f"--plant '{text}': takes no value")
    return True


def _case(text: str, value: str | None) -> str:
    if not value:
        raise UsageError(f"--plant '{text}': name the case, as in {text.rstrip('=')}=64x64x4")
    return value


def _block(text: str, value: str | None) -> int:
    if value is None:
        return EVERY_BLOCK
    if not value.isdecimal():
        raise UsageError(f"--plant '{text}': expected the number of a block, from 0")
    return int(value)


def _factor(default: float) -> Callable[[str, str | None], float]:
    def convert(text: str, value: str | None) -> float:
        if value is None:
            return default
        try:
            factor = float(value)
        except ValueError:
            factor = 0.0
        if not (isfinite(factor) and factor > 0):
            raise UsageError(f"--plant '{text}': expected a factor, as in {default:g}")
        return factor

    return convert


_KINDS: dict[str, Callable[[str, str | None], Any]] = {
    "slow": _factor(1.05),
    "memory": _factor(1.05),
    "energy": _factor(1.1),
    "work": _factor(1.01),
    "bimodal": _flag,
    "bad-tile": _flag,
    "late-bad-tile": _flag,
    "nondeterministic": _flag,
    "nan": _flag,
    "oom": _case,
    "crash": _case,
    "hang": _case,
    "throttle": _block,
    "foreign": _block,
}
