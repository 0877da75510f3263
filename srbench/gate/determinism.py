"""Does an arm make the same picture every time; if not, how much do its pictures differ."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

from srbench.fidelity.roles import OTHER_PROCESS, REPEAT
from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.comparable import of_callables
from srbench.gate.fidelity import find_record
from srbench.gate.policy import Policy
from srbench.records import CellRecord, FidelityRecord, Run
from srbench.samples import values_of
from srbench.stats.runs import baseline_arm, cells_of

METRIC = "determinism"
_EQUAL_DB = 99.999
"""PSNRs are computed above a floor of 100 dB: two pictures that are this close are one."""
_STRONGEST = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
_UNTIMED = "the judged picture is none of those that were timed"


def determinism_checks(run: Run, candidate: str, policy: Policy) -> list[Check]:
    """Equal input and noise must give equal pictures within one process, if the baseline's do.

    Judged by the hashes of all timed pictures and by the arm's own second pictures (reference
    `repeat`). Where the baseline differs from itself too, or is not known not to, the candidate's
    two pictures must be as close as its tier asks of two arms. So must those of other processes
    (reference `other_process`) where they are not all among those of the first block, or were
    judged in any case: only one picture was held against the baseline. Second pictures that are
    equal tell nothing of timed ones that differ. A case without any hash is open, as is one with
    timed images that lack theirs; but for callables of a test suite, which need not make pictures.
    """
    return [_check(run, case, candidate, policy) for case in run.head.cases]


def determinism_warnings(run: Run) -> list[str]:
    """One line an arm whose pictures differ between processes only, or from the judged one only."""
    warnings = []
    for arm in run.head.pipelines:
        timed = {case: _processes(run, case, arm) for case in run.head.cases}
        apart = [
            case
            for case, made in timed.items()
            if all(len(hashes) == 1 for hashes in made) and len(set().union(*made)) > 1
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
                f"the judged picture of {arm} in {', '.join(unseen)} is none of those that were "
                "timed"
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
    if unhashed := _unhashed(run, case, candidate):
        text = f"determinism {case} of {candidate}: {unhashed} timed pictures have no hash"
        return question.unmeasured(text)
    if pictures == 1:
        return _across_processes(run, question, policy)
    return _within_a_process(run, question, pictures, policy)


def _within_a_process(run: Run, question: Question, pictures: int, policy: Policy) -> Check:
    """A process makes several pictures: a fault, unless the baseline's do and all are close."""
    case, arm = question.case, question.pipeline
    repeat = find_record(run, case, arm, REPEAT)
    text = f"{case} {arm} makes {pictures} different pictures in one process"
    if _only_the_judged_differs(run, case, arm):
        # The record is of the judged picture and its repeat; it says nothing of the timed ones.
        repeat = None
        text = f"{case} {arm}: {_UNTIMED}"
    elif repeat is not None and _shows_one(run, repeat):
        repeat = None
    text += _apart(repeat) or ", how far apart was not measured"
    if _pictures(run, case, baseline_arm(run)) == 1:
        text += "; the baseline makes one"
        return question.holds(False, "nondeterministic", text, value=pictures, threshold=1)
    text += "; the baseline is not known to make one"
    checks = [_by_distance(run, question, pictures, repeat, policy, text)]
    other = find_record(run, case, arm, OTHER_PROCESS)
    if other is not None or _made_elsewhere(run, case, arm):
        text += "; other processes make others"
        text += _apart(other) or ", how far apart was not measured"
        checks.append(_by_distance(run, question, pictures, other, policy, text))
    return min(checks, key=lambda check: _STRONGEST.index(check.verdict))


def _across_processes(run: Run, question: Question, policy: Policy) -> Check:
    """Each process makes one picture: the same one, or others that were judged as well."""
    case, arm = question.case, question.pipeline
    timed = set[str]().union(*_processes(run, case, arm))
    pictures = len(_judged(run, case, arm) | timed)
    if pictures <= 1:
        text = f"{case} {arm} makes one picture"
        return question.answer(Verdict.PASS, "within_limits", text, value=1, threshold=1)
    other = find_record(run, case, arm, OTHER_PROCESS)
    text = f"{case} {arm} paints {pictures} different pictures in different processes"
    if len(timed) == 1:
        text = f"{case} {arm}: {_UNTIMED}"
    if other is None or other.outcome not in ("ok", "invalid"):
        text += ", and not all were judged"
        text += f": {other.reason}" if other is not None and other.reason else ""
    text += _apart(other)
    return _by_distance(run, question, pictures, other, policy, text)


