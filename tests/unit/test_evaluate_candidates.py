"""Candidate against baseline over pictures: bounds, margins and the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from srbench.errors import ExitCode, UsageError
from srbench.fidelity.candidates import ALPHA, judge_candidate, parse_margins
from srbench.fidelity.evaluate import Evaluation, Scores
from srbench.fidelity.tables import console_lines, csv_text, markdown_text

T_19 = 1.729132811521367
"""What Student's t of 19 degrees of freedom exceeds in 5 % of cases (tables)."""


def evaluation(missing: str | None = None, /, **metrics: list[float]) -> Evaluation:
    count = len(next(iter(metrics.values())))
    images = []
    for index in range(count):
        values: dict[str, float | None] = {name: v[index] for name, v in metrics.items()}
        reasons = {}
        if missing:
            values[missing], reasons[missing] = None, "no weights"
        images.append(Scores(f"{index:02d}.png", values, reasons))
    return Evaluation(images, Scores(""), {}, samples=1, cropped=0, skipped=[])


def spread(mean: float, deviation: float, count: int = 20) -> list[float]:
    """Values of exactly this mean and sample deviation."""
    raw = np.random.default_rng(7).normal(size=count)
    raw = (raw - raw.mean()) / raw.std(ddof=1)
    return [float(value) for value in mean + deviation * raw]


def against_zero(**metrics: list[float]) -> dict[str, object]:
    margins = parse_margins([], list(metrics))
    base = evaluation(**{name: [0.0] * len(values) for name, values in metrics.items()})
    found = judge_candidate(evaluation(**metrics), base, margins, "base")
    return {"word": found.word, **{name: v.word for name, v in found.metrics.items()}}


def test_bounds_are_those_of_paired_differences() -> None:
    found = judge_candidate(
        evaluation(psnr=spread(25.05, 0.2)), evaluation(psnr=[25.0] * 20), {"psnr": 0.1}, "base"
    ).metrics["psnr"]
    reach = T_19 * 0.2 / math.sqrt(20)
    assert found.mean == pytest.approx(0.05)
    assert found.lower == pytest.approx(0.05 - reach)
    assert found.upper == pytest.approx(0.05 + reach)
    assert ALPHA == 0.05
    assert list(found.deltas) == [f"{index:02d}.png" for index in range(20)]


@pytest.mark.parametrize(
    ("psnr", "lpips", "word"),
    [
        ((0.0, 0.05), (0.0, 0.002), "pass"),
        ((-0.05, 0.05), (0.002, 0.002), "pass"),  # worse, and proven to be within the margin
        ((-0.3, 0.05), (0.0, 0.002), "fail"),
        ((0.3, 0.05), (0.02, 0.002), "fail"),
        ((-0.05, 1.0), (0.0, 0.002), "inconclusive"),
        ((0.5, 0.05), (0.004, 0.01), "inconclusive"),
    ],
)
def test_every_metric_must_stay_within_its_margin(
    psnr: tuple[float, float], lpips: tuple[float, float], word: str
) -> None:
    assert against_zero(psnr=spread(*psnr), lpips=spread(*lpips))["word"] == word


def test_failures_are_corrected_for_the_number_of_metrics() -> None:
    """A loss at p = 0.03 fails alone and is open beside a second metric (Holm: 0.06)."""
    loss = 1.9970 * 0.4 / math.sqrt(20)  # t quantile of 19 degrees at 0.03
    assert loss > 0.1
    values = spread(-loss, 0.4)
    assert against_zero(psnr=values)["psnr"] == "fail"
    assert against_zero(psnr=values, lpips=spread(0, 0.001))["psnr"] == "inconclusive"


def test_equal_pictures_pass_and_one_picture_is_open() -> None:
    assert against_zero(psnr=[0.0, 0.0])["word"] == "pass"
    assert against_zero(psnr=[0.0])["word"] == "inconclusive"
    assert against_zero(psnr=[0.1, -0.1, 0.0])["word"] == "inconclusive"
    assert against_zero(psnr=[3.0, 3.1, 2.9])["word"] == "pass"


def test_what_was_not_measured_is_open_and_says_why() -> None:
    margins = parse_margins([], ["psnr", "lpips"])
    found = judge_candidate(
        evaluation("lpips", psnr=[1.0] * 6, lpips=[0.0] * 6),
        evaluation(psnr=[1.0] * 6, lpips=[0.0] * 6),
        margins,
        "base",
    )
    assert found.exit_code == ExitCode.INCONCLUSIVE
    assert found.line() == "INCONCLUSIVE against base: lpips was not measured: no weights"
    assert found.metrics["psnr"].word == "pass"


