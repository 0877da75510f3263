"""Options and constants of OSEDiff; torch-free, so that the harness can check options at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.contract import PipelineError, Rung
from pipelines.stable_diffusion.options import (
    CACHE_PROMPTS,
    COMPILE,
    FOLD_TIME,
    HALF_WEIGHTS,
    KERNELS,
    LAYOUT,
    TRANSFERS_AND_GRAPHS,
    UPSAMPLE_AND_BATCH,
    Acceleration,
    ColorFix,
    OneStepOptions,
    ladder,
    require_at_least,
)

SIZE_MULTIPLE = 8
"""The upscaled image is resampled to the multiples of this below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OSEDiffOptions(OneStepOptions):
    """What the published program exposes or hard-codes; the defaults are its own.

    Attributes:
        process_size: Inputs whose shorter side is below `process_size // scale` are enlarged to it
            first.
        prompt: As the text encoder gets it. The published program asks a tagging network for it and
            writes `tag, tag, …, ,`; without that network the empty prompt is the authors' choice.
        prompt_embedding: File (`.pt` or `.safetensors`) with the text encoder's output
            [1, 77, width] instead of a prompt.
    """

    color_fix: ColorFix = ColorFix.ADAIN
    process_size: int = 512
    prompt: str = ""
    prompt_embedding: str = ""

    def __post_init__(self) -> None:
        OneStepOptions.__post_init__(self)
        require_at_least("process_size", self.process_size, 1)
        if self.prompt and self.prompt_embedding:
            raise PipelineError(
                f"option prompt_embedding={self.prompt_embedding}: it takes the place of the "
                "prompt; leave out one of the two"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions(OSEDiffOptions):
    """Options of `osediff-baseline`.

    Attributes:
        compile: Compile the UNet, encoder and decoder as a user would in an afternoon: whole
            networks, adapters on their own path, one compilation a shape.
    """

    compile: bool = False


OPTIMIZED_RUNGS = ladder(
    (
        HALF_WEIGHTS,
        CACHE_PROMPTS,
        Rung("P4", "adapters merged once at load", {"merge_lora": "true"}),
        *LAYOUT,
        FOLD_TIME,
        Rung("P6", "prompt keys and values once at load", {"cache_text_kv": "true"}),
        *UPSAMPLE_AND_BATCH,
        *KERNELS,
        *TRANSFERS_AND_GRAPHS,
        Rung("P12", "input resized on the device", {"device_resize": "true"}),
        COMPILE,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedOptions(OSEDiffOptions, Acceleration):
    """Options of `osediff-optimized`: every optimization is one switch, all on but `compile`.

    Attributes:
        device_resize: Resize the input on a card, in Pillow's own integers, instead of in Pillow.
    """

    RUNGS: ClassVar[tuple[Rung, ...]] = OPTIMIZED_RUNGS

    device_resize: bool = True

    def __post_init__(self) -> None:
        OSEDiffOptions.__post_init__(self)
        Acceleration.__post_init__(self)
