"""Pictures between host and device, 8 bits a value; pinned, they do not wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def upload(values: torch.Tensor, device: torch.device, *, pinned: bool) -> torch.Tensor:
    """A tensor in host memory -> the device.

    Pinned: through page-locked memory that PyTorch keeps for reuse, without waiting.
    """
    if pinned and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def download(pixels: torch.Tensor, *, pinned: bool) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] on the device -> an array of its own in host memory, ready to be read."""
    if not (pinned and pixels.is_cuda):
        return pixels.cpu().numpy()
    host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
    host.copy_(pixels, non_blocking=True)
    torch.cuda.current_stream(pixels.device).synchronize()
    return host.numpy()
