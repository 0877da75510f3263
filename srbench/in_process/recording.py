"""Measurements as a results file, and one of them as a run to judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from srbench.coordinator import utc_now
from srbench.fingerprint import fingerprint
from srbench.heading import start_of_run
from srbench.in_process.measurement import Measurement
from srbench.in_process.pictures import ARMS
from srbench.nvml import list_gpus
from srbench.profiles import Profile, choose_profile
from srbench.records import EndRecord, Record, Run, RunRecord


def run_of(measured: Measurement) -> Run:
    """One test alone as a run that the gate can judge."""
    return Run(
        head=make_head([measured]),
        cells=measured.cells,
        fidelity=measured.fidelity,
        finished_blocks={record.block for record in measured.blocks},
        ended=True,
    )


def alike(measured: Iterable[Measurement]) -> list[list[Measurement]]:
    """Measurements that one head can describe; those without a cell are left out."""
    groups: dict[tuple[Any, ...], list[Measurement]] = {}
    for each in measured:
        design = each.design
        like = (each.device, replace(design, min_speedup=None), design.min_speedup is None)
        if each.cells:
            groups.setdefault(like, []).append(each)
    return list(groups.values())


def records_of(
    group: Sequence[Measurement], *, interrupted: bool
) -> tuple[RunRecord, list[Record]]:
    """The lines of the results file of measurements that are `alike`: head and the rest.

    A test that ended early closed fewer blocks; the longest list has a line for every block that
    any test has cells of.
    """
    blocks = max((each.blocks for each in group), key=len)
    notes = [note for each in group for record in each.blocks[:1] for note in record.notes]
    records: list[Record] = [cell for each in group for cell in each.cells]
    records += [replace(record, notes=list(dict.fromkeys(notes))) for record in blocks]
    records += [record for each in group for record in each.fidelity]
    records.append(EndRecord(finished_at=utc_now(), interrupted=interrupted))
    return make_head(group), records


def make_head(group: Sequence[Measurement]) -> RunRecord:
    """The first line for measurements that are `alike`.

    Without a wanted speed-up both arms are given as one pipeline, which the gate holds to the
    policy's margin.
    """
    design = group[0].design
    profile, facts = _machine(group[0].device)
    roles = ARMS if design.min_speedup is not None else ("callable", "callable")
    return RunRecord(
        **start_of_run(profile),
        device=group[0].device,
        precision="native",
        tf32=False,
        cases=[each.case for each in group],
        pipelines=list(ARMS),
        options={arm: {"process": "shared"} for arm in ARMS},
        versions=dict.fromkeys(ARMS, "-"),
        tiers=dict.fromkeys(ARMS, design.tier),
        weights={"kind": "none", "digest": "", "synthetic": False, "label": "none: callables"},
        inputs={each.case: {"source": "the test itself"} for each in group},
        blocks=design.blocks,
        pairs=design.pairs,
        seed=design.seed,
        noise_seed=0,
        fingerprint=facts,
        argv=["pytest"],
        arms={
            arm: {"pipeline": role, "revision": None, "commit": None}
            for arm, role in zip(ARMS, roles, strict=True)
        },
    )


@cache
def _machine(device: str) -> tuple[Profile, dict[str, Any]]:
    profile, gpu = choose_profile("auto", list_gpus() if device == "cuda" else [])
    return profile, fingerprint(gpu)
