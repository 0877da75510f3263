"""Prompt embeddings: CLIP tokens of the snapshot's own tokenizer, last hidden state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipelines.work import note_call, replayed

MAX_TOKENS = 77


class PromptEncoder:
    """Tokenizer and text encoder of the snapshot.

    The tokenizer decides the padding: SD 2 pads with id 0, not with the end token. No attention
    mask is used.

    Args:
        config: The snapshot's `text_encoder/config.json`.
        state: CLIPTextModel state dict as the installed transformers spells it.
        tokenizer_folder: The snapshot's `tokenizer/`; not read for the meta device.
        device: Of the embeddings.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        state: Mapping[str, torch.Tensor],
        tokenizer_folder: Path,
        device: torch.device,
    ) -> None:
        self.tokenizer = None
        if device.type != "meta":
            self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        with torch.device("meta"):
            self.model = CLIPTextModel(CLIPTextConfig(**config))
        self.model.load_state_dict(state, assign=True, strict=False)
        _fill_position_ids(self.model)
        self.model.to(device).eval().requires_grad_(False)
        self.device = device

    def __call__(self, prompt: str) -> torch.Tensor:
        """[1, 77, width] embedding of one prompt."""
        note_call("text_encoder")
        return replayed("text_encoder", lambda: self.model(self._tokens(prompt).to(self.device))[0])

    def _tokens(self, prompt: str) -> torch.Tensor:
        if self.tokenizer is None:
            return torch.empty(1, MAX_TOKENS, dtype=torch.long, device="meta")
        tokens: torch.Tensor = self.tokenizer(
            prompt,
            max_length=MAX_TOKENS,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return tokens


def _fill_position_ids(model: torch.nn.Module) -> None:
    """Position ids are buffers outside the checkpoint: give the meta ones their numbers."""
    for module in model.modules():
        ids = getattr(module, "position_ids", None)
        if isinstance(ids, torch.Tensor) and ids.is_meta:
            module.register_buffer(
                "position_ids", torch.arange(ids.shape[-1])[None], persistent=False
            )
