"""The Triton kernels on a real card, in float16 at production shapes, against float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from pipelines import kernels
from pipelines.kernels import operators, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
Tensor = torch.Tensor
HALF_ROUNDING = 2.0**-11
# UNet tiles at every level, the skip concatenations, a VAE tile, odd sizes and one of `mini`.
MAPS = [
    (4, 320, 96, 96),
    (2, 640, 48, 48),
    (16, 1280, 24, 24),
    (16, 1280, 12, 12),
    (2, 2560, 12, 12),
    (2, 1920, 24, 24),
    (2, 960, 96, 96),
    (1, 128, 1088, 1024),
    (1, 256, 333, 517),
    (1, 512, 182, 150),
    (3, 320, 7, 5),
    (2, 32, 31, 33),
]
# SRDiff at 272x320: every level of its UNet; a batch of tiles; sides and widths that are odd.
SRDIFF_MAPS = [(1, 64, 272, 320), (1, 128, 136, 160), (1, 192, 68, 80), (1, 256, 34, 40)]
SRDIFF_MAPS += [(4, 64, 160, 160), (3, 20, 33, 31), (2, 3, 2, 2)]


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors hold NaN: a kernel that leaves an element out shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device="cuda").isnan().all()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


def feature_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    return draw(*shape, seed=seed, dtype=dtype).contiguous(memory_format=torch.channels_last)


def agree(got: Tensor, wanted: Tensor, scale: float = 1.0) -> None:
    """Within one rounding to float16, and one more of float32 sums around `scale`."""
    assert got.dtype == torch.float16
    torch.testing.assert_close(
        got.double(), wanted, rtol=1.02 * HALF_ROUNDING, atol=1e-5 * scale, equal_nan=False
    )


def test_this_card_runs_triton() -> None:
    """Else everything below would compare the reference with itself."""
    assert operators._card_runs_triton(0)
    assert operators._launcher("pipelines.kernels.triton_norm", "group_statistics")


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("shifted", [True, False])
def test_group_norm(shape: tuple[int, ...], shifted: bool) -> None:
    channels = shape[1]
    x = 3 * feature_map(*shape) + 1
    weight, bias, shift = (draw(channels, seed=s) for s in (1, 2, 3))
    before = shift if shifted else None
    with poisoned():
        statistics = kernels.group_statistics(x, 32, before)
        apart = kernels.group_normalize(x, statistics, weight, bias, 1e-5, before, shifted)
        whole = kernels.group_norm(x, 32, weight, bias, 1e-5, before, shifted)
        again = kernels.group_norm(x, 32, weight, bias, 1e-5, before, shifted)
    wide = None if before is None else before.double()
    wanted = reference.group_statistics(x.double(), 32, wide)
    torch.testing.assert_close(statistics.double(), wanted, rtol=1e-5, atol=1e-5)
    y = reference.group_normalize(
        x.double(), wanted, weight.double(), bias.double(), 1e-5, wide, shifted
    )
    agree(apart, y, scale=10)
    agree(whole, y, scale=10)
    assert whole.stride() == x.stride()
    assert torch.equal(whole, again)


def test_variance_beyond_fp16() -> None:
    x = 4000 * feature_map(1, 128, 700, 500)
    statistics = kernels.group_statistics(x, 32)
    assert statistics[..., 1].min() > 65504
    wanted = reference.group_statistics(x.double(), 32)
    torch.testing.assert_close(statistics.double(), wanted, rtol=1e-5, atol=1.0)


def test_small_variance_around_a_large_mean() -> None:
    x = 1000 + 0.01 * feature_map(1, 128, 512, 512, dtype=torch.float32)
    wanted = reference.group_statistics(x.double(), 32)
    got = kernels.group_statistics(x, 32)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=0)


def test_tiles_merge_without_a_host_synchronisation() -> None:
    tiles = [feature_map(1, 256, height, 200, seed=height) for height in (150, 144)]
    before = torch.cuda.get_sync_debug_mode()
    statistics = [kernels.group_statistics(tile, 32) for tile in tiles]
    torch.cuda.set_sync_debug_mode("error")
    try:
        merged = kernels.merge_statistics(statistics, [150, 144])
    finally:
        torch.cuda.set_sync_debug_mode(before)
    wanted = (150 * statistics[0].double() + 144 * statistics[1].double()) / 294
    torch.testing.assert_close(merged.double(), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [MAPS[0], MAPS[3], MAPS[8], MAPS[10]])
def test_residual(shape: tuple[int, ...]) -> None:
    x, residual, shift = feature_map(*shape), feature_map(*shape, seed=1), draw(shape[1], seed=2)
    for bias in (None, shift):
        with poisoned():
            got = kernels.add_residual(x, residual, bias)
        wide = None if bias is None else bias.double()
        agree(got, reference.add_residual(x.double(), residual.double(), wide))
        assert got.stride() == x.stride()


@pytest.mark.parametrize("shape", [(4, 9216, 2560), (16, 576, 10240), (3, 7, 34)])
def test_geglu(shape: tuple[int, ...]) -> None:
    x = 2 * draw(*shape)
    with poisoned():
        got = kernels.geglu(x)
    agree(got, reference.geglu(x.double()))


@pytest.mark.parametrize(("height", "width"), [(2160, 3840), (1023, 517), (20, 61), (16, 130)])
def test_color_fix(height: int, width: int) -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    output = torch.rand(3, height + 16, width + 24, generator=generator, device="cuda")
    source = torch.rand(3, height, width, generator=generator, device="cuda")
    cropped = output[:, :height, :width]
    with poisoned():
        got = kernels.wavelet_color_fix(cropped, source)
    wanted = reference.wavelet_color_fix(cropped, source)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)
    same = kernels.wavelet_color_fix(cropped, cropped)
    # On the CPU: PyTorch divides by a number on CUDA with a product, an ulp off for some.
    assert torch.equal(same.cpu(), (cropped * 255).to(torch.uint8).cpu().float().div(255))


@pytest.mark.parametrize("rank", [4, 16, 32])
@pytest.mark.parametrize(
    "shape", [(4, 1280, 1280), (2, 1280, 2560 * 9), (1, 320, 36), (1, 10240, 1280), (3, 33, 257)]
)
def test_merge_lora(shape: tuple[int, int, int], rank: int) -> None:
    layers, outputs, inputs = shape
    master = draw(*shape, dtype=torch.float32)
    mixed = draw(layers, outputs, rank, seed=1, dtype=torch.float32)
    down = draw(layers, rank, inputs, seed=2, dtype=torch.float32)
    out = torch.full(shape, torch.nan, dtype=torch.float16, device="cuda")
    kernels.merge_lora(master, mixed, down, 0.25, out)
    agree(out, torch.baddbmm(master.double(), mixed.double(), down.double(), alpha=0.25))
    exact = torch.full_like(master, torch.nan)
    kernels.merge_lora(master, mixed, down, 0.25, exact)
    wanted = torch.baddbmm(master.double(), mixed.double(), down.double(), alpha=0.25)
    torch.testing.assert_close(exact.double(), wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SRDIFF_MAPS)
def test_mish_pad(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual, extra = (3 * feature_map(*shape, seed=s, dtype=dtype) for s in range(3))
    table = draw(2, 2 * shape[1], seed=3, dtype=torch.float32)
    bias, residual_bias = table[1].chunk(2)
    padded = kernels.mish_pad(residual, mish=False)
    calls: list[tuple[Any, ...]] = [
        (x, None, None, None, None, 1, False),
        (x, bias, None, None, None, 1, True),
        (x, bias, padded, residual_bias, extra[:1], 1, True),
        (x, bias, residual, None, extra, 0, True),
    ]
    digits = HALF_ROUNDING if dtype == torch.float16 else 1e-6
    for call in calls:
        with poisoned():
            got, again = kernels.mish_pad(*call), kernels.mish_pad(*call)
        wide: Any = (v.double() if torch.is_tensor(v) else v for v in call)
        wanted = reference.mish_pad(*wide)
        assert (got.dtype, got.stride()) == (dtype, wanted.stride())
        torch.testing.assert_close(got.double(), wanted, rtol=1.02 * digits, atol=1e-5)
        assert torch.equal(got, again)


@pytest.mark.parametrize("shape", SRDIFF_MAPS)
@pytest.mark.parametrize("biased", [True, False])
def test_pad_concat(shape: tuple[int, ...], biased: bool) -> None:
    batch, channels, height, width = shape
    x, bias = feature_map(*shape), draw(channels, seed=1, dtype=torch.float32)
    for skip_channels in (64, channels, 12):
        skip = feature_map(batch, skip_channels, height + 2, width + 2, seed=2)
        with poisoned():
            got = kernels.pad_concat(x, bias if biased else None, skip)
        wide = bias.double() if biased else None
        wanted = reference.pad_concat(x.double(), wide, skip.double())
        agree(got, wanted)
        assert got.stride() == wanted.stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 3, 272, 320), (4, 3, 163, 157)])
def test_diffusion_step(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, noise = draw(*shape, dtype=torch.float32), feature_map(*shape, seed=1, dtype=torch.float32)
    eps = (x + feature_map(*shape, seed=2, dtype=torch.float32)).to(dtype)
    bias = draw(3, seed=3, dtype=torch.float32)
    table = draw(100, 5, seed=4, dtype=torch.float32)
    for step in (99, 50):
        row = torch.tensor([step], device="cuda")
        for given in (bias, None):
            state, wanted = x.clone(), x.double()
            kernels.diffusion_step(state, eps, given, noise, table, row)
            wide = None if given is None else given.double()
            reference.diffusion_step(
                wanted, eps.double(), wide, noise.double(), table.double(), row
            )
            torch.testing.assert_close(state.double(), wanted, rtol=1e-6, atol=1e-5)
    eps[0, 0, 0, 0] = torch.nan
    kernels.diffusion_step(x, eps, bias, noise, table, row)
    assert x.isnan().nonzero().tolist() == [[0, 0, 0, 0]]


def test_a_graph_of_one_step_replays_for_all() -> None:
    """The row of the schedule is read on the device: nothing is captured but its address."""
    x, eps, noise = (draw(1, 3, 64, 48, seed=s, dtype=torch.float32) for s in range(3))
    table = draw(10, 5, seed=3, dtype=torch.float32)
    step = torch.tensor([9], device="cuda")
    wanted = x.clone()
    for row in torch.arange(9, -1, -1, device="cuda").split(1):
        kernels.diffusion_step(wanted, eps, None, noise, table, row)
    state = x.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.diffusion_step(state, eps, None, noise, table, step)
        step.sub_(1)
    assert torch.equal(state, x)
    for _ in range(10):
        graph.replay()
    assert torch.equal(state, wanted)


def test_other_layouts_fall_back_to_the_reference() -> None:
    x = draw(2, 64, 9, 7)
    weight, bias = draw(64, seed=1), draw(64, seed=2)
    got = kernels.group_norm(x, 32, weight, bias, 1e-5)
    assert got.is_contiguous()
    agree(got, reference.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5))
    wide = kernels.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5)
    assert wide.dtype == torch.float64


def test_a_graph_replays_them() -> None:
    x, residual = feature_map(2, 640, 24, 24), feature_map(2, 640, 24, 24, seed=1)
    weight, bias = draw(640, seed=2), draw(640, seed=3)

    def run() -> Tensor:
        return kernels.add_residual(kernels.group_norm(x, 32, weight, bias, 1e-5), residual, bias)

    wanted = run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    x.mul_(2)
    graph.replay()
    assert not torch.equal(got, wanted)
    assert torch.equal(got, run())


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
def test_compiled_regions_keep_the_operators() -> None:
    x = feature_map(2, 64, 24, 24)
    weight, bias = draw(64, seed=1), draw(64, seed=2)

    def run(x: Tensor) -> Tensor:
        y = kernels.group_norm(x * 2, 32, weight, bias, 1e-5)
        return kernels.add_residual(y + 1, x)

    got = torch.compile(run, fullgraph=True, dynamic=False)(x)
    torch.testing.assert_close(got, run(x), rtol=2e-3, atol=2e-3)
    assert got.stride() == x.stride()
