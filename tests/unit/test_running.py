"""Begin, break off and go on, in this process, with simulated workers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srbench.cases import parse_cases
from srbench.errors import NotComparableError, UsageError
from srbench.fidelity.roles import OTHER_PROCESS
from srbench.records import CellRecord, FidelityRecord, Run
from srbench.running import Conduct, Looking, begin, resume
from srbench.simulation.preparing import design_of, make_design, prepare_simulation


class Quiet:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def cell_done(self, cell: CellRecord) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def after(blocks: int) -> Callable[[], bool]:
    """A Ctrl-C in that block."""
    asked = iter(range(100))
    return lambda: next(asked) >= blocks


def preparation(out: Path, *, looks: Any = (), plants: Any = ()) -> Any:
    design = make_design(
        parse_cases(("16x16x1",)),
        noise="quiet",
        speedup=2.0,
        plants=list(plants),
        looks=list(looks),
        against=None,
        seed=0,
        blocks=3,
        pairs=1,
    )
    return prepare_simulation(design, out, timeout_s=60, pace_ms=0)


@pytest.fixture
def broken_off(tmp_path: Path) -> Path:
    run = begin(preparation(tmp_path), tmp_path, ["simulate"], Conduct(Quiet(), stop=after(1)))
    assert (run.ended, run.finished_blocks) == (False, {0})
    return tmp_path / run.head.profile / f"{run.head.run_id}.jsonl"


def go_on(path: Path) -> Run:
    from srbench.store import read_run

    prepared = prepare_simulation(
        design_of(read_run(path).head), path.parents[1], timeout_s=60, pace_ms=0
    )
    return resume(path, prepared, Conduct(Quiet()))


def edit_head(path: Path, **changes: Any) -> None:
    head, *rest = path.read_text().splitlines()
    fields = json.loads(head)
    fields["fingerprint"]["versions"] |= changes.pop("packages", {})
    fields["fingerprint"] |= changes.pop("fingerprint", {})
    path.write_text("\n".join([json.dumps({**fields, **changes}), *rest]) + "\n")


def test_a_run_goes_on_once(broken_off: Path) -> None:
    run = go_on(broken_off)
    assert run.ended
    assert run.finished_blocks == {0, 1, 2}
    assert len(run.cells) == 6
    with pytest.raises(UsageError, match="is finished by now"):
        resume(broken_off, preparation(broken_off.parents[1]), Conduct(Quiet()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": {"driver": "535.1"}}, "driver was 535.1, is None"),
        ({"fingerprint": {"commit": "0" * 40}}, "commit was 0000"),
        ({"packages": {"torch": "1.13"}}, "torch was 1.13, is"),
        ({"fingerprint": {"cpu_threads": 99}}, "cpu threads was 99"),
        ({"pairing": "block"}, "its pairing was block"),
        ({"versions": {"simulated-baseline": "0", "simulated-optimized": "0"}}, "have changed"),
    ],
)
def test_blocks_of_two_worlds_do_not_go_into_one_file(
    broken_off: Path, changes: dict[str, Any], words: str
) -> None:
    stored = preparation(broken_off.parents[1])
    edit_head(broken_off, **changes)
    before = broken_off.read_bytes()
    with pytest.raises(NotComparableError, match=words):
        resume(broken_off, stored, Conduct(Quiet()))
    assert broken_off.read_bytes() == before


def test_another_hostname_is_no_other_machine(broken_off: Path) -> None:
    """A container has a new one with every start."""
    edit_head(broken_off, fingerprint={"host": "0123456789ab"})
    assert go_on(broken_off).ended


def test_a_look_sees_finished_blocks_only_and_may_end_the_run(tmp_path: Path) -> None:
    seen: list[set[int]] = []

    def decided(run: Run) -> bool:
        seen.append({cell.block for cell in run.cells})
        return True

    prepared = preparation(tmp_path, looks=(2, 3))
    run = begin(prepared, tmp_path, [], Conduct(Quiet(), looking=Looking(decided=decided)))
    assert seen == [{0, 1}]
    assert (run.ended, run.finished_blocks) == (True, {0, 1})


def test_a_resumed_look_does_not_see_the_block_that_was_broken_off(tmp_path: Path) -> None:
    """Killed before the look, with a cell of the next block stored already."""
    prepared = preparation(tmp_path, looks=(1, 3))
    run = begin(prepared, tmp_path, [], Conduct(Quiet(), stop=after(2)))
    path = tmp_path / run.head.profile / f"{run.head.run_id}.jsonl"
    lines = path.read_text().splitlines()
    second = next(n for n, line in enumerate(lines) if '"block": 1' in line and '"cell"' in line)
    path.write_text("\n".join(lines[: second + 1]) + "\n")
    seen: list[set[int]] = []

    def decided(run: Run) -> bool:
        seen.append({cell.block for cell in run.cells})
        return True

    done = resume(path, prepared, Conduct(Quiet(), looking=Looking(decided=decided)))
    assert seen == [{0}]
    assert {cell.block for cell in done.cells} == {0}


def test_looks_under_other_terms_are_refused(tmp_path: Path) -> None:
    """Another policy, or another run behind the name of --against, than at the earlier looks."""
    prepared = preparation(tmp_path, looks=(2, 3))
    begun = Looking(terms={"policy_sha256": "a"})
    run = begin(prepared, tmp_path, [], Conduct(Quiet(), stop=after(1), looking=begun))
    path = tmp_path / run.head.profile / f"{run.head.run_id}.jsonl"
    assert run.head.decided_by == begun.terms
    with pytest.raises(NotComparableError, match="the policy or what --against names is another"):
        resume(path, prepared, Conduct(Quiet(), looking=Looking(terms={"policy_sha256": "b"})))
    assert resume(path, prepared, Conduct(Quiet(), looking=begun)).ended


def test_nothing_is_measured_where_no_look_could_find_an_answer(tmp_path: Path) -> None:
    def check(run: Run) -> None:
        assert run.cells == []
        raise NotComparableError("other weights")

    with pytest.raises(NotComparableError, match="other weights"):
        begin(preparation(tmp_path), tmp_path, [], Conduct(Quiet(), looking=Looking(check=check)))
    assert list(tmp_path.glob("*/*.jsonl")) == []


def judged(run: Run) -> dict[str, FidelityRecord]:
    """Arm -> what its other processes painted."""
    return {r.pipeline: r for r in run.fidelity if r.reference == OTHER_PROCESS}


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_what_a_later_process_paints_differently_is_judged(tmp_path: Path, blocks: int) -> None:
    """Also where the run was broken off in between: the last process still tells."""
    prepared = preparation(tmp_path, plants=["late-bad-tile"])
    stop = after(blocks) if blocks < 3 else lambda: False
    run = begin(prepared, tmp_path, [], Conduct(Quiet(), stop=stop))
    if not run.ended:
        run = go_on(tmp_path / run.head.profile / f"{run.head.run_id}.jsonl")
    assert run.ended
    (record,) = judged(run).values()
    assert record.pipeline == "simulated-optimized"
    assert record.outcome == "ok"
    assert record.metrics["worst_block_psnr"] < 20
    assert record.metrics["distinct_pictures"] == 2
    against = {r.reference: r for r in run.fidelity if r.pipeline == record.pipeline}
    assert against["simulated-baseline"].metrics["worst_block_psnr"] > 40


def test_pictures_that_went_with_their_processes_are_not_passed_over(tmp_path: Path) -> None:
    prepared = preparation(tmp_path, plants=["late-bad-tile"])
    run = begin(prepared, tmp_path, [], Conduct(Quiet(), stop=after(3)))
    assert run.finished_blocks == {0, 1, 2}
    run = go_on(tmp_path / run.head.profile / f"{run.head.run_id}.jsonl")
    (record,) = judged(run).values()
    assert record.outcome == "unsupported"
    assert record.reason == "1 of its pictures went with the processes that painted them"


def test_pictures_of_a_block_that_was_broken_off_are_nobodys_concern(tmp_path: Path) -> None:
    """Killed in the second block, in which a process timed what is painted nowhere else."""
    run = begin(preparation(tmp_path), tmp_path, [], Conduct(Quiet(), stop=after(2)))
    path = tmp_path / run.head.profile / f"{run.head.run_id}.jsonl"
    lines = path.read_text().splitlines()
    second = next(n for n, line in enumerate(lines) if '"block": 1' in line and '"cell"' in line)
    cell = json.loads(lines[second])
    for sample in cell["samples"]:
        sample["output_sha256"] = "f" * 64
    path.write_text("\n".join([*lines[:second], json.dumps(cell)]) + "\n")
    done = go_on(path)
    assert done.finished_blocks == {0, 1, 2}
    assert judged(done) == {}


def test_an_arm_that_varies_within_a_process_is_sampled_in_the_others(tmp_path: Path) -> None:
    run = begin(preparation(tmp_path, plants=["nondeterministic"]), tmp_path, [], Conduct(Quiet()))
    (record,) = judged(run).values()
    assert record.outcome == "ok"
    assert record.metrics["distinct_pictures"] == 3
    assert 40 < record.metrics["psnr"] < 60


def test_a_voided_attempt_leaves_no_picture_behind(tmp_path: Path) -> None:
    """Only what counts is judged: the first attempt at block 1 alone is spoiled."""
    prepared = preparation(tmp_path, plants=["late-bad-tile", "foreign=1"])
    run = begin(prepared, tmp_path, [], Conduct(Quiet()))
    assert len(run.voids) == 1
    (record,) = judged(run).values()
    assert record.metrics["distinct_pictures"] == 2
