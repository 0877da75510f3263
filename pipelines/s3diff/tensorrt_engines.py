"""A network as TensorRT engines, one for each shape of its inputs.

Exported first (`torch.export`), so that what an engine holds is decided here and not by a tracer:
the weights are constants of it, and what changes from image to image are its inputs. That goes for
the adapters' modulation too, which the network keeps in attributes.

TensorRT types networks strongly: an engine computes in the types of the exported graph. For float16
a copy of the network is rounded before it is exported, inputs and outputs stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.s3diff.lora import ModulatedLora

Engine = Callable[..., torch.Tensor]
Compile = Callable[[torch.export.ExportedProgram, tuple[torch.Tensor, ...]], Engine]


def tensorrt_compiler(optimization_level: int) -> Compile:
    """TensorRT's builder through torch-tensorrt.

    Args:
        optimization_level: 0 to 5: how long it searches.

    Raises:
        PipelineError: torch-tensorrt is not installed, or cannot be imported.
    """
    try:
        import torch_tensorrt
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise PipelineError(
            f"s3diff-tensorrt: torch_tensorrt cannot be imported ({said}); "
            "pip install 'srbench[tensorrt]' on a machine with CUDA"
        ) from error

    def build(program: torch.export.ExportedProgram, inputs: tuple[torch.Tensor, ...]) -> Engine:
        engine: Engine = torch_tensorrt.dynamo.compile(
            program,
            arg_inputs=list(inputs),
            disable_tf32=True,
            optimization_level=optimization_level,
            require_full_compilation=False,
        )
        return engine

    return build


class _Explicit(nn.Module):
    """A network whose adapters' modulation is an input: (matrices, *inputs) -> tensor."""

    def __init__(
        self,
        network: nn.Module,
        call: Callable[..., torch.Tensor],
        blocks: Mapping[str, int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.network = network
        self._call = call
        self._blocks = blocks
        self._dtype = dtype

    def forward(self, matrices: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        with self._modulated(matrices.to(self._dtype)):
            made = self._call(self.network, *(tensor.to(self._dtype) for tensor in inputs))
        return made.float()

    @contextmanager
    def _modulated(self, matrices: torch.Tensor) -> Iterator[None]:
        layers = [(self.network.get_submodule(path), i) for path, i in self._blocks.items()]
        before = [layer.modulation for layer, _ in layers]
        for layer, index in layers:
            layer.modulation = matrices[:, index]
        try:
            yield
        finally:
            for (layer, _), value in zip(layers, before, strict=True):
                layer.modulation = value


class Engines:
    """Engines of one network; a shape that was not prepared runs in PyTorch."""

    def __init__(
        self,
        network: nn.Module,
        call: Callable[..., torch.Tensor],
        block_of: Callable[[str], int],
        dtype: torch.dtype,
        compiler: Compile,
    ) -> None:
        """Take a network as it is; nothing is built.

        Args:
            network: Its adapters are `ModulatedLora`, if it has any.
            call: The network and its inputs -> its output, as a pipeline uses it.
            block_of: Path of an adapted layer -> row of the modulation matrices.
            dtype: That engines compute in.
            compiler: Makes an engine of an exported program.
        """
        self._network = network
        self._call = call
        self._dtype = dtype
        self._compile = compiler
        self._adapted = {
            path: layer
            for path, layer in network.named_modules()
            if isinstance(layer, ModulatedLora)
        }
        rows = sorted({block_of(path) for path in self._adapted})
        self._blocks = {path: rows.index(block_of(path)) for path in self._adapted}
        self._engines: dict[tuple[torch.Size, ...], Engine] = {}
        self.building = False

    def __len__(self) -> int:
        return len(self._engines)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The same: a copied network that has them for its `forward` is exported, not called."""
        return self

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The network's output; while `building` an engine is made for a new shape first."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if self.building and shapes not in self._engines:
            self._engines[shapes] = self._built(inputs)
        if shapes not in self._engines:
            return self._call(self._network, *inputs)
        return self._engines[shapes](self._matrices(inputs[0]), *inputs)

    def _built(self, inputs: tuple[torch.Tensor, ...]) -> Engine:
        explicit = _Explicit(
            copy.deepcopy(self._network).to(self._dtype), self._call, self._blocks, self._dtype
        )
        given = (self._matrices(inputs[0]), *inputs)
        with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            plain = tuple(tensor.detach().clone() for tensor in given)
            return self._compile(torch.export.export(explicit, plain, strict=False), plain)

    def _matrices(self, like: torch.Tensor) -> torch.Tensor:
        """Of the image, [1, rows, r, r]; empty for a network without adapters."""
        by_row: dict[int, torch.Tensor] = {}
        for path, layer in self._adapted.items():
            if layer.modulation is None:
                raise RuntimeError("modulation is not set")
            by_row.setdefault(self._blocks[path], layer.modulation)
        if not by_row:
            return like.new_empty(1, 0)
        return torch.stack([by_row[row] for row in sorted(by_row)], dim=1)
