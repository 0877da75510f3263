"""The published files of a whole model: the UNet's, with the VAE's beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.published import load_published
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae

_LEARNED = ("scale_factor", "offset", "quantizer")


def load_pair(
    unet: Path,
    networks: Mapping[str, nn.Module],
    layers: Mapping[str, Mapping[str, QuantizedLayer]],
    configs: Mapping[str, Mapping[str, Any]],
) -> str:
    """Put PassionSR's files into networks quantized in mode `paper`; see `load_published`.

    Args:
        unet: The UNet's file. The VAE's has the same name but for `vae` in place of `unet`.
        networks: `unet` and `vae`.
        layers: Component -> what `quantize_network` returned; decides which files are read.
        configs: The snapshot's, by component.

    Returns:
        What files and networks have in common, in words.

    Raises:
        PipelineError: A file is missing, of another model, or lacks some scales or bounds.
    """
    if "unet" not in unet.name:
        raise PipelineError(
            f"{unet}: the name has no 'unet'; give PassionSR's unet_….pth, from whose name that of "
            "the VAE's file follows"
        )
    told = []
    for component in layers:
        path = unet.with_name(unet.name.replace("unet", component))
        if component != "unet" and not path.is_file():
            raise PipelineError(f"{path}: no such file; put it there, or set components=unet")
        network = networks[component]
        assert isinstance(network, UNet | Vae)
        report = load_published(path, network, layers[component], configs[component])
        lacking = [key for key in report.missing if any(word in key for word in _LEARNED)]
        if lacking:
            raise PipelineError(
                f"{path}: lacks {len(lacking)} scales and bounds of this network, {lacking[0]} "
                "among them; it is of another model, or was saved before it was calibrated"
            )
        told.append(replace(report, path=Path(path.name)).summary)
    return f"PassionSR's own, mode paper; {'; '.join(told)}"
