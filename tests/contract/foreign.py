"""Runs of the toy engine and its lying twin, prepared as a command would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.contract import WeightsSource
from srbench.arm import Job
from srbench.armspec import parse_arm
from srbench.cases import Case
from srbench.engines import launched
from srbench.inputs import case_input
from srbench.plan import Plan, Warmup
from srbench.records import CellRecord
from srbench.registry import split_assignments

HERE = Path(__file__).parent
TOY, LIAR = HERE / "toy_engine.py", HERE / "lying_engine.py"
CASE = "16x16x2"


class Memory:
    """A sink and observer that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.notes: list[str] = []

    def append(self, records: Any) -> None:
        self.records += records

    def cell_done(self, cell: CellRecord) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def job_of(folder: Path, commands: dict[str, str], sets: Any = (), **changes: Any) -> Job:
    """A run of one image a command."""
    specs = [parse_arm(f"{name}=cmd:{command}") for name, command in commands.items()]
    assignments = split_assignments(sets, list(commands))
    return Job(
        plan=Plan(
            cases=(CASE,),
            arms=tuple(commands),
            blocks=1,
            pairs=1,
            seed=3,
            warmup=Warmup(first=1, later=1, until_steady=False),
        ),
        assignments=assignments,
        device=changes.pop("device", "cpu"),
        precision="fp32",
        weights=WeightsSource(folder, "folder", "00", False),
        inputs={CASE: case_input(Case.parse(CASE), None)},
        noise_seed=7,
        timeout_s=changes.pop("timeout_s", 60.0),
        arms={spec.name: launched(spec, assignments) for spec in specs},
        **changes,
    )
