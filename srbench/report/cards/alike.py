"""Which runs may stand in one table: those of the same weights and pixels, for one purpose."""

from __future__ import annotations

from collections.abc import Iterable

from srbench.errors import NotComparableError
from srbench.gate.comparable import shared_cases
from srbench.report.cards.digest import Digest


def alike(digests: Iterable[Digest]) -> tuple[list[Digest], list[str]]:
    """The runs of the first's weights, pixels and purpose, and why each other is left out."""
    kept: list[Digest] = []
    left_out: list[str] = []
    pixels: dict[str, str | None] = {}
    for each in digests:
        if kept and (why := _otherness(kept[0], each, pixels)):
            left_out.append(f"run {each.run.head.run_id} is left out: {why}")
            continue
        kept.append(each)
        for case in each.run.head.cases:
            pixels.setdefault(case, _pixels(each, case))
    return kept, left_out


def _otherness(first: Digest, each: Digest, pixels: dict[str, str | None]) -> str | None:
    """Why a run may not stand beside the first; None where it may."""
    name = f"run {each.run.head.run_id}"
    ours, theirs = first.run.head.purpose, each.run.head.purpose
    if ours != theirs:
        return f"other purpose: {ours}, but {name} has {theirs}"
    try:
        shared_cases(first.run, each.run, name)
    except NotComparableError as error:
        return str(error)
    for case in each.run.head.cases:
        if pixels.get(case, _pixels(each, case)) != _pixels(each, case):
            return f"other input pixels for {case} than in the runs before it"
    return None


def _pixels(each: Digest, case: str) -> str | None:
    return each.run.head.inputs.get(case, {}).get("sha256")
