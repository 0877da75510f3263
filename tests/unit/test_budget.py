"""How much of a card an image may use."""

from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import AUTO, OptimizedOptions
from pipelines.stable_diffusion.budget import ADA, Card, Needs, choose_budget

GIB = 2**30
NEEDS = Needs(resident=9 * GIB, parked=3 * GIB, unet_sample=GIB // 2)


def test_tiles_wait_on_the_host_only_where_they_do_not_fit() -> None:
    roomy = choose_budget(AUTO, "auto", NEEDS, Card((9, 0), 9 * GIB))
    assert (roomy.park, roomy.needed_bytes) == (False, NEEDS.resident)
    short = choose_budget(AUTO, "auto", NEEDS, Card((9, 0), 9 * GIB - 1))
    assert (short.park, short.needed_bytes) == (True, NEEDS.parked)
    assert short.place == "in pinned host memory (9.0 GiB needed, only 9.0 GiB free)"
    assert not choose_budget(AUTO, "never", NEEDS, Card((9, 0), GIB)).park
    assert choose_budget(AUTO, "always", NEEDS, Card((9, 0), 80 * GIB)).park
    assert not choose_budget(AUTO, "auto", NEEDS, None).park


def test_the_card_decides_the_batch_and_memory_bounds_it() -> None:
    def batch(capability: tuple[int, int], free: int, asked: int = AUTO) -> int:
        return choose_budget(asked, "auto", NEEDS, Card(capability, free)).tile_batch

    assert batch((9, 0), 80 * GIB) == 8
    assert batch(ADA, 48 * GIB) == 2
    assert batch((8, 6), 13 * GIB) == 4
    assert batch((8, 6), GIB) == 1
    assert batch((8, 6), GIB, asked=12) == 12
    assert choose_budget(AUTO, "auto", NEEDS, None).tile_batch == 8


def test_the_largest_documented_case_fits_a_16_gib_card() -> None:
    """Counted on the meta device in float32, half of it in fp16; 5.2 GiB of weights beside it."""
    pipeline = S3DiffOptimized(OptimizedOptions())
    needed = pipeline.memory_estimate(1080, 1920, 2) / 2
    assert 5.2 * GIB + needed < 13 * GIB
    parked = S3DiffOptimized(OptimizedOptions(spill="always"))
    assert parked.memory_estimate(1080, 1920, 2) / 2 < 0.5 * needed
    assert parked.memory_estimate(4320, 7680, 2) / 2 < 5 * GIB
