"""FID of two sets of pictures.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
NeurIPS 2017; resized as Parmar et al., "On aliased resizing and surprising subtleties in GAN
evaluation", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

SIDE = 299
BATCH = 16

Picture = NDArray[np.uint8]
Features = NDArray[np.float64]


def frechet_distance(ours: Features, theirs: Features) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features, [n, d] and [m, d].

    The trace of the root of the product of two covariances A'A and B'B is the sum of the singular
    values of AB': no root of a singular matrix is taken, and few pictures take little time.

    Raises:
        ValueError: A set has fewer than two members, which have no covariance.
    """
    if min(len(ours), len(theirs)) < 2:
        raise ValueError("it needs at least two pictures")
    a, b = (_centred(features) for features in (ours, theirs))
    shift = ours.mean(axis=0) - theirs.mean(axis=0)
    common = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    return float(shift @ shift + np.square(a).sum() + np.square(b).sum() - 2 * common)


def inception_features(
    network: torch.nn.Module, pictures: Iterable[Picture], device: str
) -> Features:
    """[n, 2048] of pictures, [H, W, 3] RGB of any size, through pyiqa's InceptionV3."""
    import torch

    remaining = iter(pictures)
    found = []
    while batch := list(islice(remaining, BATCH)):
        inputs = torch.stack([_resized(picture) for picture in batch]).to(device)
        # Centred and scaled here as the network expects: no resizing, no normalization inside.
        (features,) = network((inputs - 128) / 128, False, False)
        found.append(features.flatten(1).double().cpu().numpy())
    return np.concatenate(found) if found else np.empty((0, 0))


def load_inception(device: str) -> torch.nn.Module:
    """InceptionV3 with FID's own weights, which must be in place."""
    from pyiqa.archs.inception import InceptionV3

    network: torch.nn.Module = InceptionV3().to(device).eval()
    return network


def _resized(picture: Picture) -> torch.Tensor:
    """[3, 299, 299] in 0-255: each channel in float through Pillow's antialiased bicubic filter."""
    import torch
    from PIL import Image

    channels = [Image.fromarray(picture[:, :, index].astype(np.float32)) for index in range(3)]
    resized = [c.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for c in channels]
    return torch.from_numpy(np.stack([np.asarray(c) for c in resized]).clip(0, 255))


def _centred(features: Features) -> Features:
    return np.asarray((features - features.mean(axis=0)) / np.sqrt(len(features) - 1))
