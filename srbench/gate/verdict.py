"""Ask every question of a run and put the answers together."""

from __future__ import annotations

from dataclasses import replace

from srbench.errors import NotComparableError
from srbench.gate import fidelity, latency
from srbench.gate.checks import Check, Judgement, Question, Verdict
from srbench.gate.comparable import (
    Environment,
    Yardstick,
    environment_of,
    matching_arm,
    of_callables,
    require_comparable,
    same_pipeline,
)
from srbench.gate.determinism import determinism_checks, determinism_warnings
from srbench.gate.energy import energy_checks, energy_warnings
from srbench.gate.margins import holds_to_margins, require_margins
from srbench.gate.outcomes import missing_cases, outcome_checks, unfinished_checks, void_warnings
from srbench.gate.policy import Policy, require_known_cases
from srbench.gate.precision import own_precision_checks
from srbench.gate.resources import memory_check, work_checks
from srbench.gate.speedup import speedup_checks
from srbench.noise import NoiseFile
from srbench.records import Run
from srbench.stats.runs import baseline_arm, candidate_arms


def judge(
    run: Run,
    policy: Policy,
    against: Run | None = None,
    name: str = "",
    noise: NoiseFile | None = None,
) -> Judgement:
    """Judge a run.

    Always: that it is whole, outcomes, fidelity tiers, the baseline's own precision, determinism.
    With `against`: latency ratio, PSNR, memory, energy and work against that run. Without it, a
    candidate that is another revision of the baseline's pipeline is held against the baseline arm
    like a regression; one that is another pipeline must reach `min_speedup`. A run of counters
    alone is held against another such run and asks for nothing else.

    Args:
        run: The run under judgement.
        policy: What is tolerated.
        against: The promoted run.
        name: What to call it in messages, such as `promoted 'main'`.
        noise: Of this machine; margins below it are refused.

    Raises:
        NotComparableError: The run is empty, names no case or has a single arm, or the two runs may
            not be compared.
        UsageError: A margin is below the noise, or the policy overrides what is no case.
    """
    if not run.cells:
        raise NotComparableError(f"run {run.head.run_id} holds no measured cell: nothing to judge")
    _require_cases(run, policy)
    shared = [] if against is None else require_comparable(run, against, name)
    arms = {} if against is None else _yardsticks(run, against, name)
    checks = [*unfinished_checks(run), *outcome_checks(run)]
    warnings = [*void_warnings(run), *_override_warnings(run, policy)]
    if run.head.purpose == "work":
        checks += _counted(run, arms, shared)
    else:
        checks += _measured(run, arms, shared, policy)
        warnings += _measured_warnings(run, against, policy, noise, checks)
    if against is not None:
        checks += missing_cases(run, against, name)
        environment = environment_of(run, against)
        # Counters do not depend on the machine around the software.
        counts = run.head.purpose == "work"
        warnings += environment.software_lines(name) if counts else environment.lines(name)
        if not against.ended:
            warnings.append(f"{name} has not finished")
    return replace(
        _judgement(run, name),
        checks=checks,
        warnings=warnings,
        on_inconclusive=policy.on_inconclusive,
    )


def require_judgeable(
    run: Run,
    policy: Policy,
    against: Run | None = None,
    name: str = "",
    noise: NoiseFile | None = None,
) -> None:
    """Refuse, before the first block, what `judge` could never answer.

    Args:
        run: Its head is enough.
        policy: What is tolerated.
        against: The promoted run.
        name: What to call it in messages.
        noise: Of this machine.

    Raises:
        NotComparableError: The run names no case or has a single arm, the two runs may not be
            compared, or a case has no baseline in the promoted one.
        UsageError: A margin is below the noise, or the policy overrides what is no case.
    """
    _require_cases(run, policy)
    _candidates(run)
    if against is not None:
        require_comparable(run, against, name)
        _yardsticks(run, against, name)
        missing = missing_cases(run, against, name)
        if bare := [check.message for check in missing if check.verdict is Verdict.NO_BASELINE]:
            raise NotComparableError("; ".join(bare))
    _noise_warnings(run, against, policy, noise)


def not_comparable(run: Run, name: str, message: str) -> Judgement:
    """The judgement of a run that may not be compared with `name`."""
    question = Question("run", "", "comparable")
    check = question.answer(Verdict.NO_BASELINE, "not_comparable", message)
    return replace(_judgement(run, name), checks=[check])


def blemishes(run: Run, policy: Policy) -> list[Check]:
    """What makes a run unfit to be a baseline: gaps, broken cells, unfaithful pictures.

    How fast it is does not matter: later runs are held against whatever it was.

    Raises:
        NotComparableError: It has a single arm.
        UsageError: The policy overrides what is no case.
    """
    _require_overrides(run, policy)
    checks = [*unfinished_checks(run), *outcome_checks(run)]
    if run.head.purpose != "work":
        for candidate in _candidates(run):
            checks += _pictures(run, candidate, policy)
    fine = (Verdict.PASS, Verdict.SKIPPED)
    return [check for check in checks if check.verdict not in fine]


