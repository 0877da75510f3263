"""One question the gate asks and its answer, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from srbench.errors import ExitCode
from srbench.outcome import one_line

_LONGEST = 1000
"""Characters of a message or warning; more than any of ours has."""


class Verdict(StrEnum):
    """Answer to one check."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    NO_BASELINE = "no_baseline"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question: a metric of one arm in one case.

    Attributes:
        case: Case name, `geomean` for the mean over cases, `run` for the run as a whole.
        pipeline: Arm name.
        metric: What was judged: `latency`, `speedup`, `psnr`, `peak_tensor_bytes`, ...
        value: The measured value, unrounded; None when there is none. For `latency` and `time`
            the slow-down as a fraction, for `energy_j` the growth as a fraction.
        threshold: What it was held against, in the same unit.
        interval: 95 % interval of the value where it has one.
        verdict: The answer.
        reason_code: Stable machine word: `within_limits`, `slower`, `below_min_speedup`,
            `not_proven`, `too_few_blocks`, `unfinished`, `below_limit`, `above_limit`,
            `nondeterministic`, `more_memory`, `more_energy`, `more_work`, `work_changed`,
            `other_version`, `other_environment`, `not_measured`, `not_in_run`, `no_baseline`,
            `not_comparable`, or the outcome `oom`, `crash`, `timeout`, `unsupported`,
            `throttled`, `invalid`.
        message: What a person reads, without the verdict word; one line, whatever names and reasons
            the file holds.
        improved: The mirrored rule proves a gain past the margin.
    """

    case: str
    pipeline: str
    metric: str
    value: float | None
    threshold: float | None
    interval: tuple[float, float] | None = None
    verdict: Verdict
    reason_code: str
    message: str
    improved: bool = False

    def __post_init__(self) -> None:
        """Fold the message into one line that a terminal may show."""
        object.__setattr__(self, "message", one_line(self.message, _LONGEST))


@dataclass(frozen=True, slots=True)
class Question:
    """A metric of one arm in one case, to be answered once: the only place that makes checks."""

    case: str
    pipeline: str
    metric: str

    def answer(
        self,
        verdict: Verdict,
        reason_code: str,
        message: str,
        *,
        value: float | None = None,
        threshold: float | None = None,
        interval: tuple[float, float] | None = None,
        improved: bool = False,
    ) -> Check:
        """The check with this answer; the fields are those of `Check`."""
        return Check(
            case=self.case,
            pipeline=self.pipeline,
            metric=self.metric,
            value=value,
            threshold=threshold,
            interval=interval,
            verdict=verdict,
            reason_code=reason_code,
            message=message,
            improved=improved,
        )

    def holds(
        self, good: bool, bad_code: str, message: str, *, value: float, threshold: float
    ) -> Check:
        """PASS when `good`, else FAIL with `bad_code`."""
        verdict, code = (Verdict.PASS, "within_limits") if good else (Verdict.FAIL, bad_code)
        return self.answer(verdict, code, message, value=value, threshold=threshold)

    def unmeasured(
        self,
        message: str,
        *,
        verdict: Verdict = Verdict.INCONCLUSIVE,
        value: float | None = None,
        threshold: float | None = None,
    ) -> Check:
        """One of the numbers is missing: open, unless nobody could have measured it."""
        return self.answer(verdict, "not_measured", message, value=value, threshold=threshold)


OUTCOME = "outcome"
"""Metric of the checks that ask whether the cells are there and ended well."""

UNFINISHED = "unfinished"
"""Reason code of blocks and cells that are missing: no policy turns it into a pass."""

_ORDER = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_BASELINE, Verdict.INCONCLUSIVE)
_EXIT = {
    Verdict.FAIL: ExitCode.REGRESSION,
    Verdict.ERROR: ExitCode.INFRASTRUCTURE,
    Verdict.NO_BASELINE: ExitCode.NOT_COMPARABLE,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Verdict.PASS: ExitCode.OK,
}
_WORDS = {
    Verdict.FAIL: "FAIL",
    Verdict.ERROR: "ERROR",
    Verdict.NO_BASELINE: "NOT COMPARABLE",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE",
    Verdict.PASS: "PASS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All checks of one run and what follows from them.

    Attributes:
        run_id: The run judged.
        profile: Its profile.
        against: Name of the promoted run or file, None without.
        checks: In table order.
        warnings: One line each, for stderr.
        on_inconclusive: The policy's word for open questions.
        simulated: Whether a fake device was measured.
    """

    run_id: str
    profile: str
    against: str | None
    checks: list[Check]
    warnings: list[str] = field(default_factory=list)
    on_inconclusive: str = "exit-3"
    simulated: bool = False

    def __post_init__(self) -> None:
        """Fold every warning into one line that a terminal may show."""
        folded = [one_line(warning, _LONGEST) for warning in self.warnings]
        object.__setattr__(self, "warnings", folded)

    @property
    def verdict(self) -> Verdict:
        """The strongest word of any check: a proven regression outranks a crash beside it.

        Where nothing passed nothing was judged: neither no check nor open ones alone are a pass,
        and that the cells are there says nothing of what is in them.
        """
        judged = any(c.verdict is Verdict.PASS and c.metric != OUTCOME for c in self.checks)
        spoken = {check.verdict for check in self.checks}
        verdict = next((word for word in _ORDER if word in spoken), Verdict.PASS)
        if verdict is Verdict.PASS and not judged:
            return Verdict.NO_BASELINE
        if verdict is Verdict.INCONCLUSIVE:
            if self.on_inconclusive == "fail":
                return Verdict.FAIL
            unfinished = any(check.reason_code == UNFINISHED for check in self.checks)
            if self.on_inconclusive == "warn" and not unfinished and judged:
                return Verdict.PASS
        return verdict

    @property
    def exit_code(self) -> ExitCode:
        """What the command returns."""
        return _EXIT[self.verdict]

    @property
    def open_questions(self) -> list[Check]:
        """Checks that are inconclusive."""
        return [check for check in self.checks if check.verdict is Verdict.INCONCLUSIVE]

    def line(self) -> str:
        """One line: the verdict and every reason against a pass, strongest first."""
        reasons: list[str] = []
        for word in _ORDER:
            reasons += [check.message for check in self.checks if check.verdict is word]
        passed = sum(check.verdict is Verdict.PASS for check in self.checks)
        nothing = "nothing was judged"
        if self.verdict is Verdict.PASS:
            nothing = f"{passed} of {len(self.checks)} checks passed"
        why = "; ".join(dict.fromkeys(reasons)) or nothing
        return f"srbench gate: {self.word} {why}"

    @property
    def improvements(self) -> list[Check]:
        """Checks that passed with a proven gain."""
        return [check for check in self.checks if check.improved]

    def worst_first(self) -> list[Check]:
        """What did not pass first; within a verdict the order of asking."""
        order = [*_ORDER, Verdict.SKIPPED, Verdict.PASS]
        return sorted(self.checks, key=lambda check: order.index(check.verdict))

    @property
    def word(self) -> str:
        """The verdict as people read it; SIMULATED where nothing was measured."""
        return f"{_WORDS[self.verdict]}{' (SIMULATED)' if self.simulated else ''}"
