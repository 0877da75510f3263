"""The UNet of Stable Diffusion 2.1 as flat modules, laid out for one timestep and two prompts.

Parameter names are those of diffusers' UNet2DConditionModel, so its state dicts load as they are.
Against the published execution, and each exact: the time embedding is a constant and folds into
biases; the prompts' keys and values are computed once an image; what precedes the first
cross-attention is computed once for both prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Tensor = torch.Tensor
TextKV = tuple[Tensor, Tensor]


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the time bias between."""

    def __init__(
        self, inputs: int, outputs: int, groups: int, eps: float, time_features: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_features, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """`time` is the activated time embedding, None when it is folded into `conv1`."""
        h = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return torch.as_tensor(shortcut + h)


class Attention(nn.Module):
    """Multi-head attention over tokens [B, N, C]."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def keys_values(self, context: Tensor) -> TextKV:
        """[B, N, C'] -> keys and values [B, heads, N, d]."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def forward(self, x: Tensor, keys_values: TextKV | None = None) -> Tensor:
        """Self-attention, or cross-attention to given keys and values."""
        keys, values = keys_values or self.keys_values(x)
        out = F.scaled_dot_product_attention(self._split(self.to_q(x)), keys, values)
        return torch.as_tensor(self.to_out[0](out.transpose(1, 2).flatten(2)))


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return torch.as_tensor(value * F.gelu(gate))


class FeedForward(nn.Module):
    """GEGLU with an expansion of 4, then a projection back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        self.net = nn.ModuleList(
            [GatedLinear(channels, inner), nn.Identity(), nn.Linear(inner, channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.net[2](self.net[0](x)))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a LayerNorm."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)


class Transformer(nn.Module):
    """Tokens of a feature map through one transformer block, with a residual around it."""

    def __init__(self, channels: int, context: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context, heads)])
        self.proj_out = nn.Linear(channels, channels)

    @property
    def block(self) -> TransformerBlock:
        """The one block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TransformerBlock)
        return block

    def before_text(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> tokens after self-attention: all that no prompt has touched yet."""
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        return torch.as_tensor(tokens + self.block.attn1(self.block.norm1(tokens)))

    def after_text(self, tokens: Tensor, x: Tensor, text: TextKV) -> Tensor:
        """Cross-attention and the rest; `x` is the residual."""
        block = self.block
        tokens = tokens + block.attn2(block.norm2(tokens), text)
        tokens = tokens + block.ff(block.norm3(tokens))
        out = self.proj_out(tokens).transpose(1, 2).reshape(x.shape)
        return torch.as_tensor(out + x)

    def forward(self, x: Tensor, text: TextKV) -> Tensor:
        return self.after_text(self.before_text(x), x, text)


class Resample(nn.Module):
    """A convolution, with stride 2 on the way down and after nearest upsampling on the way up."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

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
        outputs = widths[0][1]
        self.resnets = nn.ModuleList(ResnetBlock(i, o, **norm) for i, o in widths)
        if transformer:
            self.attentions = nn.ModuleList(Transformer(outputs, **transformer) for _ in widths)
        if resampler:
            stride = 2 if resampler == "downsamplers" else 1
            setattr(self, resampler, nn.ModuleList([Resample(outputs, stride)]))

    def layers(self) -> list[tuple[ResnetBlock, Transformer | None]]:
        """Each resnet with the transformer behind it."""
        attentions = getattr(self, "attentions", [None] * len(self.resnets))
        return list(zip(self.resnets, attentions, strict=True))  # type: ignore[arg-type]

    @property
    def resampler(self) -> nn.Module | None:
        """The down- or upsampling convolution, if the stage has one."""
        for name in ("downsamplers", "upsamplers"):
            if hasattr(self, name):
                found = getattr(self, name)[0]
                assert isinstance(found, nn.Module)
                return found
        return None


class Middle(nn.Module):
    """Resnet, transformer, resnet."""

    def __init__(self, channels: int, transformer: Mapping[str, int], norm: Any) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Transformer(channels, **transformer)])
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


