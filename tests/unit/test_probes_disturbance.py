"""What voids a block, what is only told, and what is none of our business."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srbench.probes.disturbance import (
    HARMLESS_REASONS,
    VOIDING_REASONS,
    clocks_steady,
    disturbances,
    exclusive,
    tags,
    throttle_names,
)

OURS = {100, 200}


def readings(*masks: int | None, **fields: Any) -> list[dict[str, Any]]:
    return [{"throttle_reasons": mask, **fields} for mask in masks]


def listing(*pids: list[int] | None) -> list[dict[str, Any]]:
    return [{"compute_pids": found} for found in pids]


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        (0x20, "software thermal slowdown in 1 of 3 readings, up to 88 °C"),
        (0x40, "hardware thermal slowdown in 1 of 3 readings, up to 88 °C"),
        (0x48, "hardware thermal slowdown in 1 of 3 readings, up to 88 °C"),
        (0x88, "hardware power brake in 1 of 3 readings, up to 88 °C"),
        (0x08, "hardware slowdown in 1 of 3 readings, up to 88 °C"),
    ],
)
def test_heat_and_brakes_void_a_block(mask: int, line: str) -> None:
    assert disturbances(readings(0x4, mask | 0x4, 0x1, temperature_c=88), OURS, together=2) == [
        line
    ]


@pytest.mark.parametrize("mask", [0x0, 0x1, 0x2, 0x4, 0x10, 0x100, 0x117])
def test_power_capping_and_idling_are_normal(mask: int) -> None:
    assert disturbances(readings(mask, mask), OURS, together=2) == []


def test_every_kind_of_heat_is_a_line_of_its_own() -> None:
    assert len(disturbances(readings(0x20, 0x40, 0x80, 0x08), OURS, together=2)) == 4


def test_tags_tell_the_share_of_capped_readings() -> None:
    assert tags(readings(0x4, 0x5, 0, 0x20, 0)) == ["power capped in 40 % of readings"]
    assert tags(readings(0x2, None)) == ["clocks set by a user in 100 % of readings"]
    assert tags(readings(0, 0x20)) == tags(readings(None)) == tags([]) == []


@given(st.lists(st.integers(0, 0xFFFF), max_size=8))
def test_a_block_counts_exactly_when_no_voiding_bit_is_set(masks: list[int]) -> None:
    voiding = any(mask & bit for mask in masks for bit in VOIDING_REASONS)
    assert bool(disturbances(readings(*masks), (), together=0)) == voiding


def test_names_of_a_mask() -> None:
    assert throttle_names(0x24) == ["software thermal slowdown", "power capped"]
    assert throttle_names(0x1) == ["idle"]
    assert throttle_names(0) == []
    assert not set(VOIDING_REASONS) & set(HARMLESS_REASONS)


@pytest.mark.parametrize(
    ("pids", "finding"),
    [
        ([[100, 200]], None),
        ([[100], [100, 200], []], None),
        ([[100, 200], [100, 200, 7]], "foreign compute process on the card: pid 7"),
        ([[7, 100], [9, 7, 200]], "foreign compute process on the card: pid 7, 9"),
        ([[100, 0]], "foreign compute process on the card: id hidden"),
        ([[100], [7]], "foreign compute process on the card: pid 7"),
        # In a container with the host's ids: ours are among them, under other numbers.
        ([[5001, 5002]], None),
        ([[5001, 5002], [5001]], None),
        ([[5001, 5001, 5002]], None),
        ([[5001, 5002, 5003]], "3 compute processes on the card, 2 of them ours"),
        ([[0, 0]], None),
        ([[0, 0, 0]], "3 compute processes on the card, 2 of them ours"),
        # A worker that was replaced in mid-block gets another id there.
        ([[5001, 5002], [5001, 5003]], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_foreign_processes(pids: list[list[int] | None], finding: str | None) -> None:
    assert disturbances(listing(*pids), OURS, together=2) == ([finding] if finding else [])


@pytest.mark.parametrize(
    ("pids", "together", "finding"),
    [
        ([[5001], [5002]], 1, None),
        ([[5001], [5001, 5002]], 1, "2 compute processes on the card, 1 of them ours"),
        ([[0], [0, 0]], 1, "2 compute processes on the card, 1 of them ours"),
        # Three workers had the card, one of them after a kill, but never more than two at a time.
        ([[5001, 5002], [5001, 5003]], 2, None),
        ([[5001, 5002, 5003]], 2, "3 compute processes on the card, 2 of them ours"),
    ],
)
def test_in_a_container_those_alive_together_are_counted(
    pids: list[list[int]], together: int, finding: str | None
) -> None:
    found = disturbances(listing(*pids), {100, 200, 300}, together)
    assert found == ([finding] if finding else [])


def test_heat_and_company_are_both_told() -> None:
    states = [{"throttle_reasons": 0x40, "compute_pids": [100, 3]}]
    assert len(disturbances(states, OURS, together=2)) == 2


def test_exclusive_before_the_first_worker() -> None:
    quiet = {"compute_pids": [], "utilization_pct": 0}
    busy = {"compute_pids": [], "utilization_pct": 97}
    assert exclusive([quiet, quiet]) is None
    assert exclusive([quiet, {**quiet, "compute_pids": [5]}]) == (
        "foreign compute process on the card: pid 5"
    )
    assert exclusive([busy, quiet]) is None, "a process that just ended"
    assert exclusive([busy, busy]) == "the card is 97 % busy though no foreign process is listed"
    assert exclusive([{}]) is None
    assert exclusive([]) is None


@pytest.mark.parametrize(
    ("clocks", "steady"),
    [
        ([1410] * 5, True),
        ([210, 900, 1410, 1400, 1395, 1410, 1405], True),
        ([1410, 1410, 1410, 1410], False),
        ([1410, 1410, 1410, 1410, 1380], False),
        ([1000, 1000, 1000, 1000, 981], True),
        ([None] * 5, True),
        ([], False),
    ],
)
def test_clocks_are_steady_within_two_percent(clocks: list[int | None], *, steady: bool) -> None:
    assert clocks_steady([{"sm_clock_mhz": clock} for clock in clocks]) is steady
