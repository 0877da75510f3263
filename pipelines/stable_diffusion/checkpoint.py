"""What the checkpoints of all one-step systems have: base networks and low-rank adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.contract import PipelineError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from pipelines.diffusion.lora import LoraPair
    from pipelines.stable_diffusion.architecture import StableDiffusion
    from pipelines.stable_diffusion.prompt import PromptEncoder


@dataclass(frozen=True, slots=True)
class BaseCheckpoint:
    """Weights in float32 on the CPU; large files stay memory-mapped.

    Attributes:
        architecture: The sizes that the tensors have.
        unet: UNet2DConditionModel state dict, with the trained `conv_in`.
        vae: AutoencoderKL state dict, attention layers named `to_q`, `to_k`, `to_v`, `to_out.0`.
        text_encoder: CLIPTextModel state dict as the installed transformers spells it.
        unet_lora: UNet layer path -> pair.
        vae_lora: VAE layer path -> pair.
        tokenizer_folder: The snapshot's tokenizer.
    """

    architecture: StableDiffusion
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    unet_lora: dict[str, LoraPair]
    vae_lora: dict[str, LoraPair]
    tokenizer_folder: Path

    def prompt_encoder(self, device: torch.device) -> PromptEncoder:
        """The tokenizer and the text encoder, the latter on `device`."""
        from pipelines.stable_diffusion.prompt import PromptEncoder

        return PromptEncoder(
            self.architecture.text_encoder, self.text_encoder, self.tokenizer_folder, device
        )


def paired(tensors: Mapping[str, Tensor], adapter: str) -> dict[str, LoraPair]:
    """Layer path -> pair, of tensors that peft named for one adapter."""
    from pipelines.diffusion.lora import LoraPair

    down, up = f".lora_A.{adapter}.weight", f".lora_B.{adapter}.weight"
    return {
        name.removesuffix(down): LoraPair(tensor, tensors[name.removesuffix(down) + up])
        for name, tensor in tensors.items()
        if name.endswith(down)
    }


def first_problem(problems: list[str], folder: Path) -> PipelineError:
    """The error for a folder with problems: the first, and how many more there are."""
    more = len(problems) - 1
    hint = f" (and {more} more: `srbench weights check {folder}`)" if more else ""
    return PipelineError(problems[0] + hint)
