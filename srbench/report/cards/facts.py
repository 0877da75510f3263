"""In what the cards' runs differ beside the card: versions, precision, options, commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from srbench.records import RunRecord
from srbench.report.cards.model import Card, Cards
from srbench.report.html.table import Cell, Table

_MACHINE = ("cpu_model", "cpu_cores", "cpu_threads", "power_limit_w", "driver", "cuda_driver")
_CODE = ("python", "commit", "dirty", "code_sha256")
_MOST_VALUES = 4
"""Of one fact on one card; a fleet may have as many processors as nodes."""


def differences(cards: Cards) -> Table | None:
    """One row a fact that is not the same in all runs, a column a card; None when none differs."""
    counted = [
        (card, [dict(_facts(each.run.head)) for each in card.digests]) for card in cards.cards
    ]
    names = dict.fromkeys(name for _, runs in counted for facts in runs for name in facts)
    rows = []
    for name in names:
        by_card = [Counter(facts.get(name, "–") for facts in runs) for _, runs in counted]
        if len(set().union(*by_card)) > 1:
            rows.append([Cell(name), *(Cell(_values(found)) for found in by_card)])
    header = ["Fact", *(card.profile.name for card in cards.cards)]
    caption = "What differs beside the card"
    return Table(caption=caption, header=header, words=len(header), rows=rows) if rows else None


def card_table(cards: Cards) -> Table:
    """One row a card: how much was measured on it, and how alike its machines are."""
    rows = [_card_row(card) for card in cards.cards]
    return Table(
        caption="The cards",
        header=["Card", "Device", "Precision", "Weights", "Nodes", "Runs", "Blocks", "Between its "
                "runs"],
        words=4,
        rows=rows,
    )  # fmt: skip


def _card_row(card: Card) -> list[Cell]:
    heads = [each.run.head for each in card.digests]
    blocks = sum(each.blocks for each in card.digests)
    open_ = sum(not each.run.ended for each in card.digests)
    runs = f"{len(heads)} ({open_} not finished)" if open_ else str(len(heads))
    return [
        Cell(card.profile.name),
        Cell(_all(str(h.fingerprint.get("gpu_name") or card.profile.title) for h in heads)),
        Cell(_all(h.precision for h in heads)),
        Cell(_all(str(h.weights.get("label") or h.weights.get("kind")) for h in heads)),
        Cell(str(card.nodes), card.nodes),
        Cell(runs, len(heads)),
        Cell(str(blocks), blocks),
        Cell(card.level.value.replace("_", " ") if len(heads) > 1 else "one run"),
    ]


def _all(words: Iterator[str]) -> str:
    return _values(Counter(words))


def _facts(head: RunRecord) -> Iterator[tuple[str, str]]:
    """Name -> value in words, of everything that should be equal where ratios are to be compared.

    Which nodes, when, and the card itself are not among it.
    """
    facts = head.fingerprint
    yield "precision", head.precision + (" with TF32" if head.tf32 else "")
    yield "srbench", head.srbench_version
    for arm, version in head.versions.items():
        yield f"version of {arm}", version
        yield f"commit of {arm}", _word(head.arms.get(arm, {}).get("commit"))
        yield f"tier of {arm}", head.tiers.get(arm, "–")
    for arm, options in head.options.items():
        for key, value in options.items():
            yield f"{arm}: {key}", _word(value)
    versions = facts.get("versions")
    for name, version in (versions if isinstance(versions, dict) else {}).items():
        yield name, _word(version)
    for name in (*_MACHINE, *_CODE):
        yield name.replace("_", " "), _word(facts.get(name))
    for what in ("blocks", "pairs", "seed", "noise_seed", "pairing", "looks"):
        yield what.replace("_", " "), _word(getattr(head, what))
    yield "cases", " ".join(head.cases)


def _word(value: Any) -> str:
    text = "–" if value in (None, "", []) else str(value)
    return text[:12] if len(text) in (40, 64) and text.isalnum() else text


def _values(found: Counter[str]) -> str:
    """The values of a card's runs, the most frequent first, with counts where there are several."""
    if len(found) == 1:
        return next(iter(found))
    shown = [f"{value} ({count} runs)" for value, count in found.most_common(_MOST_VALUES)]
    rest = len(found) - len(shown)
    return ", ".join([*shown, f"{rest} others"] if rest else shown)
