"""From ncnn's files to the published tensor names.

ncnn knows layers by numbers, so which convolution is which follows from the graph alone. It is held
against the graph that an RRDBNet has: layer by layer, wiring and every parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.contract import PipelineError
from pipelines.dense_blocks import LEAKY_SLOPE, RESIDUAL_WEIGHT
from pipelines.external.realesrgan.ncnn import Layer, Value, parse_graph, read_convolutions
from pipelines.external.realesrgan.network import Shape

if TYPE_CHECKING:
    from torch import Tensor

_KERNEL = 3
_LEAKY, _SUM, _NEAREST = 2, 1, 1
"""ncnn's numbers of an activation, of an operation on elements and of an interpolation."""


@dataclass(frozen=True, slots=True)
class Node:
    """A layer by what it does: `inputs` are positions of nodes before it."""

    kind: str
    inputs: tuple[int, ...]
    params: dict[int, Value]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A convolution that the network has: its published name, outputs and inputs."""

    name: str
    outputs: int
    inputs: int


class _Expected:
    """The graph of an RRDBNet as its converters write it, and its convolutions in order."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[Node] = []
        self.kernels: list[Kernel] = []
        width = shape.features
        first = self._conv("conv_first", self._add("Input", ()), 3, width)
        body = first
        for block in range(shape.blocks):
            begin = body
            for dense in (1, 2, 3):
                body = self._dense(f"body.{block}.rdb{dense}", body, shape)
            body = self._residual(body, begin)
        body = self._conv("conv_body", body, width, width)
        body = self._add("BinaryOp", (first, body))
        for name in ("conv_up1", "conv_up2"):
            body = self._add("Interp", (body,), {0: _NEAREST, 1: 2.0, 2: 2.0})
            body = self._conv(name, body, width, width, leaky=True)
        body = self._conv("conv_hr", body, width, width, leaky=True)
        self._conv("conv_last", body, width, 3)

    def _add(self, kind: str, inputs: Sequence[int], params: dict[int, Value] | None = None) -> int:
        self.nodes.append(Node(kind, tuple(inputs), params or {}))
        return len(self.nodes) - 1

    def _conv(self, name: str, x: int, inputs: int, outputs: int, *, leaky: bool = False) -> int:
        self.kernels.append(Kernel(name, outputs, inputs))
        params: dict[int, Value] = {
            0: outputs,
            1: _KERNEL,
            4: 1,
            5: 1,
            6: outputs * inputs * _KERNEL**2,
        }
        activation: dict[int, Value] = {9: _LEAKY, 10: (LEAKY_SLOPE,)} if leaky else {}
        return self._add("Convolution", (x,), params | activation)

    def _dense(self, name: str, x: int, shape: Shape) -> int:
        maps, width = [x], shape.features
        for index in (1, 2, 3, 4):
            joined = x if index == 1 else self._add("Concat", maps)
            maps.append(self._conv(f"{name}.conv{index}", joined, width, shape.growth, leaky=True))
            width += shape.growth
        joined = self._add("Concat", maps)
        return self._residual(self._conv(f"{name}.conv5", joined, width, shape.features), x)

    def _residual(self, branch: int, x: int) -> int:
        return self._add("Eltwise", (branch, x), {0: _SUM, 1: (RESIDUAL_WEIGHT, 1.0)})


def convert(graph: bytes, weights: bytes, shape: Shape) -> dict[str, Tensor]:
    """The tensors of an RRDBNet: weights float16 and biases float32, as they are stored.

    Args:
        graph: Of ncnn's `.param` file.
        weights: Of its `.bin` file.
        shape: That the network must have.

    Raises:
        PipelineError: Another network, or a damaged file; names the layer.
    """
    import torch

    try:
        text = graph.decode("ascii")
    except UnicodeDecodeError as error:
        raise PipelineError("the .param file: no graph of ncnn, which is plain text") from error
    expected = _Expected(shape)
    _require_equal(parse_graph(text, "the .param file"), expected.nodes)
    sizes = [(kernel.outputs, kernel.inputs, _KERNEL) for kernel in expected.kernels]
    tensors = {}
    found = read_convolutions(weights, sizes, "the .bin file")
    for kernel, convolution in zip(expected.kernels, found, strict=True):
        tensors[f"{kernel.name}.weight"] = torch.from_numpy(convolution.weight.copy())
        tensors[f"{kernel.name}.bias"] = torch.from_numpy(convolution.bias.copy())
    return tensors


def _require_equal(layers: Sequence[Layer], expected: Sequence[Node]) -> None:
    """Refuse a graph that is not, node by node, the expected one; `Split` only renames."""
    position: dict[str, int] = {}
    count = 0
    for layer in layers:
        unknown = [name for name in layer.inputs if name not in position]
        if unknown:
            raise PipelineError(
                f"the .param file: {layer.name} reads {unknown[0]} before it is made"
            )
        inputs = tuple(position[name] for name in layer.inputs)
        if layer.kind == "Split":
            position |= dict.fromkeys(layer.outputs, inputs[0])
            continue
        wanted = expected[count] if count < len(expected) else None
        if Node(layer.kind, inputs, layer.params) != wanted:
            told = "nothing more" if wanted is None else f"{wanted.kind} {wanted.params}"
            raise PipelineError(
                f"the .param file: {layer.name} is {layer.kind} {layer.params} where an RRDBNet "
                f"has {told}, or reads something else; it is another network"
            )
        position |= dict.fromkeys(layer.outputs, count)
        count += 1
    if count != len(expected):
        raise PipelineError(
            f"the .param file: ends after {count} layers where an RRDBNet has {len(expected)}"
        )
