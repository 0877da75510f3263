"""Find the constants that keep seeded weights sane on a photograph, with diffusers' own models."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from pipelines.contract import WeightsSource
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.s3diff.degradation import DegradationEstimator, Modulator
from pipelines.s3diff.lora import LoraMerger, unet_block, vae_block
from pipelines.s3diff.options import POSITIVE_PROMPT, TIMESTEP
from pipelines.s3diff.recipe import Ends, Recipe, Size, recipe
from pipelines.s3diff.synthesize import synthesize
from pipelines.s3diff.weights import Checkpoint, read_checkpoint

LATENT_DEVIATION = 0.068
IMAGE_DEVIATION = 0.45


@torch.inference_mode()
def calibrate(folder: Path, image: torch.Tensor) -> Ends:
    """Constants for weights that were written with `Ends.neutral()`.

    Args:
        folder: The weights.
        image: LR photograph [1, 3, H, W] in [0, 1]; 4 H and 4 W must be multiples of 64.
    """
    checkpoint = read_checkpoint(WeightsSource(folder, "folder", "", synthetic=True))
    with torch.device("meta"):
        networks: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(checkpoint.architecture.unet),
            "vae": AutoencoderKL.from_config(checkpoint.architecture.vae),
        }
    for name, network in networks.items():
        network.load_state_dict(getattr(checkpoint, name), assign=True)
        network.eval().requires_grad_(False)
    _merge(networks, checkpoint, image)
    factor = checkpoint.architecture.vae["scaling_factor"]

    large = torch.nn.functional.interpolate(image, scale_factor=4, mode="bilinear")
    moments = networks["vae"].encode(large * 2 - 1).latent_dist.mean
    latent_scale, latent_bias = _affine(moments, LATENT_DEVIATION / factor)
    latent = _apply(moments, latent_scale, latent_bias) * factor
    text = checkpoint.prompt_encoder(torch.device("cpu"))(POSITIVE_PROMPT)
    raw = networks["unet"](latent, torch.tensor([TIMESTEP]), text).sample
    eps_scale, eps_bias = _affine(raw, LATENT_DEVIATION)
    eps = _apply(raw, eps_scale, eps_bias)
    x0 = predict_x0(latent, eps, alpha_bar(TIMESTEP))
    picture = networks["vae"].decode(x0 / factor).sample
    image_scale, image_bias = _affine(picture, IMAGE_DEVIATION)
    return Ends(latent_scale, latent_bias, eps_scale, eps_bias, image_scale, image_bias)


def calibrated(size: Size, seed: int, scratch: Path) -> Recipe:
    """The recipe of any seed with constants found for it, by writing neutral weights first."""
    neutral = recipe(size, seed, Ends.neutral())
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        synthesize(Path(folder), neutral)
        ends = calibrate(Path(folder), photograph(64 if size == "full" else 128))
    return recipe(size, seed, ends)


def photograph(side: int) -> torch.Tensor:
    """scikit-image's `astronaut` (public domain), box-filtered to [1, 3, side, side] in [0, 1]."""
    from skimage import data

    pixels = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    return torch.nn.functional.adaptive_avg_pool2d(pixels, side)


def _merge(networks: dict[str, Any], checkpoint: Checkpoint, image: torch.Tensor) -> None:
    sizes = checkpoint.architecture
    estimator = DegradationEstimator(
        sizes.degradation_width, sizes.degradation_wide, sizes.degradation_hidden
    )
    estimator.load_state_dict(checkpoint.degradation)
    scores = estimator(image)
    for net, rank, block in (
        ("vae", sizes.rank_vae, vae_block),
        ("unet", sizes.rank_unet, unet_block),
    ):
        state, pairs = getattr(checkpoint, net), getattr(checkpoint, f"{net}_lora")
        for path in pairs:  # the mapped file must not be written to
            layer = networks[net].get_submodule(path)
            layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
        modulator = Modulator(checkpoint.modulation, net, rank)
        LoraMerger(networks[net], state, pairs, rank, block).merge(modulator(scores))


def _affine(x: torch.Tensor, deviation: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel scale and bias that centre `x` [1, C, H, W] and give it `deviation`."""
    scale = [float(f"{deviation / s:.4g}") for s in x.std(dim=(0, 2, 3)).tolist()]
    means = x.mean(dim=(0, 2, 3)).tolist()
    return tuple(scale), tuple(
        float(f"{-mean * factor:.4g}") for mean, factor in zip(means, scale, strict=True)
    )


def _apply(x: torch.Tensor, scale: tuple[float, ...], bias: tuple[float, ...]) -> torch.Tensor:
    shape = (1, -1, 1, 1)
    return x * x.new_tensor(scale).view(shape) + x.new_tensor(bias).view(shape)


def main() -> None:
    """Print the constants as JSON: `--size small|full [--seed N] [--scratch DIR]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    found = calibrated(arguments.size, arguments.seed, arguments.scratch)
    json.dump(asdict(found.ends), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
