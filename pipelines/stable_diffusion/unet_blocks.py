"""The parts of the Stable Diffusion 2.1 UNet, flat; parameter names are those of diffusers.

One timestep and two prompts are what they are laid out for; see `pipelines.stable_diffusion.unet`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines import kernels
from pipelines.kernels import static_int8
from pipelines.stable_diffusion.layers import (
    CodeReader,
    Fusion,
    Upsample,
    add_residual,
    convolve,
    deferred_bias,
    group_norm,
    layer_norm_codes,
    read_codes,
)

Tensor = torch.Tensor
TextKV = tuple[Tensor, Tensor]


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the time bias between."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        groups: int,
        eps: float,
        time_features: int,
        fusion: Fusion,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_features, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """`time` is the activated time embedding, None when it is folded into `conv1`."""
        fused, pointwise = self.fusion.norm, self.fusion.pointwise
        h = group_norm(self.norm1, x, silu=True, fused=fused, reader=self.conv1)
        bias = deferred_bias(self.conv1, fused=fused)
        h = convolve(self.conv1, h, bias)
        if time is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = group_norm(self.norm2, h, bias, silu=True, fused=fused, reader=self.conv2)
        if isinstance(self.conv2, CodeReader):
            shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
            return torch.as_tensor(self.conv2(h, shortcut))
        bias = deferred_bias(self.conv2, fused=pointwise)
        h = convolve(self.conv2, h, bias)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return add_residual(h, shortcut, bias, fused=pointwise)


class Attention(nn.Module):
    """Multi-head attention over tokens [B, N, C].

    `to_qkv`, once set, holds the weights of `to_q`, `to_k` and `to_v` stacked.
    """

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.to_qkv: nn.Linear | None = None

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def keys_values(self, context: Tensor) -> TextKV:
        """[B, N, C'] -> keys and values [B, heads, N, d]."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.to_qkv is None:
            return self._split(self.to_q(x)), *self.keys_values(x)
        query, key, value = self.to_qkv(x).chunk(3, dim=-1)
        return self._split(query), self._split(key), self._split(value)

    def forward(self, x: Tensor, text: TextKV | None = None) -> Tensor:
        """Self-attention, or cross-attention to given keys and values."""
        if text is None:
            query, keys, values = self._queries_keys_values(x)
        else:
            query, (keys, values) = self._split(self.to_q(x)), text
        out = F.scaled_dot_product_attention(query, keys, values)
        return torch.as_tensor(self.to_out[0](out.transpose(1, 2).flatten(2)))

    def add_to(self, tokens: Tensor, norm: nn.LayerNorm, text: TextKV | None = None) -> Tensor:
        """Sum of tokens and the attention of their LayerNorm.

        Layers that read codes get them from the LayerNorm, and the last of them adds the tokens.
        """
        out = self.to_out[0]
        layers = [self.to_q] if text is not None else [self.to_q, self.to_k, self.to_v]
        readers = read_codes(layers) if self.to_qkv is None else None
        if readers is None or not isinstance(out, CodeReader):
            return torch.as_tensor(tokens + self(norm(tokens), text))
        codes = layer_norm_codes(norm, tokens, readers)
        query, *own = (self._split(r(each)) for r, each in zip(readers, codes, strict=True))
        keys, values = own if text is None else text
        attended = F.scaled_dot_product_attention(query, keys, values)
        return torch.as_tensor(out(attended.transpose(1, 2).flatten(2), tokens))


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020)."""

    def __init__(self, channels: int, inner: int, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if self.fused:
            return kernels.geglu(x)
        value, gate = x.chunk(2, dim=-1)
        return torch.as_tensor(value * F.gelu(gate))


class FeedForward(nn.Module):
    """GEGLU with an expansion of 4, then a projection back."""

    def __init__(self, channels: int, *, fused: bool) -> None:
        super().__init__()
        inner = 4 * channels
        gated = GatedLinear(channels, inner, fused=fused)
        self.net = nn.ModuleList([gated, nn.Identity(), nn.Linear(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.net[2](self.net[0](x)))

    def add_to(self, tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Sum of tokens and the layers of their LayerNorm; see `Attention.add_to`."""
        gated, out = self.net[0], self.net[2]
        assert isinstance(gated, GatedLinear)
        if not isinstance(gated.proj, CodeReader) or not isinstance(out, CodeReader):
            return torch.as_tensor(tokens + self(norm(tokens)))
        (codes,) = layer_norm_codes(norm, tokens, [gated.proj])
        codes = static_int8.geglu_quantize(gated.proj(codes), out.quantizer, out.levels)
        return torch.as_tensor(out(codes, tokens))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a LayerNorm."""

    def __init__(self, channels: int, context: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, fused=fused)

    def before_text(self, tokens: Tensor) -> Tensor:
        """Self-attention."""
        return self.attn1.add_to(tokens, self.norm1)

    def forward(self, tokens: Tensor, text: TextKV) -> Tensor:
        """Cross-attention and feed-forward, behind `before_text`."""
        return self.ff.add_to(self.attn2.add_to(tokens, self.norm2, text), self.norm3)


class Transformer(nn.Module):
    """Tokens of a feature map through one transformer block, with a residual around it."""

    def __init__(
        self, channels: int, context: int, heads: int, groups: int, fusion: Fusion
    ) -> None:
        super().__init__()
        self.fused_norm = fusion.norm
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, context, heads, fused=fusion.pointwise)]
        )
        self.proj_out = nn.Linear(channels, channels)

    @property
    def block(self) -> TransformerBlock:
        """The one block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TransformerBlock)
        return block

    def before_text(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> tokens after self-attention: all that no prompt has touched yet."""
        x = group_norm(self.norm, x, silu=False, fused=self.fused_norm, reader=self.proj_in)
        return self.block.before_text(self.proj_in(x.flatten(2).transpose(1, 2)))

    def after_text(self, tokens: Tensor, x: Tensor, text: TextKV) -> Tensor:
        """Cross-attention and the rest; `x` is the residual."""
        tokens = self.block(tokens, text)
        if isinstance(self.proj_out, CodeReader):
            out = self.proj_out(tokens, x.flatten(2).transpose(1, 2))
            return torch.as_tensor(out.transpose(1, 2).reshape(x.shape))
        out = self.proj_out(tokens).transpose(1, 2).reshape(x.shape)
        return torch.as_tensor(out + x)

    def forward(self, x: Tensor, text: TextKV) -> Tensor:
        return self.after_text(self.before_text(x), x, text)


class Downsample(nn.Module):
    """Stride-2 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(x))


