"""The figure of a ladder: what is drawn, in which colour, and what is decided."""

from dataclasses import replace
from typing import Any

import pytest
from matplotlib.colors import to_rgb

from srbench.records import Run
from srbench.report.html.ladders import ladder_table
from srbench.report.ladder import OVER_BEFORE, LadderCase, ladder_cases
from srbench.report.waterfall import (
    GAIN_COLOR,
    LOSS_COLOR,
    UNDECIDED_COLOR,
    waterfall_figure,
    waterfall_lines,
)
from tests.unit.test_ladder_report import BASE, RUNGS, broken, ladder_run


def test_the_waterfall_falls_from_arm_to_arm_and_ends_where_the_defaults_end() -> None:
    ladder, _ = ladder_cases(broken(ladder_run(), "P2-a"))
    lines = waterfall_lines(ladder)
    labels = [line.label for line in lines]
    assert labels[0] == BASE
    assert labels[1] == "title of P1  P1"
    assert labels[-2:] == ["up to P2", "title of C  C"]
    seconds = [line.standing.seconds for line in lines]
    starts = [line.start for line in lines]
    assert seconds[2] is None
    assert starts == [None, seconds[0], seconds[1], seconds[1], None, seconds[3]]


def drawn(ladder: LadderCase) -> Any:
    figure = waterfall_figure(ladder, "x")
    assert figure is not None
    panels: list[Any] = figure.axes
    time, *fidelity = panels
    bars = [
        (round(patch.get_x(), 6), round(patch.get_x() + patch.get_width(), 6))
        for patch in time.patches
    ]
    return time, fidelity, bars, [text.get_text() for text in time.texts]


def test_bars_float_between_the_seconds_of_neighbours() -> None:
    ladder, _ = ladder_cases(ladder_run(RUNGS))
    time, (fidelity,), bars, texts = drawn(ladder)
    at = [round(standing.seconds or 0, 6) for standing in ladder.standings]
    assert time.get_xscale() == "linear"
    assert bars == [(0, at[0]), (at[0], at[1]), (at[1], at[2]), (0, at[2]), (at[2], at[3])]
    assert texts[1].endswith("1.50x")
    legend = [text.get_text() for text in time.get_legend().get_texts()]
    assert legend == [
        "the whole time of P1",
        "the whole time of P2",
        "faster",
        "slower",
        "not a default",
        "95 % interval over the one before",
        "predicted, not measured",
    ]
    assert texts[-1].replace("\n", " ") == OVER_BEFORE
    assert [line.get_label() for line in fidelity.get_lines()] == ["to P1", "to the one before"]


def uneven(run: Run, arm: str, shares: list[float]) -> Run:
    """The run with an arm whose gain differs from block to block."""
    return replace(
        run,
        cells=[
            replace(
                cell,
                samples=[
                    {**s, "latency_ms": s["latency_ms"] * shares[cell.block]} for s in cell.samples
                ],
            )
            if cell.pipeline == arm
            else cell
            for cell in run.cells
        ],
    )


def test_a_gain_whose_interval_covers_1_is_grey_and_marked() -> None:
    ladder, _ = ladder_cases(uneven(ladder_run(RUNGS), "P2", [0.8, 1.2, 0.9, 1.1]))
    verdicts = [standing.verdict for standing in ladder.standings]
    assert verdicts == [None, "faster", "not decided", "faster"]
    time, *_ = drawn(ladder)
    assert [patch.get_facecolor()[:3] for patch in time.patches[1:3]] == [
        to_rgb(GAIN_COLOR),
        to_rgb(UNDECIDED_COLOR),
    ]
    legend = [text.get_text() for text in time.get_legend().get_texts()]
    assert "not decided: the interval covers 1" in legend
    assert "slower" not in legend
    table = ladder_table(ladder, "x")
    shown = [row[table.header.index("95 % interval")].text for row in table.rows]
    assert [text.endswith(" (not decided)") for text in shown] == [False, False, True, False]
    assert "Not decided: the interval covers 1." in table.notes


def test_a_loss_that_is_decided_is_told_from_none() -> None:
    ladder, _ = ladder_cases(ladder_run(RUNGS))
    assert ladder.standings[2].verdict == "slower"
    time, *_ = drawn(ladder)
    assert time.patches[2].get_facecolor()[:3] == to_rgb(LOSS_COLOR)
    assert not any("covers 1" in note for note in ladder_table(ladder, "x").notes)


def test_one_block_decides_nothing() -> None:
    run = ladder_run(RUNGS)
    run = replace(run, cells=[cell for cell in run.cells if cell.block == 0])
    ladder, _ = ladder_cases(run)
    time, *_ = drawn(ladder)
    legend = [text.get_text() for text in time.get_legend().get_texts()]
    assert "not decided: one block has no interval" in legend
    assert not {"faster", "slower", "95 % interval over the one before"} & set(legend)
    assert not any(line.get_marker() == "|" for line in time.get_lines())


def test_whiskers_lie_in_the_middle_of_bars_with_arrows_where_the_axis_cuts_them() -> None:
    def whiskers(run: Run) -> dict[int, str]:
        time, *_ = drawn(ladder_cases(run)[0])
        left, right = time.get_xlim()
        marks: dict[int, str] = {}
        for line in time.get_lines():
            if line.get_marker() in ("<", "|", ">"):
                ((x, y),) = line.get_xydata()
                assert left <= x <= right
                marks[int(y)] = marks.get(int(y), "") + line.get_marker()
                assert y == int(y)
        return marks

    assert whiskers(ladder_run(RUNGS)) == {1: "||", 2: "||", 4: "||"}
    assert whiskers(uneven(ladder_run(RUNGS), "P2", [0.1, 10, 0.1, 10]))[2] == "<>"


@pytest.mark.parametrize(("psnr", "good"), [(38.0, True), (60.0, False)])
def test_noise_in_decibels_is_not_drawn_as_steps(psnr: float, good: bool) -> None:
    run = ladder_run(RUNGS)
    near = [replace(r, metrics={"psnr": psnr + 0.1 * i}) for i, r in enumerate(run.fidelity)]
    _, (fidelity,), *_ = drawn(ladder_cases(replace(run, fidelity=near))[0])
    least, most = fidelity.get_xlim()
    assert least < psnr < most
    assert most - least >= 10
    assert ("40 dB" in [line.get_label() for line in fidelity.get_lines()]) is good


def test_long_titles_take_two_lines_and_lose_nothing() -> None:
    run = ladder_run(RUNGS)
    title = "adapters merged beside the VAE encoder, with P10-transfers to P11"
    run.head.ladder[1]["title"] = title
    label = waterfall_lines(ladder_cases(run)[0])[1].label
    assert label.count("\n") == 1
    assert label.replace("\n", " ") == f"{title}  P2-a"


def test_a_slow_baseline_does_not_flatten_the_rest() -> None:
    ladder, _ = ladder_cases(broken(ladder_run(), "P2-a"))
    time, _, bars, texts = drawn(ladder)
    assert time.get_xscale() == "log"
    assert all(low > 0 for low, _ in bars)
    assert texts[2] == "OOM"


def test_a_figure_needs_a_time_and_does_without_pictures() -> None:
    run = ladder_run(RUNGS)
    for arm in RUNGS:
        run = broken(run, arm)
    nothing, timed = ladder_cases(replace(run, fidelity=[]))
    assert waterfall_figure(nothing, "x") is None
    assert drawn(timed)[1] == []
