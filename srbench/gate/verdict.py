"""Ask every question of a run and put the answers together."""

from __future__ import annotations

from dataclasses import replace

from srbench.errors import NotComparableError
from srbench.gate.checks import Check, Judgement, Verdict
from srbench.gate.comparable import environment_differences, matching_arm, require_comparable
from srbench.gate.fidelity import promoted_checks, tier_checks
from srbench.gate.latency import regression_checks, speedup_checks
from srbench.gate.policy import Policy
from srbench.gate.resources import resource_checks
from srbench.records import Run
from srbench.stats.runs import baseline_arm, candidate_arms, cells_of


def judge(run: Run, policy: Policy, against: Run | None = None, name: str = "") -> Judgement:
    """Judge a run.

    Without `against`: outcomes, fidelity tiers and the speed-up over the run's own baseline. With
    it: outcomes, fidelity tiers, and latency ratio, PSNR, memory and work against that run.

    Args:
        run: The run under judgement.
        policy: What is tolerated.
        against: The promoted run.
        name: What to call it in messages, such as `promoted 'main'`.

    Raises:
        NotComparableError: The run has a single arm, or the two runs may not be compared.
    """
    if not candidate_arms(run):
        raise NotComparableError(
            f"run {run.head.run_id} has the single arm '{baseline_arm(run)}': run it with "
            "--pipelines BASELINE,CANDIDATE"
        )
    checks = outcome_checks(run)
    warnings: list[str] = []
    if not run.ended:
        done = len(run.finished_blocks)
        warnings.append(f"the run has not finished: {done} of {run.head.blocks} blocks are there")
    shared = [] if against is None else require_comparable(run, against, name)
    for candidate in candidate_arms(run):
        found = tier_checks(run, candidate, policy)
        if against is None:
            found += speedup_checks(run, candidate, policy)
        else:
            found += _against(run, candidate, against, shared, policy, name)
        checks += found if len(candidate_arms(run)) == 1 else _named(found, candidate)
    if against is not None:
        checks += resource_checks(run, against, _arms(run, against, name), shared, policy, name)
        checks += _missing_cases(run, against, name)
        warnings += environment_differences(run, against, name)
    warnings += _smoke_warnings(checks)
    return Judgement(
        run_id=run.head.run_id,
        profile=run.head.profile,
        against=name or None,
        checks=checks,
        warnings=warnings,
        on_inconclusive=policy.on_inconclusive,
    )


def not_comparable(run: Run, name: str, message: str) -> Judgement:
    """The judgement of a run that may not be compared with `name`."""
    check = Check(
        case="run",
        pipeline="",
        metric="comparable",
        value=None,
        threshold=None,
        verdict=Verdict.NO_BASELINE,
        reason_code="not_comparable",
        message=message,
    )
    return Judgement(
        run_id=run.head.run_id, profile=run.head.profile, against=name or None, checks=[check]
    )


def outcome_checks(run: Run) -> list[Check]:
    """One error a case and arm that did not end well; one open question where nothing was run."""
    checks: list[Check] = []
    for case in run.head.cases:
        for arm in run.head.pipelines:
            cells = cells_of(run, case, arm)
            bad = [cell for cell in cells if cell.outcome != "ok"]
            if bad:
                reason = f": {bad[0].reason}" if bad[0].reason else ""
                text = f"{bad[0].outcome} {case} {arm} in {len(bad)} of {len(cells)} blocks{reason}"
                checks.append(_outcome(case, arm, Verdict.ERROR, bad[0].outcome, text))
            elif not cells:
                text = f"{case} {arm} was not measured"
                checks.append(_outcome(case, arm, Verdict.INCONCLUSIVE, "not_measured", text))
            else:
                text = f"{case} {arm} ok in {len(cells)} blocks"
                checks.append(_outcome(case, arm, Verdict.PASS, "within_limits", text))
    return checks


def _outcome(case: str, arm: str, verdict: Verdict, code: str, text: str) -> Check:
    return Check(
        case=case,
        pipeline=arm,
        metric="outcome",
        value=None,
        threshold=None,
        verdict=verdict,
        reason_code=code,
        message=text,
    )


def _against(
    run: Run, candidate: str, against: Run, shared: list[str], policy: Policy, name: str
) -> list[Check]:
    theirs = matching_arm(run, candidate, against, name)
    return [
        *regression_checks(run, candidate, against, theirs, shared, policy, name),
        *promoted_checks(run, candidate, against, theirs, shared, policy, name),
    ]


def _named(checks: list[Check], candidate: str) -> list[Check]:
    return [replace(check, message=f"{candidate}: {check.message}") for check in checks]


def _arms(run: Run, against: Run, name: str) -> dict[str, str]:
    arms = {baseline_arm(run): baseline_arm(against)}
    return arms | {arm: matching_arm(run, arm, against, name) for arm in candidate_arms(run)}


def _missing_cases(run: Run, against: Run, name: str) -> list[Check]:
    checks = [
        _case_check(case, Verdict.NO_BASELINE, "no_baseline", f"{case} has no baseline in {name}")
        for case in run.head.cases
        if case not in against.head.cases
    ]
    return checks + [
        _case_check(case, Verdict.SKIPPED, "not_in_run", f"{case} of {name} is not in this run")
        for case in against.head.cases
        if case not in run.head.cases
    ]


def _case_check(case: str, verdict: Verdict, code: str, text: str) -> Check:
    return Check(
        case=case,
        pipeline="",
        metric="baseline",
        value=None,
        threshold=None,
        verdict=verdict,
        reason_code=code,
        message=text,
    )


def _smoke_warnings(checks: list[Check]) -> list[str]:
    """Point estimates past the margin that the data cannot prove."""
    return [
        f"{check.message}: past the margin, not proven; measure at least 6 blocks to know"
        for check in checks
        if check.metric == "latency"
        and check.verdict is Verdict.PASS
        and check.value is not None
        and check.threshold is not None
        and check.value > check.threshold
    ]
