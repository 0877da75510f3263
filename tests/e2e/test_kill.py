"""Kill -9 at random moments: nothing lost, nothing doubled, nothing left behind."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from srbench.errors import ExitCode
from srbench.records import Run
from srbench.store import list_runs
from tests.e2e.leading import Show, led
from tests.e2e.simulated import Folder, cells, kill, latencies, wait_until

pytestmark = pytest.mark.e2e

KILLS = 50
BY_COMMAND = 4
"""Kills of a run that the command line leads; the others are led without its start and report."""
MOST_RUNS = 25
BLOCKS = 4
SHOW = Show(cases=("16x16x1", "24x16x1"), blocks=BLOCKS, pairs=2, seed=17)
DESIGN = ("--cases", *SHOW.cases, "--blocks", BLOCKS, "--pairs", SHOW.pairs, "--seed", SHOW.seed)
LATEST_S = 0.7
LATEST_BY_COMMAND_S = 1.8
"""Of a kill after the one before: past the start, past some blocks, at times past the run's end."""
Leader = subprocess.Popen[str] | BaseProcess
"""Both name their pid and kill themselves alike."""


class Victim:
    """One run that is killed again and again until it has had its share."""

    def __init__(self, folder: Folder, dice: random.Random, *, by_command: bool) -> None:
        self.folder = folder
        self.dice = dice
        self.by_command = by_command
        self.latest_s = LATEST_BY_COMMAND_S if by_command else LATEST_S
        self.coordinators = self.workers = 0

    @property
    def kills(self) -> int:
        return self.coordinators + self.workers

    def finish(self, kills: int) -> None:
        """Start, kill and resume until the run has ended; after so many kills leave it alone."""
        for _ in range(2 * KILLS):
            with self.started() as leader:
                self.strike(leader, kills)
                assert self.let_run(leader, time.monotonic() + 60)
            assert wait_until(lambda: not self.folder.processes(), 10), "a process is left behind"
            if self.folder.file is not None and self.folder.run.ended:
                # Its own folder is left where it was killed between its last line and its end.
                assert self.folder.temporary_owners() <= {leader.pid}
                return
        raise AssertionError("the run never ended")

    def started(self) -> AbstractContextManager[Leader]:
        begun = self.folder.file is not None
        if not self.by_command:
            return led(self.folder, None if begun else SHOW)
        return self.folder.started("simulate", *(("--resume",) if begun else DESIGN))

    def strike(self, leader: Leader, kills: int) -> None:
        """Kill the coordinator, or workers until the coordinator ends or it is its turn."""
        while self.kills < kills:
            moment = time.monotonic() + self.dice.uniform(0, self.latest_s)
            if self.let_run(leader, moment):
                return
            workers = sorted(self.folder.workers())
            if workers and self.dice.random() < 0.5:
                kill(self.dice.choice(workers))
                self.workers += 1
            else:
                leader.kill()
                self.coordinators += 1
                return

    @staticmethod
    def let_run(leader: Leader, until: float) -> bool:
        """Wait; returns whether it has ended by itself."""
        return wait_until(lambda: has_ended(leader), until - time.monotonic())


def has_ended(leader: Leader) -> bool:
    ended = leader.poll() if isinstance(leader, subprocess.Popen) else leader.exitcode
    return ended is not None


def raw_kinds(path: Path) -> Counter[tuple[str, int]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return Counter((line["kind"], line.get("block", -1)) for line in lines)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Run:
    folder = Folder(tmp_path_factory.mktemp("undisturbed"), project_root)
    with led(folder, SHOW) as process:
        process.join(60)
        assert process.exitcode == ExitCode.OK
    return folder.run


@pytest.mark.parametrize("kills", [16, pytest.param(KILLS, marks=pytest.mark.full)])
def test_random_kills_lose_and_double_nothing(
    undisturbed: Run, tmp_path: Path, project_root: Path, kills: int
) -> None:
    dice = random.Random(3)
    victims: list[Victim] = []
    crashed = 0
    while (left := kills - sum(victim.kills for victim in victims)) and len(victims) < MOST_RUNS:
        place = tmp_path / str(len(victims))
        place.mkdir()
        by_command = not victims
        victims.append(Victim(Folder(place, project_root), dice, by_command=by_command))
        victims[-1].finish(BY_COMMAND if by_command else left)
        crashed += check(victims[-1], undisturbed)
    coordinators = sum(victim.coordinators for victim in victims)
    workers = sum(victim.workers for victim in victims)
    assert coordinators + workers == kills
    assert min(coordinators, workers) >= kills // 10
    # Of a few, all may hit workers of blocks that the coordinator's end breaks off.
    assert crashed or kills < KILLS, "a killed worker is an outcome"


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
    assert len(broken) <= len(SHOW.cases) * victim.workers
    assert {cell.outcome for cell in broken} <= {"crash"}
    assert all("SIGKILL" in (cell.reason or "") for cell in broken)
    judged = {(record.case, record.pipeline, record.reference) for record in run.fidelity}
    assert judged == {(r.case, r.pipeline, r.reference) for r in undisturbed.fidelity}
    kinds = raw_kinds(path)
    assert [kinds["block", block] for block in range(BLOCKS)] == [1] * BLOCKS
    assert (kinds["run", -1], kinds["end", -1]) == (1, 1)
    return len(broken)


@pytest.mark.full
def test_kills_of_the_real_pipeline_lose_nothing(tmp_path: Path, project_root: Path) -> None:
    dice = random.Random(5)
    folder = Folder(tmp_path, project_root)
    design = ("--gpu", "cpu", "--cases", "24x24x4", "--blocks", "1", "--pairs", "1")
    with folder.started("run", "--weights", "mini", *design) as process:
        assert wait_until(lambda: folder.file is not None, 120)
        time.sleep(dice.uniform(0, 0.5))
        kill(dice.choice(sorted(folder.workers())))
        assert wait_until(lambda: folder.run.finished_blocks == {0}, 120)
        time.sleep(dice.uniform(0, 1))
        process.kill()
    assert wait_until(lambda: not folder.processes(), 30), "a process is left behind"
    (measured,) = latencies(folder.run).items()
    with folder.started("run", "--resume") as process:
        assert wait_until(lambda: len(folder.workers()) == 2, 60)
        painters = folder.workers()
        # The third worker compares their pictures.
        assert wait_until(lambda: bool(folder.workers() - painters), 120)
        (judge,) = folder.workers() - painters
        time.sleep(dice.uniform(0, 0.3))
        kill(judge)
        _, err = process.communicate(timeout=240)
    assert process.returncode == ExitCode.INFRASTRUCTURE, err
    run = folder.run
    assert run.ended
    arms = ("s3diff-baseline", "s3diff-optimized")
    assert cells(run) == {(0, "24x24x4", arm) for arm in arms}
    (broken,) = (cell for cell in run.cells if cell.outcome != "ok")
    assert broken.outcome == "crash"
    assert list(latencies(run).items()) == [measured]
    # All that was to be judged is answered, if only by a crash.
    answers = {(record.pipeline, record.reference): record.outcome for record in run.fidelity}
    assert answers[arms[1], arms[0]] == "crash"
    assert folder.file is not None
    kinds = raw_kinds(folder.file)
    assert (kinds["block", 0], kinds["end", -1]) == (1, 1)
    assert kinds["fidelity", -1] == len(answers)
    assert folder.temporary_owners() == set()
