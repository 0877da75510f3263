"""When torch.compile may compile: while a size is prepared, never in the middle of an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SHAPES = 256
"""Shapes of one block that may be compiled; PyTorch's 8 is less than the levels of one UNet."""


@contextmanager
def compiling(*, enabled: bool) -> Iterator[None]:
    """Let compiled modules compile for whatever shapes they see."""
    if not enabled:
        yield
        return
    import torch._dynamo

    with torch._dynamo.config.patch(
        recompile_limit=_SHAPES, accumulated_recompile_limit=16 * _SHAPES
    ):
        yield


@contextmanager
def only_compiled(*, enabled: bool) -> Iterator[None]:
    """Use what was compiled; a shape never seen runs eagerly at once, instead of after minutes."""
    if not enabled:
        yield
        return
    with torch.compiler.set_stance("eager_on_recompile"):
        yield
