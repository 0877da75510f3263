"""Which runs may stand in one table: of the same weights and pixels, for one purpose.

Those of one card are summed up, so they must have measured the same; another card may have been
measured otherwise, which is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from srbench.errors import NotComparableError
from srbench.gate.comparable import shared_cases
from srbench.records import RunRecord
from srbench.report.cards.digest import Digest


def alike(digests: Iterable[Digest]) -> tuple[list[Digest], list[str]]:
    """The runs that are like the first of all and of their card, and why each other is left out."""
    kept: list[Digest] = []
    left_out: list[str] = []
    pixels: dict[str, str | None] = {}
    for each in digests:
        if kept and (why := _otherness(kept, each, pixels)):
            left_out.append(f"run {each.run.head.run_id} is left out: {why}")
            continue
        kept.append(each)
        for case in each.run.head.cases:
            pixels.setdefault(case, _pixels(each, case))
    return kept, left_out


def _otherness(kept: list[Digest], each: Digest, pixels: dict[str, str | None]) -> str | None:
    """Why a run may not stand beside those before it; None where it may."""
    first, head = kept[0], each.run.head
    name = f"run {head.run_id}"
    ours, theirs = first.run.head.purpose, head.purpose
    if ours != theirs:
        return f"other purpose: {ours}, but {name} has {theirs}"
    try:
        shared_cases(first.run, each.run, name)
    except NotComparableError as error:
        return str(error)
    for case in head.cases:
        if pixels.get(case, _pixels(each, case)) != _pixels(each, case):
            return f"other input pixels for {case} than in the runs before it"
    of_card = (k.run.head for k in kept if k.run.head.profile == head.profile)
    for place, other in enumerate(of_card):
        if other.run_id == head.run_id:
            return "it is there already"
        if place == 0 and (why := _other_way(other, head, name)):
            return why
    return None


def _other_way(first: RunRecord, head: RunRecord, name: str) -> str | None:
    """In what a run measured something else than the first of its card; None where in nothing."""
    ours, theirs = _way(first), _way(head)
    for what in (key for key in ours if key in theirs):
        if ours[what] != theirs[what]:
            return f"other {what}: {ours[what]}, but {name} has {theirs[what]}"
    return None


def _way(head: RunRecord) -> dict[str, Any]:
    """What is measured, by name, as far as the user or the code decides it."""
    return {
        "precision": head.precision,
        "TF32 setting": head.tf32,
        **{f"version of {arm}": version for arm, version in head.versions.items()},
        **{
            f"option '{key}' of {arm}": value
            for arm, options in head.options.items()
            for key, value in options.items()
        },
    }


def _pixels(each: Digest, case: str) -> str | None:
    return each.run.head.inputs.get(case, {}).get("sha256")