class Stage(nn.Module):
    """One resolution: resnets, transformers where it has them, a resampler."""

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        transformer: Mapping[str, int] | None,
        resampler: str | None,
        norm: Mapping[str, Any],
    ) -> None:
        super().__init__()
        outputs, fusion = widths[0][1], norm["fusion"]
        self.resnets = nn.ModuleList(ResnetBlock(i, o, **norm) for i, o in widths)
        if transformer:
            self.attentions = nn.ModuleList(
                Transformer(outputs, **transformer, fusion=fusion) for _ in widths
            )
        if resampler == "downsamplers":
            self.downsamplers = nn.ModuleList([Downsample(outputs)])
        if resampler == "upsamplers":
            self.upsamplers = nn.ModuleList([Upsample(outputs)])

    def layers(self) -> list[tuple[ResnetBlock, Transformer | None]]:
        """Each resnet with the transformer behind it."""
        attentions = getattr(self, "attentions", [None] * len(self.resnets))
        return list(zip(self.resnets, attentions, strict=True))  # type: ignore[arg-type]

    @property
    def downsample(self) -> Downsample | None:
        """The layer at the end of a stage on the way down."""
        return self.downsamplers[0] if hasattr(self, "downsamplers") else None  # type: ignore[return-value]

    @property
    def upsample(self) -> Upsample | None:
        """The layer at the end of a stage on the way up."""
        return self.upsamplers[0] if hasattr(self, "upsamplers") else None  # type: ignore[return-value]


class Middle(nn.Module):
    """Resnet, transformer, resnet."""

    def __init__(self, channels: int, transformer: Mapping[str, int], norm: Any) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            [Transformer(channels, **transformer, fusion=norm["fusion"])]
        )
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, **norm) for _ in range(2))


class TimeEmbedding(nn.Module):
    """Sinusoid of the timestep through two linear layers."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, features)
        self.linear_2 = nn.Linear(features, features)

    def forward(self, timestep: int) -> Tensor:
        """Activated embedding [1, features], float32 sinusoid (cosines first)."""
        half = self.channels // 2
        weight = self.linear_1.weight
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=weight.device)
        angles = timestep * torch.exp(exponent / half)
        sinusoid = torch.cat([angles.cos(), angles.sin()])[None].to(weight.dtype)
        return F.silu(self.linear_2(F.silu(self.linear_1(sinusoid))))
