"""`mini` for OSEDiff, derived from the trained `mini` of S3Diff; nothing more is shipped.

For one degradation score S3Diff's modulated adapters are constants: every adapted layer computes
W + s B M^T A. The part of the first 4 ranks becomes OSEDiff's adapter, B' A' with B' = s B M^T / 2
and A' = A, since OSEDiff scales by 2; the other ranks are added to W. So base and adapter together
are S3Diff's networks at that score. Layers that OSEDiff adapts and S3Diff does not get an adapter
of zeros.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipelines.contract import WeightsSource
from pipelines.diffusion.lora import LoraPair
from pipelines.osediff.adapter_file import published_content
from pipelines.osediff.architecture import (
    RANK,
    UNET_ADAPTERS,
    VAE_ADAPTER,
    adapted,
)
from pipelines.s3diff.degradation import Modulator
from pipelines.s3diff.lora import unet_block, vae_block
from pipelines.s3diff.weights import Checkpoint as S3DiffCheckpoint
from pipelines.s3diff.weights import read_checkpoint
from pipelines.stable_diffusion.options import LORA_ALPHA
from pipelines.stable_diffusion.weight_folder import COMPONENTS, SNAPSHOT

Tensors = dict[str, torch.Tensor]


def fixed_pairs(
    checkpoint: S3DiffCheckpoint, network: str, score: tuple[float, float]
) -> dict[str, LoraPair]:
    """S3Diff's adapters of `unet` or `vae` at one score, scaled: W + up down is the layer.

    Args:
        checkpoint: Of S3Diff.
        network: Which one.
        score: Blur and noise, each in (0, 1).

    Returns:
        Layer path -> pair, in float64.
    """
    sizes = checkpoint.architecture
    rank: int = getattr(sizes, f"rank_{network}")
    block: Callable[[str], int] = unet_block if network == "unet" else vae_block
    modulator = Modulator(checkpoint.modulation, network, rank).double()
    matrices = modulator(torch.tensor([score], dtype=torch.float64))[0]
    pairs: dict[str, LoraPair] = getattr(checkpoint, f"{network}_lora")
    return {
        path: LoraPair(
            pair.down.double(),
            LORA_ALPHA / rank * pair.up.double().flatten(1) @ matrices[block(path)].T,
        )
        for path, pair in pairs.items()
    }


def divided(
    state: Mapping[str, torch.Tensor], pairs: Mapping[str, LoraPair]
) -> tuple[Tensors, dict[str, LoraPair]]:
    """Base weights and OSEDiff's adapters, which together are W + up down of every layer.

    Args:
        state: Of the network, float32; left as it is.
        pairs: From `fixed_pairs`.

    Returns:
        The network's tensors with all but the first ranks added, and layer path -> pair of rank
        `RANK` for OSEDiff's scaling, both float32.
    """
    base, adapters = dict(state), {}
    for path, pair in pairs.items():
        name = f"{path}.weight"
        weight = state[name]
        rest = (pair.up[:, RANK:] @ pair.down[RANK:].flatten(1)).view(weight.shape)
        base[name] = (weight.double() + rest).float()
        up = pair.up[:, :RANK] / (LORA_ALPHA / RANK)
        if weight.dim() == 4:
            up = up[..., None, None]
        adapters[path] = LoraPair(pair.down[:RANK].float(), up.float())
    return base, adapters


def derive(source: Path, folder: Path, score: tuple[float, float]) -> None:
    """Write `sd-turbo/` and `osediff.pkl` of a weights folder of S3Diff at one score."""
    checkpoint = read_checkpoint(WeightsSource(source, "folder", "", synthetic=False))
    architecture = adapted(checkpoint.architecture)
    shutil.copytree(source / SNAPSHOT, folder / SNAPSHOT)
    found: dict[str, tuple[Tensors, dict[str, LoraPair]]] = {}
    for network in ("unet", "vae"):
        state: Tensors = getattr(checkpoint, network)
        found[network] = divided(state, fixed_pairs(checkpoint, network, score))
        path = folder / SNAPSHOT / network / f"{COMPONENTS[network]}.safetensors"
        _replace(path, found[network][0])
    unet = {
        f"conv_in.base_layer.{kind}": checkpoint.unet[f"conv_in.{kind}"]
        for kind in ("weight", "bias")
    }
    for name, layers in zip(UNET_ADAPTERS, architecture.unet_layers, strict=True):
        unet |= _named(layers, name, *found["unet"])
    vae = _named(architecture.vae_layers, VAE_ADAPTER, *found["vae"])
    torch.save(published_content(architecture, unet, vae), folder / "osediff.pkl")


def _named(
    layers: tuple[str, ...], adapter: str, state: Tensors, pairs: Mapping[str, LoraPair]
) -> Tensors:
    """Tensors of one adapter as peft names them, zeros where a layer has no pair."""
    named = {}
    for path in layers:
        weight = state[f"{path}.weight"]
        outputs, inputs, *kernel = weight.shape
        pair = pairs.get(path) or LoraPair(
            torch.zeros(RANK, inputs, *kernel), torch.zeros(outputs, RANK, *(1 for _ in kernel))
        )
        named[f"{path}.lora_A.{adapter}.weight"] = pair.down.contiguous()
        named[f"{path}.lora_B.{adapter}.weight"] = pair.up.contiguous()
    return named


def _replace(path: Path, tensors: Tensors) -> None:
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, {"format": "pt"})


def main() -> None:
    """Entry of the subprocess that fills the cache: `--source DIR --score B N --out DIR`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--score", type=float, nargs=2, required=True)
    arguments = parser.parse_args()
    derive(arguments.source, arguments.out, tuple(arguments.score))


if __name__ == "__main__":
    main()
