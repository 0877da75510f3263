"""Results files of a whole fleet, without workers: what stores and reports are weighed by.

`python -m srbench.simulation.fleet --nodes 1000 --out DIR` writes what a CUDA run would write, full
readings of the card included, with seeded numbers. Nothing in it was measured and every table of it
says SIMULATED. Unlike those of `srbench simulate`, neighbouring images are independent here: the
files are to be read in bulk, no error rate is proved by them.
"""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from srbench import __version__
from srbench.cases import Case
from srbench.fidelity.roles import FP32, OTHER_SEED, REPEAT
from srbench.plan import CellPlan, Plan, make_plan
from srbench.profiles import Profile, load_profile
from srbench.records import (
    BlockRecord,
    CellRecord,
    EndRecord,
    FidelityRecord,
    Record,
    RunRecord,
    Sample,
)
from srbench.simulation import numbers
from srbench.simulation.noise import PROFILES
from srbench.simulation.plants import Plants
from srbench.simulation.preparing import OTHER_PIPELINE, PURPOSE
from srbench.simulation.scenario import DEVICE, SimulatedOptions
from srbench.store import RunWriter

CASES = ("128x128x4", "512x512x2", "720x1280x2", "1024x1024x2", "1920x1080x2")
CARDS = ("a10", "l20", "h100", "h200")
SPEEDUPS = {"a10": 2.0, "l20": 2.1, "h100": 1.8, "h200": 1.85}
DRIVERS = ("550.54.15", "550.54.15", "550.54.15", "550.90.07")
"""A quarter of the nodes is a patch level ahead."""

_STARTED_AT = "2026-01-01T00:00:00+00:00"
_REFERENCE_TFLOPS = 125.0
"""The card whose times are those of `srbench.simulation.numbers`."""
_NODE_LOG = 0.01
"""Standard deviation between nodes of one card, of times and of ratios, in log units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is written.

    Attributes:
        nodes: Machines, each with a card and a run of its own; the cards take turns.
        blocks, pairs: Of every run, whose five cases and two arms make 10 x blocks x pairs samples.
        seed: Of every number.
        cards: Profiles.
    """

    nodes: int
    blocks: int = 10
    pairs: int = 10
    seed: int = 0
    cards: tuple[str, ...] = CARDS


def write_fleet(fleet: Fleet, out: Path) -> list[Path]:
    """Write the run of every node, `out/<card>/<run>.jsonl`, and return their files."""
    return [_write(fleet, node, out) for node in range(fleet.nodes)]


def _write(fleet: Fleet, node: int, out: Path) -> Path:
    profile = load_profile(fleet.cards[node % len(fleet.cards)])
    plan = make_plan(
        CASES,
        OTHER_PIPELINE,
        device="cuda",
        seed=fleet.seed,
        blocks=fleet.blocks,
        pairs=fleet.pairs,
    )
    rng = np.random.default_rng([fleet.seed, node])
    true_ms = _true_ms(profile, rng)
    with RunWriter.create(out, _head(fleet, node, plan, profile)) as writer:
        for block in range(plan.blocks):
            done = BlockRecord(block=block, finished_at=_STARTED_AT)
            writer.append([*_cells(plan, block, true_ms, rng), done])
        writer.append([*_fidelity(), EndRecord(finished_at=_STARTED_AT)])
        return writer.path


def _true_ms(profile: Profile, rng: np.random.Generator) -> dict[tuple[str, str], float]:
    """(case, arm) -> the node's own time of an image."""
    scale = _REFERENCE_TFLOPS / (profile.fp16_tflops or _REFERENCE_TFLOPS)
    speed, ratio = (exp(rng.normal(0, _NODE_LOG)) for _ in range(2))
    baseline, candidate = OTHER_PIPELINE
    times = {case: numbers.true_ms(Case.parse(case), 1.0) * scale * speed for case in CASES}
    faster = SPEEDUPS.get(profile.name, 2.0) * ratio
    return {
        **{(case, baseline): time for case, time in times.items()},
        **{(case, candidate): time / faster for case, time in times.items()},
    }


def _cells(
    plan: Plan, block: int, true_ms: dict[tuple[str, str], float], rng: np.random.Generator
) -> Iterator[CellRecord]:
    noise = PROFILES["typical"]
    shared = rng.normal(0, noise.block)
    process = {arm: shared + rng.normal(0, noise.process) for arm in plan.arms}
    for turn, cell in enumerate(plan.block(block)):
        start = turn * plan.pairs * len(plan.arms)
        for arm in plan.arms:
            factors = np.exp(process[arm] + rng.normal(0, noise.iteration, plan.pairs))
            times = (true_ms[cell.case, arm] * factors).tolist()
            yield _cell(block, cell, arm, start, times)


