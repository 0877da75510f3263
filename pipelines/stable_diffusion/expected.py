"""Which tensors the base networks and their adapters hold: derived from configs, not listed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError
from pipelines.stable_diffusion.weight_folder import SNAPSHOT

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from pipelines.stable_diffusion.architecture import StableDiffusion

Shapes = dict[str, tuple[int, ...]]
SHOWN = 3
"""How many names a message lists."""


def meta_networks(architecture: StableDiffusion) -> dict[str, nn.Module]:
    """`unet`, `vae` and `text_encoder` built without storage from their configs.

    Raises:
        PipelineError: A config describes a network that the installed libraries cannot build.
    """
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    from pipelines.stable_diffusion.options import TIMESTEP
    from pipelines.stable_diffusion.unet import UNet
    from pipelines.stable_diffusion.vae import Vae

    builders: dict[str, tuple[dict[str, Any], Any]] = {
        "unet": (architecture.unet, lambda config: UNet(config, TIMESTEP)),
        "vae": (architecture.vae, Vae),
        "text_encoder": (
            architecture.text_encoder,
            lambda config: CLIPTextModel(CLIPTextConfig(**config)),
        ),
    }
    networks = {}
    for name, (config, build) in builders.items():
        try:
            with torch.device("meta"):
                networks[name] = build(config)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PipelineError(
                f"{SNAPSHOT}/{name}/config.json describes a network that cannot be built "
                f"({reason}); take the config that belongs to these weights"
            ) from error
    return networks


def network_shapes(network: nn.Module) -> Shapes:
    """Shape of every tensor of a network."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def lora_shapes(network: nn.Module, layers: Iterable[str], rank: int, adapter: str) -> Shapes:
    """Shapes of the low-rank matrices of some linear and convolution layers, as peft names them."""
    shapes: Shapes = {}
    for layer in layers:
        weight: Any = network.get_submodule(layer).weight
        outputs, inputs, *kernel = weight.shape
        shapes[f"{layer}.lora_A.{adapter}.weight"] = (rank, inputs, *kernel)
        shapes[f"{layer}.lora_B.{adapter}.weight"] = (outputs, rank, *(1 for _ in kernel))
    return shapes


def spelled_as(expected: Shapes, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename text encoder tensors: transformers 5 dropped the `text_model.` prefix."""
    prefix = "text_model."
    names = {name.removeprefix(prefix): name for name in expected}
    return {
        names.get(name.removeprefix(prefix), name): tensor
        for name, tensor in tensors.items()
        if not name.endswith("position_ids")
    }


def detached(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the values, as plain float32 ones."""
    import torch

    return {
        name: tensor.detach().float()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def differences(path: Path, group: str, expected: Shapes, found: dict[str, Tensor]) -> list[str]:
    """What is missing, unexpected and of the wrong shape in a group of tensors, a line each."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    wrong = [
        f"{name} is {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    lines = []
    for what, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of the wrong shape", wrong),
    ):
        if names:
            rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(
                f"{path} ({group}): {len(names)} of {len(expected)} tensors {what}: "
                f"{', '.join(names[:SHOWN])}{rest}; it belongs to another model or is damaged"
            )
    return lines
