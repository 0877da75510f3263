"""The kernels of SRDiff: references, operators and layouts, against plain PyTorch in float64.

The Triton kernels themselves are in tests/interpreted.
"""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipelines import kernels
from pipelines.kernels import layouts
from pipelines.work import WorkCounter

OPS = torch.ops.pipelines
Tensor = torch.Tensor
# Odd sides, the smallest maps that can be mirrored, widths that fill blocks and not.
SHAPES = [(2, 3, 5, 7), (1, 64, 3, 5), (1, 256, 2, 2), (3, 20, 2, 3)]
# As in the schedule at t = 99, 50 and 0.
SCHEDULE = [
    (2029.20, 2029.20, 0.0155683, 0.0316151, 0.99938),
    (1.44599, 1.04446, 0.0424907, 0.954715, 0.174941),
    (1.00032, 0.0251333, 1.0, 0.0, 0.0),
]
Call = dict[str, Any]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def feature_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(*shape, seed=seed, dtype=dtype).contiguous(memory_format=torch.channels_last)


def column(vector: Tensor) -> Tensor:
    return vector.double()[:, None, None]


def reflected(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect").contiguous(memory_format=torch.channels_last)


def plain_mish_pad(
    x: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_bias: Tensor | None = None,
    extra: Tensor | None = None,
    pad: int = 1,
    mish: bool = True,
) -> Tensor:
    """One operator after the other, in float64."""
    y = x.double() if bias is None else x.double() + column(bias)
    y = y * F.softplus(y).tanh() if mish else y
    if residual is not None:
        inner = residual if residual.shape == x.shape else residual[..., 1:-1, 1:-1]
        y = y + inner.double()
    y = y if residual_bias is None else y + column(residual_bias)
    y = y if extra is None else y + extra.double()
    return reflected(y) if pad else y


def plain_step(x: Tensor, eps: Tensor, bias: Tensor | None, noise: Tensor, row: Any) -> Tensor:
    """The sampler's one line, in float64."""
    b, c, a, d, sigma = (float(v) for v in row)
    eps = eps.double() if bias is None else eps.double() + column(bias)
    clean = (b * x.double() - c * eps).clamp(-1, 1)
    return a * clean + d * x.double() + sigma * noise.double()


def mish_pad_calls(shape: tuple[int, ...], dtype: torch.dtype) -> list[Call]:
    """Every argument in each of its forms; vectors are slices of a longer one, as in the steps."""
    channels = shape[1]
    narrow = torch.float64 if dtype == torch.float64 else torch.float32
    table = draw(2, 4 + 2 * channels, seed=1, dtype=narrow)
    bias, residual_bias = table[1, 4 : 4 + channels], table[1, 4 + channels :]
    residual = feature_map(*shape, seed=2, dtype=dtype)
    extra = feature_map(*shape, seed=3, dtype=dtype)
    addends: list[Call] = [
        {},
        {"bias": bias},
        {"bias": bias, "residual": residual, "residual_bias": residual_bias},
        {"residual": reflected(residual), "extra": extra},
        {"residual_bias": residual_bias, "extra": extra[:1]},
    ]
    return [
        {"x": 4 * feature_map(*shape, dtype=dtype), "pad": pad, "mish": mish} | given
        for given, pad, mish in product(addends, (0, 1), (True, False))
    ]


def step_arguments(
    dtype: torch.dtype, eps_dtype: torch.dtype, nhwc: tuple[bool, bool, bool], step: int
) -> tuple[Any, ...]:
    """Of `diffusion_step`: x, eps, its bias, noise, table, step; a clamp that bites and not."""
    formats = [torch.channels_last if n else torch.contiguous_format for n in nhwc]
    x, drift, noise = (draw(2, 3, 7, 5, seed=s, dtype=dtype) for s in (0, 1, 2))
    eps = (x + (1e-4 if step == 0 else 1.0) * drift).to(eps_dtype)
    images = [i.contiguous(memory_format=f) for i, f in zip((x, eps, noise), formats, strict=True)]
    bias = draw(3, seed=4, dtype=dtype) * 1e-4
    table = torch.tensor(SCHEDULE, dtype=dtype)
    return images[0], images[1], bias, images[2], table, torch.tensor([step])


@pytest.mark.parametrize("shape", SHAPES)
def test_mish_pad_is_the_chain_of_operators(shape: tuple[int, ...]) -> None:
    for call in mish_pad_calls(shape, torch.float64):
        got = kernels.mish_pad(**call)
        elsewhere = kernels.mish_pad(**call | {"x": call["x"].contiguous()})
        for y in (got, elsewhere):
            torch.testing.assert_close(y, plain_mish_pad(**call), rtol=1e-12, atol=1e-12)
            assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(got, kernels.mish_pad(**call))


def test_pytorchs_own_mish_and_padding() -> None:
    x, residual, bias = draw(2, 8, 6, 4), draw(2, 8, 6, 4, seed=1), draw(8, seed=2)
    wanted = F.pad(F.mish(x + column(bias)) + residual, (1, 1, 1, 1), mode="reflect")
    got = kernels.mish_pad(x, bias, residual)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_mish_keeps_its_digits_on_both_sides(dtype: torch.dtype) -> None:
    magnitudes = torch.tensor([0.0, 1e-4, 1.0, 9.0, 20.0, 60.0, 1e3, 3e4])
    x = torch.cat((magnitudes, -magnitudes)).to(dtype).view(1, 4, 2, 2)
    got = kernels.mish_pad(x, pad=0)
    digits = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 2**-11}[dtype]
    # Below the smallest normal number of the type nothing is kept.
    absolute = 2**-24 if dtype == torch.float16 else 1e-23
    wanted = plain_mish_pad(x, pad=0)
    torch.testing.assert_close(got.double(), wanted, rtol=digits, atol=absolute)


