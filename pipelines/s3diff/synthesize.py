"""Seeded weights written as a folder in the published layout.

Values come from the raw bits of a generator whose stream numpy guarantees, through exact float32
arithmetic only, so a recipe yields equal weights on every machine. Latency with such weights is
real, pictures are not.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract import PipelineError
from pipelines.s3diff.expected import Shapes, expected_tensors
from pipelines.s3diff.options import LORA_ALPHA
from pipelines.s3diff.published_pickle import published_pickle
from pipelines.s3diff.recipe import Recipe, recipe
from pipelines.stable_diffusion.architecture import published_text

if TYPE_CHECKING:
    from torch import Tensor

_LORA_GAIN = 0.3
_LOGVAR = -6.0
_LOGVAR_GAIN = 0.02
_FUSE_GAIN = 2.0
_DEGRADATION_GAIN = 0.6
_SCORE_GAIN = 4.0
SNAPSHOT_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
)


def synthesize(folder: Path, plan: Recipe) -> None:
    """Write `sd-turbo/`, `s3diff.pkl` and `de_net.pth` into `folder`.

    Raises:
        PipelineError: The folder cannot be written or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, plan)
    except OSError as error:
        raise PipelineError(
            f"{folder}: cannot write the weights ({error.strerror or error}); "
            "choose another folder with `--out` or free some space"
        ) from error


def draw(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Uniform float32 numbers of zero mean and unit variance, decided by `name` and `seed`."""
    count = math.prod(shape)
    bits = np.random.PCG64(zlib.crc32(name.encode()) + (seed << 32)).random_raw((count + 3) // 4)
    steps = bits.astype("<u8", copy=False).view("<u2")[:count].astype(np.float32)
    steps += np.float32(0.5 - 2**15)
    steps *= np.float32(math.sqrt(12) / 2**16)
    return steps.reshape(shape)


def tensor(plan: Recipe, group: str, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """One tensor of the checkpoint. `group` and `name` as in `expected_tensors`."""
    spelled = name.removeprefix("text_model.")
    values = draw(f"{group}.{spelled}", shape, plan.seed)
    if len(shape) > 1 or name == "w":
        values *= np.float32(_deviation(plan, group, name, shape))
    elif name.endswith("weight"):
        values *= np.float32(0.1)
        values += np.float32(1)
    else:
        values *= np.float32(0.05)
    _finish(plan, group, name, values)
    return values


def _deviation(plan: Recipe, group: str, name: str, shape: tuple[int, ...]) -> float:
    deviation = 1 / math.sqrt(math.prod(shape[1:]))
    if ".lora_B." in name:
        rank = shape[1]
        return deviation * _LORA_GAIN * rank / LORA_ALPHA
    if group == "modulation":
        if name == "w" or "embeddings" in name:
            return 1.0
        if "fuse_mlp" in name:
            rank = math.isqrt(shape[0])
            return deviation * _FUSE_GAIN / math.sqrt(rank)
    if group == "degradation":
        return deviation * (_SCORE_GAIN if name.startswith("fc_") else _DEGRADATION_GAIN)
    return deviation


def _finish(plan: Recipe, group: str, name: str, values: NDArray[np.float32]) -> None:
    """Give the last layers their calibrated scale and bias, in place."""
    ends = plan.ends
    latent = len(ends.latent_scale)

    def scale_rows(rows: NDArray[np.float32], factors: tuple[float, ...]) -> None:
        rows *= np.asarray(factors, np.float32).reshape(-1, *(1 for _ in rows.shape[1:]))

    match group, name:
        case "vae", "quant_conv.weight":
            scale_rows(values[:latent], ends.latent_scale)
            values[latent:] *= np.float32(_LOGVAR_GAIN)
        case "vae", "quant_conv.bias":
            values[:latent] = ends.latent_bias
            values[latent:] = _LOGVAR
        case "vae", "decoder.conv_out.weight":
            scale_rows(values, ends.image_scale)
        case "vae", "decoder.conv_out.bias":
            values[:] = ends.image_bias
        case ("unet", "conv_out.weight") | ("state_dict_unet", "conv_out.lora_B.default.weight"):
            scale_rows(values, ends.eps_scale)
        case "unet", "conv_out.bias":
            values[:] = ends.eps_bias


def _write(folder: Path, plan: Recipe) -> None:
    import torch

    expected = expected_tensors(plan.architecture)

    def tensors(group: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
        for name, shape in expected[group].items():
            yield name, tensor(plan, group, name, shape)

    def state(group: str) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in tensors(group)}

    snapshot = folder / "sd-turbo"
    for group, config, stem in (
        ("unet", plan.architecture.unet, "diffusion_pytorch_model"),
        ("vae", plan.architecture.vae, "diffusion_pytorch_model"),
        ("text_encoder", plan.architecture.text_encoder, "model"),
    ):
        (snapshot / group).mkdir(parents=True, exist_ok=True)
        _write_json(snapshot / group / "config.json", config)
        write_safetensors(snapshot / group / f"{stem}.safetensors", expected[group], tensors(group))
    for name in SNAPSHOT_FILES:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text(published_text(name), encoding="utf-8")
    _write_json(snapshot / "tokenizer" / "vocab.json", byte_vocabulary())
    (snapshot / "tokenizer" / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    torch.save(state("degradation"), folder / "de_net.pth")
    torch.save(
        published_pickle(
            plan.architecture,
            state("state_dict_unet"),
            state("state_dict_vae"),
            state("modulation"),
        ),
        folder / "s3diff.pkl",
    )


def write_safetensors(
    path: Path, shapes: Shapes, tensors: Iterator[tuple[str, NDArray[np.float32]]]
) -> None:
    """Write float32 tensors one after another, so that only one is in memory at a time.

    Format: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors:
            file.write(np.ascontiguousarray(values, "<f4").data)


def byte_vocabulary() -> dict[str, int]:
    """CLIP's byte-level vocabulary without merges: 256 symbols, 256 word ends, start and end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = range(256, 256 + 256 - len(printable))
    symbols = [chr(code) for code in (*printable, *shifted)]
    words = [*symbols, *(f"{s}</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Entry of the subprocess that fills the cache: `--out DIR --size small|full [--seed N]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=("small", "full"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    synthesize(arguments.out, recipe(arguments.size, arguments.seed))


if __name__ == "__main__":
    main()
