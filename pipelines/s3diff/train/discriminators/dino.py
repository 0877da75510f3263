"""The published discriminator: heads on frozen DINO features (spec section 6)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pipelines.contract import PipelineError
from pipelines.s3diff.train.discriminators.interface import Discriminator, differences
from pipelines.stable_diffusion.checkpoint_files import read_pickle, read_safetensors

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

SIDE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.229, 0.224, 0.225)
"""As published: the mean is CLIP's, the deviation ImageNet's."""

_BLOCKS_BEFORE_END = (8, 4, 1)
_SLOPE = 0.2
_WANTED = (
    "DINO ViT-B/16 is expected: dino_vitbase16_pretrain.pth of facebookresearch/dino, or timm's "
    "vit_base_patch16_224.dino as safetensors"
)


class DinoDiscriminator(Discriminator):
    """Three heads on what DINO ViT-B/16 (Caron et al., ICCV 2021) sees.

    `Discriminator(cv_type='dino', output_type='conv_multi_level')` of vision-aided-gan (Kumari et
    al., CVPR 2022). Features are those of the 8th and 4th block from the end, as maps, and the CLS
    token of the last, all through the network's final norm as DINO's `get_intermediate_layers`
    gives them. The backbone is frozen and always in evaluation mode.

    Args:
        backbone: timm's vision transformer of pictures 224x224 with at least 8 blocks.
        width: Hidden channels of each head.
    """

    _mean: torch.Tensor
    _std: torch.Tensor

    def __init__(self, backbone: VisionTransformer, width: int = 128) -> None:
        super().__init__(_Heads(backbone.embed_dim, width))
        self.backbone = backbone.requires_grad_(False).eval()
        self._blocks = [len(backbone.blocks) - n for n in _BLOCKS_BEFORE_END]
        self.register_buffer("_mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_file(cls, path: Path, width: int = 128) -> DinoDiscriminator:
        """On the backbone of a weights file. Raises PipelineError as `read_backbone`."""
        return cls(read_backbone(path), width)

    def train(self, mode: bool = True) -> DinoDiscriminator:
        """Only the heads change their mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def judge(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Logits of [B, 3, H, W]: twice [B, 3, 3], once [B, 1]."""
        x = F.interpolate(image / 2 + 0.5, size=(SIDE, SIDE), mode="area")
        features: Any = self.backbone.forward_intermediates(
            (x - self._mean) / self._std,
            indices=self._blocks,
            norm=True,
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        (early, _), (middle, _), (_, prefix) = features
        return self.run_trained(early, middle, prefix[:, 0])


class Blur(nn.Module):
    """Anti-aliasing before a stride (Zhang, ICML 2019): binomial 4x4, zeros around.

    Weights [1, 3, 3, 1] / 8 an axis, the size that vision-aided-gan uses. A side of n becomes
    n + 2 padding - 3.

    Args:
        padding: Zeros on every side.
    """

    _kernel: torch.Tensor

    def __init__(self, padding: int) -> None:
        super().__init__()
        self._padding = padding
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("_kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        kernel = self._kernel.to(x.dtype).expand(channels, 1, 4, 4)
        return F.conv2d(x, kernel, padding=self._padding, groups=channels)


class _Heads(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.early, self.middle = (_map_head(channels, width) for _ in range(2))
        self.whole = nn.Sequential(
            spectral_norm(nn.Linear(channels, width)),
            nn.LeakyReLU(_SLOPE),
            spectral_norm(nn.Linear(width, 1)),
        )

    def forward(
        self, early: torch.Tensor, middle: torch.Tensor, cls: torch.Tensor
    ) -> list[torch.Tensor]:
        return [self.early(early).squeeze(1), self.middle(middle).squeeze(1), self.whole(cls)]


def _map_head(channels: int, width: int) -> nn.Sequential:
    """[B, channels, 14, 14] -> 15x15 -> 7x7 -> 6x6 -> [B, 1, 3, 3]."""
    return nn.Sequential(
        Blur(padding=2),
        spectral_norm(nn.Conv2d(channels, width, 3, stride=2)),
        nn.LeakyReLU(_SLOPE),
        Blur(padding=1),
        spectral_norm(nn.Conv2d(width, 1, 1, stride=2)),
    )


def read_backbone(path: Path) -> VisionTransformer:
    """DINO ViT-B/16 from a file, float32 on the CPU; nothing is downloaded or run.

    Raises:
        PipelineError: Not a file of this network's tensors.
    """
    import timm

    with torch.device("meta"):
        backbone = cast(
            "VisionTransformer",
            timm.create_model("vit_base_patch16_224.dino", pretrained=False, num_classes=0),
        )
    tensors = _read_tensors(path)
    if problems := differences(tensors, backbone.state_dict()):
        raise PipelineError(f"{path}: another network ({'; '.join(problems[:2])}); {_WANTED}")
    backbone.load_state_dict(tensors, assign=True)
    return backbone


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; {_WANTED}")
    try:
        read = read_safetensors if path.suffix == ".safetensors" else read_pickle
        content = read(path)
    except PipelineError as error:
        raise PipelineError(f"{path}: damaged or not a file of tensors; {_WANTED}") from error
    stray = next((n for n, v in content.items() if not isinstance(v, torch.Tensor)), None)
    if stray is not None:
        raise PipelineError(f"{path}: '{stray}' is no tensor; {_WANTED}")
    return {name: tensor.detach().float() for name, tensor in content.items()}
