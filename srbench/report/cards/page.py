"""The combined report: Markdown with its figures, the same as one HTML file, and for a terminal."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from srbench.errors import UsageError
from srbench.gate.comparable import Level
from srbench.records import Run
from srbench.report.cards.digest import Digest, digest_run
from srbench.report.cards.facts import card_table, differences
from srbench.report.cards.figure import speedup_figure
from srbench.report.cards.model import Cards, CardTable, combine
from srbench.report.cards.tables import broken_table, case_table, console_tables, node_table
from srbench.report.figures import save
from srbench.report.html.document import render_document
from srbench.report.html.table import Table
from srbench.report.markdown import section
from srbench.report.pages import file_safe, write_page

_STEM = "cards"
_NO_VERDICT = (
    "No verdict across cards: another card is another environment, which leaves tables side by "
    "side (what srbench compare calls ratio only). Each speed-up is of a card against its own "
    "baseline; whether one card's is better than another's is not tested."
)
_MIXED = (
    "The runs of {names} are not of one environment (another driver branch, torch release or "
    "variant of the card): their medians mix what differs."
)
_BANNERS = {
    "simulation": "SIMULATED: a fake device made up every number here. Nothing was measured, and "
    "nothing follows from it for any machine.",
    "synthetic": "SYNTHETIC weights: no network here was trained. The times are real, the pictures "
    "and their likeness to anything but the baseline mean nothing.",
    "aa": "A/A runs: the same pipeline in both arms. Any difference shown here is noise.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One candidate; `figure` is the `data:` URI of its speed-ups."""

    baseline: str
    candidate: str
    main: Table
    nodes: Table | None
    figure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the template shows."""

    title: str
    label: str
    banners: list[str]
    no_verdict: str
    overview: Table
    left_out: list[str]
    arms: list[Arm]
    broken: Table | None
    differences: Table | None


def write_cards(runs: Iterable[Run | Digest], out: Path, left_out: Sequence[str] = ()) -> Path:
    """Write `out/cards.md` with its figures, and `cards.html` beside it.

    Args:
        runs: Of any profiles, read one after another; only what is shown of each is kept. Runs
            that may not stand in one table (`alike`) are left out and named.
        out: Folder, created if missing.
        left_out: Why further runs are not among them, a sentence each.

    Returns:
        The Markdown page.

    Raises:
        UsageError: No run was given, or the folder cannot be written.
    """
    cards = _cards(runs)
    cards = replace(cards, left_out=[*cards.left_out, *left_out])
    try:
        out.mkdir(parents=True, exist_ok=True)
        figures = _figures(cards, out)
        page = out / f"{_STEM}.md"
        shown = _page(cards, {name: out / file for name, file in figures.items()})
        write_page(page, _markdown(shown, figures))
        write_page(page.with_suffix(".html"), render_document("cards.html.j2", shown))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    return page


def cards_table(runs: Iterable[Run | Digest]) -> str:
    """The same for stdout: one table over all cards, without a verdict.

    Raises:
        UsageError: No run was given.
    """
    cards = _cards(runs)
    title = f"{len(cards.cards)} cards, {_label(cards)}: no verdict across cards"
    parts = ["\n".join([title, *cards.left_out, *_mixed(cards), *_no_ratio(cards)])]
    return "\n\n".join([*parts, *(console_tables(cards, table) for table in cards.tables)])


def _cards(runs: Iterable[Run | Digest]) -> Cards:
    cards = combine(run if isinstance(run, Digest) else digest_run(run) for run in runs)
    if not cards.cards:
        raise UsageError("report: no run given; measure one with `srbench run`")
    return cards


def _page(cards: Cards, figures: dict[str, Path]) -> Page:
    label = _label(cards)
    return Page(
        title=f"{', '.join(card.profile.title for card in cards.cards)}, side by side",
        label=label,
        banners=_banners(cards),
        no_verdict=" ".join([_NO_VERDICT, *_mixed(cards), *_no_ratio(cards)]),
        overview=card_table(cards),
        left_out=cards.left_out,
        arms=[_arm(cards, table, label, figures) for table in cards.tables],
        broken=broken_table(cards.broken),
        differences=differences(cards),
    )


def _arm(cards: Cards, table: CardTable, label: str, figures: dict[str, Path]) -> Arm:
    figure = figures.get(_key(table))
    return Arm(
        baseline=table.baseline,
        candidate=table.candidate,
        main=case_table(cards, table, label),
        nodes=node_table(cards, table),
        figure=None if figure is None else _inline(figure),
    )


def _figures(cards: Cards, out: Path) -> dict[str, str]:
    """Draw every pair of arms; its key -> file name."""
    names = {}
    for table in cards.tables:
        if (figure := speedup_figure(cards, table, _label(cards))) is not None:
            arm = f"_{file_safe(_key(table))}" if len(cards.tables) > 1 else ""
            names[_key(table)] = f"{_STEM}{arm}_speedup.svg"
            save(figure, out / names[_key(table)])
    return names


def _key(table: CardTable) -> str:
    return f"{table.candidate}_{table.baseline}"


def _inline(figure: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.read_bytes()).decode('ascii')}"


def _markdown(page: Page, figures: dict[str, str]) -> str:
    parts = [f"# {page.title}", *(f"**{banner}**" for banner in page.banners), page.no_verdict]
    parts += [section(page.label, page.overview), *(f"> {line}" for line in page.left_out)]
    for arm in page.arms:
        parts.append(f"## {arm.candidate} against {arm.baseline}")
        parts.append(section(page.label, arm.main))
        if name := figures.get(f"{arm.candidate}_{arm.baseline}"):
            parts.append(f"![Speed-up by case and card]({name})")
        parts.append(section(page.label, arm.nodes))
    if page.broken is not None:
        parts += ["## What did not go well", section(page.label, page.broken)]
    parts.append("## What differs between the cards")
    same = "Nothing but the card: same code, versions, precision and options."
    parts.append(section(page.label, page.differences) or same)
    parts.append(f"The same as one file: [{_STEM}.html]({_STEM}.html)")
    return "\n\n".join(part for part in parts if part) + "\n"


def _label(cards: Cards) -> str:
    """What captions carry: the precisions, SIMULATED or SYNTHETIC where so."""
    words = list(dict.fromkeys(each.run.head.precision for each in cards.digests))
    kinds = {"simulation": "SIMULATED", "synthetic": "SYNTHETIC weights", "aa": "A/A"}
    return ", ".join(words + [word for kind, word in kinds.items() if kind in _kinds(cards)])


def _banners(cards: Cards) -> list[str]:
    return [text for kind, text in _BANNERS.items() if kind in _kinds(cards)]


def _kinds(cards: Cards) -> set[str]:
    """Purposes, and `synthetic` where a network was measured that was not trained."""
    heads = [each.run.head for each in cards.digests]
    purposes = {head.purpose for head in heads}
    synthetic = any(head.weights.get("synthetic") for head in heads)
    return purposes | ({"synthetic"} if synthetic and "simulation" not in purposes else set())


def _mixed(cards: Cards) -> list[str]:
    names = [card.profile.name for card in cards.cards if card.level is Level.RATIO_ONLY]
    told = [_MIXED.format(names=", ".join(names))] if names else []
    precisions = {card.profile.name: card.digests[0].run.head.precision for card in cards.cards}
    if len(set(precisions.values())) > 1:
        words = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
        told.append(f"The cards ran in different precisions: {words}.")
    return told


def _no_ratio(cards: Cards) -> list[str]:
    return [] if cards.tables else ["Every run has a single arm: there is no ratio to show."]
