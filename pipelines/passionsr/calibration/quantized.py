"""The quantized layers of a one-step model, by network and by the part that is calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pipelines.passionsr.attention import QuantizedAttention
from pipelines.passionsr.calibration.model import OneStepModel
from pipelines.passionsr.calibration.schedule import Component
from pipelines.passionsr.choices import Components
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.network import (
    Kind,
    NetworkSettings,
    quantize_network,
    quantized_attentions,
)
from pipelines.passionsr.settings import LayerSettings, Mode

Layer = QuantizedLayer | QuantizedAttention

_AROUND = {
    Component.ENCODER: ("encoder.", "quant_conv"),
    Component.DECODER: ("decoder.", "post_quant_conv"),
}
"""How paths of the VAE's layers begin."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """All quantized layers of a model.

    Attributes:
        components: `unet`, or `unet+vae`.
        networks: `unet` and perhaps `vae` -> diffusers' path -> layer or attention block.
    """

    components: Components
    networks: Mapping[str, Mapping[str, Layer]]

    def every(self) -> dict[str, Layer]:
        """By `<network>.<path>`."""
        return {
            f"{network}.{path}": layer
            for network, layers in self.networks.items()
            for path, layer in layers.items()
        }

    def layers(self) -> dict[str, QuantizedLayer]:
        """The same without attention blocks."""
        return {p: x for p, x in self.every().items() if isinstance(x, QuantizedLayer)}

    def layers_of(self, component: Component) -> dict[str, QuantizedLayer]:
        """`of` without attention blocks."""
        return {p: x for p, x in self.of(component).items() if isinstance(x, QuantizedLayer)}

    def of(self, component: Component) -> dict[str, Layer]:
        """Layers of the part that is calibrated by itself."""
        if component is Component.UNET:
            return dict(self.networks["unet"])
        vae = self.networks["vae"]
        return {p: x for p, x in vae.items() if p.startswith(_AROUND[component])}


def quantize_model(model: OneStepModel, bits: int, mode: Mode, components: Components) -> Quantized:
    """Replace layers of the model's networks, as the pipelines do that run the result.

    Mode `paper` takes the published configurations, `fixed` one range for all channels and
    attention in floating point.
    """
    settings = LayerSettings(weight_bits=bits, activation_bits=bits, mode=mode)
    networks: dict[str, dict[str, Layer]] = {}
    for name in components.split("+"):
        kind: Kind = "unet" if name == "unet" else "vae"
        network: nn.Module = model.unet if kind == "unet" else model.vae
        layers: dict[str, Layer] = {
            **quantize_network(network, NetworkSettings.of_mode(kind, settings)),
            **quantized_attentions(network),
        }
        networks[name] = layers
    return Quantized(components, networks)