def test_inputs_stay_as_they_are() -> None:
    call = mish_pad_calls((1, 4, 3, 3), torch.float64)[-4]
    before = {name: value.clone() for name, value in call.items() if torch.is_tensor(value)}
    kernels.mish_pad(**call)
    assert len(before) > 2
    for name, value in before.items():
        assert torch.equal(call[name], value)


def test_pad_concat_is_the_chain_of_operators() -> None:
    x, bias, skip = draw(2, 6, 3, 4), draw(6, seed=1), draw(2, 5, 5, 6, seed=2)
    wanted = torch.cat((reflected(x + column(bias)), skip), dim=1)
    assert torch.equal(kernels.pad_concat(x, bias, skip), wanted)
    assert torch.equal(kernels.pad_concat(x + column(bias), None, skip), wanted)
    half = kernels.pad_concat(x.half(), bias.float(), skip.half())
    torch.testing.assert_close(half.double(), wanted, rtol=1e-2, atol=1e-2)
    assert half.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", range(3))
def test_diffusion_step_is_the_samplers_line(dtype: torch.dtype, step: int) -> None:
    x, eps, bias, *rest = step_arguments(dtype, dtype, (False, True, False), step)
    table = rest[1]
    for given in (bias, None):
        state = x.clone()
        wanted = plain_step(x, eps, given, rest[0], table[step])
        kernels.diffusion_step(state, eps, given, *rest)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(state.double(), wanted, rtol=0, atol=tolerance)


