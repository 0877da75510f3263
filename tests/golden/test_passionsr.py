"""Quantized layers of mode `paper` against what the authors' own program computed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.passionsr import QuantizedLayer

Tensor = torch.Tensor
FILES = sorted((Path(__file__).parent / "data" / "passionsr").glob("*.npz"))


@dataclass
class Golden:
    arrays: dict[str, Tensor]
    params: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Arrays whose names begin so, without the prefix."""
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }

    def module(self) -> nn.Linear | nn.Conv2d:
        outputs, inputs, *_ = self["weight"].shape
        module: nn.Linear | nn.Conv2d = nn.Linear(inputs, outputs)
        if self.params["kind"] == "conv":
            module = nn.Conv2d(inputs, outputs, 3, padding=1)
        module.load_state_dict({"weight": self["weight"], "bias": self["bias"]})
        return module

    def wrapped(self) -> QuantizedLayer:
        """The layer after its first call."""
        bits, split = self.params["bits"], self.params["split"]
        layer = QuantizedLayer.wrap(
            self.module(), bits, bits, split, "paper", self.params["s_alpha"]
        )
        assert relative(layer(self["x_init"]), self["y_init"]) < 1e-5
        return layer


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    with np.load(request.param, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files[:-1]}
        return Golden(arrays, json.loads(str(file["params"])))


def relative(value: Tensor, reference: Tensor) -> float:
    assert value.shape == reference.shape
    return float((value.detach() - reference).abs().max() / reference.abs().max())


def test_eight_files() -> None:
    assert len(FILES) == 8


def test_first_call_sets_scale_and_bounds(golden: Golden) -> None:
    layer = golden.wrapped()
    stored = golden.named("param.")
    assert set(dict(layer.named_parameters())) == set(stored) == set(layer.state_dict())
    for name, value in stored.items():
        if name == "offset":
            assert not layer.offset.any()
        else:
            factor = 1 if name == "scale_factor" else 0.8
            assert relative(layer.get_parameter(name) * factor, value) < 1e-6, name


def test_output_and_gradients(golden: Golden) -> None:
    layer = golden.wrapped()
    with torch.no_grad():
        for name, value in golden.named("param.").items():
            layer.get_parameter(name).copy_(value)
    y = layer(golden["x"])
    assert relative(y, golden["y"]) < 1e-5
    loss = y.square().mean()
    assert float(loss.detach()) == pytest.approx(float(golden["loss"]), rel=1e-5)
    loss.backward()
    for name, gradient in golden.named("grad.").items():
        found = layer.get_parameter(name).grad
        assert found is not None
        assert relative(found, gradient) < 1e-4, name


def test_parameters_may_come_as_a_state(golden: Golden) -> None:
    layer = golden.wrapped()
    layer.load_state_dict(golden.named("param."))
    with torch.no_grad():
        assert relative(layer(golden["x"]), golden["y"]) < 1e-5
        assert relative(layer(golden["x"]), golden["y"]) < 1e-5


def test_full_precision(golden: Golden) -> None:
    layer = golden.wrapped()
    layer.quantizing = layer.transforming = False
    assert relative(layer(golden["x"]), golden["y_float"]) < 1e-6
