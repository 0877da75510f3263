"""What the tests on a card share: small tiles, loaded pipelines, traces of an image."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.contract import Precision, WeightsSource
from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.optimized import S3DiffOptimized
from srbench.cases import Case
from srbench.inputs import case_input
from srbench.registry import parse_options

TILES = {
    "latent_tile": "32",
    "latent_overlap": "8",
    "vae_encoder_tile": "192",
    "vae_decoder_tile": "16",
}
"""So that even `mini` on a small image has several tiles of every kind."""

CASE = Case.parse("96x80x4")
PIPELINES = {"baseline": S3DiffBaseline, "optimized": S3DiffOptimized}


class Painted(NamedTuple):
    """A picture before its rounding, [H, W, 3] float32, and the predicted noise."""

    picture: NDArray[np.float32]
    eps: NDArray[np.float32]


def loaded(
    kind: str,
    weights: WeightsSource,
    device: str,
    precision: Precision,
    options: Mapping[str, str] = TILES,
) -> Any:
    """A pipeline with these options as texts, its weights on the device."""
    found = PIPELINES[kind]
    pipeline = found(parse_options(found, options))
    pipeline.load(weights, torch.device(device), precision)
    return pipeline


def pixels(case: Case = CASE) -> NDArray[np.uint8]:
    """The input of a case."""
    return case_input(case, None).pixels


def paint(pipeline: Any, case: Case = CASE, seed: int = 3) -> Painted:
    """One image and what the UNet said about it."""
    eps: list[NDArray[np.float32]] = []
    picture = pipeline.upscale_float(
        pixels(case),
        case.scale,
        seed=seed,
        observe=lambda name, x: eps.append(x.float().cpu().numpy()) if name == "eps" else None,
    )
    return Painted(picture, eps[0])


def eight_bit(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """As it would be written."""
    return np.rint(picture * 255).astype(np.uint8)


def traced(call: Callable[[], object]) -> list[dict[str, Any]]:
    """Everything that the profiler saw of the driver and the card while `call` ran.

    Returns:
        Events with `name`, `cat` (`kernel`, `gpu_memcpy`, `cuda_runtime`, …) and `args`.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    return [event for event in events if "cat" in event]


def graph_launches(call: Callable[[], object]) -> int:
    """How many CUDA graphs were replayed while `call` ran."""
    return sum("GraphLaunch" in event["name"] for event in traced(call))


def copied_bytes(events: list[dict[str, Any]], direction: str) -> int:
    """Bytes of all copies in a direction, `HtoD` or `DtoH`."""
    copies = (event for event in events if event["cat"] == "gpu_memcpy")
    return sum(int(event["args"]["bytes"]) for event in copies if direction in event["name"])
