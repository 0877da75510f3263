"""Process-wide switches of PyTorch's arithmetic, set for one image and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


@contextmanager
def arithmetic(*, autocast_on: torch.device | None, tune: bool) -> Iterator[None]:
    """Float32 convolutions without TF32, fp16 autocast and cuDNN's autotuner as asked.

    Args:
        autocast_on: Device of the autocast, None for none. Weights are cast at every use: they
            change from image to image, and captured graphs must not read a cache.
        tune: Let cuDNN time its algorithms for shapes that it has not seen.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = tune, False
    halving: AbstractContextManager[object] = nullcontext()
    if autocast_on is not None:
        halving = torch.autocast(autocast_on.type, torch.float16, cache_enabled=False)
    try:
        with halving:
            yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before
