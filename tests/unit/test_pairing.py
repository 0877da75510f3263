"""One arm after the other, for devices that do not hold both; and what is asked before a run."""

from pathlib import Path
from typing import Any

import pytest

from srbench.arm import Arm
from srbench.opening import fit_together, load_all
from srbench.outcome import Failure, Outcome
from srbench.protocol import Estimated, Loaded
from tests.unit.test_coordinator import ARM, FIXTURES, make_job, measure

SLOW = f"{FIXTURES}:Slow"


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("weights")
    return measure(make_job(folder, (ARM, SLOW), blocks=2, pairing="block"))


def test_every_cell_is_measured_and_paired(one_by_one: Any) -> None:
    memory, facts, completed, _, pictures = one_by_one
    assert facts.pairing == "block"
    assert completed == 2
    cells = memory.cells()
    assert len({(c.block, c.case, c.pipeline) for c in cells}) == len(cells) == 8
    assert all([s["pair"] for s in cell.samples] == [0, 1] for cell in cells)
    assert set(pictures["32x16x2"]) == {ARM, SLOW}


def test_the_arms_do_not_take_turns(one_by_one: Any) -> None:
    """All cells of one arm, then all of the other, in each block."""
    memory = one_by_one[0]
    for block in (0, 1):
        order = [c.pipeline for c in memory.cells() if c.block == block]
        assert order[0] == order[1] != order[2] == order[3]
        case = [c for c in memory.cells() if (c.block, c.case) == (block, "32x16x2")]
        assert sorted(s["position"] for c in case for s in c.samples) == [0, 1, 2, 3]


class Foretelling(Arm):
    """Answers what its images need, without a worker."""

    def __init__(self, needed: int, free: int) -> None:
        self._reply = Estimated(needed_bytes=needed, free_bytes=free)

    def ask(self, *_: Any) -> Any:
        return self._reply


@pytest.mark.parametrize(("second", "fits"), [(4, True), (5, False)])
def test_two_arms_fit_when_their_largest_images_do(second: int, fits: bool) -> None:
    arms = {"a": Foretelling(6, 12), "b": Foretelling(second, 10)}
    assert fit_together(arms, ["16x16x2", "32x16x2"]) is fits


def test_an_estimate_comes_from_a_real_worker(tmp_path: Path) -> None:
    job = make_job(tmp_path, (ARM,))
    arm = Arm(ARM, job, tmp_path, lambda _: None)
    try:
        assert fit_together({ARM: arm}, job.plan.cases)
    finally:
        arm.kill()


class Failing(Arm):
    """Cannot tell what its images need."""

    def __init__(self, outcome: Outcome) -> None:
        self._reply = Failure(outcome, "no")

    def ask(self, *_: Any) -> Any:
        return self._reply


@pytest.mark.parametrize(
    ("outcome", "fits"), [(Outcome.OUT_OF_MEMORY, False), (Outcome.CRASH, True)]
)
def test_weights_without_room_beside_the_others_do_not_fit(outcome: Outcome, fits: bool) -> None:
    arms = {"a": Foretelling(6, 12), "b": Failing(outcome)}
    assert fit_together(arms, ["16x16x2"]) is fits


class Logged(Arm):
    """Loads nothing and tells when."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self._told = name, log

    def load(self) -> Any:
        self._told.append(f"load {self.name}")
        return Loaded(load_ms=1.0, tf32=False)

    def stop(self) -> None:
        self._told.append(f"stop {self.name}")


def test_arms_that_take_no_turns_are_not_loaded_side_by_side() -> None:
    log: list[str] = []
    arms = {name: Logged(name, log) for name in "ab"}
    load_all(arms, one_by_one=True)
    assert log == ["load a", "stop a", "load b", "stop b"]
    log.clear()
    load_all(arms, one_by_one=False)
    assert log == ["load a", "load b"]
