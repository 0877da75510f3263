"""Did everything run that was planned, and did it end well."""

from __future__ import annotations

from srbench.gate.checks import OUTCOME, UNFINISHED, Check, Question, Verdict
from srbench.records import CellRecord, Run
from srbench.stats.runs import cells_of


def unfinished_checks(run: Run) -> list[Check]:
    """An open question while blocks are missing: what they would show is not known.

    Only a sequential run may end before its last block, and only at a look.
    """
    done, planned = len(run.finished_blocks), run.head.blocks
    if run.ended and done in (planned, *run.head.looks):
        return []
    state = "ended too soon" if run.ended else "has not finished"
    text = f"the run {state}: {done} of {planned} blocks are there"
    question = Question("run", "", "blocks")
    return [question.answer(Verdict.INCONCLUSIVE, UNFINISHED, text, value=done, threshold=planned)]


def outcome_checks(run: Run) -> list[Check]:
    """One error a case and arm that did not end well; one open question where anything is missing.

    A block is finished once every arm has had its turn at every case, so that a cell that is not
    there was lost, and so was an image of a cell that ended well: no policy excuses it.
    """
    checks: list[Check] = []
    for case in run.head.cases:
        for arm in run.head.pipelines:
            question = Question(case, arm, OUTCOME)
            cells = cells_of(run, case, arm)
            bad = [cell for cell in cells if cell.outcome != "ok"]
            if bad:
                reason = f": {bad[0].reason}" if bad[0].reason else ""
                text = f"{bad[0].outcome} {case} {arm} in {len(bad)} of {len(cells)} blocks{reason}"
                checks.append(question.answer(Verdict.ERROR, bad[0].outcome, text))
            elif not cells:
                text = f"{case} {arm} was not measured"
                checks.append(question.answer(Verdict.INCONCLUSIVE, UNFINISHED, text))
            elif missing := len(run.finished_blocks - {cell.block for cell in cells}):
                text = f"{case} {arm} is missing in {missing} of {len(run.finished_blocks)} blocks"
                checks.append(question.answer(Verdict.INCONCLUSIVE, UNFINISHED, text))
            elif short := _too_short(run, cells):
                text = f"{case} {arm} has fewer than {run.head.pairs} timed images in {short} of "
                text += f"{len(cells)} blocks"
                checks.append(question.answer(Verdict.INCONCLUSIVE, UNFINISHED, text))
            else:
                text = f"{case} {arm} ok in {len(cells)} blocks"
                checks.append(question.answer(Verdict.PASS, "within_limits", text))
    return checks


def _too_short(run: Run, cells: list[CellRecord]) -> int:
    """Cells without a timed image for every pair; runs of counters alone time none."""
    if run.head.purpose == "work":
        return 0
    return sum(len(cell.samples) < run.head.pairs for cell in cells)


def missing_cases(run: Run, against: Run, name: str) -> list[Check]:
    """Cases that only one of the two runs has: ours have no baseline, theirs are only noted."""
    checks = [
        Question(case, "", "baseline").answer(
            Verdict.NO_BASELINE, "no_baseline", f"{case} has no baseline in {name}"
        )
        for case in run.head.cases
        if case not in against.head.cases
    ]
    return checks + [
        Question(case, "", "baseline").answer(
            Verdict.SKIPPED, "not_in_run", f"{case} of {name} is not in this run"
        )
        for case in against.head.cases
        if case not in run.head.cases
    ]


def void_warnings(run: Run) -> list[str]:
    """One line on the blocks that something disturbed and that were measured again."""
    if not run.voids:
        return []
    reasons = dict.fromkeys(reason for void in run.voids for reason in void.reasons)
    return [f"{len(run.voids)} disturbed blocks were voided and repeated: {'; '.join(reasons)}"]
