"""All files of a weights folder, read one by one so that every problem is found at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError
from pipelines.stable_diffusion.checkpoint_files import read_pickle
from pipelines.stable_diffusion.expected import SHOWN, detached
from pipelines.stable_diffusion.snapshot import Reading, Snapshot, read_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

MLPS = ("de_mlp", "block_mlp", "fuse_mlp")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Contents by file.

    Attributes:
        snapshot: The base networks.
        adapters: The dictionary of `s3diff.pkl`.
        degradation: Tensors of `de_net.pth`.
    """

    snapshot: Snapshot
    adapters: dict[str, Any]
    degradation: dict[str, Tensor]


def read_files(folder: Path, problems: list[str]) -> WeightFiles | None:
    """Read everything that can be read; what cannot becomes a problem."""
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; give --weights a folder, `mini` or `synthetic`")
        return None
    reading = Reading(problems)
    snapshot = read_snapshot(folder, reading)
    adapters = reading.attempt(_read_adapters, folder / "s3diff.pkl")
    degradation = reading.attempt(_read_degradation, folder / "de_net.pth")
    if snapshot is None or problems:
        return None
    return WeightFiles(snapshot, adapters, degradation)


def _read_adapters(path: Path) -> dict[str, Any]:
    content = read_pickle(path)
    needed: dict[str, type | tuple[type, ...]] = {
        "rank_unet": int,
        "rank_vae": int,
        "unet_lora_target_modules": (list, tuple, set),
        "vae_lora_target_modules": str,
        "state_dict_unet": dict,
        "state_dict_vae": dict,
        **{f"state_dict_{net}_{mlp}": dict for net in ("vae", "unet") for mlp in MLPS},
        "state_embeddings": dict,
    }
    wrong = [key for key, kind in needed.items() if not isinstance(content.get(key), kind)]
    if "unet_lora_encoder_modules" in content:
        raise PipelineError(
            f"{path}: the checkpoint of OSEDiff, not of S3Diff; use the pipelines osediff-…, or "
            "put S3Diff's own file here"
        )
    if wrong or "w" not in content:
        found = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
        raise PipelineError(
            f"{path}: lacks {', '.join([*wrong, *(['w'] if 'w' not in content else [])][:SHOWN])} "
            f"(found {found}), so it is the checkpoint of another model, not of S3Diff"
        )
    return content


def _read_degradation(path: Path) -> dict[str, Tensor]:
    content = read_pickle(path)
    if "conv_first.0.weight" not in content or "fc_degree.0.0.weight" not in content:
        found = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
        raise PipelineError(
            f"{path}: no weights of the degradation network (found {found}), "
            "so it is the checkpoint of another model"
        )
    return detached(content)
