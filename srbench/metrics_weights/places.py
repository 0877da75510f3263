"""Where the weights of metrics lie: one folder, laid out as torch and pyiqa look for files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipelines.cache import cache_folder

Network = Literal["alex", "vgg"]
_BACKBONES: dict[Network, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}


def torch_home() -> Path:
    """The TORCH_HOME that holds everything."""
    return cache_folder() / "metrics"


def backbone_file(network: Network) -> Path:
    """Convolutions of AlexNet or VGG16 under the name by which torchvision finds them."""
    return torch_home() / "hub" / "checkpoints" / _BACKBONES[network]


def heads_file(network: Network = "alex") -> Path:
    """The linear heads of LPIPS 0.1, `lin0.model.1.weight` to `lin4.model.1.weight`."""
    return torch_home() / f"lpips_{network}.pth"


def pyiqa_file(name: str) -> Path:
    """A file under the name by which pyiqa finds it."""
    return torch_home() / "hub" / "pyiqa" / name


def dists_file() -> Path:
    """`alpha` and `beta` of DISTS."""
    return pyiqa_file("DISTS_weights-f5e65c96.pth")


def niqe_file() -> Path:
    """Mean and covariance of NIQE's pristine model."""
    return pyiqa_file("niqe_modelparameters.mat")
