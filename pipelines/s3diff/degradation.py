"""Degradation estimate and the modulation matrices that follow from it.

The estimator is the DEResNet of MM-RealSR (Mou et al., ECCV 2022); the modulators are those of
S3Diff (section 3.2 of the paper, `s3diff_tile.py`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class ResidualBlock(nn.Module):
    """x + conv2(relu(conv1(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(x + self.conv2(F.relu(self.conv1(x))))


class DegradationEstimator(nn.Module):
    """Blur and noise scores of an LR image: [B, 3, H, W] in [0, 1] -> [B, 2] in (0, 1).

    Args:
        width: Channels before the stride-2 convolution (64 published).
        wide: Channels behind it (128 published).
        hidden: Width of the fully connected layer (512 published).
    """

    def __init__(self, width: int, wide: int, hidden: int) -> None:
        super().__init__()
        branches = range(2)
        self.conv_first = nn.ModuleList(nn.Conv2d(3, width, 3, padding=1) for _ in branches)
        self.body = nn.ModuleList(
            nn.Sequential(
                *(ResidualBlock(width) for _ in range(6)),
                nn.Conv2d(width, wide, 3, stride=2, padding=1),
                *(ResidualBlock(wide) for _ in range(2)),
            )
            for _ in branches
        )
        self.fc_degree = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
            for _ in branches
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        dtype = next(self.fc_degree.parameters()).dtype
        scores = [
            fc(body(first(image)).mean(dim=(2, 3)).to(dtype))
            for first, body, fc in zip(self.conv_first, self.body, self.fc_degree, strict=True)
        ]
        return torch.cat(scores, dim=1)


class Modulator(nn.Module):
    """Fourier features of the degradation scores -> one r x r matrix a block of layers.

    Args:
        state: The flat `modulation` tensors of the checkpoint.
        prefix: `vae` or `unet`.
        rank: LoRA rank r.
    """

    def __init__(self, state: dict[str, torch.Tensor], prefix: str, rank: int) -> None:
        super().__init__()
        self.rank = rank

        def linear(name: str) -> nn.Linear:
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
            return layer

        self.de_mlp = linear(f"{prefix}_de_mlp.0")
        self.block_mlp = linear(f"{prefix}_block_mlp.0")
        self.fuse_mlp = linear(f"{prefix}_fuse_mlp")
        self.register_buffer("frequencies", state["w"])
        self.register_buffer("blocks", state[f"{prefix}_block_embeddings.weight"])
        self.frequencies: torch.Tensor
        self.blocks: torch.Tensor

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """[B, 2] -> [B, blocks, r, r]."""
        phase = scores[..., None] * self.frequencies * 2 * math.pi
        features = torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(1)
        degradation = F.relu(self.de_mlp(features))
        blocks = F.relu(self.block_mlp(self.blocks))
        count = blocks.shape[0]
        joint = torch.cat(
            [
                degradation[:, None].expand(-1, count, -1),
                blocks[None].expand(degradation.shape[0], -1, -1),
            ],
            dim=-1,
        )
        matrices: torch.Tensor = self.fuse_mlp(joint)
        return matrices.view(-1, count, self.rank, self.rank)
