"""Synthetic runs with a stated noise model, for tests of everything that reads records."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass, field, replace
from io import BytesIO
from math import exp, sqrt
from pathlib import Path
from typing import Any

from srbench.records import (
    BlockRecord,
    CellRecord,
    EndRecord,
    FidelityRecord,
    Run,
    RunRecord,
    Sample,
)

BASELINE = "s3diff-baseline"
OPTIMIZED = "s3diff-optimized"
CASES = ["48x32x4", "64x64x2", "96x64x2"]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Log-time noise: relative standard deviations.

    Attributes:
        process: Of one worker process, apart for each arm and block.
        block: Of a block, shared by both arms.
        iteration: Of one image, following AR(1).
        correlation: Of neighbouring images.
    """

    process: float = 0.005
    block: float = 0.01
    iteration: float = 0.01
    correlation: float = 0.5


TYPICAL = Noise()
QUIET = Noise(process=0.001, block=0.002, iteration=0.002)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to make up; `slowdown` multiplies the candidate's time."""

    cases: list[str] = field(default_factory=lambda: list(CASES))
    arms: list[str] = field(default_factory=lambda: [BASELINE, OPTIMIZED])
    blocks: int = 6
    pairs: int = 5
    seed: int = 0
    profile: str = "cpu"
    speedup: float = 2.0
    slowdown: float = 1.0
    peak_growth: float = 1.0
    psnr: float = 75.0
    worst_block: float = 60.0
    synthetic: bool = True
    noise: Noise = TYPICAL
    crops: bool = False
    head: dict[str, Any] = field(default_factory=dict)


def make_run(spec: Spec | None = None, **changes: Any) -> Run:
    spec = replace(spec or Spec(), **changes)
    rng = random.Random(spec.seed)
    cells = [cell for block in range(spec.blocks) for cell in _block(spec, block, rng)]
    head = make_head(spec)
    fidelity = [make_fidelity(spec, case, arm) for case in spec.cases for arm in spec.arms[1:]]
    if head.precision == "fp16":
        fidelity += [_from_fp32(case, arm) for case in spec.cases for arm in spec.arms]
    return Run(
        head=head,
        cells=cells,
        fidelity=fidelity,
        finished_blocks=set(range(spec.blocks)),
        ended=True,
    )


def make_head(spec: Spec) -> RunRecord:
    facts: dict[str, Any] = {
        "run_id": f"20250102T030405Z-{spec.profile}-{spec.seed:04x}",
        "started_at": "2025-01-02T03:04:05+00:00",
        "srbench_version": "0.1.0",
        "profile": spec.profile,
        "device": "cpu" if spec.profile == "cpu" else "cuda",
        "precision": "fp32" if spec.profile == "cpu" else "fp16",
        "tf32": False,
        "cases": spec.cases,
        "pipelines": spec.arms,
        "options": {arm: {"latent_tile": 96, "color_fix": "wavelet"} for arm in spec.arms},
        "versions": dict.fromkeys(spec.arms, "1"),
        "tiers": dict.fromkeys(spec.arms, "exact" if spec.profile == "cpu" else "reduced"),
        "weights": {
            "kind": "mini",
            "digest": "ab" * 32,
            "synthetic": spec.synthetic,
            "label": "mini (synthetic)" if spec.synthetic else "S3Diff",
        },
        "inputs": {case: {"sha256": _digest(case), "source": "astronaut"} for case in spec.cases},
        "blocks": spec.blocks,
        "pairs": spec.pairs,
        "seed": spec.seed,
        "noise_seed": 0,
        "fingerprint": {
            "commit": "0123abc",
            "cpu_model": "Some CPU",
            "cpu_cores": 2,
            "versions": {"torch": "2.14.1", "triton": None},
        },
        "argv": ["srbench", "run"],
    }
    return RunRecord(**(facts | spec.head))


def make_fidelity(spec: Spec, case: str, arm: str) -> FidelityRecord:
    return FidelityRecord(
        case=case,
        pipeline=arm,
        reference=spec.arms[0],
        metrics={"psnr": spec.psnr, "ssim": 0.9999, "worst_block_psnr": spec.worst_block},
        not_measured={"lpips": "no weights: run srbench weights fetch --metrics"},
        providers={"psnr": "pyiqa 0.1.16 (psnr)"},
        worst_block=[64, 0],
        crops=make_crops(spec.seed) if spec.crops else {},
    )


def _from_fp32(case: str, arm: str) -> FidelityRecord:
    metrics = {"psnr": 52.0, "psnr_float": 53.0}
    return FidelityRecord(case=case, pipeline=arm, reference="fp32", metrics=metrics)


