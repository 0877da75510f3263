"""Speed of single layers in int8 and fp8 against float16 of cuDNN and cuBLAS, on the card at hand.

At the shapes that most of the work of a 512x512 picture has (spec 4.1). Of each layer: alone, fed
with codes; alone, making its codes itself; and behind the norm before it, which writes them. One
sample is one replay of a CUDA graph of several calls, so that no launch of Python's is timed; arms
take turns, forwards and backwards, so that drift meets all alike. Inputs stay in the L2 where they
fit, for every arm.

With SRBENCH_LAYER_SPEED=FILE every sample is appended there, one JSON line a layer.
"""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines import kernels
from pipelines.kernels import static_int8
from pipelines.passionsr.fp8 import Fp8Linear, fp8_supported, fp8_takes
from pipelines.passionsr.integer import IntegerConv2d, IntegerLinear
from pipelines.passionsr.layer import QuantizedConv2d, QuantizedLayer, QuantizedLinear

Tensor = torch.Tensor
Arm = Callable[[], Tensor]
ROUNDS = 10
CALLS = 10
WARM_UP = 3
DESTINATION = "SRBENCH_LAYER_SPEED"
NORM_GROUPS = 32


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the calls of one arm, in microseconds."""

    median_us: float
    mad_us: float
    samples: int


def turns(names: Sequence[str], rounds: int) -> list[str]:
    """A B C C B A, again and again."""
    return [*names, *reversed(names)] * rounds


def summary(samples: Sequence[float]) -> Summary:
    """Median, and median distance from it."""
    median = statistics.median(samples)
    spread = statistics.median(abs(sample - median) for sample in samples)
    return Summary(median, spread, len(samples))


def speed_ups(samples: Mapping[str, Sequence[float]], baseline: str) -> dict[str, float]:
    """How many times faster than `baseline`: medians of the quotients of neighbours in time."""
    return {
        name: statistics.median(b / a for a, b in zip(own, samples[baseline], strict=True))
        for name, own in samples.items()
        if name != baseline
    }


def test_arms_take_turns() -> None:
    assert turns(["a", "b", "c"], 2) == ["a", "b", "c", "c", "b", "a"] * 2


def test_samples_are_summed_up() -> None:
    assert summary([1.0, 2.0, 30.0, 4.0, 5.0]) == Summary(4.0, 2.0, 5)
    found = speed_ups({"fp16": [4.0, 8.0, 8.0], "int8": [2.0, 4.0, 2.0]}, "fp16")
    assert found == {"int8": 2.0}


def captured(arm: Arm) -> torch.cuda.CUDAGraph:
    """A graph of `CALLS` calls, warm."""
    for _ in range(WARM_UP):
        arm()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            arm()
    graph.replay()
    return graph


def measured(arms: Mapping[str, Arm]) -> dict[str, list[float]]:
    """Microseconds a call, `2 * ROUNDS` samples an arm."""
    graphs = {name: captured(arm) for name, arm in arms.items()}
    samples: dict[str, list[float]] = {name: [] for name in arms}
    for name in turns(list(arms), ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graphs[name].replay()
        end.record()
        end.synchronize()
        samples[name].append(1000 * begin.elapsed_time(end) / CALLS)
    return samples


def quantized(module: nn.Linear | nn.Conv2d, x: Tensor) -> QuantizedLayer:
    layer = QuantizedLayer.wrap(module, mode="fixed")
    layer(x)
    return layer


def half(module: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """Copies in float16; maps in NHWC memory."""
    copy = type(module)(**_arguments(module), device="cuda", dtype=torch.float16)
    copy.load_state_dict(module.state_dict())
    if x.dim() == 4:
        copy = copy.to(memory_format=torch.channels_last)
    return copy.requires_grad_(False), x.half()


def _arguments(module: nn.Module) -> dict[str, int]:
    if isinstance(module, nn.Linear):
        return {"in_features": module.in_features, "out_features": module.out_features}
    assert isinstance(module, nn.Conv2d)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return {name: getattr(module, name) for name in names}


def conv_arms(batch: int, channels: int, outputs: int, side: int, kernel: int) -> dict[str, Arm]:
    """A convolution behind GroupNorm and SiLU."""
    x = torch.randn(batch, channels, side, side, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    module = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, device="cuda")
    layer = quantized(module, x)
    assert isinstance(layer, QuantizedConv2d)
    integer = IntegerConv2d.from_layer(layer).half()
    plain, x = half(module, x)
    codes = integer.quantize(x)
    norm = torch.ones(channels, device="cuda").half(), torch.zeros(channels, device="cuda").half()

    def fused() -> Tensor:
        written = static_int8.group_norm_quantize(
            x, NORM_GROUPS, *norm, 1e-5, None, True, integer.quantizer, integer.levels
        )
        return integer(written)

    return {
        "fp16": lambda: plain(x),
        "int8": lambda: integer(codes),
        "int8 with its quantizer": lambda: integer(x),
        "norm, fp16": lambda: plain(kernels.group_norm(x, NORM_GROUPS, *norm, 1e-5)),
        "norm and codes, int8": fused,
    }


def linear_arms(rows: int, depth: int, outputs: int) -> dict[str, Arm]:
    """A linear layer behind a LayerNorm."""
    x = torch.randn(1, rows, depth, device="cuda")
    module = nn.Linear(depth, outputs, device="cuda")
    layer = quantized(module, x)
    assert isinstance(layer, QuantizedLinear)
    integer = IntegerLinear.from_layer(layer).half()
    plain, x = half(module, x)
    codes = integer.quantize(x)
    norm = torch.ones(depth, device="cuda").half(), torch.zeros(depth, device="cuda").half()

    def fused() -> Tensor:
        written = static_int8.layer_norm_quantize(
            x, *norm, 1e-5, [integer.quantizer], integer.levels
        )
        return integer(written[0])

    arms: dict[str, Arm] = {
        "fp16": lambda: plain(x),
        "int8": lambda: integer(codes),
        "int8 with its quantizer": lambda: integer(x),
        "norm, fp16": lambda: plain(F.layer_norm(x, (depth,), *norm)),
        "norm and codes, int8": fused,
    }
    if not fp8_supported("cuda") and fp8_takes(layer):
        fp8 = Fp8Linear.from_layer(layer)
        arms["fp8 with its quantizer"] = lambda: fp8(x)
    return arms


# Batch, input and output channels, side of the map, kernel; UNet, then VAE.
CONVOLUTIONS = [
    (1, 320, 320, 64, 3),
    (1, 640, 640, 32, 3),
    (1, 1280, 1280, 16, 3),
    (1, 2560, 1280, 16, 3),
    (1, 1280, 640, 32, 3),
    (1, 640, 320, 64, 3),
    (1, 1280, 1280, 8, 3),
    (1, 960, 320, 64, 1),
    (1, 512, 512, 64, 3),
    (1, 512, 512, 128, 3),
    (1, 256, 256, 256, 3),
    (1, 512, 512, 256, 3),
    (1, 128, 128, 512, 3),
    (1, 256, 256, 512, 3),
]
# Rows, input and output features.
LINEAR = [
    (4096, 320, 320),
    (4096, 320, 2560),
    (4096, 1280, 320),
    (1024, 640, 640),
    (1024, 640, 5120),
    (1024, 2560, 640),
    (256, 1280, 1280),
    (256, 1280, 10240),
    (256, 5120, 1280),
]
BASELINES = {"norm and codes, int8": "norm, fp16"}
"""Of every other arm it is `fp16`."""
WORST_ERROR = 0.08
"""Of int8 against float16, relative: what is fast but wrong is no result."""


def _write(record: dict[str, object]) -> None:
    where = os.environ.get(DESTINATION)
    if not where:
        return
    path = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _compare(layer: str, flops: int, arms: Mapping[str, Arm]) -> None:
    results = {name: arm().float() for name, arm in arms.items()}
    for name, result in results.items():
        wanted = results["norm, fp16" if name.startswith("norm") else "fp16"]
        error = float((result - wanted).norm() / wanted.norm())
        assert error < WORST_ERROR, (name, error)
    samples = measured(arms)
    against: dict[str, float] = {}
    for name, own in samples.items():
        baseline = BASELINES.get(name, "fp16")
        if name not in ("fp16", "norm, fp16"):
            pair = {name: own, baseline: samples[baseline]}
            against |= speed_ups(pair, baseline)
    _write(
        {
            "kind": "layer_speed",
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "layer": layer,
            "flops": flops,
            "arms": {name: asdict(summary(own)) for name, own in samples.items()},
            "speed_up": against,
            "samples_us": samples,
        }
    )


def on_a_card(test: Callable[..., None]) -> Callable[..., None]:
    """Marks of what needs one."""
    here = torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(not here, reason="no CUDA device here")(test))


@on_a_card
@pytest.mark.parametrize(("batch", "channels", "outputs", "side", "kernel"), CONVOLUTIONS)
def test_convolutions(batch: int, channels: int, outputs: int, side: int, kernel: int) -> None:
    name = f"conv {kernel}x{kernel} {channels}->{outputs} at {side}x{side}"
    flops = 2 * batch * side * side * channels * outputs * kernel * kernel
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        _compare(name, flops, conv_arms(batch, channels, outputs, side, kernel))


@on_a_card
@pytest.mark.parametrize(("rows", "depth", "outputs"), LINEAR)
def test_linear_layers(rows: int, depth: int, outputs: int) -> None:
    with torch.inference_mode():
        arms = linear_arms(rows, depth, outputs)
        _compare(f"linear {rows}x{depth}->{outputs}", 2 * rows * depth * outputs, arms)