def test_metrics_without_a_margin_are_shown_and_not_judged() -> None:
    candidate, base = (
        evaluation(psnr=[2.0] * 6, ssim=[0.1] * 6),
        evaluation(psnr=[2.0] * 6, ssim=[0.9] * 6),
    )
    found = judge_candidate(candidate, base, parse_margins([], ["psnr", "ssim"]), "base")
    assert found.word == "pass"
    assert found.metrics["ssim"].mean == pytest.approx(-0.8)
    judged = judge_candidate(candidate, base, parse_margins(["ssim=0.05"], ["ssim"]), "base")
    assert judged.exit_code == ExitCode.REGRESSION
    assert "ssim -0.8000 (at least -0.8000, margin 0.05, 6 pictures)" in judged.line()


def test_pictures_are_paired_by_stem_not_by_position() -> None:
    """`a.PNG` comes before `a.b.png` and `a.png` after it."""
    ours, theirs = (
        Evaluation([Scores(file, {"psnr": v}) for file, v in rows], Scores(""), {}, 1, 0, [])
        for rows in ((("a.PNG", 30.0), ("a.b.png", 20.0)), (("a.b.png", 21.0), ("a.png", 32.0)))
    )
    verdict = judge_candidate(ours, theirs, {"psnr": 0.1}, "base").metrics["psnr"]
    assert verdict.deltas == {"a.PNG": -2.0, "a.b.png": -1.0}
    assert verdict.worst == "a.PNG"


@pytest.mark.statistical
@pytest.mark.parametrize("count", [2, 5, 20])
def test_one_candidate_in_twenty_is_misjudged(count: int) -> None:
    """At a true loss of the margin 5 % pass, and of those without a loss at most 5 % fail."""
    rng = np.random.default_rng(count)
    base = evaluation(psnr=[0.0] * count)
    words: dict[float, list[str]] = {0.1: [], 0.0: []}
    for loss, found in words.items():
        for _ in range(1000):
            values = [float(value) for value in rng.normal(-loss, 0.3, count)]
            found.append(judge_candidate(evaluation(psnr=values), base, {"psnr": 0.1}, "base").word)
    chance = 3 * math.sqrt(ALPHA * (1 - ALPHA) / 1000)
    assert words[0.1].count("pass") / 1000 == pytest.approx(ALPHA, abs=chance)
    assert words[0.0].count("fail") / 1000 < ALPHA + chance


def test_other_pictures_are_no_baseline() -> None:
    with pytest.raises(UsageError, match=r"--against base: 02 judged in only one"):
        judge_candidate(evaluation(psnr=[1.0] * 3), evaluation(psnr=[1.0] * 2), {}, "base")


@pytest.mark.parametrize(
    ("assignments", "metrics", "said"),
    [
        (["psnr"], ["psnr"], "expected METRIC=LOSS"),
        (["psnr=much"], ["psnr"], "expected a number from 0"),
        (["psnr=-0.1"], ["psnr"], "expected a number from 0"),
        (["psnr=nan"], ["psnr"], "expected a number from 0"),
        (["psrn=0.1"], ["psnr"], "Did you mean 'psnr'"),
        (["fid=1"], ["psnr", "fid"], "not measured picture by picture"),
        ([], ["ssim"], "no metric to judge by"),
    ],
)
def test_bad_margins_are_one_line(assignments: list[str], metrics: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_margins(assignments, metrics)


def test_the_tables_show_verdict_and_values() -> None:
    candidate = evaluation(psnr=spread(24.7, 0.05), lpips=[0.2] * 20)
    base = evaluation(psnr=[25.0] * 20, lpips=[0.2] * 20)
    found = judge_candidate(candidate, base, parse_margins([], ["psnr", "lpips"]), "base")
    page = markdown_text(candidate, found)
    assert "**FAIL against base: psnr -0.3000 dB" in page
    assert "| psnr | 25.0000 | -0.3000 | " in page
    assert "| lpips | 0.2000 | +0.0000 | +0.0000 | +0.0000 | 0.005 | pass |" in page
    assert page.count(".png |") == 20
    lines = list(console_lines(candidate, found))
    assert lines[21].split() == ["mean", "24.7000", "0.2000"]
    assert lines[-1].startswith("FAIL against base: psnr")
    assert (
        csv_text(candidate).splitlines()[1] == f"00.png,{candidate.images[0].metrics['psnr']!r},0.2"
    )