KINDS = frozenset({"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"})
FIXED = {
    "act_fn": "silu",
    "conv_in_kernel": 3,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_time_scale_shift": "default",
    "transformer_layers_per_block": 1,
    "use_linear_projection": True,
}


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless this is a UNet of the Stable Diffusion 2 family."""
    unknown = {*config["down_block_types"], *config["up_block_types"]} - KINDS
    if unknown:
        raise ValueError(f"unknown block type {sorted(unknown)[0]}")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]!r}, Stable Diffusion 2 has {value!r}")


class UNet(nn.Module):
    """SD 2.1 UNet for one fixed timestep.

    Args:
        config: The snapshot's `unet/config.json`.
        timestep: The one timestep.

    Raises:
        ValueError: The config is of another family.
    """

    def __init__(self, config: Mapping[str, Any], timestep: int) -> None:
        super().__init__()
        check_config(config)
        widths: list[int] = list(config["block_out_channels"])
        depth: int = config["layers_per_block"]
        heads = config.get("num_attention_heads") or config["attention_head_dim"]
        heads = [heads] * len(widths) if isinstance(heads, int) else list(heads)
        groups = config["norm_num_groups"]
        time_features = 4 * widths[0]
        norm = {"groups": groups, "eps": config["norm_eps"], "time_features": time_features}

        def transformer(kind: str, level: int) -> dict[str, int] | None:
            if "CrossAttn" not in kind:
                return None
            context = config["cross_attention_dim"]
            return {"context": context, "heads": heads[level], "groups": groups}

        last = len(widths) - 1
        self.timestep = timestep
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time_features)
        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for level, width in enumerate(widths):
            pairs = [(skips[-1] if i == 0 else width, width) for i in range(depth)]
            resampler = "downsamplers" if level < last else None
            kind = transformer(config["down_block_types"][level], level)
            self.down_blocks.append(Stage(pairs, kind, resampler, norm))
            skips += [width] * (depth + (level < last))
        kind = transformer("CrossAttn", last)
        assert kind is not None
        self.mid_block = Middle(widths[-1], kind, norm)
        self.up_blocks = nn.ModuleList()
        current = widths[-1]
        for index, width in enumerate(reversed(widths)):
            pairs = []
            for _ in range(depth + 1):
                pairs.append((current + skips.pop(), width))
                current = width
            resampler = "upsamplers" if index < last else None
            kind = transformer(config["up_block_types"][index], last - index)
            self.up_blocks.append(Stage(pairs, kind, resampler, norm))
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], config["norm_eps"])
        self.conv_out = nn.Conv2d(widths[0], config["out_channels"], 3, padding=1)
        self.time_is_folded = False

    def transformers(self) -> list[Transformer]:
        """All transformers in order of execution."""
        down = [t for s in self._stages(self.down_blocks) for _, t in s.layers() if t]
        up = [t for s in self._stages(self.up_blocks) for _, t in s.layers() if t]
        middle = self.mid_block.attentions[0]
        assert isinstance(middle, Transformer)
        return [*down, middle, *up]

    @staticmethod
    def _stages(blocks: nn.ModuleList) -> list[Stage]:
        return [block for block in blocks if isinstance(block, Stage)]

    def fold_time(self) -> None:
        """Add the constant time projections to the biases of each resnet's first convolution.

        Neither layer is adapted by LoRA, and biases never are. The projections are dropped.
        """
        time = self.time_embedding(self.timestep)
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                conv = getattr(module.conv1, "base", module.conv1)
                torch.as_tensor(conv.bias).add_(module.time_emb_proj(time)[0])
                del module.time_emb_proj
        self.time_is_folded = True

    def text_keys_values(self, text: Tensor) -> list[TextKV]:
        """Keys and values of every cross-attention for prompt embeddings [P, 77, width]."""
        return [layer.block.attn2.keys_values(text) for layer in self.transformers()]

    def forward(self, latent: Tensor, text: Sequence[TextKV], *, share_prefix: bool) -> Tensor:
        """Predict noise for every tile and prompt.

        Args:
            latent: [B, C, h, w] tiles.
            text: Per transformer keys and values for P prompts, [P, heads, 77, d].
            share_prefix: Compute what precedes the first cross-attention once for all prompts.

        Returns:
            [P, B, C, h, w], the prompts outermost, in the dtype of the network.
        """
        prompts, tiles = text[0][0].shape[0], latent.shape[0]
        texts = iter([(_per_tile(k, tiles), _per_tile(v, tiles)) for k, v in text])
        time = None if self.time_is_folded else self.time_embedding(self.timestep)
        x = self.conv_in(latent if share_prefix else latent.repeat(prompts, 1, 1, 1))
        skips = [x]
        for level, stage in enumerate(self._stages(self.down_blocks)):
            for index, (resnet, transformer) in enumerate(stage.layers()):
                x = resnet(x, time)
                if transformer is not None:
                    if share_prefix and level == index == 0:
                        tokens = transformer.before_text(x).repeat(prompts, 1, 1)
                        x = x.repeat(prompts, 1, 1, 1)
                        skips = [skips[0].repeat(prompts, 1, 1, 1)]
                        x = transformer.after_text(tokens, x, next(texts))
                    else:
                        x = transformer(x, next(texts))
                skips.append(x)
            if stage.resampler is not None:
                x = stage.resampler(x)
                skips.append(x)
        x = self.mid_block.resnets[0](x, time)
        x = self.mid_block.attentions[0](x, next(texts))
        x = self.mid_block.resnets[1](x, time)
        for stage in self._stages(self.up_blocks):
            for resnet, transformer in stage.layers():
                x = resnet(torch.cat([x, skips.pop()], dim=1), time)
                x = x if transformer is None else transformer(x, next(texts))
            if stage.resampler is not None:
                x = F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest")
                x = stage.resampler(x)
        x = F.silu(self.conv_norm_out(x)).to(next(self.conv_out.parameters()).dtype)
        x = self.conv_out(x)
        return torch.as_tensor(x).view(prompts, tiles, *x.shape[1:])


def _per_tile(text: Tensor, tiles: int) -> Tensor:
    """[P, …] -> [P * tiles, …] without a copy where one prompt or one tile allows it."""
    return text if tiles == 1 else text.repeat_interleave(tiles, dim=0)