def _judgement(run: Run, name: str) -> Judgement:
    return Judgement(
        run_id=run.head.run_id,
        profile=run.head.profile,
        against=name or None,
        checks=[],
        simulated=run.head.purpose == "simulation",
    )


def _yardsticks(run: Run, against: Run, name: str) -> dict[str, Yardstick]:
    """Every arm of the run -> its like in the promoted run."""
    environment = environment_of(run, against)
    arms = {baseline_arm(run): baseline_arm(against)}
    arms |= {arm: matching_arm(run, arm, against, name) for arm in candidate_arms(run)}
    return {ours: Yardstick(against, theirs, name, environment) for ours, theirs in arms.items()}


def _counted(run: Run, arms: dict[str, Yardstick], shared: list[str]) -> list[Check]:
    if not arms:
        raise NotComparableError(
            f"run {run.head.run_id} holds work counters only: hold it against another such run "
            "with --against"
        )
    return [
        check
        for case in shared
        for arm, yardstick in arms.items()
        for check in work_checks(run, case, arm, yardstick)
    ]


def _measured(
    run: Run, arms: dict[str, Yardstick], shared: list[str], policy: Policy
) -> list[Check]:
    checks: list[Check] = []
    base = Yardstick(run, baseline_arm(run), baseline_arm(run), Environment())
    for candidate in _candidates(run):
        found = _pictures(run, candidate, policy)
        if arms:
            promoted = arms[candidate]
            found += latency.promoted_checks(run, candidate, promoted, shared, policy)
            found += latency.time_checks(run, candidate, promoted, shared, policy)
            found += fidelity.promoted_checks(run, candidate, promoted, shared, policy)
        elif same_pipeline(run.head, candidate):
            found += latency.paired_checks(run, candidate, policy, base.name)
            found += _resources(run, {candidate: base}, run.head.cases, policy)
        else:
            found += speedup_checks(run, candidate, policy)
        checks += found if len(candidate_arms(run)) == 1 else _named(found, candidate)
    return checks + (_resources(run, arms, shared, policy) if arms else [])


def _require_cases(run: Run, policy: Policy) -> None:
    if not run.head.cases:
        raise NotComparableError(f"run {run.head.run_id} names no case: nothing to judge")
    _require_overrides(run, policy)


def _require_overrides(run: Run, policy: Policy) -> None:
    # A test suite judges its cases one by one: what this one lacks may be another test's.
    if not of_callables(run) or run.head.purpose == "work":
        require_known_cases(policy, run.head.cases)


def _override_warnings(run: Run, policy: Policy) -> list[str]:
    absent = [case for case in policy.cases if case not in run.head.cases]
    if not absent:
        return []
    return [f"[gate.cases] of the policy has {', '.join(absent)}, which this run has not"]


def _candidates(run: Run) -> list[str]:
    if run.head.purpose == "ladder":
        raise NotComparableError(
            f"run {run.head.run_id} is a ladder: its rungs are there to be looked at, nothing "
            "gates them; judge a run of `srbench run`"
        )
    if candidates := candidate_arms(run):
        return candidates
    raise NotComparableError(
        f"run {run.head.run_id} has the single arm '{baseline_arm(run)}': run it with "
        "--pipelines BASELINE,CANDIDATE"
    )


def _pictures(run: Run, candidate: str, policy: Policy) -> list[Check]:
    return [
        *fidelity.tier_checks(run, candidate, policy),
        *own_precision_checks(run, candidate, policy),
        *determinism_checks(run, candidate, policy),
    ]


def _resources(
    run: Run, arms: dict[str, Yardstick], cases: list[str], policy: Policy
) -> list[Check]:
    checks: list[Check] = []
    for case in cases:
        for arm, yardstick in arms.items():
            checks.append(memory_check(run, case, arm, yardstick, policy))
            checks += work_checks(run, case, arm, yardstick)
    return checks + energy_checks(run, arms, cases, policy)


def _named(checks: list[Check], candidate: str) -> list[Check]:
    return [replace(check, message=f"{candidate}: {check.message}") for check in checks]


def _measured_warnings(
    run: Run, against: Run | None, policy: Policy, noise: NoiseFile | None, checks: list[Check]
) -> list[str]:
    return [
        *_noise_warnings(run, against, policy, noise),
        *determinism_warnings(run),
        *energy_warnings(run),
        *_unproven(checks),
    ]


def _noise_warnings(
    run: Run, against: Run | None, policy: Policy, noise: NoiseFile | None
) -> list[str]:
    if noise is None or (against is None and not holds_to_margins(run.head)):
        return []
    # One whose first block is unfinished may still be a reference.
    blocks = None if against is None else max(1, len(against.finished_blocks))
    return require_margins(run.head, policy, noise, blocks)


def _unproven(checks: list[Check]) -> list[str]:
    """Point estimates past the margin that the data cannot prove."""
    return [
        f"{check.message}: past the margin, not proven; measure at least 6 blocks to know"
        for check in checks
        if check.metric in ("latency", "time")
        and check.verdict is Verdict.PASS
        and check.value is not None
        and check.threshold is not None
        and check.value > check.threshold
    ]
