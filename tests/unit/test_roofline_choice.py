"""What `srbench roofline` shows when it is not told: the run and the precision."""

from dataclasses import replace
from typing import Any

import pytest

from srbench.config import load_settings
from srbench.profiles import load_profile
from srbench.records import Run
from srbench.roofline.assemble import find_target, newest_answer
from tests.factories import BASELINE, make_run

CASE = "64x64x2"


def run_of(**head: Any) -> Run:
    return make_run(cases=[CASE], profile="h100", head=head, blocks=2)


RUN = run_of()


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({}, True),
        ({"cases": [CASE]}, True),
        ({"cases": ["documented"]}, False),
        ({"precision": "fp32"}, False),
        ({"options": ["guidance=1"]}, False),
        ({"pipelines": [BASELINE]}, True),
        ({"pipelines": ["tests.fixtures_pipelines:Bicubic"]}, False),
    ],
)
def test_the_newest_run_answers_settings_that_it_fits(settings: dict[str, Any], fits: bool) -> None:
    ladder = run_of(purpose="ladder")
    untimed = replace(RUN, cells=[replace(cell, samples=[]) for cell in RUN.cells])
    found = newest_answer([untimed, ladder, RUN], load_settings(settings))
    assert found is (RUN if fits else None)


@pytest.mark.parametrize(
    ("profile", "runs", "precision"),
    [("cpu", [], "fp32"), ("h100", [], "fp16"), ("h100", [run_of(precision="fp32")], "fp32")],
)
def test_the_precision_is_the_newest_run_s_or_the_usual(
    profile: str, runs: list[Run], precision: str
) -> None:
    for settings in (load_settings({}), load_settings({"precision": "fp16"})):
        target = find_target(load_profile(profile), settings, None, runs)
        assert target.precision == (settings.precision or precision)
