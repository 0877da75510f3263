"""One run as `srbench show` prints it: what was decided, what happened, how noisy it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from statistics import median, stdev

from srbench.outcome import one_line
from srbench.records import Run
from srbench.report.counters import counter_table
from srbench.report.html.chosen import choices
from srbench.report.ladder import ladder_cases
from srbench.report.ladder_text import ladder_text
from srbench.report.model import build_model
from srbench.report.tables import console_table, plain_table
from srbench.report.text import significant
from srbench.stats.runs import baseline_arm, block_log_ratios, candidate_arms, cells_of, times_ms
from srbench.stats.summary import mad

_NORMAL_MAD = 1.4826
"""Standard deviations in a median absolute deviation of normal data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOverview:
    """What happened to one arm in one case, over all blocks.

    Attributes:
        outcomes: Outcome -> blocks.
        samples: Timed images.
        warmup_images: Discarded images.
        first_ms: Median over blocks of the first image.
        image_noise: Scatter of images inside a block, as a fraction: median over blocks of the
            MAD scaled to a standard deviation over the median; None with fewer than two images.
        block_noise: Standard deviation of the block medians, as a fraction; None with one block.
        ratio_noise: Standard deviation over blocks of d, the log ratio to the baseline: what the
            interval of the speed-up comes from. None for the baseline and with one block.
    """

    case: str
    pipeline: str
    outcomes: dict[str, int]
    samples: int
    warmup_images: int
    first_ms: float | None
    image_noise: float | None
    block_noise: float | None
    ratio_noise: float | None


def cell_overviews(run: Run) -> list[CellOverview]:
    """Every case and arm in table order."""
    return [_cell(run, case, arm) for case in run.head.cases for arm in run.head.pipelines]


def overview_text(run: Run) -> str:
    """The run for a terminal, without any verdict."""
    parts = ["\n".join(_facts(run)), _cell_table(run)]
    counted = run.head.purpose == "work"
    if run.head.ladder:
        parts.append(ladder_text(ladder_cases(run), build_model(run).label))
    parts.append(counter_table(run) if counted else console_table(run))
    if not run.head.ladder:
        parts += _choices(run)
    return "\n\n".join(parts)


def overview_json(run: Run, results: str) -> Iterator[str]:
    """The run and what is derived from it as one JSON document without pictures, in pieces.

    Args:
        run: The run.
        results: Where its file is.
    """
    document = {
        "results": results,
        "ended": run.ended,
        "finished_blocks": sorted(run.finished_blocks),
        "head": run.head.to_json(),
        "overview": [asdict(each) for each in cell_overviews(run)],
        "voids": [void.to_json() for void in run.voids],
        "fidelity": [
            {key: value for key, value in record.to_json().items() if key != "crops"}
            for record in run.fidelity
        ],
    }
    yield json.dumps(document, allow_nan=False).removesuffix("}")
    yield ', "cells": ['
    for number, cell in enumerate(run.cells):
        yield (", " if number else "") + json.dumps(cell.to_json(), allow_nan=False)
    yield "]}\n"


def _cell(run: Run, case: str, arm: str) -> CellOverview:
    cells = cells_of(run, case, arm)
    times = [times_ms(cell) for cell in cells if cell.samples]
    firsts = [cell.warmup_ms[0] for cell in cells if cell.warmup_ms]
    inside = [_NORMAL_MAD * mad(block) / median(block) for block in times if len(block) > 1]
    ratios = block_log_ratios(run, case, arm) if arm in candidate_arms(run) else {}
    return CellOverview(
        case=case,
        pipeline=arm,
        outcomes=dict(Counter(cell.outcome for cell in cells)),
        samples=sum(map(len, times)),
        warmup_images=sum(len(cell.warmup_ms) for cell in cells),
        first_ms=median(firsts) if firsts else None,
        image_noise=median(inside) if inside else None,
        block_noise=_deviation([log(median(block)) for block in times]),
        ratio_noise=_deviation(list(ratios.values())),
    )


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _facts(run: Run) -> list[str]:
    head = run.head
    state = "finished" if run.ended else "not finished"
    lines = [
        f"{head.run_id}: {head.purpose}, {state}, {len(run.finished_blocks)} of {head.blocks} "
        f"blocks x {head.pairs} pairs, seed {head.seed}, noise seed {head.noise_seed}, "
        f"pairing {head.pairing}"
    ]
    if head.looks:
        looks = ", ".join(map(str, head.looks))
        lines.append(f"looks after {looks} blocks against {head.against or baseline_arm(run)}")
    if head.group is not None:
        lines.append(f"group {head.group}, begun by one command; executor {head.executor}")
    lines.append(f"weights {head.weights.get('label')} {str(head.weights.get('digest'))[:12]}")
    for arm in head.pipelines:
        told = head.options.get(arm, {}).items()
        options = " ".join(one_line(f"{key}={value}") for key, value in told)
        commit = (head.arms.get(arm) or {}).get("commit")
        at = f" at {commit[:12]}" if commit else ""
        lines.append(
            f"{arm} {head.versions.get(arm)} ({head.tiers.get(arm, 'no tier')}){at}: {options}"
        )
    lines += [
        f"void: block {void.block}, attempt {void.attempt}: {'; '.join(void.reasons)}"
        for void in run.voids
    ]
    return lines


def _choices(run: Run) -> list[str]:
    """What each arm chose in each case, a line a subject."""
    return [
        f"chosen by {arm} in {case}\n"
        + "\n".join(f"  {subject.replace('_', ' ')}: {words}" for subject, words in chosen.items())
        for case, arms in choices(run).items()
        for arm, chosen in arms.items()
    ]


def _cell_table(run: Run) -> str:
    header = ["case", "arm", "outcomes", "images", "warm-up", "first ms"]
    header += ["noise of images %", "of blocks %", "of the ratio %"]
    rows = [
        [
            each.case,
            each.pipeline,
            " ".join(f"{word} {count}" for word, count in each.outcomes.items()) or "not measured",
            str(each.samples),
            str(each.warmup_images),
            "–" if each.first_ms is None else significant(each.first_ms),
            *map(_percent, (each.image_noise, each.block_noise, each.ratio_noise)),
        ]
        for each in cell_overviews(run)
    ]
    return plain_table(header, rows, left=3)


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else significant(100 * fraction, 2)
