"""The pipelines that come with srbench, by name; nothing of them is imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a pipeline lives.

    Attributes:
        name: Name of the arm in records and tables.
        target: `module:attribute` of its class.
        options: `module:attribute` of its options, when those can be had without its networks.
        script: Of a foreign engine, its adapter: a file below `pipelines`, run by the interpreter
            that its option `python` names.
        note: What `srbench list pipelines` says beside it, such as that it was never run here.
    """

    name: str
    target: str
    options: str | None = None
    script: str | None = None
    note: str | None = None


BUILT_IN = {
    entry.name: entry
    for entry in (
        Entry(
            "s3diff-baseline",
            "pipelines.s3diff.baseline:S3DiffBaseline",
            "pipelines.s3diff.options:BaselineOptions",
        ),
        Entry(
            "s3diff-optimized",
            "pipelines.s3diff.optimized:S3DiffOptimized",
            "pipelines.s3diff.options:OptimizedOptions",
        ),
        *(
            Entry(
                f"s3diff-{variant}",
                f"pipelines.s3diff.variants:S3Diff{name}",
                f"pipelines.s3diff.variant_options:{name}Options",
            )
            for variant, name in (
                ("tile128", "Tile128"),
                ("untiled-vae", "UntiledVae"),
                ("true-groupnorm", "TrueGroupNorm"),
                ("int8-negative", "Int8Negative"),
            )
        ),
        *(
            Entry(
                f"s3diff-{bits}",
                f"pipelines.s3diff.quantized:S3Diff{bits.upper()}",
                f"pipelines.s3diff.quantized_options:{bits.upper()}Options",
            )
            for bits in ("w8a8", "w6a6")
        ),
        Entry(
            "s3diff-compiled",
            "pipelines.s3diff.compiled:S3DiffCompiled",
            "pipelines.s3diff.compiled_options:CompiledOptions",
        ),
        Entry(
            "s3diff-tensorrt",
            "pipelines.s3diff.tensorrt:S3DiffTensorRT",
            "pipelines.s3diff.compiled_options:TensorRTOptions",
            note="not run here: needs torch-tensorrt (extra `tensorrt`) and a card",
        ),
        Entry(
            "s3diff-authors",
            "external/s3diff_authors.py",
            "pipelines.s3diff.foreign_options:AuthorsOptions",
            script="external/s3diff_authors.py",
            note="not run here: needs the authors' checkout, its environment and a card",
        ),
        Entry(
            "lyradiff",
            "external/lyradiff.py",
            "pipelines.s3diff.foreign_options:LyraDiffOptions",
            script="external/lyradiff.py",
            note="not run here: needs lyraDiff's library, its container and a card",
        ),
        *(
            Entry(
                f"osediff-{variant}",
                f"pipelines.osediff.{variant}:OSEDiff{variant.capitalize()}",
                f"pipelines.osediff.options:{variant.capitalize()}Options",
            )
            for variant in ("baseline", "optimized")
        ),
        *(
            Entry(
                f"osediff-{bits}{method}",
                f"pipelines.osediff.quantized:OSEDiff{bits.upper()}{name}",
                f"pipelines.osediff.quantized_options:{bits.upper()}{name}Options",
            )
            for bits in ("w8a8", "w6a6")
            for method, name in (("", ""), ("-smoothquant", "SmoothQuant"), ("-maxmin", "MaxMin"))
        ),
        *(
            Entry(
                f"srdiff-{variant}",
                f"pipelines.srdiff.{module}:SRDiff{name}",
                f"pipelines.srdiff.options:{name}Options",
            )
            for variant, module, name in (
                ("baseline", "baseline", "Baseline"),
                ("optimized", "optimized", "Optimized"),
                ("ddim", "optimized", "Ddim"),
            )
        ),
        Entry(
            "realesrgan-x4plus",
            "pipelines.external.realesrgan.pipeline:RealESRGAN",
            "pipelines.external.realesrgan.options:RealESRGANOptions",
        ),
        Entry(
            "bicubic",
            "pipelines.external.bicubic.pipeline:Bicubic",
            "pipelines.external.bicubic.options:BicubicOptions",
        ),
    )
}
