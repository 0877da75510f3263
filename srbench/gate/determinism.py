"""Does an arm make the same picture every time; if not, how much do its pictures differ."""

from __future__ import annotations

from srbench.fidelity.roles import REPEAT
from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.comparable import of_callables
from srbench.gate.fidelity import find_record
from srbench.gate.policy import Policy
from srbench.records import FidelityRecord, Run
from srbench.stats.runs import baseline_arm, cells_of

METRIC = "determinism"


def determinism_checks(run: Run, candidate: str, policy: Policy) -> list[Check]:
    """Equal input and noise must give equal pictures within one process, if the baseline's do.

    Judged by the hashes of all timed pictures and by the arm's own second pictures (reference
    `repeat`). Where the baseline differs from itself too, or is not known not to, the candidate's
    two pictures must be as close as its tier asks of two arms. A case without either is open, but
    for callables of a test suite, which need not make pictures.
    """
    return [_check(run, case, candidate, policy) for case in run.head.cases]


def determinism_warnings(run: Run) -> list[str]:
    """One line an arm whose pictures differ between processes only, or from the judged one only."""
    warnings = []
    for arm in run.head.pipelines:
        timed = {case: _hashes(run, case, arm) for case in run.head.cases}
        apart = [
            case
            for case, blocks in timed.items()
            if all(len(block) == 1 for block in blocks) and len(set().union(*blocks)) > 1
        ]
        if apart:
            warnings.append(
                f"pictures of {arm} differ from process to process in {', '.join(apart)} "
                "(autotuning?), not within one"
            )
        if unseen := [
            case for case in timed if _judged(run, case, arm) - set().union(*timed[case])
        ]:
            warnings.append(
                f"the judged picture of {arm} in {', '.join(unseen)}, made after --resume, is none "
                "of those that were timed"
            )
    return warnings


def _check(run: Run, case: str, candidate: str, policy: Policy) -> Check:
    question = Question(case, candidate, METRIC)
    pictures = _pictures(run, case, candidate)
    if pictures is None:
        text = (
            f"determinism {case} of {candidate} was not checked: neither hashes nor second pictures"
        )
        verdict = Verdict.SKIPPED if of_callables(run) else Verdict.INCONCLUSIVE
        return question.unmeasured(text, verdict=verdict)
    if pictures == 1:
        text = f"{case} {candidate} makes one picture"
        return question.answer(Verdict.PASS, "within_limits", text, value=1, threshold=1)
    repeat = find_record(run, case, candidate, REPEAT)
    psnr = None if repeat is None else repeat.metrics.get("psnr")
    text = f"{case} {candidate} makes {pictures} different pictures in one process"
    text += ", how far apart was not measured" if psnr is None else f", {psnr:.1f} dB apart"
    if _pictures(run, case, baseline_arm(run)) == 1:
        text += "; the baseline makes one"
        return question.holds(False, "nondeterministic", text, value=pictures, threshold=1)
    return _by_floor(run, question, pictures, repeat, policy, text)


def _by_floor(
    run: Run,
    question: Question,
    pictures: int,
    repeat: FidelityRecord | None,
    policy: Policy,
    text: str,
) -> Check:
    """The baseline is no better: what counts is how far the candidate's pictures are apart."""
    limits = policy.tiers.get(run.head.tiers.get(question.pipeline, ""))
    if repeat is not None and repeat.outcome == "invalid":
        return question.answer(Verdict.FAIL, "nondeterministic", text, value=pictures, threshold=1)
    if limits is None or repeat is None or "psnr" not in repeat.metrics:
        return question.unmeasured(text, value=pictures, threshold=1)
    worst = repeat.metrics.get("worst_block_psnr", repeat.metrics["psnr"])
    good = repeat.metrics["psnr"] >= limits.psnr_db and worst >= limits.worst_block_db
    text += f", worst block {worst:.1f} dB; the baseline is not known to make one"
    return question.holds(good, "nondeterministic", text, value=pictures, threshold=1)


def _pictures(run: Run, case: str, arm: str) -> int | None:
    """Most distinct pictures of one process; None where nothing tells."""
    counts = [len(block) for block in _hashes(run, case, arm)]
    repeat = find_record(run, case, arm, REPEAT)
    if repeat is not None and repeat.outcome == "ok":
        differs = repeat.metrics.get("max_abs_diff", 0.0) > 0
        counts.append(int(repeat.metrics.get("distinct_pictures", 2 if differs else 1)))
    return max(counts, default=None)


def _hashes(run: Run, case: str, arm: str) -> list[set[str]]:
    """Of each block, the distinct hashes of the timed pictures and of the judged one."""
    blocks = []
    for cell in cells_of(run, case, arm):
        hashes = [*(sample.get("output_sha256") for sample in cell.samples), cell.picture_sha256]
        if cell.outcome == "ok":
            blocks.append({str(digest) for digest in hashes if digest})
    return [block for block in blocks if block]


def _judged(run: Run, case: str, arm: str) -> set[str]:
    """Hashes of the pictures that the arm's fidelity was computed from."""
    found = (r.picture_sha256 for r in run.fidelity if (r.case, r.pipeline) == (case, arm))
    return {digest for digest in found if digest}