def _cell(block: int, plan: CellPlan, arm: str, start: int, times: list[float]) -> CellRecord:
    case = Case.parse(plan.case)
    nothing = Plants()
    turns = [position for position, name in enumerate(sum(plan.rounds, ())) if name == arm]
    digest = _digest(plan.case, arm)
    energy = numbers.energy(case, 1.0 if arm == OTHER_PIPELINE[0] else 2.0, nothing)
    first = block == 0
    samples = [
        Sample(
            pair=pair,
            position=position,
            latency_ms=time,
            gpu_ms=numbers.gpu_ms(time),
            stages_ms=numbers.stages_ms(time),
            state=_state(start + position),
            output_sha256=digest,
        ).to_json()
        for pair, (position, time) in enumerate(zip(turns, times, strict=True))
    ]
    return CellRecord(
        block=block,
        case=plan.case,
        pipeline=arm,
        outcome="ok",
        load_ms=numbers.LOAD_MS,
        prepare_ms=numbers.prepare_ms(case),
        warmup_ms=[times[0] * numbers.warming(image) for image in range(10)],
        samples=samples,
        memory=numbers.memory(case, nothing) if first else {},
        work=numbers.work(case, nothing) if first else {},
        energy_j=energy["gross_j"] if first else None,
        energy=energy if first else {},
        picture_sha256=digest if first else None,
    )


def _state(position: int) -> dict[str, Any]:
    before, after = (
        numbers.reading(at, hot=False, foreign=False) for at in (position, position + 1)
    )
    return {"before": before, "after": after}


def _fidelity() -> Iterator[Record]:
    baseline, candidate = OTHER_PIPELINE
    pairings = [(candidate, baseline), (baseline, REPEAT), (candidate, REPEAT)]
    pairings += [(baseline, OTHER_SEED), (baseline, FP32), (candidate, FP32)]
    for case in CASES:
        for arm, reference in pairings:
            equal = reference == REPEAT
            yield FidelityRecord(
                case=case,
                pipeline=arm,
                reference=reference,
                metrics={
                    "psnr": 80.0 if equal else 50.0,
                    "ssim": 1.0 if equal else 0.9995,
                    "worst_block_psnr": 80.0 if equal else 44.0,
                    **({"distinct_pictures": 1.0} if equal else {}),
                },
                not_measured={"lpips": "simulated: no metric with a network is computed"},
                picture_sha256=_digest(case, arm),
            )


def _head(fleet: Fleet, node: int, plan: Plan, profile: Profile) -> RunRecord:
    options = asdict(SimulatedOptions())
    return RunRecord(
        run_id=f"20260101T000000Z-{profile.name}-{fleet.seed:x}{node:05x}",
        started_at=_STARTED_AT,
        srbench_version=__version__,
        profile=profile.name,
        device="cuda",
        precision="fp16",
        tf32=False,
        cases=list(CASES),
        pipelines=list(OTHER_PIPELINE),
        options=dict.fromkeys(OTHER_PIPELINE, options),
        versions=dict.fromkeys(OTHER_PIPELINE, "1"),
        tiers=dict.fromkeys(OTHER_PIPELINE, "reduced"),
        weights={"kind": "folder", "digest": DEVICE, "synthetic": True, "label": DEVICE},
        inputs={case: {"sha256": _digest(case), "source": DEVICE} for case in CASES},
        blocks=plan.blocks,
        pairs=plan.pairs,
        seed=plan.seed,
        noise_seed=0,
        fingerprint=_fingerprint(fleet, node, profile),
        argv=["python", "-m", __spec__.name],
        purpose=PURPOSE,
        arms={arm: {"pipeline": arm, "revision": None, "commit": None} for arm in OTHER_PIPELINE},
    )


def _fingerprint(fleet: Fleet, node: int, profile: Profile) -> dict[str, Any]:
    driver = DRIVERS[node // len(fleet.cards) % len(DRIVERS)]
    return {
        "host": _digest("host", node)[:12],
        "cpu_model": "simulated processor",
        "cpu_cores": 32,
        "python": "3.11.0",
        "versions": {"torch": "2.14.1", "triton": None},
        "commit": None,
        "dirty": False,
        "gpu_name": f"simulated {profile.title}, nothing was measured",
        "gpu_uuid": f"GPU-{_digest('card', node)[:32]}",
        "gpu_memory_bytes": round((profile.memory_gib or 0) * numbers.GIB),
        "driver": driver,
        "cuda_driver": "12.4",
        "power_limit_w": profile.power_w,
    }


def _digest(*words: object) -> str:
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


def main() -> None:
    """Write a fleet as the command line asks."""
    parser = ArgumentParser(prog="srbench.simulation.fleet", description="Write a fleet's results.")
    parser.add_argument("--nodes", type=int, default=1, help="machines, a run of each")
    parser.add_argument("--blocks", type=int, default=10, help="of each run")
    parser.add_argument("--pairs", type=int, default=10, help="of each case in a block")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="results folder")
    given = parser.parse_args()
    fleet = Fleet(nodes=given.nodes, blocks=given.blocks, pairs=given.pairs, seed=given.seed)
    write_fleet(fleet, given.out)


if __name__ == "__main__":
    main()
