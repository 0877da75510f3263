"""The simulated device from inside: its numbers, its pictures, what is planted into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srbench import protocol
from srbench.cases import Case
from srbench.errors import UsageError
from srbench.probes.disturbance import disturbances
from srbench.simulation import numbers
from srbench.simulation.bench import SimulatedBench
from srbench.simulation.noise import PROFILES, ProcessNoise
from srbench.simulation.plants import EVERY_BLOCK, Plants, check_plants, disturbed, parse_plants
from srbench.simulation.preparing import make_design
from srbench.simulation.scenario import Scenario, SimulatedOptions

CASES = ("16x16x4", "32x24x2")
ARMS = ("simulated-baseline", "simulated-optimized")
SCENARIO = Scenario(cases=CASES, arms=ARMS, blocks=4, pairs=3, seed=11)


@pytest.fixture
def image(tmp_path: Path) -> str:
    file = tmp_path / "input.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return str(file)


def bench(arm: str = ARMS[1], precision: str = "fp16", **options: str) -> SimulatedBench:
    made = SimulatedBench(SCENARIO)
    assignments = {"": {}, **{name: options if name == arm else {} for name in ARMS}}
    made.handle(protocol.Describe(arm=arm, pipeline=arm, assignments=assignments))
    made.handle(
        protocol.Load(
            path=".", kind="folder", digest="", synthetic=True, device="", precision=precision
        )
    )
    made.handle(protocol.Prepare(width=16, height=16, scale=4))
    return made


def upscale(made: SimulatedBench, image: str, **where: Any) -> protocol.Timed:
    timed = made.handle(protocol.Upscale(image=image, scale=4, seed=0, **where))
    assert isinstance(timed, protocol.Timed)
    return timed


def solo(made: SimulatedBench, image: str, outputs: Path) -> protocol.Alone:
    request = protocol.Solo(image=image, scale=4, seed=0, other_seed=1, outputs=str(outputs))
    alone = made.handle(request)
    assert isinstance(alone, protocol.Alone)
    return alone


def judged(reference: dict[str, Any], candidate: dict[str, Any]) -> dict[str, Any]:
    request = protocol.Judge(
        case=CASES[0],
        pipeline=ARMS[1],
        reference=ARMS[0],
        image=None,
        reference_files=reference,
        candidate_files=candidate,
        device="simulated",
    )
    reply = SimulatedBench(SCENARIO).handle(request)
    assert isinstance(reply, protocol.Judged)
    return reply.record


def files(painted: protocol.Painted) -> dict[str, Any]:
    return {"picture": painted.picture, "picture_float": painted.picture_float, "eps": painted.eps}


def test_plants_are_read_with_their_defaults() -> None:
    read = parse_plants(["slow,oom=16x16x4", "bad-tile", "throttle", "foreign=2", "slow=1.02"])
    assert read == Plants(slow=1.02, oom="16x16x4", bad_tile=True, throttle=EVERY_BLOCK, foreign=2)
    assert parse_plants([""]) == Plants()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("slwo=1.1", "Did you mean 'slow'"),
        ("slow=fast", "expected a factor"),
        ("slow=0", "expected a factor"),
        ("slow=nan", "expected a factor"),
        ("oom", "name the case, as in oom=64x64x4"),
        ("nan=1", "takes no value"),
        ("throttle=-1", "number of a block"),
    ],
)
def test_a_wrong_plant_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_plants([text])


def test_a_plant_that_hits_nothing_is_refused() -> None:
    for plants in (Plants(crash="16x16x8"), Plants(throttle=4)):
        with pytest.raises(UsageError, match="run"):
            check_plants(plants, CASES, 4)
    check_plants(Plants(crash=CASES[0], throttle=3, foreign=EVERY_BLOCK), CASES, 4)


def test_a_disturbance_hits_the_first_attempt_or_all() -> None:
    assert [disturbed(2, block, attempt) for block, attempt in ((1, 1), (2, 1), (2, 2))] == [
        False,
        True,
        False,
    ]
    assert disturbed(EVERY_BLOCK, 3, 4)
    assert not disturbed(None, 0, 1)


def test_only_the_candidate_is_spoilt() -> None:
    cases = [Case.parse(name) for name in CASES]
    design = make_design(cases, noise="quiet", speedup=2.0, plants=["nan", "slow=1.1"], seed=0)
    assert design.options == {
        ARMS[0]: SimulatedOptions("quiet"),
        ARMS[1]: SimulatedOptions("quiet", 2.0, "nan,slow=1.1"),
    }
    same = make_design(cases, noise="quiet", speedup=None, plants=[], seed=0)
    assert list(same.pipelines) == ["base", "head"]
    assert len(set(same.pipelines.values())) == 1


def test_a_scenario_survives_the_command_line() -> None:
    launch = SCENARIO.launch()
    assert Scenario.decode(launch.command[-1]) == SCENARIO
    assert SCENARIO.images == 12
    first, second = (cell.case for cell in SCENARIO.plan.block(2))
    assert SCENARIO.starts(2) == {first: 0, second: 6}


def test_a_latency_is_the_true_time_and_the_noise_of_its_place(image: str) -> None:
    made = bench(speedup="2.0", noise="noisy", plants="slow=1.5")
    noise = ProcessNoise(PROFILES["noisy"], seed=11, block=2, blocks=4, images=12, arm=ARMS[1])
    position = SCENARIO.starts(2)[CASES[0]] + 4
    expected = numbers.true_ms(Case.parse(CASES[0]), 2.0) * 1.5 * noise.factor(CASES[0], position)
    timed = upscale(made, image, block=2, position=4)
    assert timed.latency_ms == pytest.approx(expected, rel=1e-12)
    assert sum(timed.stages_ms.values()) < timed.latency_ms
    assert (
        upscale(bench(speedup="2.0", noise="noisy", plants="slow=1.5"), image, block=2, position=4)
        == timed
    )


def test_the_warm_up_settles(image: str) -> None:
    made = bench(noise="noisy")
    warming = [upscale(made, image).latency_ms for _ in range(8)]
    assert warming == sorted(warming, reverse=True)
    assert warming[0] / warming[-1] == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize(
    ("plant", "attempt", "word"),
    [("throttle=1", 1, "thermal"), ("foreign=1", 1, "3 compute processes"), ("throttle=1", 2, "")],
)
def test_planted_disturbances_are_what_the_probe_looks_for(
    image: str, plant: str, attempt: int, word: str
) -> None:
    timed = upscale(bench(plants=plant), image, block=1, attempt=attempt, position=0)
    found = disturbances(timed.state.values(), {1, 2}, together=2)
    assert [word in line for line in found] == ([True] if word else [])


def test_a_sound_solo_phase(image: str, tmp_path: Path) -> None:
    made = bench()
    alone = solo(made, image, tmp_path / "out")
    assert alone.distinct_pictures == 1
    assert alone.repeat is None
    assert alone.picture_sha256 == upscale(made, image, position=0).output_sha256
    assert alone.energy["gross_j"] == alone.energy_j
    assert all(value for value in alone.memory.values())
    record = judged({"picture": alone.other_seed}, files(alone))
    assert 30 < record["metrics"]["psnr"] < 45
    assert "psnr_float" not in record["metrics"]


@pytest.mark.parametrize(
    ("plant", "field", "factor"),
    [("memory=1.05", "memory", 1.05), ("work=1.01", "work", 1.01), ("energy=1.1", "energy", 1.1)],
)
def test_a_planted_factor_reaches_its_numbers_alone(
    image: str, tmp_path: Path, plant: str, field: str, factor: float
) -> None:
    plain = solo(bench(), image, tmp_path / "plain")
    planted = solo(bench(plants=plant), image, tmp_path / "planted")
    ratios = {
        "memory": planted.memory["allocator_peak_bytes"] / plain.memory["allocator_peak_bytes"],
        "work": sum(planted.work["flops"].values()) / sum(plain.work["flops"].values()),
        "energy": planted.energy_j / plain.energy_j,
    }
    for name, ratio in ratios.items():
        assert ratio == pytest.approx(factor if name == field else 1.0, rel=1e-6)
    assert planted.picture_sha256 == plain.picture_sha256


def test_arms_differ_by_their_rounding_and_float32_has_none(image: str, tmp_path: Path) -> None:
    painted = {arm: solo(bench(arm), image, tmp_path / arm) for arm in ARMS}
    exact = [solo(bench(arm, "fp32"), image, tmp_path / f"exact-{arm}") for arm in ARMS]
    assert exact[0].picture_sha256 == exact[1].picture_sha256
    ours = judged(files(painted[ARMS[0]]), files(painted[ARMS[1]]))
    assert ours["outcome"] == "ok"
    assert 45 < ours["metrics"]["psnr"] < 60
    assert ours["metrics"]["eps_relative_l2"] == pytest.approx(1.4e-3, rel=0.2)
    assert ours["not_measured"].keys() == {"ssim", "lpips"}
    same = judged(files(exact[0]), files(exact[1]))
    assert same["metrics"]["max_abs_diff"] == 0
    assert same["metrics"]["psnr"] == pytest.approx(80)


def test_a_bad_tile_is_the_worst_block(image: str, tmp_path: Path) -> None:
    base = solo(bench(ARMS[0]), image, tmp_path / "base")
    bad = judged(files(base), files(solo(bench(plants="bad-tile"), image, tmp_path / "bad")))
    assert bad["metrics"]["worst_block_psnr"] < 20


def test_nan_is_invalid(image: str, tmp_path: Path) -> None:
    base = solo(bench(ARMS[0]), image, tmp_path / "base")
    spoilt = judged(files(base), files(solo(bench(plants="nan"), image, tmp_path / "nan")))
    assert spoilt["outcome"] == "invalid"
    assert f"{ARMS[1]} computed NaN" in spoilt["reason"]


def test_a_nondeterministic_arm_never_paints_the_same(image: str, tmp_path: Path) -> None:
    made = bench(plants="nondeterministic")
    hashes = {upscale(made, image, position=at).output_sha256 for at in range(3)}
    assert len(hashes) == 3
    alone = solo(made, image, tmp_path / "out")
    assert alone.distinct_pictures == 5
    assert alone.repeat is not None


def test_running_out_of_memory_tells_the_bytes(image: str) -> None:
    with pytest.raises(MemoryError, match=r"tried to allocate \d+ bytes"):
        upscale(bench(plants=f"oom={CASES[0]}"), image)


def test_what_no_simulated_device_does_is_refused() -> None:
    with pytest.raises(UsageError, match="CountWork"):
        bench().handle(protocol.CountWork(width=16, height=16, scale=4))


def test_a_worker_imports_nothing_heavy() -> None:
    code = "import sys, srbench.simulation.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "scipy", "pandas", "matplotlib", "typer", "jinja2", "PIL"}
    assert not heavy & set(done.stdout.split())