def test_the_clean_image_is_formed_in_float32() -> None:
    """With x = eps + 1e-4 at t = 99 it is 0.2; products in float16 would be whole numbers."""
    eps = draw(1, 3, 4, 4, dtype=torch.float16)
    x = eps.float() + 1e-4
    row = [2029.2, 2029.2, 1.0, 0.0, 0.0]
    wanted = plain_step(x, eps, None, x, row)
    assert wanted.abs().max() < 1
    kernels.diffusion_step(x, eps, None, x.clone(), torch.tensor([row]), torch.tensor([0]))
    torch.testing.assert_close(x.double(), wanted, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("height", "width", "pad"), [(1, 5, 1), (5, 1, 1), (4, 4, 2), (4, 4, -1)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_cannot_be_padded(height: int, width: int, pad: int, device: str) -> None:
    x = torch.ones(1, 4, height, width, device=device)
    with pytest.raises(ValueError, match=rf"{height}x{width} cannot be padded by {pad}"):
        kernels.mish_pad(x, pad=pad)


def calls(device: str, dtype: torch.dtype) -> dict[str, tuple[object, ...]]:
    """Arguments of every operator."""
    x, extra = (feature_map(2, 32, 5, 3, seed=s, dtype=dtype).to(device) for s in (0, 1))
    vector = draw(32, dtype=dtype).to(device)
    step_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    step = step_arguments(step_dtype, dtype, (True, False, True), 1)
    padded = torch.empty(2, 8, 7, 5, dtype=dtype, device=device).fill_(0.5)
    return {
        "mish_pad": (x, vector, extra, vector, extra[:1], 1, True),
        "pad_concat": (x, vector, padded),
        "diffusion_step": tuple(t.to(device) for t in step),
    }


@pytest.mark.parametrize("name", calls("cpu", torch.float32))
def test_registration(name: str) -> None:
    torch.library.opcheck(getattr(OPS, name).default, calls("cpu", torch.float32)[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", calls("cpu", torch.float32))
def test_the_meta_device_tells_shape_type_and_layout(name: str, dtype: torch.dtype) -> None:
    operator = getattr(OPS, name).default
    real, meta = (operator(*calls(device, dtype)[name]) for device in ("cpu", "meta"))
    if name == "diffusion_step":
        assert real is meta is None
        return
    assert (meta.shape, meta.dtype, meta.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (1, 3, 2, 5), (2, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_layouts_of_degenerate_maps(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pad = min(1, shape[2] - 1)
    x = torch.ones(shape, dtype=dtype)
    real, meta = kernels.mish_pad(x, pad=pad), kernels.mish_pad(x.to("meta"), pad=pad)
    assert (meta.shape, meta.stride()) == (real.shape, real.stride())


@pytest.mark.parametrize("name", calls("cpu", torch.float32))
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counted_as_one_launch(name: str, device: str) -> None:
    arguments = calls(device, torch.float32)[name]
    with WorkCounter() as counter:
        getattr(OPS, name).default(*arguments)
    assert counter.counts().launches == 1
    assert counter.counts().total_flops == 0


def test_layouts_that_the_triton_kernels_take() -> None:
    x = feature_map(2, 32, 5, 3, dtype=torch.float16)
    padded, vector = reflected(x), draw(64, dtype=torch.float32)
    assert layouts.mish_fits(x, vector[32:], padded, None, x[:1])
    assert layouts.mish_fits(x[:, :, :1].contiguous(memory_format=torch.channels_last), pad=0)
    assert not layouts.mish_fits(x, pad=2)
    assert not layouts.mish_fits(x.contiguous())
    assert not layouts.mish_fits(x.double())
    assert not layouts.mish_fits(x, vector[::2])
    assert not layouts.mish_fits(x, None, x[:1])
    assert not layouts.mish_fits(x, None, padded[..., 1:-1, 1:-1])
    assert not layouts.mish_fits(x, None, None, vector)
    assert not layouts.mish_fits(x, None, None, None, x[:, :16])
    assert layouts.concat_fits(
        x, vector[:32], padded[:, :16].contiguous().to(memory_format=torch.channels_last)
    )
    assert not layouts.concat_fits(x, None, x)
    assert not layouts.concat_fits(x, None, padded.float())
    assert not layouts.concat_fits(x, None, padded[:, ::2])
    step = step_arguments(torch.float32, torch.bfloat16, (False, True, False), 1)
    assert layouts.step_fits(*step)
    refused = [
        (0, step[0].double()),
        (1, step[1][:1].expand(2, -1, -1, -1)),
        (2, step[2][:2]),
        (4, step[4].double()),
        (4, step[4].T.contiguous().T),
        (5, step[5].int()),
    ]
    for index, value in refused:
        given: list[Any] = [*step[:index], value, *step[index + 1 :]]
        assert not layouts.step_fits(*given)
