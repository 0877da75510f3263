from typing import Any

import pytest

from srbench.plan import CPU_WARMUP, CUDA_WARMUP, Plan, estimate_seconds, is_warm, make_plan

CASES = ("a", "b", "c", "d")

UNREADABLE: list[dict[str, float]] = [{}]


def plan(**changes: Any) -> Plan:
    settings = {"cases": CASES, "arms": ("x", "y"), "blocks": 6, "pairs": 4, "seed": 0}
    return Plan(**{**settings, "warmup": CPU_WARMUP, **changes})


def test_each_block_has_every_case_once_in_an_order_of_its_own() -> None:
    orders = [tuple(cell.case for cell in plan().block(index)) for index in range(6)]
    assert all(sorted(order) == list(CASES) for order in orders)
    assert len(set(orders)) > 1


def test_pairs_are_abba_with_both_starts() -> None:
    starts = set()
    for index in range(6):
        for cell in plan().block(index):
            assert len(cell.rounds) == 4
            for earlier, later in zip(cell.rounds, cell.rounds[1:], strict=False):
                assert later == earlier[::-1]
            starts.add(cell.rounds[0])
    assert starts == {("x", "y"), ("y", "x")}


def test_the_order_comes_from_seed_and_block_alone() -> None:
    assert plan().block(3) == plan(blocks=99).block(3)
    assert any(plan().block(i) != plan(seed=1).block(i) for i in range(6))


def test_defaults_by_device() -> None:
    on_gpu = make_plan(CASES, ("x",), device="cuda", seed=0)
    on_cpu = make_plan(CASES, ("x",), device="cpu", seed=0)
    assert (on_gpu.blocks, on_gpu.pairs, on_gpu.warmup) == (10, 5, CUDA_WARMUP)
    assert (on_cpu.blocks, on_cpu.pairs, on_cpu.warmup) == (3, 2, CPU_WARMUP)
    assert make_plan(CASES, ("x",), device="cpu", seed=0, blocks=1, pairs=7).timed_images == 28


def test_warm_when_the_last_five_agree_with_the_five_before() -> None:
    falling = [100.0 * 0.9**i for i in range(12)]
    assert not is_warm(falling, UNREADABLE, CUDA_WARMUP, first_case=True)
    assert is_warm([50.0] * 5 + [50.4] * 5, UNREADABLE, CUDA_WARMUP, first_case=False)
    assert not is_warm([50.0] * 5 + [50.6] * 5, UNREADABLE, CUDA_WARMUP, first_case=False)
    assert not is_warm([50.0] * 9, UNREADABLE, CUDA_WARMUP, first_case=False)
    moving = [{"sm_clock_mhz": clock} for clock in (1200, 1300, 1400, 1500, 1600)]
    assert not is_warm([50.0] * 10, moving, CUDA_WARMUP, first_case=False)
    assert is_warm([float(i) for i in range(1, 21)], UNREADABLE, CUDA_WARMUP, first_case=False)


@pytest.mark.parametrize(("first_case", "images"), [(True, 2), (False, 1)])
def test_cpu_warmup_is_fixed(first_case: Any, images: Any) -> None:
    assert not is_warm([1.0] * (images - 1), UNREADABLE, CPU_WARMUP, first_case=first_case)
    assert is_warm([1.0] * images, UNREADABLE, CPU_WARMUP, first_case=first_case)


def test_estimate() -> None:
    small = plan(cases=("a",), blocks=2, pairs=3)
    times = {("a", "x"): 2.0, ("a", "y"): 1.0}
    # 2 blocks x (3 timed + 1 warm-up) + 8 solo images of each arm, and 4 worker starts
    assert estimate_seconds(small, times, load_s=5.0) == 16 * 3.0 + 4 * 5.0
    assert estimate_seconds(small, {("a", "x"): 2.0}, load_s=5.0) is None
