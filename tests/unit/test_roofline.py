"""Limits, rates and shares from counted operators: pure functions, by hand."""

from dataclasses import replace

import pytest

from srbench.profiles import Profile, load_profile, profile_names
from srbench.protocol import Counted, CountedOperators
from srbench.roofline.achieved import Achieved, Times
from srbench.roofline.ceilings import Ceiling, CeilingsFile
from srbench.roofline.limits import (
    Limits,
    datasheet_limits,
    limit_seconds,
    measured_limits,
    regime,
)
from srbench.roofline.model import Roofline, build_roofline
from srbench.roofline.operators import read_operators, whole_work, work_by_stage

CARD = Limits(source="datasheet", flops_per_s=100.0, bytes_per_s=10.0, kinds={})
CARD_PROFILE = Profile(name="card", title="Card", fp16_tflops=1e-10, bandwidth_gb_s=1e-8)
COUNTS = {
    "flops": {"vae_encode": 800, "unet": 4000},
    "launches": 8,
    "calls": {},
    "host_device_bytes": 0,
    "peak_tensor_bytes": 0,
}
# Compute-bound, memory-bound, and one that has no FLOPs; bytes as counted in float32.
LINES: list[list[object]] = [
    ["unet", "conv", 1000, 40, 80, 20, 4],
    ["vae_encode", "linear", 400, 160, 160, 0, 2],
    ["unet", "norm", 0, 0, 600, 0, 2],
]
COUNTED = CountedOperators(**COUNTS, operators=LINES)  # type: ignore[arg-type]


def ceilings(precision: str = "fp16", **changes: float) -> CeilingsFile:
    """One second a call."""
    rates = {"linear": 50, "conv": 20, "attention": 10} | changes
    found = [
        Ceiling(name=kind, kind=kind, shape="", flops=int(rate), bytes=1, times_ms=[1000.0])
        for kind, rate in rates.items()
    ]
    found.append(
        Ceiling(name="copy", kind="copy", shape="", flops=0, bytes=5, times_ms=[500, 1000, 9000])
    )
    return CeilingsFile(
        profile="card", device="cuda", precision=precision, measured_at="2025-01-02T03:04:05+00:00",
        srbench_version="0", fingerprint={}, ceilings=found,
    )  # fmt: skip


def build(limits: list[Limits], times: Times | None = None, counted: Counted = COUNTED) -> Roofline:
    key = ("1x1x1", "arm")
    achieved = Achieved(
        run_id="a-run" if times else None,
        times={key: times} if times else {},
        reasons={} if times else {key: "no run is stored"},
    )
    return build_roofline(CARD_PROFILE, "fp16", {key: counted}, achieved, None, limits)


