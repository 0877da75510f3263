"""Configurations of SRDiff, and the names and shapes of a checkpoint that follow; torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipelines.contract import PipelineError

Shapes = dict[str, tuple[int, ...]]

CONDITION_EVERY = 3
"""Every third feature of the encoder, from the third, conditions the UNet."""
RESIDUAL_SCALE = 2.0
"""Diffused is twice the residual, clamped to [-1, 1]."""
LEVELS = 4
SIZE_MULTIPLE = 8
"""HR sides: three levels of halving."""

SCHEDULE_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One architecture.

    Attributes:
        scale: Upscaling factor, 2, 4 or 8.
        hidden_size: Base width of the UNet.
        dim_mults: Widths of its four levels as multiples of `hidden_size`.
        rrdb_features: Width of the encoder.
        rrdb_blocks: Its RRDB blocks.
        timesteps: Diffusion steps.
        schedule: Of the noise.
    """

    scale: int = 4
    hidden_size: int = 64
    dim_mults: tuple[int, ...] = (1, 2, 3, 4)
    rrdb_features: int = 32
    rrdb_blocks: int = 8
    timesteps: int = 100
    schedule: Literal["cosine", "linear"] = "cosine"

    def __post_init__(self) -> None:
        if self.scale not in (2, 4, 8):
            raise PipelineError(f"scale {self.scale}: SRDiff is trained for 2, 4 or 8")
        if len(self.dim_mults) != LEVELS or min(self.dim_mults) < 1:
            raise PipelineError(
                f"dim_mults {self.dim_mults}: {LEVELS} positive numbers, one for each level"
            )
        if self.rrdb_blocks + 1 < CONDITION_EVERY:
            raise PipelineError(
                f"rrdb_blocks {self.rrdb_blocks}: at least {CONDITION_EVERY - 1}, "
                "every third feature is the condition"
            )
        if self.hidden_size % 2 or self.hidden_size < 4:
            raise PipelineError(f"hidden_size {self.hidden_size}: must be even and at least 4")
        if self.rrdb_features % 2 or self.rrdb_features < 2:
            raise PipelineError(f"rrdb_features {self.rrdb_features}: must be even and positive")
        if self.timesteps < 1:
            raise PipelineError(f"timesteps {self.timesteps}: must be positive")
        if self.schedule not in ("cosine", "linear"):
            raise PipelineError(f"schedule '{self.schedule}': expected cosine or linear")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the UNet's levels."""
        return tuple(self.hidden_size * factor for factor in self.dim_mults)

    @property
    def rrdb_growth(self) -> int:
        """Channels that a layer of a dense block adds."""
        return self.rrdb_features // 2

    @property
    def upsamplings(self) -> int:
        """Doublings of the encoder's own super-resolution tail."""
        return self.scale.bit_length() - 1

    @property
    def condition_channels(self) -> int:
        """Channels of the condition on the LR grid."""
        return self.rrdb_features * ((self.rrdb_blocks + 1) // CONDITION_EVERY)


CONFIGS = {
    "df2k-x4": Config(),
    "celeba-x8": Config(scale=8, dim_mults=(1, 2, 2, 4)),
    "paper-x4": Config(dim_mults=(1, 2, 2, 4), rrdb_blocks=15),
    "mini-x4": Config(hidden_size=24, dim_mults=(1, 1, 2, 2), rrdb_blocks=2),
}
"""The released networks, that of the paper's table, and a small one."""


def rrdb_shapes(config: Config) -> Shapes:
    """Tensors of the encoder with its tail, unprefixed."""
    features, growth = config.rrdb_features, config.rrdb_growth
    shapes: Shapes = {}
    shapes |= _conv("conv_first", features, 3, 3)
    for block in range(config.rrdb_blocks):
        for dense in (1, 2, 3):
            name = f"RRDB_trunk.{block}.RDB{dense}"
            for layer in range(1, 5):
                width = features + (layer - 1) * growth
                shapes |= _conv(f"{name}.conv{layer}", growth, width, 3)
            shapes |= _conv(f"{name}.conv5", features, features + 4 * growth, 3)
    names = ["trunk_conv", *(f"upconv{i + 1}" for i in range(config.upsamplings)), "HRconv"]
    for name in names:
        shapes |= _conv(name, features, features, 3)
    return shapes | _conv("conv_last", 3, features, 3)


def unet_shapes(config: Config) -> Shapes:
    """Tensors of the noise-prediction UNet, unprefixed."""
    base, scale = config.hidden_size, config.scale
    condition = (config.condition_channels, base, 2 * scale, 2 * scale)
    shapes: Shapes = {"cond_proj.weight": condition, "cond_proj.bias": (base,)}
    shapes |= _linear("mlp.0", 4 * base, base) | _linear("mlp.2", base, 4 * base)
    for name, inputs, outputs in _resnet_blocks(config):
        shapes |= _linear(f"{name}.mlp.1", outputs, base)
        shapes |= _conv(f"{name}.block1.block.1", outputs, inputs, 3)
        shapes |= _conv(f"{name}.block2.block.1", outputs, outputs, 3)
        if inputs != outputs:
            shapes |= _conv(f"{name}.res_conv", outputs, inputs, 1)
    widths = config.widths
    for level in range(LEVELS - 1):
        shapes |= _conv(f"downs.{level}.2.conv.1", widths[level], widths[level], 3)
        up = widths[LEVELS - 2 - level]
        shapes |= _conv(f"ups.{level}.2.conv.0", up, up, 4)
    shapes |= _conv("final_conv.0.block.1", base, base, 3)
    return shapes | _conv("final_conv.1", 3, base, 1)


def checkpoint_shapes(config: Config) -> Shapes:
    """All tensors of a published checkpoint: schedule, `denoise_fn.` and `rrdb.`."""
    shapes: Shapes = dict.fromkeys(SCHEDULE_BUFFERS, (config.timesteps,))
    shapes |= {f"denoise_fn.{name}": shape for name, shape in unet_shapes(config).items()}
    return shapes | {f"rrdb.{name}": shape for name, shape in rrdb_shapes(config).items()}


def _resnet_blocks(config: Config) -> Iterator[tuple[str, int, int]]:
    """Name, input and output channels of each ResnetBlock."""
    widths = config.widths
    for level, width in enumerate(widths):
        yield f"downs.{level}.0", 3 if level == 0 else widths[level - 1], width
        yield f"downs.{level}.1", width, width
    for level in range(LEVELS - 1):
        width = widths[LEVELS - 2 - level]
        yield f"ups.{level}.0", 2 * widths[LEVELS - 1 - level], width
        yield f"ups.{level}.1", width, width
    yield "mid_block1", widths[-1], widths[-1]
    yield "mid_block2", widths[-1], widths[-1]


def _conv(name: str, outputs: int, inputs: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
