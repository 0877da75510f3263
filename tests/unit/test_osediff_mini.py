"""OSEDiff's `mini` is S3Diff's at one degradation score, exactly."""

from __future__ import annotations

import pytest
import torch

from pipelines.contract import WeightsSource
from pipelines.osediff.merging import merged_state
from pipelines.osediff.mini import derive
from pipelines.osediff.weight_sources import MINI_SCORE, resolve_weights
from pipelines.osediff.weights import Checkpoint, read_checkpoint
from pipelines.s3diff.degradation import Modulator
from pipelines.s3diff.lora import LoraMerger, unet_block, vae_block
from pipelines.s3diff.recipe import recipe
from pipelines.s3diff.synthesize import synthesize
from pipelines.s3diff.weight_sources import resolve_weights as resolve_s3diff
from pipelines.s3diff.weights import Checkpoint as S3DiffCheckpoint
from pipelines.s3diff.weights import read_checkpoint as read_s3diff
from pipelines.stable_diffusion.expected import meta_networks

SCORE = (0.3, 0.8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[S3DiffCheckpoint, Checkpoint]:
    """Seeded weights of S3Diff, rank 8, and what is derived from them."""
    root = tmp_path_factory.mktemp("mini")
    synthesize(root / "s3diff", recipe("small"))
    derive(root / "s3diff", root / "osediff", SCORE)
    source = WeightsSource(root / "osediff", "folder", "", synthetic=False)
    s3diff = WeightsSource(root / "s3diff", "folder", "", synthetic=False)
    return read_s3diff(s3diff), read_checkpoint(source)


@pytest.mark.parametrize("network", ["unet", "vae"])
def test_base_and_adapters_are_s3diffs_merge(
    pair: tuple[S3DiffCheckpoint, Checkpoint], network: str
) -> None:
    theirs, ours = pair
    sizes = theirs.architecture
    rank = getattr(sizes, f"rank_{network}")
    module = meta_networks(sizes)[network].to_empty(device="cpu").requires_grad_(False)
    module.load_state_dict(getattr(theirs, network))
    block = unet_block if network == "unet" else vae_block
    pairs, state = getattr(theirs, f"{network}_lora"), getattr(theirs, network)
    scores = torch.tensor([SCORE])
    matrices = Modulator(theirs.modulation, network, rank)(scores)
    LoraMerger(module, state, pairs, rank, block).merge(matrices)
    wanted = module.state_dict()
    base, adapters = getattr(ours, network), getattr(ours, f"{network}_lora")
    found = merged_state(base, adapters, 4)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)
    unchanged = [p for p in pairs if torch.equal(found[f"{p}.weight"], base[f"{p}.weight"])]
    assert not unchanged, "every adapter of S3Diff changes its layer"


def test_adapters_that_s3diff_lacks_are_zero(
    pair: tuple[S3DiffCheckpoint, Checkpoint],
) -> None:
    theirs, ours = pair
    for network, more in (("unet", {"conv_in"}), ("vae", {"quant_conv"})):
        adapters = getattr(ours, f"{network}_lora")
        assert adapters.keys() - getattr(theirs, f"{network}_lora").keys() == more
        for path in more:
            assert not adapters[path].up.any()
            assert not adapters[path].down.any()


def test_ranks_beyond_four_are_in_the_base(pair: tuple[S3DiffCheckpoint, Checkpoint]) -> None:
    """The UNet's adapters of rank 8 are divided; the VAE's of rank 4 are not."""
    theirs, ours = pair
    assert not torch.equal(ours.unet["conv_out.weight"], theirs.unet["conv_out.weight"])
    assert all(torch.equal(ours.vae[name], tensor) for name, tensor in theirs.vae.items())


def test_mini_is_made_once_and_told_apart_from_s3diffs() -> None:
    first, again = resolve_weights("mini", "cpu"), resolve_weights("mini", "cpu")
    assert first == again
    assert (first.kind, first.synthetic) == ("mini", False)
    assert first.digest != resolve_s3diff("mini", "cpu").digest
    assert read_checkpoint(first).architecture.rank_unet == 4
    assert all(0 <= float(value) <= 1 for value in MINI_SCORE)
