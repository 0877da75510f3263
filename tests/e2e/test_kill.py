"""Kill -9 at random moments: nothing lost, nothing doubled, nothing left behind."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from srbench.errors import ExitCode
from srbench.records import Run
from srbench.store import list_runs
from tests.e2e.simulated import Folder, cells, kill, latencies, wait_until

pytestmark = pytest.mark.e2e

KILLS = 50
MOST_RUNS = 12
BLOCKS = 8
CASES = ("16x16x1", "24x16x1")
DESIGN = ("--cases", *CASES, "--blocks", str(BLOCKS), "--pairs", "2", "--seed", "17")
PACE_MS = 3
LATEST_S = 1.8
"""Of a kill after the one before: past the start, past some blocks, at times past the run's end."""


class Victim:
    """One run that is killed again and again until it has had its share."""

    def __init__(self, folder: Folder, dice: random.Random) -> None:
        self.folder = folder
        self.dice = dice
        self.coordinators = self.workers = 0

    @property
    def kills(self) -> int:
        return self.coordinators + self.workers

    def finish(self, kills: int) -> None:
        """Start, kill and resume until the run has ended; after so many kills leave it alone."""
        for _ in range(2 * KILLS):
            begun = self.folder.file is not None
            arguments = ("--resume",) if begun else DESIGN
            with self.folder.started("simulate", "--pace", PACE_MS, *arguments) as process:
                self.strike(process, kills)
                process.communicate(timeout=60)
            assert wait_until(lambda: not self.folder.processes(), 10), "a process is left behind"
            if self.folder.file is not None and self.folder.run.ended:
                # Its own folder is left where it was killed between its last line and its end.
                assert self.folder.temporary_owners() <= {process.pid}
                return
        raise AssertionError("the run never ended")

    def strike(self, process: subprocess.Popen[str], kills: int) -> None:
        """Kill the coordinator, or workers until the coordinator ends or it is its turn."""
        while self.kills < kills:
            moment = time.monotonic() + self.dice.uniform(0, LATEST_S)
            wait_until(lambda at=moment: time.monotonic() > at or process.poll() is not None, 60)
            if process.poll() is not None:
                return
            workers = sorted(self.folder.processes() - {process.pid})
            if workers and self.dice.random() < 0.5:
                kill(self.dice.choice(workers))
                self.workers += 1
            else:
                process.kill()
                self.coordinators += 1
                return


def raw_kinds(path: Path) -> Counter[tuple[str, int]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return Counter((line["kind"], line.get("block", -1)) for line in lines)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Run:
    folder = Folder(tmp_path_factory.mktemp("undisturbed"), project_root)
    with folder.started("simulate", *DESIGN) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.OK, err
    return folder.run


def test_random_kills_lose_and_double_nothing(
    undisturbed: Run, tmp_path: Path, project_root: Path
) -> None:
    dice = random.Random(3)
    victims: list[Victim] = []
    crashed = 0
    while (left := KILLS - sum(victim.kills for victim in victims)) and len(victims) < MOST_RUNS:
        place = tmp_path / str(len(victims))
        place.mkdir()
        victims.append(Victim(Folder(place, project_root), dice))
        victims[-1].finish(left)
        crashed += check(victims[-1], undisturbed)
    coordinators = sum(victim.coordinators for victim in victims)
    workers = sum(victim.workers for victim in victims)
    assert coordinators + workers == KILLS
    assert min(coordinators, workers) >= KILLS // 10
    assert crashed, "a killed worker is an outcome"


def check(victim: Victim, undisturbed: Run) -> int:
    """Hold a run against the undisturbed one; returns how many of its cells crashed."""
    run, path = victim.folder.run, victim.folder.file
    assert path is not None
    assert len(list_runs(victim.folder.folder / "results")) == 1
    assert cells(run) == cells(undisturbed)
    broken = [cell for cell in run.cells if cell.outcome != "ok"]
    # Where one arm broke, the other's images come earlier: other positions, other noise.
    alone = {(cell.block, cell.case) for cell in broken}
    truth, found = latencies(undisturbed), latencies(run)
    assert [len(found[cell]) for cell in found] == [len(truth[cell]) for cell in found]
    whole = [cell for cell in found if cell[:2] not in alone]
    assert [found[cell] for cell in whole] == [truth[cell] for cell in whole]
    # One that dies while it loads is not tried again in its block.
    assert len(broken) <= len(CASES) * victim.workers
    assert {cell.outcome for cell in broken} <= {"crash"}
    assert all("SIGKILL" in (cell.reason or "") for cell in broken)
    judged = {(record.case, record.pipeline, record.reference) for record in run.fidelity}
    assert judged == {(r.case, r.pipeline, r.reference) for r in undisturbed.fidelity}
    kinds = raw_kinds(path)
    assert [kinds["block", block] for block in range(BLOCKS)] == [1] * BLOCKS
    assert (kinds["run", -1], kinds["end", -1]) == (1, 1)
    return len(broken)


def test_kills_of_the_real_pipeline_lose_nothing(tmp_path: Path, project_root: Path) -> None:
    dice = random.Random(5)
    folder = Folder(tmp_path, project_root)
    design = ("--gpu", "cpu", "--cases", "24x24x4", "--blocks", "2", "--pairs", "1")
    with folder.started("run", "--weights", "mini", *design) as process:
        assert wait_until(lambda: folder.file is not None, 120)
        time.sleep(dice.uniform(0, 0.5))
        kill(dice.choice(sorted(folder.processes() - {process.pid})))
        assert wait_until(lambda: folder.run.finished_blocks == {0}, 120)
        time.sleep(dice.uniform(0, 2))
        process.kill()
    assert wait_until(lambda: not folder.processes(), 30), "a process is left behind"
    with folder.started("run", "--resume") as process:
        assert wait_until(lambda: folder.run.finished_blocks == {0, 1}, 120)
        assert wait_until(lambda: len(folder.processes()) > 1, 60)
        kill(dice.choice(sorted(folder.processes() - {process.pid})))
        _, err = process.communicate(timeout=240)
    assert process.returncode == ExitCode.INFRASTRUCTURE, err
    run = folder.run
    assert run.ended
    arms = ("s3diff-baseline", "s3diff-optimized")
    assert cells(run) == {(block, "24x24x4", arm) for block in (0, 1) for arm in arms}
    (broken,) = (cell for cell in run.cells if cell.outcome != "ok")
    assert (broken.block, broken.outcome) == (0, "crash")
    assert [len(times) for times in latencies(run).values()] == [1, 1, 1]
    # All that was to be judged is answered, if only by a crash.
    references = Counter((record.pipeline, record.reference) for record in run.fidelity)
    assert references[arms[1], arms[0]] == 1
    assert set(references.values()) == {1}
    assert folder.file is not None
    kinds = raw_kinds(folder.file)
    assert (kinds["block", 0], kinds["block", 1], kinds["end", -1]) == (1, 1, 1)
    assert folder.temporary_owners() == set()
