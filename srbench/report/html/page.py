"""The page of a run: everything it shows as one typed value, and its rendering."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from srbench.gate.checks import Judgement
from srbench.records import RunRecord
from srbench.report.history import History
from srbench.report.html.charts import interval_chart, stage_chart
from srbench.report.html.chosen import decision_table
from srbench.report.html.document import render_document
from srbench.report.html.judged import fidelity_table, open_checks, passed_checks
from srbench.report.html.ladders import ladder_stage_table, ladder_table
from srbench.report.html.measured import (
    outcome_table,
    resource_table,
    speedup_table,
    spread_table,
    void_table,
)
from srbench.report.html.past import Past, pasts, step_table
from srbench.report.html.pictures import Viewer, viewers
from srbench.report.html.rivals import rival_table
from srbench.report.html.table import Table
from srbench.report.ladder import ladder_cases
from srbench.report.model import Comparison, ReportModel, block_count
from srbench.report.roofline import limit_table
from srbench.report.text import interval, ratio

_SYNTHETIC = (
    "SYNTHETIC weights: no network here was trained. The times are real; the pictures and their "
    "likeness to anything but the baseline mean nothing."
)
_PURPOSES = {
    "simulation": "SIMULATED: a fake device made up every number here; nothing was measured.",
    "aa": "A/A run: the same pipeline in both arms. Any difference shown here is noise.",
    "work": "Work counters only: nothing was timed.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One candidate against the baseline."""

    baseline: str
    candidate: str
    speedup: str
    interval: str
    cases: int
    main: Table
    rivals: Table | None
    intervals: str | None
    stages: str | None
    spread: Table
    resources: Table
    viewers: list[Viewer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """A ladder in one case; `waterfall` is the `data:` URI of its figure."""

    case: str
    waterfall: str | None
    rungs: Table
    stages: Table | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the template shows.

    Attributes:
        title: Device and run.
        label: Precision, and SYNTHETIC where it holds.
        banners: What must be known before any number is read.
        facts: (name, value) of the run.
        judgement: The gate's answer; None where it was not asked or cannot answer.
        memory_metric: The memory number in the main table, in words.
        ladders: Of a ladder, one a case.
        history_runs: Runs in the history.
    """

    title: str
    run_id: str
    label: str
    banners: list[str]
    facts: list[tuple[str, str]]
    options: list[tuple[str, str]]
    arms: list[Arm]
    judgement: Judgement | None
    open_checks: Table | None
    passed_checks: Table | None
    outcomes: Table | None
    voids: Table | None
    blocks: int
    fidelity: Table | None
    pasts: list[Past]
    steps: Table | None
    history_runs: int
    memory_metric: str
    ladders: list[Ladder]
    limits: Table | None
    chosen: Table | None


def build_page(
    model: ReportModel,
    judgement: Judgement | None,
    history: History,
    waterfalls: Mapping[str, str] | None = None,
) -> Page:
    """Arrange a run for the template; arguments as of `render_page`.

    Raises:
        SrbenchError: A stored crop is damaged.
    """
    run = model.run
    return Page(
        title=model.profile.title,
        run_id=run.head.run_id,
        label=model.label,
        banners=_banners(model),
        facts=_facts(model),
        options=[
            (arm, ", ".join(f"{key}={value}" for key, value in options.items()) or "none")
            for arm, options in run.head.options.items()
        ],
        arms=[_arm(model, comparison) for comparison in model.comparisons],
        judgement=judgement,
        open_checks=None if judgement is None else open_checks(judgement),
        passed_checks=None if judgement is None else passed_checks(judgement),
        outcomes=outcome_table(run),
        voids=void_table(run),
        blocks=block_count(run),
        fidelity=fidelity_table(run),
        pasts=pasts(history),
        steps=step_table(history),
        history_runs=history.runs,
        memory_metric=model.memory_metric.replace("_", " "),
        ladders=[
            Ladder(
                case=ladder.case,
                waterfall=(waterfalls or {}).get(ladder.case),
                rungs=ladder_table(ladder, model.label),
                stages=ladder_stage_table(ladder, model.label),
            )
            for ladder in ladder_cases(run)
        ],
        limits=limit_table(model),
        chosen=decision_table(run),
    )


def render_page(
    model: ReportModel,
    judgement: Judgement | None,
    history: History,
    waterfalls: Mapping[str, str] | None = None,
) -> str:
    """Write a run as one HTML document that holds all it needs.

    Every text of the results file is escaped, and a content security policy with the hashes of the
    page's own style and script keeps anything else from running or being fetched.

    Args:
        model: What to show.
        judgement: The gate's checks; None leaves them out.
        history: The runs before this one.
        waterfalls: Case -> `data:` URI of its figure, of a ladder.

    Raises:
        SrbenchError: A stored crop is damaged.
    """
    page = build_page(model, judgement, history, waterfalls)
    return render_document("page.html.j2", page)


def _arm(model: ReportModel, comparison: Comparison) -> Arm:
    return Arm(
        baseline=comparison.baseline,
        candidate=comparison.candidate,
        speedup=ratio(comparison.geomean),
        interval=interval(comparison.geomean),
        cases=comparison.geomean_cases,
        main=speedup_table(model, comparison),
        rivals=rival_table(model, comparison),
        intervals=interval_chart(comparison),
        stages=stage_chart(comparison),
        spread=spread_table(model, comparison),
        resources=resource_table(model, comparison),
        viewers=viewers(comparison),
    )


def _banners(model: ReportModel) -> list[str]:
    head = model.run.head
    banners = [_PURPOSES[head.purpose]] if head.purpose in _PURPOSES else []
    if model.synthetic:
        banners.append(_SYNTHETIC)
    if not model.run.ended:
        done = len(model.run.finished_blocks)
        banners.append(f"Not finished: {done} of {head.blocks} blocks are there.")
    return banners


def _facts(model: ReportModel) -> list[tuple[str, str]]:
    head = model.run.head
    weights = str(head.weights.get("label") or head.weights.get("kind") or "unknown")
    if digest := head.weights.get("digest"):
        weights += f" ({str(digest)[:12]})"
    plan = f"{block_count(model.run)} of {head.blocks} blocks × {head.pairs} pairs"
    if head.looks:
        plan += f", looks after {', '.join(map(str, head.looks))} blocks"
    pairing = "images in turns" if head.pairing == "interleaved" else "one arm after the other"
    facts = [
        ("Device", _device(model)),
        ("Precision", head.precision + (", TF32 allowed" if head.tf32 else "")),
        ("Weights", weights),
        ("Plan", f"{plan}, {pairing}"),
        ("Seeds", f"plan {head.seed}, noise {head.noise_seed}"),
        ("Started", head.started_at),
        ("Versions", f"srbench {head.srbench_version}; {_versions(head)}"),
        ("Libraries", _libraries(head)),
        ("Commit", _commit(head)),
        ("Command", shlex.join(map(str, head.argv))),
    ]
    return [(name, value) for name, value in facts if value]


def _device(model: ReportModel) -> str:
    fingerprint = model.run.head.fingerprint
    if gpu := fingerprint.get("gpu_name"):
        return str(gpu)
    if not (cpu := fingerprint.get("cpu_model")):
        return model.profile.title
    cores = fingerprint.get("cpu_cores")
    return f"{cpu}, {cores} cores" if cores else str(cpu)


def _versions(head: RunRecord) -> str:
    words = []
    for arm, version in head.versions.items():
        commit = head.arms.get(arm, {}).get("commit")
        words.append(f"{arm} {version}" + (f" at {str(commit)[:12]}" if commit else ""))
    return ", ".join(words)


def _libraries(head: RunRecord) -> str:
    versions = head.fingerprint.get("versions")
    if not isinstance(versions, dict):
        return ""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _commit(head: RunRecord) -> str:
    commit = head.fingerprint.get("commit")
    if not commit:
        return ""
    return f"{commit}{' (modified)' if head.fingerprint.get('dirty') else ''}"