def _by_distance(
    run: Run,
    question: Question,
    pictures: int,
    record: FidelityRecord | None,
    policy: Policy,
    text: str,
) -> Check:
    """What counts is how far the arm's pictures are apart, by the record of its own pictures."""
    limits = policy.tiers.get(run.head.tiers.get(question.pipeline, ""))
    if record is not None and record.outcome == "invalid":
        text += f": {record.reason}" if record.reason else ""
        return question.answer(Verdict.FAIL, "nondeterministic", text, value=pictures, threshold=1)
    metrics = record.metrics if record is not None and record.outcome == "ok" else {}
    if limits is None or "psnr" not in metrics or "worst_block_psnr" not in metrics:
        return question.unmeasured(text, value=pictures, threshold=1)
    good = (
        metrics["psnr"] >= limits.psnr_db and metrics["worst_block_psnr"] >= limits.worst_block_db
    )
    return question.holds(good, "nondeterministic", text, value=pictures, threshold=1)


def _apart(record: FidelityRecord | None) -> str:
    """How far the pictures of a record are apart, in words; empty where it does not tell."""
    if record is None or "psnr" not in record.metrics:
        return ""
    worst = record.metrics.get("worst_block_psnr")
    text = f", {record.metrics['psnr']:.1f} dB apart"
    return text if worst is None else f"{text} (worst block {worst:.1f} dB)"


def _pictures(run: Run, case: str, arm: str) -> int | None:
    """Most distinct pictures of one process; None where nothing tells."""
    counts = [len(hashes) for hashes in _processes(run, case, arm)]
    return max([*counts, *_repeated(run, case, arm)], default=None)


def _repeated(run: Run, case: str, arm: str) -> list[int]:
    """How many pictures the arm's own second pictures show; nothing where they tell nothing."""
    repeat = find_record(run, case, arm, REPEAT)
    if repeat is not None and repeat.outcome == "ok":
        distinct = repeat.metrics.get("distinct_pictures", nan)
        difference = repeat.metrics.get("max_abs_diff", nan)
        # A record with neither number has compared nothing.
        if 1 <= distinct < inf:
            return [int(distinct)]
        if 0 <= difference < inf:
            return [2 if difference > 0 else 1]
    return []


def _shows_one(run: Run, repeat: FidelityRecord) -> bool:
    """Whether the second pictures were equal to the first."""
    counted = _repeated(run, repeat.case, repeat.pipeline)
    return counted == [1] or (not counted and repeat.metrics.get("psnr", nan) >= _EQUAL_DB)


def _made_elsewhere(run: Run, case: str, arm: str) -> bool:
    """Whether pictures are known that the process of the first block, whose are judged, lacks."""
    if of_callables(run):
        return False
    good = [cell for cell in cells_of(run, case, arm) if cell.outcome == "ok"]
    first = set[str]().union(*(_made(cell) for cell in good if cell.block == 0))
    return not _judged(run, case, arm).union(*map(_made, good)) <= first


def _only_the_judged_differs(run: Run, case: str, arm: str) -> bool:
    """Whether all that tells of a second picture in a process is the hash of the judged one."""
    counts = [len(hashes) for hashes in _processes(run, case, arm, _timed)]
    return max([*counts, *_repeated(run, case, arm)], default=0) <= 1


def _timed(cell: CellRecord) -> set[str]:
    return {str(digest) for digest in values_of(cell.samples, "output_sha256") if digest}


def _made(cell: CellRecord) -> set[str]:
    return _timed(cell) | ({cell.picture_sha256} if cell.picture_sha256 else set())


def _processes(
    run: Run, case: str, arm: str, hashes_of: Callable[[CellRecord], set[str]] = _made
) -> list[set[str]]:
    """Of each process, the distinct hashes of the timed pictures and, by default, the judged one.

    Every block has processes of its own, but for callables of a test suite, which share one.
    """
    blocks = [hashes_of(cell) for cell in cells_of(run, case, arm) if cell.outcome == "ok"]
    made = [set[str]().union(*blocks)] if of_callables(run) else blocks
    return [hashes for hashes in made if hashes]


def _unhashed(run: Run, case: str, arm: str) -> int:
    """How many timed pictures nothing tells of."""
    return sum(
        not digest
        for cell in cells_of(run, case, arm)
        if cell.outcome == "ok"
        for digest in values_of(cell.samples, "output_sha256")
    )


def _judged(run: Run, case: str, arm: str) -> set[str]:
    """Hashes of the pictures that the arm's fidelity was computed from."""
    found = (r.picture_sha256 for r in run.fidelity if (r.case, r.pipeline) == (case, arm))
    return {digest for digest in found if digest}
