"""Is a candidate no worse against ground truth than a baseline: judged over pictures.

The pictures of a set are a sample of all pictures; their paired differences are what is looked at.
A candidate passes when the one-sided bound of the mean loss stays under the margin for every metric
(an intersection-union test, which needs no correction), fails when for some metric the mean loss is
past the margin and proven to be a loss (Holm over the metrics), and is open else: the gate's rule,
`srbench.stats.decide`. Few pictures have wide bounds, and one has none.

Student's t is taken at its word. Where the mean loss is exactly the margin, 5 % of candidates pass
if the differences are normal; if a few pictures lose much more than the others (exponential), 16 %
of those judged by five pictures pass, 10 % by twenty, 7 % by a hundred (4,000 simulated sets each).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from srbench.errors import ExitCode, UsageError, did_you_mean
from srbench.fidelity.evaluate import Evaluation
from srbench.fidelity.layouts import some_of
from srbench.fidelity.metrics import METRICS
from srbench.stats import Decision, Effect, Look, decide, one_sample

ALPHA = 0.05
"""One-sided level of the bounds and of the family of failures. Pictures are not drawn again with
every run, so this is no rate of false alarms in CI; the usual level of non-inferiority is taken."""

DEFAULT_MARGINS = {"psnr": 0.1, "lpips": 0.005}
"""What the tier `approx` may lose against ground truth: dB and LPIPS."""

Word = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one metric.

    Attributes:
        metric: Its name.
        margin: Tolerated mean loss; None where the metric is shown and not judged.
        deltas: Candidate minus baseline by picture; empty where it was not measured. One ruined
            picture widens the bounds more than it moves the mean: look at `worst`.
        mean: Of the deltas; None where there are none.
        lower: One-sided lower bound of the mean delta; None with fewer than two pictures.
        upper: One-sided upper bound.
        p_adjusted: Holm-adjusted one-sided p-value of "worse"; None where it is not judged.
        word: `pass`, `fail` or `inconclusive`; None where it is not judged.
        reason: Why it is open, or None.
    """

    metric: str
    margin: float | None
    deltas: dict[str, float]
    mean: float | None
    lower: float | None
    upper: float | None
    p_adjusted: float | None
    word: Word | None
    reason: str | None

    @property
    def worst(self) -> str | None:
        """The picture that loses most; None where there is none."""
        sign = _direction(self.metric)
        return min(self.deltas, key=lambda file: sign * self.deltas[file], default=None)

    def to_json(self) -> dict[str, Any]:
        """All of it, unrounded."""
        return {
            "margin": self.margin,
            "mean_delta": self.mean,
            "lower": self.lower,
            "upper": self.upper,
            "p_adjusted": self.p_adjusted,
            "verdict": self.word,
            "reason": self.reason,
            "worst": self.worst,
            "deltas": self.deltas,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of all metrics.

    Attributes:
        baseline: Where its pictures are.
        metrics: By name.
        baseline_summary: Means of the baseline.
    """

    baseline: str
    metrics: dict[str, Verdict]
    baseline_summary: dict[str, float | None]

    @property
    def word(self) -> Word:
        """The verdict over all judged metrics: the worst of them."""
        words = {verdict.word for verdict in self.metrics.values()}
        if "fail" in words:
            return "fail"
        return "inconclusive" if "inconclusive" in words else "pass"

    @property
    def exit_code(self) -> ExitCode:
        """0 pass, 1 fail, 3 inconclusive."""
        return {
            "pass": ExitCode.OK,
            "fail": ExitCode.REGRESSION,
            "inconclusive": ExitCode.INCONCLUSIVE,
        }[self.word]

    def line(self) -> str:
        """The verdict and the metrics that decided it, in one line."""
        deciding = [describe(v) for v in self.metrics.values() if v.word == self.word]
        return f"{self.word.upper()} against {self.baseline}: {'; '.join(deciding)}"

    def to_json(self) -> dict[str, Any]:
        """The field `comparison` of `srbench evaluate --json`."""
        return {
            "baseline": self.baseline,
            "verdict": self.word,
            "alpha": ALPHA,
            "metrics": {name: verdict.to_json() for name, verdict in self.metrics.items()},
            "baseline_mean": self.baseline_summary,
        }


def parse_margins(assignments: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    """Margins by metric: the defaults of those measured, and what the user set.

    Args:
        assignments: `metric=loss`, the loss in the metric's unit, 0 or more.
        metrics: What is measured.

    Raises:
        UsageError: No number, a metric that is not measured or has no value of a picture, or
            nothing to judge by.
    """
    margins = {name: loss for name, loss in DEFAULT_MARGINS.items() if name in metrics}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise UsageError(f"--margin {assignment}: expected METRIC=LOSS, as in psnr=0.1")
        if name not in metrics or METRICS[name].of_folders:
            judged = [metric for metric in metrics if not METRICS[metric].of_folders]
            raise UsageError(
                f"--margin {assignment}: '{name}' is not measured picture by picture here "
                f"(--metrics).{did_you_mean(name, judged)}"
            )
        margins[name] = _loss(assignment, text)
    if not margins:
        raise UsageError(
            "--against: no metric to judge by; measure psnr or lpips, or give --margin METRIC=LOSS"
        )
    return margins


def judge_candidate(
    candidate: Evaluation, baseline: Evaluation, margins: Mapping[str, float], name: str
) -> Comparison:
    """Hold a candidate's values against a baseline's, picture by picture.

    Args:
        candidate: Its evaluation.
        baseline: That of the baseline against the same references.
        margins: Metric -> tolerated mean loss.
        name: Of the baseline, for messages.

    Raises:
        UsageError: They are not of the same pictures.
    """
    ours, theirs = ([scores.file for scores in each.images] for each in (candidate, baseline))
    check_same_pictures(ours, theirs, name)
    deltas = {metric: _deltas(candidate, baseline, metric) for metric in candidate.mean}
    losses = {
        metric: one_sample([-_direction(metric) * delta for delta in deltas[metric].values()])
        for metric in margins
        if deltas[metric]
    }
    # As many pictures as a bound needs: what they cannot prove stays open by itself.
    decisions = decide(losses, margins, Look(ALPHA, fixed=False, number=0, least=2))
    reasons = {**baseline.reasons, **candidate.reasons}
    verdicts = {
        metric: _verdict(metric, values, margins, decisions, reasons)
        for metric, values in deltas.items()
    }
    return Comparison(name, verdicts, baseline.summary)


def describe(verdict: Verdict) -> str:
    """One metric's verdict with its numbers."""
    if verdict.mean is None:
        return f"{verdict.metric} {verdict.reason}"
    unit = METRICS[verdict.metric].unit
    text = f"{verdict.metric} {verdict.mean:+.4f}{f' {unit}' if unit else ''}"
    higher = METRICS[verdict.metric].higher_is_better
    bound = verdict.lower if higher else verdict.upper
    if bound is not None:
        text += f" ({'at least' if higher else 'at most'} {bound:+.4f}"
        allowed = "" if verdict.margin is None else f", margin {verdict.margin:g}"
        text += f"{allowed}, {len(verdict.deltas)} pictures)"
    return text if verdict.reason is None else f"{text}: {verdict.reason}"


def _verdict(
    metric: str,
    deltas: dict[str, float],
    margins: Mapping[str, float],
    decisions: Mapping[str, Decision],
    reasons: Mapping[str, str],
) -> Verdict:
    margin = margins.get(metric)
    effect = one_sample(list(deltas.values())) if deltas else None
    decision = decisions.get(metric)
    word: Word | None = decision.verdict if decision else None
    if margin is not None and decision is None:
        word = "inconclusive"
    return Verdict(
        metric=metric,
        margin=margin,
        deltas=deltas,
        mean=None if effect is None else effect.estimate,
        lower=None if effect is None else effect.lower(ALPHA),
        upper=None if effect is None else effect.upper(ALPHA),
        p_adjusted=None if decision is None else decision.p_adjusted,
        word=word,
        reason=_reason(metric, effect, word, reasons),
    )


def _reason(
    metric: str, effect: Effect | None, word: Word | None, reasons: Mapping[str, str]
) -> str | None:
    if effect is None:
        return f"was not measured: {reasons.get(metric, 'no value')}"
    if word != "inconclusive":
        return None
    if effect.blocks == 1:
        return "one picture has no bound"
    return "the pictures prove neither that it is within the margin nor that it is past it"


def _deltas(candidate: Evaluation, baseline: Evaluation, metric: str) -> dict[str, float]:
    """By picture; empty when any lacks a value, since those left might be the easy ones."""
    by_stem = {Path(scores.file).stem: scores.metrics[metric] for scores in baseline.images}
    found = {}
    for ours in candidate.images:
        a, b = ours.metrics[metric], by_stem[Path(ours.file).stem]
        if a is None or b is None:
            return {}
        found[ours.file] = a - b
    return found


def _direction(metric: str) -> int:
    return 1 if METRICS[metric].higher_is_better else -1


def check_same_pictures(candidate: Sequence[str], baseline: Sequence[str], name: str) -> None:
    """Make sure that files of the same stems are judged.

    Args:
        candidate: Names of its files.
        baseline: Names of the baseline's.
        name: Of the baseline, for messages.

    Raises:
        UsageError: They are not.
    """
    ours, theirs = ({Path(file).stem for file in files} for files in (candidate, baseline))
    if alone := sorted(ours ^ theirs):
        raise UsageError(
            f"--against {name}: {some_of(alone)} judged in only one of the folders; both must have "
            "the same pictures"
        )


def _loss(assignment: str, text: str) -> float:
    try:
        loss = float(text)
    except ValueError:
        loss = -1.0
    if not isfinite(loss) or loss < 0:
        raise UsageError(f"--margin {assignment}: expected a number from 0, the loss that passes")
    return loss
