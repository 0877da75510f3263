"""One step of ancestral diffusion sampling in Triton: prediction, clamp, mean and noise in a pass.

The row of the schedule is read on the device, so a CUDA graph of one step replays for all of them.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import ceil_div, power_of_two

Tensor = torch.Tensor

_ELEMENTS = 1024
"""Of a program: the images are small, so many programs with little each."""


@triton.jit(do_not_specialize=["pixels"])
def diffusion_step_kernel(
    x: tl.tensor,
    eps: tl.tensor,
    eps_bias: tl.tensor,
    noise: tl.tensor,
    coefficients: tl.tensor,
    step: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    X_PLANES: tl.constexpr,
    EPS_PLANES: tl.constexpr,
    NOISE_PLANES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """One block of pixels of one sample; `PLANES` tells NCHW memory from NHWC."""
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    channel = tl.arange(0, BLOCK_CHANNELS)[None, :]
    valid = (pixel < pixels) & (channel < channels)
    start = tl.program_id(1).to(tl.int64) * pixels * channels
    planes = start + channel * pixels + pixel
    rows = start + pixel * channels + channel
    here = x + (planes if X_PLANES else rows)
    current = tl.load(here, mask=valid, other=0.0)
    predicted = tl.load(eps + (planes if EPS_PLANES else rows), mask=valid, other=0.0)
    predicted = predicted.to(tl.float32)
    if eps_bias is not None:
        predicted += tl.load(eps_bias + channel, mask=channel < channels, other=0.0).to(tl.float32)
    drawn = tl.load(noise + (planes if NOISE_PLANES else rows), mask=valid, other=0.0)
    table = coefficients + tl.load(step) * 5
    clean = tl.load(table) * current - tl.load(table + 1) * predicted
    # A NaN must come through: without it, an overflow in the network would pass for an image.
    clean = tl.minimum(clean, 1.0, propagate_nan=tl.PropagateNan.ALL)
    clean = tl.maximum(clean, -1.0, propagate_nan=tl.PropagateNan.ALL)
    mean = tl.load(table + 2) * clean + tl.load(table + 3) * current
    tl.store(here, mean + tl.load(table + 4) * drawn, mask=valid)


def diffusion_step(
    x: Tensor,
    eps: Tensor,
    eps_bias: Tensor | None,
    noise: Tensor,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    """Launch; see `pipelines.kernels.diffusion_step`."""
    batch, channels, height, width = x.shape
    pixels = height * width
    block_channels = power_of_two(channels)
    block_pixels = _ELEMENTS // block_channels
    diffusion_step_kernel[(ceil_div(pixels, block_pixels), batch)](
        x,
        eps,
        eps_bias,
        noise,
        coefficients,
        step,
        pixels,
        channels,
        x.is_contiguous(),
        eps.is_contiguous(),
        noise.is_contiguous(),
        block_pixels,
        block_channels,
    )
