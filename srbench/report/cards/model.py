"""Runs of several cards side by side: what each card did, summed up over its machines.

Machines of one card are not blocks of one machine: each node has a ratio of its own, and what is
shown of several is their median and their range, never an interval from their pooled blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from srbench.gate.comparable import Level, environment_of
from srbench.profiles import Profile, profile_or_bare
from srbench.records import FidelityRecord
from srbench.report.cards.alike import alike
from srbench.report.cards.digest import Digest
from srbench.report.cards.ratio import Ratio, ratio_of
from srbench.report.model import ArmCell, Comparison, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class CardArm:
    """One arm in one case on one card.

    Attributes:
        seconds: Median over runs of the median time an image; None where no run timed any.
        peak_bytes: Highest of any run.
        broken: Outcome other than ok -> runs that had it.
        runs: That have the case.
    """

    seconds: float | None
    peak_bytes: int | None
    broken: dict[str, int]
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CardCell:
    """One case on one card.

    Attributes:
        worst: The fidelity record of the run with the lowest PSNR, or one that is broken.
    """

    baseline: CardArm
    candidate: CardArm
    ratio: Ratio | None
    worst: FidelityRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """All runs of one profile.

    Attributes:
        level: The weakest comparison that the environments of its runs leave between them.
    """

    profile: Profile
    digests: list[Digest]
    level: Level

    @property
    def nodes(self) -> int:
        """Machines that were measured on."""
        return len(frozenset().union(*(each.nodes for each in self.digests)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTable:
    """One candidate against its baseline on every card.

    Attributes:
        cells: Case -> profile name -> what happened; cards without the case are absent.
        geomean: Profile name -> over `geomean_cases`.
        geomean_cases: What every card has a speed-up of: means over other cases are not alike.
        remarks: What nobody may overlook who reads the times.
    """

    baseline: str
    candidate: str
    roles: tuple[str, str]
    cells: dict[str, dict[str, CardCell]]
    geomean: dict[str, Ratio]
    geomean_cases: list[str]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """An arm that did not end well in some runs of a card."""

    profile: str
    case: str
    pipeline: str
    outcome: str
    reason: str
    run_ids: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """What the combined report shows.

    Attributes:
        cards: In the order in which their first runs were given.
        tables: One a pair of arms.
        broken: Cells without a result.
        left_out: Why some of the runs are not among the others, a sentence each.
    """

    cards: list[Card]
    tables: list[CardTable]
    broken: list[Broken]
    left_out: list[str]

    @property
    def digests(self) -> list[Digest]:
        """Every run that is shown."""
        return [each for card in self.cards for each in card.digests]


def combine(digests: Iterable[Digest]) -> Cards:
    """Set runs side by side that ran the same weights on the same pixels.

    Args:
        digests: The first decides which weights, pixels and purpose the others must have, and the
            first of a card its precision, options and versions; those with others are left out
            and named, as is a run that is given twice.
    """
    kept, left_out = alike(digests)
    groups: dict[str, list[Digest]] = {}
    for each in kept:
        groups.setdefault(each.run.head.profile, []).append(each)
    cards = [
        Card(profile=profile_or_bare(name), digests=group, level=_level(group))
        for name, group in groups.items()
    ]
    arms = dict.fromkeys((c.baseline, c.candidate) for each in kept for c in each.comparisons)
    return Cards(
        cards=cards,
        tables=[_table(cards, *pair) for pair in arms],
        broken=_broken(kept),
        left_out=left_out,
    )


def _level(group: Sequence[Digest]) -> Level:
    levels = {environment_of(each.run, group[0].run).level for each in group}
    order = (Level.RATIO_ONLY, Level.COMPARABLE, Level.EXACT)
    return next(level for level in order if level in levels)


def _table(cards: Sequence[Card], baseline: str, candidate: str) -> CardTable:
    rows = {card.profile.name: _rows(card, baseline, candidate) for card in cards}
    cases = dict.fromkeys(case for each in cards for d in each.digests for case in d.run.head.cases)
    cells = {
        case: {name: _cell(found[case]) for name, found in rows.items() if case in found}
        for case in cases
    }
    common = [
        case
        for case, by_card in cells.items()
        if len(by_card) == len(cards) and all(cell.ratio for cell in by_card.values())
    ]
    geomeans = {
        card.profile.name: ratio_of(
            [
                (each.node, mean)
                for each in card.digests
                if (mean := each.geomean(candidate, common)) is not None
            ]
        )
        for card in cards
    }
    shown = [c for c in _comparisons(cards) if (c.baseline, c.candidate) == (baseline, candidate)]
    return CardTable(
        baseline=baseline,
        candidate=candidate,
        roles=shown[0].roles,
        cells=cells,
        geomean={name: mean for name, mean in geomeans.items() if mean is not None},
        geomean_cases=common,
        remarks=tuple(dict.fromkeys(remark for each in shown for remark in each.remarks)),
    )


def _comparisons(cards: Sequence[Card]) -> list[Comparison]:
    return [each for card in cards for digest in card.digests for each in digest.comparisons]


def _rows(card: Card, baseline: str, candidate: str) -> dict[str, list[tuple[str, Row]]]:
    """Case -> (node, row) of each run of the card that has these arms."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for each in card.digests:
        for comparison in each.comparisons:
            if (comparison.baseline, comparison.candidate) == (baseline, candidate):
                for row in comparison.rows:
                    found.setdefault(row.case, []).append((each.node, row))
    return found


def _cell(rows: Sequence[tuple[str, Row]]) -> CardCell:
    speedups = [(node, row.speedup) for node, row in rows if row.speedup is not None]
    records = [row.fidelity for _, row in rows if row.fidelity is not None]
    return CardCell(
        baseline=_arm([row.baseline for _, row in rows]),
        candidate=_arm([row.candidate for _, row in rows]),
        ratio=ratio_of(speedups),
        worst=min(records, key=_likeness, default=None),
    )


def _likeness(record: FidelityRecord) -> float:
    """What sorts the worst picture first, one that could not be compared before all."""
    return -1.0 if record.outcome != "ok" else record.metrics.get("psnr", float("inf"))


def _arm(cells: Sequence[ArmCell]) -> CardArm:
    times = [cell.latency.median / 1000 for cell in cells if cell.latency is not None]
    peaks = [cell.peak_bytes for cell in cells if cell.peak_bytes is not None]
    return CardArm(
        seconds=median(times) if times else None,
        peak_bytes=max(peaks, default=None),
        broken=dict(Counter(cell.outcome for cell in cells if cell.outcome != "ok")),
        runs=len(cells),
    )


def _broken(digests: Iterable[Digest]) -> list[Broken]:
    found: dict[tuple[str, str, str, str, str], list[str]] = {}
    for each in digests:
        head = each.run.head
        for comparison in each.comparisons:
            names = dict(
                zip(comparison.roles, (comparison.baseline, comparison.candidate), strict=True)
            )
            for row, role, cell in comparison.cells():
                if cell.outcome != "ok":
                    reason = cell.reason or "no reason was recorded"
                    key = head.profile, row.case, names[role], cell.outcome, reason
                    ids = found.setdefault(key, [])
                    if head.run_id not in ids[-1:]:
                        ids.append(head.run_id)
    return [
        Broken(
            profile=profile, case=case, pipeline=arm, outcome=outcome, reason=reason, run_ids=ids
        )
        for (profile, case, arm, outcome, reason), ids in found.items()
    ]
