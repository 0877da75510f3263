"""Configurations, and that names and shapes are those of the networks built from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.contract import PipelineError
from pipelines.srdiff.config import CONFIGS, Config, checkpoint_shapes, rrdb_shapes, unet_shapes
from pipelines.srdiff.rrdb import RRDBNet, condition
from pipelines.srdiff.unet import UNet

SIZES = [*CONFIGS.values(), Config(scale=2, rrdb_blocks=2), Config(hidden_size=4, rrdb_features=2)]


@pytest.mark.parametrize("config", SIZES, ids=[*CONFIGS, "x2", "least"])
def test_shapes_are_those_of_the_networks(config: Config) -> None:
    with torch.device("meta"):
        unet, rrdb = UNet(config), RRDBNet(config)
    built = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    assert unet_shapes(config) == built
    built = {name: tuple(tensor.shape) for name, tensor in rrdb.state_dict().items()}
    assert rrdb_shapes(config) == built


@pytest.mark.parametrize("name", ["df2k-x4", "celeba-x8"])
def test_parameters_are_registered_in_the_published_order(name: str) -> None:
    """Adam's state in a published checkpoint is numbered by it."""
    with torch.device("meta"):
        unet = UNet(CONFIGS[name])
    order = list(dict.fromkeys(key.split(".")[0] for key, _ in unet.named_parameters()))
    expected = ["cond_proj", "mlp", "downs", "ups", "mid_block1", "mid_block2", "final_conv"]
    assert order == expected
    assert len(unet_shapes(CONFIGS[name])) == {"df2k-x4": 132, "celeba-x8": 130}[name]
    assert len(rrdb_shapes(CONFIGS[name])) == {"df2k-x4": 252, "celeba-x8": 254}[name]
    assert len(checkpoint_shapes(CONFIGS[name])) == 396


@pytest.mark.parametrize(("blocks", "maps"), [(2, 1), (5, 2), (8, 3), (15, 5), (17, 6)])
def test_every_third_feature_is_the_condition(blocks: int, maps: int) -> None:
    config = Config(rrdb_features=2, rrdb_blocks=blocks)
    features = [torch.full((1, 2, 1, 1), float(i)) for i in range(blocks + 1)]
    joined = condition(features)
    assert joined.shape[1] == config.condition_channels == 2 * maps
    assert joined[0, ::2, 0, 0].tolist() == [2.0 + 3 * i for i in range(maps)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 3}, "scale 3: SRDiff is trained for 2, 4 or 8"),
        ({"dim_mults": (1, 2, 4)}, r"dim_mults \(1, 2, 4\): 4 positive numbers"),
        ({"dim_mults": (1, 2, 0, 4)}, "4 positive numbers"),
        ({"hidden_size": 2}, "hidden_size 2: must be even and at least 4"),
        ({"hidden_size": 9}, "hidden_size 9"),
        ({"rrdb_features": 0}, "rrdb_features 0"),
        ({"rrdb_blocks": 1}, "rrdb_blocks 1: at least 2"),
        ({"timesteps": 0}, "timesteps 0"),
        ({"schedule": "sigmoid"}, "schedule 'sigmoid': expected cosine or linear"),
    ],
)
def test_configurations_that_cannot_be_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Config(**settings)
