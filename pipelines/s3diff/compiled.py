"""`s3diff-compiled`: the clean baseline as a user would compile it in an afternoon."""

from __future__ import annotations

from typing import ClassVar

from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.compiled_options import CompiledOptions


class S3DiffCompiled(S3DiffBaseline):
    """`torch.compile` of the whole UNet, encoder and decoder, one compilation a shape."""

    name: ClassVar[str] = "s3diff-compiled"
    Options: ClassVar[type] = CompiledOptions