def test_bytes_are_those_of_the_precision() -> None:
    fp32, fp16 = (whole_work(read_operators(LINES, precision)) for precision in ("fp32", "fp16"))
    assert fp32.bytes == 4 * 80 + 2 * 160 + 2 * 600
    assert (fp16.bytes, fp16.weight_bytes) == (fp32.bytes // 2, 40)
    assert fp16.flops == fp32.flops == 4800
    assert fp16.launches == 8
    assert fp16.kinds == {"conv": 4000, "linear": 800}


def test_stages_come_in_order_of_execution() -> None:
    stages = work_by_stage({}, read_operators(LINES, "fp16"))
    assert list(stages) == ["vae_encode", "unet"]
    assert stages["unet"].flops == 4000
    bare = work_by_stage({"unet": 3, "vae_encode": 2}, ())
    assert [(name, work.flops, work.bytes) for name, work in bare.items()] == [
        ("vae_encode", 2, None), ("unet", 3, None),
    ]  # fmt: skip


def test_the_limit_is_the_longer_one_of_each_operator() -> None:
    operators = read_operators(LINES, "fp16")
    # 4 x max(1000 / 100, 20 / 10) + 2 x max(400 / 100, 80 / 10) + nothing for the norm
    assert limit_seconds(operators, CARD) == 4 * 10 + 2 * 8
    faster = replace(CARD, kinds={"conv": 1000.0})
    assert limit_seconds(operators, faster) == 4 * 2 + 2 * 8
    assert limit_seconds((), CARD) == 0


def test_the_regime_is_the_larger_term_of_the_limit() -> None:
    stages = work_by_stage({}, read_operators(LINES, "fp16"))
    assert regime(stages["vae_encode"], CARD) == "memory", "8 s of arithmetic, 16 s of memory"
    assert regime(stages["unet"], CARD) == "compute", "40 s, 8 s ideally, 76 s as launched"
    assert regime(work_by_stage({"unet": 3}, ())["unet"], CARD) is None
    nothing = whole_work(read_operators(LINES[2:], "fp16"))
    assert regime(nothing, CARD) is None, "traffic that is fused away leaves no limit"


def test_stages_without_work_but_with_a_time_are_kept() -> None:
    times = Times(latency_ms=3.0, stages_ms={"color_fix": 1.0, "unet": 2.0})
    stages = build([CARD], times).cases["1x1x1"]["arm"].stages
    assert list(stages) == ["vae_encode", "unet", "color_fix"]
    assert (stages["color_fix"].work.flops, stages["color_fix"].time_ms) == (0, 1.0)
    assert stages["color_fix"].percent_of("datasheet") is None


def test_a_limit_of_nothing_has_no_share() -> None:
    lines = [*LINES, ["color_fix", "norm", 0, 0, 60, 0, 1]]
    times = Times(latency_ms=3.0, stages_ms={"color_fix": 1.0})
    counted = CountedOperators(**COUNTS, operators=lines)  # type: ignore[arg-type]
    entry = build([CARD], times, counted).cases["1x1x1"]["arm"].stages["color_fix"]
    assert entry.limits_ms == {"datasheet": 0.0}
    assert (entry.percent_of("datasheet"), entry.regime, entry.flop_per_byte) == (None, None, None)


def test_measured_limits_are_the_best_of_each_kind() -> None:
    found = measured_limits(ceilings(), "fp16")
    assert found is not None
    assert (found.flops_per_s, found.bytes_per_s) == (50, 5), "of the copies the median"
    assert found.rate("attention") == 10
    assert found.rate("other") == 50, "what was not measured is a matrix product"
    assert found.ridge == 10
    assert measured_limits(ceilings("fp32"), "fp16") is None
    assert measured_limits(None, "fp16") is None
    incomplete = ceilings()
    incomplete.ceilings.pop()
    assert measured_limits(incomplete, "fp16") is None, "no copy, no limit"


def test_what_does_not_fit_is_no_ceiling() -> None:
    left_out = Ceiling(
        name="a", kind="conv", shape="", flops=9, bytes=9, reason="does not fit in memory"
    )
    assert left_out.seconds is left_out.flops_per_s is left_out.bytes_per_s is None
    file = replace(ceilings(), ceilings=[left_out])
    assert file.best_flops_per_s("conv") is None
    assert file.of("a") is left_out
    assert file.of("b") is None


@pytest.mark.parametrize("name", profile_names())
def test_datasheets_have_limits_in_fp16_alone(name: str) -> None:
    profile = load_profile(name)
    found = datasheet_limits(profile, "fp16")
    assert (found is None) == (profile.fp16_tflops is None)
    assert found is None or 100 < found.ridge < 400, "FLOP a byte"
    assert datasheet_limits(profile, "fp32") is None


def test_shares_are_limit_over_time() -> None:
    times = Times(latency_ms=112_000.0, stages_ms={"unet": 80_000.0})
    roofline = build([CARD], times)
    found = roofline.cases["1x1x1"]["arm"]
    assert found.whole.limits_ms == {"datasheet": 56_000.0}
    assert found.whole.percent_of("datasheet") == 50.0
    assert found.whole.percent_of("measured") is None
    assert found.stages["unet"].percent_of("datasheet") == 50.0
    assert found.stages["unet"].tflop_per_s == 4000 / 80 / 1e12
    assert found.stages["vae_encode"].time_ms is None
    assert found.stages["vae_encode"].percent_of("datasheet") is None
    assert roofline.run_id == "a-run"


def test_the_measured_ceilings_decide_the_regime() -> None:
    slow = Limits(source="measured", flops_per_s=100.0, bytes_per_s=1.0, kinds={})
    assert build([CARD]).cases["1x1x1"]["arm"].stages["unet"].regime == "compute"
    assert build([CARD, slow]).cases["1x1x1"]["arm"].stages["unet"].regime == "memory"
    assert build([]).cases["1x1x1"]["arm"].stages["unet"].regime is None


def test_a_pipeline_without_operators_has_flops_and_no_limit() -> None:
    bare = Counted(**COUNTS)  # type: ignore[arg-type]
    times = Times(latency_ms=1000.0, stages_ms={"unet": 500.0})
    document = build([CARD], times, bare).cases["1x1x1"]["arm"].to_json({"card": CARD})
    assert document["tflop"] == 4800 / 1e12
    assert document["tflop_per_s"] == 4800 / 1e12
    assert document["bytes"] is None
    assert document["limit_ms"] == {"datasheet": None, "measured": None}
    assert document["percent_of_limit"] == {"datasheet": None, "measured": None}
    assert document["datasheet_limit_ms"] == {}


def test_the_document_has_what_is_promised() -> None:
    document = build([CARD]).cases["1x1x1"]["arm"].to_json({"card": CARD})
    assert document["tflop"] == 4800 / 1e12
    assert list(document["stages"]) == ["vae_encode", "unet"]
    assert document["stages"]["unet"]["tflop"] == 4000 / 1e12
    assert document["stages"]["unet"]["bytes"] == 160 + 600
    assert document["stages"]["unet"]["ideal_bytes"] == 80
    assert document["stages"]["unet"]["flop_per_byte"] == 4000 / 80
    assert document["datasheet_limit_ms"] == {"card": 56_000.0}
    assert document["not_measured"] == "no run is stored"
    assert document["time_ms"] is None


def test_datasheets_are_of_fp16_whatever_the_precision_of_the_table() -> None:
    key = ("1x1x1", "arm")
    achieved = Achieved(run_id=None, times={}, reasons={key: "no run is stored"})
    found = build_roofline(CARD_PROFILE, "fp32", {key: COUNTED}, achieved, None, [])
    document = found.cases["1x1x1"]["arm"].to_json({"card": CARD})
    assert document["ideal_bytes"] == 4 * 40 + 2 * 160
    assert document["datasheet_limit_ms"] == {"card": 56_000.0}
