"""ncnn's two files of a network: the text graph (`.param`) and the weights in its order (`.bin`).

Read as ncnn's own loader does (`net.cpp`, `modelbin.cpp`, format 7767517), as far as a network of
convolutions with fp16 weights needs it; anything else is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract import PipelineError

_MAGIC = "7767517"
_HALVES = 0x01306B47
"""Tag before weights that are stored as float16, padded to four bytes."""
_ARRAY = -23300
"""Parameter -23300 - k is the array k, its length first."""

Value = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """A line of the graph.

    Attributes:
        kind: `Convolution`, `Concat`, …
        name: Its own.
        inputs: Names of what it reads.
        outputs: Names of what it makes.
        params: By ncnn's number.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: dict[int, Value]


@dataclass(frozen=True, slots=True)
class Convolution:
    """Weights of one layer.

    Attributes:
        weight: [outputs, inputs, kernel, kernel], float16.
        bias: [outputs], float32.
    """

    weight: NDArray[np.float16]
    bias: NDArray[np.float32]


def parse_graph(text: str, origin: str) -> list[Layer]:
    """The layers of a graph in their order.

    Args:
        text: Of a `.param` file.
        origin: Its name, for messages.

    Raises:
        PipelineError: It is no such file; names the line.
    """
    lines = text.splitlines()
    if len(lines) < 2 or lines[0].strip() != _MAGIC:
        raise PipelineError(f"{origin}: no graph of ncnn, whose first line is {_MAGIC}")
    layers = [
        _parse_layer(line, f"{origin}, line {number}")
        for number, line in enumerate(lines[2:], start=3)
        if line.strip()
    ]
    declared = lines[1].split()[0]
    if declared != str(len(layers)):
        raise PipelineError(f"{origin}: declares {declared} layers and has {len(layers)}")
    return layers


def _parse_layer(line: str, place: str) -> Layer:
    words = line.split()
    try:
        kind, name, reads, makes = words[0], words[1], int(words[2]), int(words[3])
        blobs, settings = words[4 : 4 + reads + makes], words[4 + reads + makes :]
        params = dict(_parse_param(word) for word in settings)
    except (IndexError, ValueError) as error:
        raise PipelineError(f"{place}: no layer of ncnn: {line.strip()[:60]}") from error
    if len(blobs) != reads + makes or len(params) != len(settings):
        raise PipelineError(f"{place}: no layer of ncnn: {line.strip()[:60]}")
    return Layer(kind, name, tuple(blobs[:reads]), tuple(blobs[reads:]), params)


def _parse_param(word: str) -> tuple[int, Value]:
    key, _, text = word.partition("=")
    number = int(key)
    if number > _ARRAY:
        return number, float(text)
    length, *values = (float(part) for part in text.split(","))
    if length != len(values):
        raise ValueError(word)
    return _ARRAY - number, tuple(values)


def read_convolutions(
    content: bytes, shapes: list[tuple[int, int, int]], origin: str
) -> list[Convolution]:
    """The weights of all convolutions, which must fill the file.

    Args:
        content: Of a `.bin` file.
        shapes: Outputs, inputs and kernel side of each, in the order of the graph.
        origin: Name of the file, for messages.

    Raises:
        PipelineError: Weights in another format, too few bytes, or some left over.
    """
    found = []
    offset = 0
    for index, (outputs, inputs, side) in enumerate(shapes):
        place = f"{origin}, convolution {index + 1} of {len(shapes)}"
        (tag,) = struct.unpack("<I", _take(content, offset, 4, place))
        if tag != _HALVES:
            raise PipelineError(
                f"{place}: its weights have the tag {tag:#010x}, not that of float16 weights; "
                "no other format is read"
            )
        size = 2 * outputs * inputs * side * side
        halves = np.frombuffer(_take(content, offset + 4, size, place), "<f2")
        offset += 4 + size + -size % 4
        bias = np.frombuffer(_take(content, offset, 4 * outputs, place), "<f4")
        offset += 4 * outputs
        if not (np.isfinite(halves).all() and np.isfinite(bias).all()):
            raise PipelineError(f"{place}: NaN or infinite values")
        found.append(Convolution(halves.reshape(outputs, inputs, side, side), bias))
    if offset != len(content):
        raise PipelineError(f"{origin}: {len(content) - offset} bytes behind the last convolution")
    return found


def _take(content: bytes, offset: int, size: int, place: str) -> bytes:
    if offset + size > len(content):
        raise PipelineError(f"{place}: the file ends {offset + size - len(content)} bytes too soon")
    return content[offset : offset + size]
