"""Options of engines that run S3Diff's weights in environments of their own; torch-free.

The engines themselves are scripts in `pipelines/external`, which have the same defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.s3diff.options import NEGATIVE_PROMPT, POSITIVE_PROMPT


@dataclass(frozen=True, slots=True, kw_only=True)
class _CheckoutOptions:
    """What both take.

    Attributes:
        python: Path of the interpreter of its environment.
        checkout: Folder of its sources.
        guidance: Classifier-free guidance scale.
        latent_tile: Side of a UNet tile in latents.
        latent_overlap: Overlap of neighbouring UNet tiles in latents.
        vae_encoder_tile: Largest core of an encoder tile in pixels of the upscaled image.
        vae_decoder_tile: Largest core of a decoder tile in latents.
    """

    python: str = ""
    checkout: str = ""
    guidance: float = 1.07
    latent_tile: int = 96
    latent_overlap: int = 32
    vae_encoder_tile: int = 1024
    vae_decoder_tile: int = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorsOptions(_CheckoutOptions):
    """Options of `s3diff-authors`; see `S3DiffOptions`.

    Attributes:
        align_corners: Of the bilinear enlargement.
        color_fix: By the checkout's own functions.
        positive_prompt: Conditional prompt.
        negative_prompt: Unconditional prompt.
    """

    align_corners: bool = False
    color_fix: Literal["wavelet", "adain", "none"] = "wavelet"
    positive_prompt: str = POSITIVE_PROMPT
    negative_prompt: str = NEGATIVE_PROMPT


@dataclass(frozen=True, slots=True, kw_only=True)
class LyraDiffOptions(_CheckoutOptions):
    """Options of `lyradiff`.

    Attributes:
        library: Path of `libth_lyradiff.so`.
        weights_dir: Folder in S3Diff's published layout; empty takes the run's.
    """

    library: str = ""
    weights_dir: str = ""
