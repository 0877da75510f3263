"""The UNet of Stable Diffusion 2.1 as flat modules, laid out for one timestep and two prompts.

Parameter names are those of diffusers' UNet2DConditionModel, so its state dicts load as they are.
Against the published execution, and each exact: the time embedding is a constant and folds into
biases; the prompts' keys and values are computed once an image; what precedes the first
cross-attention is computed once for both prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipelines.stable_diffusion.layers import Fusion, Upsample, group_norm
from pipelines.stable_diffusion.unet_blocks import (
    Attention,
    Middle,
    ResnetBlock,
    Stage,
    TextKV,
    TimeEmbedding,
    Transformer,
    TransformerBlock,
)

Tensor = torch.Tensor


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
        fusion: Passes that are kernels of their own.

    Raises:
        ValueError: The config is of another family.
    """

    def __init__(
        self, config: Mapping[str, Any], timestep: int, fusion: Fusion | None = None
    ) -> None:
        super().__init__()
        check_config(config)
        self.fusion = fusion or Fusion()
        widths: list[int] = list(config["block_out_channels"])
        depth: int = config["layers_per_block"]
        heads = config.get("num_attention_heads") or config["attention_head_dim"]
        heads = [heads] * len(widths) if isinstance(heads, int) else list(heads)
        groups = config["norm_num_groups"]
        time_features = 4 * widths[0]
        norm = {
            "groups": groups,
            "eps": config["norm_eps"],
            "time_features": time_features,
            "fusion": self.fusion,
        }

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

    def upsamples(self) -> Iterator[Upsample]:
        """Layers that `fold_upsample` folds: those whose weight is dense."""
        for module in self.modules():
            if isinstance(module, Upsample) and isinstance(module.conv, nn.Conv2d):
                yield module

    def fuse_qkv(self, stacked: Callable[[Sequence[str]], Tensor]) -> None:
        """Let each self-attention make its queries, keys and values in one product.

        Args:
            stacked: Paths of layers of one shape -> their weights under each other, as one tensor.
        """
        for path, module in self.named_modules():
            if path.endswith(".attn1") and isinstance(module, Attention):
                weight = stacked([f"{path}.{name}" for name in ("to_q", "to_k", "to_v")])
                layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
                layer.weight = nn.Parameter(weight, requires_grad=False)
                module.to_qkv = layer

    def compile_blocks(self, **options: Any) -> None:
        """Hand every resnet and transformer block to torch.compile, one by one.

        Blocks of one shape share their code, and weights stay inputs. Nothing is compiled before it
        is called.

        Args:
            options: Of `torch.compile`.
        """
        for module in self.modules():
            if isinstance(module, ResnetBlock | TransformerBlock):
                module.compile(dynamic=False, **options)

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
        x = self.conv_in(latent if share_prefix else _per_prompt(latent, prompts))
        skips = [x]
        for level, stage in enumerate(self._stages(self.down_blocks)):
            for index, (resnet, transformer) in enumerate(stage.layers()):
                x = resnet(x, time)
                if transformer is not None:
                    if share_prefix and level == index == 0:
                        tokens = transformer.before_text(x).repeat(prompts, 1, 1)
                        x = _per_prompt(x, prompts)
                        skips = [_per_prompt(skips[0], prompts)]
                        x = transformer.after_text(tokens, x, next(texts))
                    else:
                        x = transformer(x, next(texts))
                skips.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
                skips.append(x)
        x = self.mid_block.resnets[0](x, time)
        x = self.mid_block.attentions[0](x, next(texts))
        x = self.mid_block.resnets[1](x, time)
        for stage in self._stages(self.up_blocks):
            for resnet, transformer in stage.layers():
                x = resnet(torch.cat([x, skips.pop()], dim=1), time)
                x = x if transformer is None else transformer(x, next(texts))
            if stage.upsample is not None:
                x = stage.upsample(x, skips[-1].shape[-2:])
        x = group_norm(self.conv_norm_out, x, silu=True, fused=self.fusion.norm)
        x = self.conv_out(x.to(next(self.conv_out.parameters()).dtype))
        return torch.as_tensor(x).view(prompts, tiles, *x.shape[1:])


def _per_prompt(x: Tensor, prompts: int) -> Tensor:
    """[B, …] -> [P * B, …] in the memory format of x, which `repeat` would lose."""
    return torch.cat([x] * prompts)


def _per_tile(text: Tensor, tiles: int) -> Tensor:
    """[P, …] -> [P * tiles, …] without a copy where one prompt or one tile allows it."""
    return text if tiles == 1 else text.repeat_interleave(tiles, dim=0)
