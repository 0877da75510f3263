"""Which machine may go on with a run that another one began."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srbench.continuing import change, refusal, same_machine
from srbench.gate.comparable import Level, environment_of
from srbench.records import BlockRecord, Run, RunRecord
from srbench.store import RunWriter, read_run
from tests.factories import Spec, make_run


@pytest.fixture
def begun() -> RunRecord:
    head = make_run(Spec()).head
    facts = {"driver": "550.10.1", "gpu_uuid": "GPU-1", "host": "a" * 12, "code_sha256": "c" * 64}
    return replace(head, fingerprint={"versions": {}, **head.fingerprint, **facts})


def on(head: RunRecord, **facts: Any) -> RunRecord:
    return replace(head, fingerprint={**head.fingerprint, **facts})


def test_the_same_machine_goes_on(begun: RunRecord) -> None:
    restarted = on(begun, dirty=True)
    assert change(begun, restarted) is None
    assert refusal(begun, restarted) is None
    assert same_machine(begun, restarted)


@pytest.mark.parametrize(
    "facts",
    [
        {"host": "b" * 12},
        {"gpu_uuid": "GPU-2"},
        {"node": "0123456789ab"},
        {"driver": "550.99.0"},
        {"power_limit_w": 100.0},
    ],
)
def test_another_machine_of_the_kind_goes_on_and_is_recorded(
    begun: RunRecord, facts: dict[str, Any]
) -> None:
    now = on(begun, **facts)
    assert refusal(begun, now) is None
    assert not same_machine(begun, now)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"driver": "560.1.0"}, "other driver: 560.1.0, but the run has 550.10.1"),
        ({"gpu_name": "NVIDIA B200"}, "other GPU: NVIDIA B200"),
        ({"versions": {"torch": "9.9"}}, "other torch: 9.9"),
        (
            {"code_sha256": "d" * 64},
            "other code of srbench: dddddddddddd, the run has cccccccccccc",
        ),
    ],
)
def test_a_machine_of_another_world_is_refused(
    begun: RunRecord, facts: dict[str, Any], words: str
) -> None:
    begun = on(begun, versions={"torch": "2.1"})
    assert words in str(refusal(begun, on(begun, **facts)))


def test_other_weights_or_another_commit_are_refused(begun: RunRecord) -> None:
    weights = replace(begun, weights={**begun.weights, "digest": "0" * 64})
    assert "was begun with the weights" in str(refusal(begun, weights))
    arms = {name: {**facts, "commit": "e" * 40} for name, facts in begun.arms.items()}
    assert "another commit" in str(refusal(begun, replace(begun, arms=arms or {"a": {}})))


def test_the_weakest_machine_decides_what_a_run_may_be_held_against() -> None:
    reference = make_run(Spec())
    driver = {**reference.head.fingerprint, "driver": "550.1"}
    reference = replace(reference, head=replace(reference.head, fingerprint=driver))
    run = replace(reference, machines={2: {**driver, "host": "another"}})
    assert environment_of(run, reference).level is Level.EXACT
    patched = replace(reference, machines={2: {**driver, "driver": "550.2"}})
    assert environment_of(patched, reference).level is Level.COMPARABLE
    assert environment_of(reference, patched).level is Level.COMPARABLE
    other = replace(reference, machines={2: {**driver, "driver": "560.1"}})
    assert environment_of(other, reference).level is Level.RATIO_ONLY


def test_a_file_tells_which_blocks_were_measured_elsewhere(tmp_path: Any) -> None:
    run: Run = make_run(Spec())
    with RunWriter.create(tmp_path, run.head) as writer:
        writer.append([*run.cells, BlockRecord(block=0, finished_at="", fingerprint={})])
        writer.append([BlockRecord(block=1, finished_at="", fingerprint={"host": "b"})])
    assert read_run(writer.path).machines == {1: {"host": "b"}}
