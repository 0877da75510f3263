"""LPIPS as something to train against: frozen, differentiable, from files already there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torchmetrics.functional.image import lpips as published

from pipelines.cache import cache_folder
from pipelines.contract import PipelineError
from pipelines.stable_diffusion.checkpoint_files import read_pickle

Net = Literal["vgg", "alex"]

BACKBONES: dict[Net, str] = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
"""torchvision's names for the files of the convolutional networks under LPIPS."""

_GET_THEM = "`srbench weights fetch --metrics` gets them"


class Lpips(nn.Module):
    """LPIPS v0.1 (Zhang et al., CVPR 2018): torchmetrics' arithmetic and linear heads.

    Nothing of it is trained and it is always in evaluation mode. Computes in float32, whatever
    autocast says.

    Args:
        net: Which backbone.
        backbone: torchvision's names (`features.0.weight`, ...) -> tensors; others are ignored.

    Raises:
        PipelineError: A tensor is missing or of another shape.
    """

    def __init__(self, net: Net, backbone: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        # On meta: torchvision would draw random weights, also for a classifier that nobody uses.
        with torch.device("meta"):
            network = published._NoTrainLpips(net=net, pretrained=False, pnet_rand=True)
        heads = torch.load(_heads_file(net), map_location="cpu", weights_only=True)
        tensors = {}
        for name, wanted in network.state_dict().items():
            found = _find(name, heads, backbone)
            if found is None or found.shape != wanted.shape:
                has = "missing" if found is None else f"of shape {list(found.shape)}"
                raise PipelineError(f"{_torchvision_name(name)}: {has} in the {net} backbone")
            tensors[name] = found.float()
        network.load_state_dict(tensors, strict=True, assign=True)
        self._network = network.requires_grad_(False).eval()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances of pictures.

        Args:
            a: [B, 3, H, W] in [-1, 1], sides of at least 32; a gradient reaches it.
            b: The same, what `a` is compared with.

        Returns:
            [B], float32, 0 for equal pictures.
        """
        with torch.autocast(a.device.type, enabled=False):
            distances: torch.Tensor = self._network(a.float(), b.float()).flatten()
        return distances

    def train(self, mode: bool = True) -> Lpips:
        """Stays in evaluation mode: the heads have dropout."""
        return super().train(False)


def open_lpips(net: Net, device: torch.device | str) -> Lpips:
    """LPIPS on `device`, its backbone from the metrics cache. Nothing is downloaded.

    Args:
        net: `vgg`, what S3Diff is trained with, or `alex`, what it is evaluated with.
        device: Where it computes.

    Raises:
        PipelineError: The backbone is missing or is not one.
    """
    path = backbone_file(net)
    if not path.is_file():
        raise PipelineError(f"{path}: missing, LPIPS ({net}) needs these weights; {_GET_THEM}")
    try:
        return Lpips(net, read_pickle(path)).to(device)
    except PipelineError as error:
        raise PipelineError(
            f"{path}: not torchvision's network ({str(error).removeprefix(f'{path}: ')}); "
            f"remove the file, {_GET_THEM} again"
        ) from error


def backbone_file(net: Net) -> Path:
    """Where a backbone is looked for: the hub folder of the metrics' TORCH_HOME."""
    return cache_folder() / "metrics" / "hub" / "checkpoints" / BACKBONES[net]


def _heads_file(net: Net) -> Path:
    return Path(published.__file__).with_name("lpips_models") / f"{net}.pth"


def _find(
    name: str, heads: Mapping[str, torch.Tensor], backbone: Mapping[str, torch.Tensor]
) -> torch.Tensor | None:
    """The tensor that torchmetrics calls `name`; it lists each head twice, lin0 and lins.0."""
    if name.startswith("net."):
        return backbone.get(_torchvision_name(name))
    return heads[name.replace("lins.", "lin")]


def _torchvision_name(name: str) -> str:
    """`net.slice2.5.weight` -> `features.5.weight`."""
    return "features." + name.split(".", 2)[2]