def make_crops(seed: int) -> dict[str, str]:
    import numpy as np

    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, 64, dtype=np.float32)
    scene = np.stack(
        [ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None], 128 + 0 * ramp * ramp[:, None]], -1
    )
    baseline = np.clip(scene, 0, 255).astype(np.uint8)
    candidate = np.clip(scene + rng.integers(-3, 4, scene.shape), 0, 255).astype(np.uint8)
    return {
        "input": _png(baseline[::4, ::4]),
        "baseline": _png(baseline),
        "candidate": _png(candidate),
    }


def change_cell(run: Run, index: int, **changes: Any) -> Run:
    cells = list(run.cells)
    cells[index] = replace(cells[index], **changes)
    return replace(run, cells=cells)


def change_fidelity(run: Run, index: int, **changes: Any) -> Run:
    records = list(run.fidelity)
    records[index] = replace(records[index], **changes)
    return replace(run, fidelity=records)


def change_head(run: Run, **changes: Any) -> Run:
    return replace(run, head=replace(run.head, **changes))


def write_run(run: Run, root: Path) -> Path:
    """The run as a results file in `root/<profile>/`."""
    path = root / run.head.profile / f"{run.head.run_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [
        BlockRecord(block=block, finished_at=run.head.started_at)
        for block in sorted(run.finished_blocks)
    ]
    end = [EndRecord(finished_at=run.head.started_at)] if run.ended else []
    records = [run.head, *run.cells, *done, *run.fidelity, *end]
    path.write_text("".join(json.dumps(record.to_json()) + "\n" for record in records))
    return path


def _block(spec: Spec, block: int, rng: random.Random) -> list[CellRecord]:
    noise = spec.noise
    shared = rng.gauss(0, noise.block)
    process = {arm: rng.gauss(0, noise.process) for arm in spec.arms}
    cells = []
    for case in spec.cases:
        drift = rng.gauss(0, noise.iteration)
        times: dict[str, list[float]] = {arm: [] for arm in spec.arms}
        for _ in range(spec.pairs):
            for arm in spec.arms:
                step = rng.gauss(0, noise.iteration) * sqrt(1 - noise.correlation**2)
                drift = noise.correlation * drift + step
                log_noise = shared + process[arm] + drift
                times[arm].append(_base_ms(spec, case, arm) * exp(log_noise))
        cells += [_cell(spec, block, case, arm, times[arm]) for arm in spec.arms]
    return cells


def _cell(spec: Spec, block: int, case: str, arm: str, times: list[float]) -> CellRecord:
    candidate = arm != spec.arms[0]
    peak = round(_pixels(case) * 4000 * (0.8 * spec.peak_growth if candidate else 1.0))
    samples = [
        Sample(
            pair=pair,
            position=2 * pair + candidate,
            latency_ms=time,
            stages_ms={
                "degradation": 0.1 * time,
                "vae_encode": 0.2 * time,
                "unet": 0.3 * time,
                "vae_decode": 0.35 * time,
                "color_fix": 0.03 * time,
                "postprocess": 0.002 * time,
            },
            output_sha256=_digest(case + arm),
        ).to_json()
        for pair, time in enumerate(times)
    ]
    memory = {"peak_tensor_bytes": peak, "allocator_peak_bytes": None}
    if spec.profile != "cpu":
        memory = {"peak_tensor_bytes": peak, "allocator_peak_bytes": 1000 * peak}
    return CellRecord(
        block=block,
        case=case,
        pipeline=arm,
        outcome="ok",
        load_ms=900.0,
        prepare_ms=12.0,
        warmup_ms=[2.1 * times[0], times[0]],
        samples=samples,
        memory=memory,
        work={
            "launches": 900 if candidate else 2400,
            "host_device_bytes": 0 if candidate else 1_000_000,
            "calls": {"unet": 2, "text_encoder": 0 if candidate else 2},
            "flops": {"unet": 3 * _pixels(case) * 10**6, "vae_decode": _pixels(case) * 10**6},
        },
        picture_sha256=_digest(case + arm) if block == 0 else None,
    )


def _base_ms(spec: Spec, case: str, arm: str) -> float:
    time = 0.05 * _pixels(case)
    return time if arm == spec.arms[0] else time / spec.speedup * spec.slowdown


def _pixels(case: str) -> int:
    width, height, scale = (int(part) for part in case.split("x"))
    return width * height * scale


def _digest(text: str) -> str:
    return (text.encode().hex() * 64)[:64]


def _png(pixels: Any) -> str:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
