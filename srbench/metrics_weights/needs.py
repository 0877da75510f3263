"""Which files a metric needs, and what to say of one that is not there.

Files that no package has are the user's to put in place. pyiqa unpickles whatever it finds, so
every such file is checked here first: by the digest in its name, and as a file of nothing but
tensors.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from srbench.metrics_weights.places import (
    backbone_file,
    dists_file,
    heads_file,
    niqe_file,
    pyiqa_file,
    torch_home,
)

_HUB = "chaofengc/IQA-PyTorch-Weights"
_VIT = "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"
_DIGEST = re.compile(r"-([0-9a-f]{8})\.pth")
_CLIP_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"

_FETCHED: dict[str, tuple[Callable[[], Path], ...]] = {
    "lpips": (partial(backbone_file, "alex"), partial(heads_file, "alex")),
    "lpips-vgg": (partial(backbone_file, "vgg"), partial(heads_file, "vgg")),
    "dists": (partial(backbone_file, "vgg"), dists_file),
    "niqe": (niqe_file,),
}


@dataclass(frozen=True, slots=True)
class Placed:
    """A file that only the hub or its authors have.

    Attributes:
        name: Its published name.
        backbone: A repository of timm that pyiqa loads before it.
    """

    name: str
    backbone: str | None = None


_PLACED = {
    "musiq": Placed("musiq_koniq_ckpt-e95806b9.pth"),
    "maniqa": Placed("ckpt_koniq10k.pt", _VIT),
    "maniqa-pipal": Placed("MANIQA_PIPAL-ae6d356b.pth", _VIT),
    "brisque": Placed("brisque_svm_weights.pth"),
    "fid": Placed("pt_inception-2015-12-05-6726825d.pth"),
}


def have_lpips() -> bool:
    """Whether LPIPS with AlexNet can be measured."""
    return why_missing("lpips") is None


def why_missing(metric: str) -> str | None:
    """Why a metric's weights cannot be used: which file, and what gets it.

    Returns:
        One line; None where the metric needs no weights or has them.
    """
    if metric in _FETCHED:
        missing = [file() for file in _FETCHED[metric] if not file().is_file()]
        if not missing:
            return None
        return (
            f"its weights are missing ({missing[0].name}); `srbench weights fetch --metrics` "
            "gets them"
        )
    if metric == "clipiqa":
        return _clip()
    placed = _PLACED.get(metric)
    return None if placed is None else _placed(placed)


def _placed(placed: Placed) -> str | None:
    path = pyiqa_file(placed.name)
    if not path.is_file():
        command = f"hf download {_HUB} {placed.name} --local-dir {path.parent}"
        return f"its weights are missing ({placed.name}), and no package has them; `{command}`"
    if reason := _unusable(path, path.stat().st_mtime_ns):
        return reason
    if placed.backbone and not _in_hub_cache(placed.backbone):
        command = f"hf download {placed.backbone} config.json model.safetensors"
        return f"its backbone is missing ({placed.backbone}); `{command}`"
    return None


def _clip() -> str | None:
    path = torch_home() / "hub" / "clip" / "RN50.pt"
    if not path.is_file():
        return (
            "its weights are missing (RN50.pt), and no package has them; put that file of "
            f"OpenAI's CLIP, sha256 {_CLIP_SHA256[:16]}…, into {path.parent}"
        )
    return _other_digest(path, _CLIP_SHA256)


@lru_cache(maxsize=32)
def _unusable(path: Path, _changed_ns: int) -> str | None:
    import torch

    if (digest := _DIGEST.search(path.name)) and (reason := _other_digest(path, digest[1])):
        return reason
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return f"{path} is no file of tensors ({said[0][:80]}); it is not loaded"
    return None


def _other_digest(path: Path, expected: str) -> str | None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found.startswith(expected):
        return None
    return f"{path} has sha256 {found[:8]}… where {expected[:8]}… is expected; it is not loaded"


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)
