"""The kernels' references and operators on the CPU and the meta device, against plain PyTorch."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from pipelines import kernels
from pipelines.diffusion.color_fix import LEVELS, wavelet_telescoped
from pipelines.kernels import layouts, taps
from pipelines.work import WorkCounter

Tensor = torch.Tensor
OPS = torch.ops.pipelines


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def feature_map(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, nhwc: bool = True
) -> Tensor:
    x = draw(*shape, seed=seed, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if nhwc else x


def vectors(channels: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(draw(channels, seed=seed, dtype=dtype) for seed in (1, 2, 3))  # type: ignore[return-value]


@pytest.mark.parametrize(("channels", "groups"), [(16, 16), (32, 16), (96, 32), (128, 32)])
@pytest.mark.parametrize("nhwc", [True, False])
@pytest.mark.parametrize("silu", [True, False])
def test_group_norm_is_pytorchs(channels: int, groups: int, nhwc: bool, silu: bool) -> None:
    x = feature_map(2, channels, 5, 7, nhwc=nhwc)
    weight, bias, shift = vectors(channels)
    wanted = F.group_norm(x + shift[:, None, None], groups, weight, bias, 1e-5)
    wanted = F.silu(wanted) if silu else wanted
    y = kernels.group_norm(x, groups, weight, bias, 1e-5, shift, silu)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
    assert y.stride() == x.stride()


def test_normalize_with_the_statistics_of_x_is_group_norm() -> None:
    x = feature_map(3, 32, 6, 5)
    weight, bias, shift = vectors(32)
    statistics = kernels.group_statistics(x, 8, shift)
    y = kernels.group_normalize(x, statistics, weight, bias, 1e-6, shift, silu=False)
    wanted = F.group_norm(x + shift[:, None, None], 8, weight, bias, 1e-6)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)


def test_statistics_beyond_the_range_of_fp16() -> None:
    x = (1000 * feature_map(1, 8, 9, 9)).to(torch.float16)
    statistics = kernels.group_statistics(x, 2)
    assert statistics.dtype == torch.float32
    assert statistics[..., 1].min() > 65504
    wide = kernels.group_statistics(x.double(), 2)
    torch.testing.assert_close(statistics.double(), wide, rtol=1e-5, atol=1e-2)
    y = kernels.group_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-6, silu=False)
    assert y.dtype == torch.float16
    assert y.isfinite().all()


def test_one_sets_statistics_serve_a_batch() -> None:
    x = feature_map(2, 8, 4, 4)
    weight, bias, _ = vectors(8)
    statistics = kernels.group_statistics(x[:1], 4)
    both = kernels.group_normalize(x, statistics, weight, bias, 1e-6)
    one = kernels.group_normalize(x[1:], statistics, weight, bias, 1e-6)
    torch.testing.assert_close(both[1:], one, rtol=0, atol=0)


def test_merged_statistics_are_means_weighted_by_area() -> None:
    statistics = [draw(1, 4, 2, seed=s) for s in range(3)]
    areas = [30, 50, 20]
    wanted = sum(a / 100 * s for a, s in zip(areas, statistics, strict=True))
    merged = kernels.merge_statistics(statistics, areas)
    torch.testing.assert_close(merged, wanted, rtol=0, atol=1e-14)


def test_tiles_of_equal_shape_may_share_an_entry() -> None:
    statistics = [draw(1, 4, 2, seed=s) for s in range(3)]
    apart = kernels.merge_statistics(statistics, [30, 50, 50])
    together = kernels.merge_statistics([statistics[0], torch.cat(statistics[1:])], [30, 50])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-14)
    alone = kernels.merge_statistics([torch.cat(statistics)], [7])
    torch.testing.assert_close(alone, sum(statistics) / 3, rtol=0, atol=1e-14)
    assert kernels.merge_statistics(statistics[:1], [7]) is statistics[0]


@pytest.mark.parametrize("nhwc", [True, False])
def test_residual(nhwc: bool) -> None:
    x, residual = (feature_map(2, 6, 5, 4, seed=s, nhwc=nhwc) for s in (0, 1))
    shift = draw(6, seed=2)
    wanted = x + residual + shift[:, None, None]
    y = kernels.add_residual(x, residual, shift)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-14)
    assert y.stride() == x.stride()
    torch.testing.assert_close(kernels.add_residual(x, residual), x + residual)


def test_a_sum_of_halves_is_rounded_once() -> None:
    ones, tiny = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0**-11)
    y = kernels.add_residual(ones.half(), tiny.half(), shift=tiny[0, 0, 0].half())
    assert float(y) == 1 + 2.0**-10


def test_geglu() -> None:
    x = 3 * draw(2, 5, 12)
    value, gate = x.chunk(2, dim=-1)
    torch.testing.assert_close(kernels.geglu(x), value * F.gelu(gate), rtol=0, atol=1e-14)


def test_color_fix_is_the_chain_on_truncated_images() -> None:
    output, source = torch.rand(3, 40, 70)[:, 3:33, 5:59], torch.rand(3, 30, 54)
    assert not output.is_contiguous()
    eight_bit = [(i * 255).floor().div(255)[None] for i in (output, source)]
    wanted = wavelet_telescoped(*eight_bit)[0]
    torch.testing.assert_close(kernels.wavelet_color_fix(output, source), wanted)


@pytest.mark.parametrize("length", [1, 16, 31, 32, 62, 63, 64, 65, 100, 193, 255, 256, 257, 400])
def test_composed_taps_are_the_chain_of_blurs(length: int) -> None:
    """On one axis: the other one is constant, and every blur keeps constants."""
    signal = draw(length)
    image = (0.5 + 0.1 * signal)[None, None, None].expand(1, 3, 2, length)
    zero = torch.zeros_like(image)
    low = wavelet_telescoped(zero, image.clamp(0.05, 0.95))[0, 0, 0]
    blocks, left_out = taps.tap_blocks(length, torch.device("cpu"))
    starts = range(0, length, taps.BLOCK)
    padded = F.pad(image[0, 0, 0].clamp(0.05, 0.95), (taps.MARGIN, taps.WINDOW))
    parts = []
    for block, start in enumerate(starts):
        entry = block if block < 2 else max(block - left_out, 1)
        parts.append(blocks[entry].double() @ padded[start : start + taps.WINDOW])
    composed = torch.cat(parts)[:length] / taps.DENOMINATOR
    torch.testing.assert_close(composed, low, rtol=0, atol=1e-12)


def test_taps_inside_are_a_triangle_and_sum_to_one() -> None:
    operator = taps.numerators(130)
    assert taps.LEVELS == LEVELS
    assert (operator.sum(dim=1) == taps.DENOMINATOR).all()
    distance = (torch.arange(130) - 65).abs()
    assert torch.equal(operator[65], (taps.REACH + 1 - distance).clamp_min(0))
    assert operator.max() <= 2048  # what float16 holds exactly


def test_merge_lora_writes_in_place() -> None:
    master, mixed, down = draw(3, 5, 7), draw(3, 5, 2, seed=1), draw(3, 2, 7, seed=2)
    out = torch.full((3, 5, 7), torch.nan, dtype=torch.float64)
    kernels.merge_lora(master, mixed, down, 0.25, out)
    torch.testing.assert_close(out, master + 0.25 * mixed @ down, rtol=0, atol=1e-14)
    half = torch.full((3, 5, 7), torch.nan, dtype=torch.float16)
    kernels.merge_lora(master.float(), mixed.float(), down.float(), 0.25, half)
    torch.testing.assert_close(half.double(), out, rtol=2**-11, atol=1e-6)


def calls(device: str, dtype: torch.dtype) -> dict[str, tuple[object, ...]]:
    """Arguments of every operator."""
    x = feature_map(2, 32, 5, 3, dtype=dtype).to(device)
    weight, bias, shift = (v.to(device) for v in vectors(32, dtype))
    statistics = draw(2, 8, 2, dtype=torch.float32).abs().to(device)
    matrix = draw(2, 6, 8, dtype=dtype).to(device)
    image = torch.rand(3, 20, 17, device=device)
    return {
        "group_statistics": (x, 8, shift),
        "group_normalize": (x, statistics, weight, bias, 1e-5, shift, True),
        "group_norm": (x, 8, weight, bias, 1e-5, None, False),
        "merge_statistics": ([statistics, statistics], [3, 4]),
        "add_residual": (x, x.clone(), shift),
        "geglu": (matrix,),
        "wavelet_color_fix": (image, image.clone()),
        "merge_lora": (matrix, matrix[..., :4], matrix[:, :4], 0.5, torch.empty_like(matrix)),
    }


@pytest.mark.parametrize("name", calls("cpu", torch.float32))
def test_registration(name: str) -> None:
    torch.library.opcheck(getattr(OPS, name).default, calls("cpu", torch.float32)[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("name", calls("cpu", torch.float32))
def test_the_meta_device_tells_shape_type_and_layout(name: str, dtype: torch.dtype) -> None:
    operator = getattr(OPS, name).default
    real, meta = (operator(*calls(device, dtype)[name]) for device in ("cpu", "meta"))
    if real is None:
        assert meta is None
        return
    assert (meta.shape, meta.dtype, meta.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("name", calls("cpu", torch.float32))
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counted_as_one_launch(name: str, device: str) -> None:
    arguments = calls(device, torch.float32)[name]
    with WorkCounter() as counter:
        getattr(OPS, name).default(*arguments)
    assert counter.counts().launches == 1
    wanted = 2 * 2 * 6 * 8 * 4 if name == "merge_lora" else 0
    assert counter.counts().total_flops == wanted


def test_layouts_that_the_triton_kernels_take() -> None:
    x = feature_map(2, 32, 5, 3, dtype=torch.float16)
    weight, bias, shift = vectors(32, torch.float32)
    statistics = torch.ones(1, 8, 2)
    assert layouts.norm_fits(x, 8, weight, bias, 1e-5, shift)
    assert layouts.normalize_fits(x, statistics, weight, bias, 1e-5)
    assert layouts.residual_fits(x, x, shift)
    assert not layouts.norm_fits(x.contiguous(), 8, weight, bias, 1e-5)
    assert not layouts.norm_fits(x.double(), 8, weight, bias, 1e-5)
    assert not layouts.norm_fits(x[:, :, ::2], 8, weight, bias, 1e-5)
    assert not layouts.norm_fits(x, 5, weight, bias, 1e-5)
    assert not layouts.norm_fits(x, 8, weight[:4], bias, 1e-5)
    assert not layouts.norm_fits(x, 8, weight, bias, 1e-5, torch.ones(64)[::2])
    assert not layouts.normalize_fits(x, statistics.double(), weight, bias, 1e-5)
    assert not layouts.normalize_fits(x, statistics.expand(3, 8, 2), weight, bias, 1e-5)
    assert not layouts.residual_fits(x, x.contiguous())
    assert not layouts.statistics_fit(x[:0], 8)
    assert layouts.geglu_fits(torch.ones(2, 6))
    assert not layouts.geglu_fits(torch.ones(6, 2).T)
    assert not layouts.geglu_fits(torch.ones(2, 5))
    image = torch.rand(3, 20, 17)
    assert layouts.images_fit(image[:, 1:, 1:], image[:, :-1, :-1])
    assert not layouts.images_fit(image, image[:, 1:])
    assert not layouts.images_fit(image.double(), image)
    weights, mixed, down = torch.ones(2, 6, 8), torch.ones(2, 6, 4), torch.ones(2, 4, 8)
    assert layouts.lora_fits(weights, mixed, down, 1.0, weights.half())
    assert not layouts.lora_fits(weights, mixed, down[:, :3], 1.0, weights)
    assert not layouts.lora_fits(weights, mixed, down, 1.0, weights.mT.contiguous().mT)
    assert not layouts.lora_fits(weights, mixed, down.double(), 1.0, weights)


def test_no_triton_is_needed() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from pipelines import kernels\n"
        "assert kernels.geglu(torch.ones(2, 6)).shape == (2, 3)\n"
        "assert not [name for name in sys.modules if name.startswith('pipelines.kernels.triton')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
