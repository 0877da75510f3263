"""torch.compile of the UNet's blocks: whole graphs, for prepared shapes only."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from pipelines.diffusion.compilation import compiling, only_compiled
from pipelines.s3diff.recipe import small_architecture
from pipelines.stable_diffusion.layers import Fusion
from pipelines.stable_diffusion.unet import UNet


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with torch.inference_mode():
        yield
    torch._dynamo.reset()


def test_blocks_compile_whole_and_unseen_shapes_run_at_once() -> None:
    torch.manual_seed(3)
    config = small_architecture().unet
    unet = UNet(config, 999, Fusion(norm=True, pointwise=True)).eval()
    unet.fold_time()
    text = unet.text_keys_values(torch.randn(2, 77, config["cross_attention_dim"]))
    seen, unseen = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 24)
    wanted = [unet(x, text, share_prefix=True) for x in (seen, unseen)]
    unet.compile_blocks(backend="eager", fullgraph=True)
    with compiling(enabled=True):
        unet(seen, text, share_prefix=True)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > len(config["block_out_channels"])
    assert not counters["graph_break"]
    with only_compiled(enabled=True):
        found = [unet(x, text, share_prefix=True) for x in (seen, unseen)]
    assert counters["stats"]["unique_graphs"] == compiled, "an unseen shape compiles nothing"
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weights_stay_inputs() -> None:
    """A merge between two images must be seen by what was compiled for the first."""
    config = small_architecture().unet
    unet = UNet(config, 999).eval()
    unet.fold_time()
    block = unet.mid_block.resnets[0]
    x = torch.randn(1, config["block_out_channels"][-1], 4, 4)
    unet.compile_blocks(backend="eager", fullgraph=True)
    before = block(x, None)
    block.conv2.weight.mul_(2)
    assert float((block(x, None) - before).abs().max()) > 1e-3
