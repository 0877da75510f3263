"""`osediff.pkl` in both spellings: OSEDiff's own and that of PassionSR's `osediff.ckpt`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError
from pipelines.osediff.architecture import UNET_ADAPTERS, Architecture
from pipelines.stable_diffusion.checkpoint_files import read_pickle
from pipelines.stable_diffusion.expected import SHOWN, detached

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_LISTS = {
    "default_encoder": "unet_lora_encoder_modules",
    "default_decoder": "unet_lora_decoder_modules",
    "default_others": "unet_lora_others_modules",
}
_VAE_LIST = "vae_lora_encoder_modules"
_STATES = (("state_dict_unet", "state_dict_vae"), ("unet_state_dict", "vae_state_dict"))
"""Keys of the tensors: OSEDiff's own, PassionSR's."""


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """Contents of the file, every tensor float32.

    Attributes:
        rank_unet: Rank of the UNet's adapters.
        rank_vae: Rank of the VAE's adapter.
        unet_layers: Layer paths for each of `UNET_ADAPTERS`, each once.
        vae_layers: Layer paths of the VAE, each once.
        unet: `conv_in.…` and `<layer>.lora_{A,B}.<adapter>.weight`.
        vae: `<layer>.lora_{A,B}.default_encoder.weight`.
    """

    rank_unet: int
    rank_vae: int
    unet_layers: tuple[tuple[str, ...], ...]
    vae_layers: tuple[str, ...]
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]


def read_adapters(path: Path) -> AdapterFile:
    """Read the file without running anything in it.

    PassionSR's also has an adapter of the VAE's decoder, which its program leaves out.

    Raises:
        PipelineError: Missing, damaged, unsafe, or of another model.
    """
    content = read_pickle(path)
    unet_key, vae_key = next((keys for keys in _STATES if keys[0] in content), _STATES[0])
    needed: dict[str, type | tuple[type, ...]] = {
        "rank_unet": int,
        "rank_vae": int,
        **dict.fromkeys((*_LISTS.values(), _VAE_LIST), (list, tuple)),
        unet_key: dict,
        vae_key: dict,
    }
    wrong = [key for key, kind in needed.items() if not isinstance(content.get(key), kind)]
    if wrong:
        raise PipelineError(_of_another_model(path, content, wrong))
    lists = {key: _layers(path, key, content[key]) for key in (*_LISTS.values(), _VAE_LIST)}
    _check_disjoint(path, {key: lists[key] for key in _LISTS.values()})
    for key in ("rank_unet", "rank_vae"):
        if content[key] < 1:
            raise PipelineError(f"{path}: {key} is {content[key]}; the file is damaged")
    vae = {n: t for n, t in detached(content[vae_key]).items() if ".default_decoder." not in n}
    return AdapterFile(
        content["rank_unet"],
        content["rank_vae"],
        tuple(lists[_LISTS[name]] for name in UNET_ADAPTERS),
        lists[_VAE_LIST],
        detached(content[unet_key]),
        vae,
    )


def published_content(
    architecture: Architecture, unet: Mapping[str, Tensor], vae: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The dictionary of the published `save_model`.

    Args:
        architecture: Its ranks and lists are stored.
        unet: As in `AdapterFile`.
        vae: The same.
    """
    lists = zip(UNET_ADAPTERS, architecture.unet_layers, strict=True)
    return {
        _VAE_LIST: list(architecture.vae_layers),
        **{_LISTS[name]: list(layers) for name, layers in lists},
        "rank_unet": architecture.rank_unet,
        "rank_vae": architecture.rank_vae,
        "state_dict_unet": dict(unet),
        "state_dict_vae": dict(vae),
    }


def _layers(path: Path, key: str, names: Any) -> tuple[str, ...]:
    """Each path once: the published list of the VAE repeats some."""
    odd = [name for name in names if not isinstance(name, str)]
    if odd:
        raise PipelineError(f"{path}: {key} holds {odd[0]!r} among its names; the file is damaged")
    return tuple(dict.fromkeys(names))


def _check_disjoint(path: Path, lists: Mapping[str, tuple[str, ...]]) -> None:
    owner: dict[str, str] = {}
    for key, layers in lists.items():
        for layer in layers:
            if layer in owner:
                raise PipelineError(
                    f"{path}: {layer} is in {owner[layer]} and in {key}; the file is damaged"
                )
            owner[layer] = key


def _of_another_model(path: Path, content: Mapping[str, Any], wrong: list[str]) -> str:
    if "unet_lora_target_modules" in content:
        return (
            f"{path}: the checkpoint of S3Diff, not of OSEDiff; use the pipelines s3diff-…, or put "
            "OSEDiff's own file here"
        )
    found = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
    return (
        f"{path}: lacks {', '.join(wrong[:SHOWN])} (found {found}), so it is the checkpoint of "
        "another model, not of OSEDiff"
    )
