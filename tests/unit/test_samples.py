"""The columns are another way to hold the same dictionaries: nothing may tell them apart."""

import json
import pickle
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srbench.records import CellRecord, Sample
from srbench.samples import Samples, fields_of, in_columns, values_of

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), NUMBERS, st.text(max_size=3)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
READINGS = {
    "sm_clock_mhz": st.just(1695),
    "power_w": NUMBERS,
    "throttle_reasons": st.sampled_from([0, 4]),
    "compute_pids": st.just([1, 2]),
}


def _in_order(value: Any) -> Any:
    """With sorted keys; hypothesis would also vary their order."""
    if not isinstance(value, dict):
        return value
    return {key: _in_order(value[key]) for key in sorted(value)}


REGULAR = st.fixed_dictionaries(
    {
        "kind": st.just("sample"),
        "pair": st.integers(0, 50),
        "position": st.integers(0, 50),
        "latency_ms": NUMBERS,
        "gpu_ms": st.none() | NUMBERS,
        "stages_ms": st.fixed_dictionaries({"unet": NUMBERS, "vae_decode": NUMBERS}),
        "state": st.fixed_dictionaries(
            {"before": st.fixed_dictionaries(READINGS), "after": st.fixed_dictionaries(READINGS)}
        ),
        "output_sha256": st.sampled_from(["ab" * 32, "cd" * 32]),
    }
).map(_in_order)
on_a_busy_machine = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
ANYTHING = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


def _written(value: Any) -> str:
    """Tells 1 from 1.0 and from true, which `==` does not."""
    return json.dumps(value)


@on_a_busy_machine
@given(st.lists(REGULAR, max_size=8) | st.lists(ANYTHING, max_size=6))
def test_columns_give_back_what_was_put_in(rows: list[dict[str, Any]]) -> None:
    stored = deepcopy(rows)
    samples = in_columns(rows)
    assert _written(list(samples)) == _written(stored)
    assert samples == stored
    assert stored == samples
    assert len(samples) == len(stored)
    assert samples[1:3] == stored[1:3]
    assert _written(list(reversed(samples))) == _written(stored[::-1])
    assert pickle.loads(pickle.dumps(samples)) == stored


@on_a_busy_machine
@given(st.lists(REGULAR, min_size=1, max_size=8))
def test_regular_samples_are_in_columns_and_their_fields_are_found(
    rows: list[dict[str, Any]],
) -> None:
    samples = in_columns(rows)
    assert isinstance(samples, Samples)
    for found in (samples, rows):
        assert values_of(found, "latency_ms") == [row["latency_ms"] for row in rows]
        assert values_of(found, "no such key") == [None] * len(rows)
        assert fields_of(found, "stages_ms")["unet"] == [row["stages_ms"]["unet"] for row in rows]
        powers = [row["state"]["after"]["power_w"] for row in rows]
        assert fields_of(found, "state", "after")["power_w"] == powers
        assert fields_of(found, "state", "nothing") == {}


@on_a_busy_machine
@given(st.lists(ANYTHING, min_size=1, max_size=5), st.sampled_from("abcd"))
def test_fields_are_the_same_in_columns_or_not(rows: list[dict[str, Any]], key: str) -> None:
    samples = in_columns(rows)
    assert values_of(samples, key) == [row.get(key) for row in rows]
    for name, values in fields_of(samples, key).items():
        nested = [row.get(key) for row in rows]
        assert values == [each.get(name) if isinstance(each, dict) else None for each in nested]


def test_a_sample_given_away_is_a_copy() -> None:
    state = {"before": {"compute_pids": [1]}}
    samples = in_columns([{"pair": number, "state": deepcopy(state)} for number in range(3)])
    samples[0]["state"]["before"]["compute_pids"].append(7)
    assert samples[0]["state"] == state


@pytest.mark.parametrize("place", [0, 17, 39])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("path", [("latency_ms",), ("stages_ms", "unet"), ("state", "before", "x")])
def test_one_number_that_is_none_is_found(place: int, bad: float, path: tuple[str, ...]) -> None:
    rows = [_sample(number) for number in range(40)]
    inner: Any = rows[place]
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = bad
    with pytest.raises(ValueError, match=r"inf|nan"):
        in_columns(rows)


def test_finite_numbers_whose_sum_is_not_are_fine() -> None:
    rows = [_sample(number) | {"latency_ms": 1.7e308} for number in range(3)]
    assert values_of(in_columns(rows), "latency_ms") == [1.7e308] * 3


@pytest.mark.parametrize("place", [0, 17, 39])
@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("pair", 1.5),
        ("pair", True),
        ("position", "3"),
        ("latency_ms", None),
        ("latency_ms", False),
        ("gpu_ms", "fast"),
        ("stages_ms", {"unet": "slow"}),
        ("stages_ms", {"unet": True}),
        ("stages_ms", None),
        ("state", []),
        ("output_sha256", 7),
    ],
)
def test_one_sample_of_another_type_is_refused(place: int, field: str, bad: Any) -> None:
    rows = [_sample(number) for number in range(40)]
    rows[place][field] = bad
    with pytest.raises(TypeError, match=f"{field} is"):
        _cell(rows)


@pytest.mark.parametrize("field", ["pair", "position", "latency_ms"])
@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_sample_without_what_it_must_have_is_refused(field: str, all_of_them: bool) -> None:
    rows = [_sample(number) for number in range(40)]
    for row in rows if all_of_them else rows[23:24]:
        del row[field]
    with pytest.raises(TypeError, match=f"missing .*'{field}'"):
        _cell(rows)


@pytest.mark.parametrize("samples", [None, {}, "abc", 3, [3], [[]]])
def test_samples_that_are_no_list_of_objects_are_refused(samples: Any) -> None:
    with pytest.raises(TypeError, match="samples"):
        _cell(samples)


def test_a_cell_is_written_as_it_was_read() -> None:
    line = _cell([_sample(number) for number in range(5)]).to_json()
    assert isinstance(line["samples"], list)
    assert _written(CellRecord.from_json(json.loads(_written(line))).to_json()) == _written(line)


def _cell(samples: Any) -> CellRecord:
    line = {"block": 0, "case": "8x8x2", "pipeline": "a", "outcome": "ok", "samples": samples}
    return CellRecord.from_json(line)


def _sample(number: int) -> dict[str, Any]:
    return Sample(
        pair=number, position=2 * number, latency_ms=1.5 + number, stages_ms={"unet": 0.5}
    ).to_json()
