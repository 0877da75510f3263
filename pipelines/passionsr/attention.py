"""Attention whose matrix products have quantized operands (PassionSR, spec 2.1 and 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.lbq import Quantizer, check_range, keeping_precision
from pipelines.passionsr.let import smoothing_scale
from pipelines.passionsr.modes import RULES
from pipelines.passionsr.settings import LayerSettings
from pipelines.stable_diffusion.unet_blocks import Attention, TextKV

Tensor = torch.Tensor
OPERANDS = ("q", "k", "v", "w")


class QuantizedAttention(Attention):
    """The attention block of a UNet with queries, keys, softmax and values on grids of their own.

    It takes over the projections of the block it replaces, quantized or not, under their names. Of
    each head channel d, queries are multiplied and keys divided by `scale_factor_qk` [d]. In mode
    `paper` the softmax's column of each key token is multiplied and that token's values are divided
    by `scale_factor_vw` [tokens], which ties a calibration to one size; mode `fixed` has none.

    The first call initializes scales and bounds (`act_quantizer_{q,k,v,w}`), unless they were
    loaded.

    Attributes:
        name: For messages; whoever knows the block's path may set it.
        quantizing: Compute with rounded operands.
        transforming: Scales as they are; where False they count as 1.
    """

    def __init__(self, attention: Attention, settings: LayerSettings) -> None:
        """Take over the projections of `attention`, whose products must be apart."""
        nn.Module.__init__(self)
        if attention.to_qkv is not None:
            raise PipelineError(
                "an attention block that makes queries, keys and values in one product cannot be "
                "quantized; set fused_qkv=false"
            )
        self.name = "attention"
        self.settings = settings
        self.rules = RULES[settings.mode]
        self.quantizing = self.transforming = True
        self.heads, self.to_qkv = attention.heads, None
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.to_out = attention.to_out
        weight = attention.to_q.weight
        template = weight.new_zeros((), dtype=torch.promote_types(weight.dtype, torch.float32))
        self.scale_factor_qk = nn.Parameter(template.new_ones(weight.shape[0] // self.heads))
        if self.rules.scales_tokens:
            self.scale_factor_vw = nn.Parameter(template.new_ones(0))
        for operand in OPERANDS:
            quantizer = self.rules.activation_quantizer(settings.activation_bits, template)
            self.add_module(f"act_quantizer_{operand}", quantizer)
        self._scaled = False

    @property
    def _quantizers(self) -> dict[str, Quantizer]:
        found = {operand: self.get_submodule(f"act_quantizer_{operand}") for operand in OPERANDS}
        return {name: module for name, module in found.items() if isinstance(module, Quantizer)}

    @property
    def initialized(self) -> bool:
        """Whether a call would take nothing from its input."""
        scaled = self._scaled or not self.transforming
        return scaled and all(q.initialized for q in self._quantizers.values())

    def mark_initialized(self) -> None:
        """Nothing is taken from data any more."""
        self._scaled = True
        for quantizer in self._quantizers.values():
            quantizer.mark_initialized()

    def let_parameters(self) -> list[nn.Parameter]:
        """The scales. Those of the tokens are another parameter once they are initialized."""
        return [p for name, p in self.named_parameters(recurse=False) if name.startswith("scale")]

    def bound_parameters(self) -> list[nn.Parameter]:
        """Every learned bound of the operands; not those of the projections."""
        return [p for quantizer in self._quantizers.values() for p in quantizer.parameters()]

    def forward(self, x: Tensor, text: TextKV | None = None) -> Tensor:
        """Self-attention, or cross-attention to given keys and values; [B, N, C]."""
        if text is None:
            query, keys, values = self._queries_keys_values(x)
        else:
            query, (keys, values) = self._split(self.to_q(x)), text
        kind = self.scale_factor_qk.dtype
        out = self._attend(query.to(kind), keys.to(kind), values.to(kind)).to(x.dtype)
        return torch.as_tensor(self.to_out[0](out.transpose(1, 2).flatten(2)))

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, heads, N, d] of each -> [B, heads, N, d]."""
        first = self.quantizing and self.transforming and not self._scaled
        if first:
            self._set_scale_qk(query, keys)
        if self.transforming:
            query, keys = query * self.scale_factor_qk, keys / self.scale_factor_qk
        query, keys = self._on_grid("q", query), self._on_grid("k", keys)
        weights = (query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        if self.rules.scales_tokens and self.transforming:
            if first:
                self._set_scale_vw(weights, values)
            scale = self._token_scale(keys.shape[-2])
            weights, values = weights * scale, values / scale[:, None]
        self._scaled |= first
        return self._on_grid("w", weights) @ self._on_grid("v", values)

    def _on_grid(self, operand: str, x: Tensor) -> Tensor:
        if not self.quantizing:
            return x
        quantizer = self._quantizers[operand]
        if not quantizer.initialized:
            low, high = x.detach().aminmax()
            check_range(low, high, f"{self.name}, operand {operand}")
            quantizer.set_bounds(low, high)
        one = x.new_ones(1)
        return self.rules.quantize_input([quantizer], x, one, torch.zeros_like(one), -1)

    @torch.no_grad()
    def _set_scale_qk(self, query: Tensor, keys: Tensor) -> None:
        of_keys, of_query = (tensor.abs().flatten(0, -2).amax(0) for tensor in (keys, query))
        self.scale_factor_qk.copy_(smoothing_scale(of_keys, of_query, self.settings.s_alpha))

    @torch.no_grad()
    def _set_scale_vw(self, weights: Tensor, values: Tensor) -> None:
        of_values = values.abs().amax((0, 1, 3))
        of_weights = weights.abs().flatten(0, -2).amax(0)
        scale = smoothing_scale(of_values, of_weights, self.settings.s_alpha)
        with torch.inference_mode(False):
            self.scale_factor_vw = nn.Parameter(scale.clone())

    def _token_scale(self, tokens: int) -> Tensor:
        """[tokens]; ones where nothing was initialized or loaded."""
        if len(self.scale_factor_vw) == 0:
            return self.scale_factor_vw.new_ones(tokens)
        if len(self.scale_factor_vw) != tokens:
            raise PipelineError(
                f"{self.name}: calibrated for {len(self.scale_factor_vw)} key tokens, given "
                f"{tokens}; in mode paper a calibration works at its own size alone"
            )
        return self.scale_factor_vw

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            for child in self.children():
                child._apply(fn)
        super()._apply(keeping_precision(fn), recurse=False)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        tokens = state.get(prefix + "scale_factor_vw")
        if tokens is not None and self.rules.scales_tokens:
            self.scale_factor_vw = nn.Parameter(self.scale_factor_qk.new_ones(tokens.shape))
        super()._load_from_state_dict(state, prefix, *args)
        self._scaled |= prefix + "scale_factor_qk" in state
