"""Foreign engines under the real coordinator: honest ones, and whatever else answers."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srbench.arm import Arm, Job
from srbench.coordinator import Coordinator
from srbench.errors import InfrastructureError, UsageError
from srbench.outcome import Failure, Outcome
from srbench.protocol import Alone
from srbench.records import CellRecord
from tests.contract import lying_engine
from tests.contract.foreign import CASE, LIAR, TOY, Memory, job_of


def measured(job: Job) -> tuple[dict[str, CellRecord], dict[str, Alone | Failure], Memory]:
    memory = Memory()
    with Coordinator(job, memory) as coordinator:
        coordinator.open()
        assert coordinator.run(memory, (), lambda: False) == 1
        alone = coordinator.pictures(CASE)
        for name, made in alone.items():
            if isinstance(made, Alone):
                _check_picture(job, np.load(made.picture), name)
    cells = {each.pipeline: each for each in memory.records if isinstance(each, CellRecord)}
    return cells, alone, memory


def _check_picture(job: Job, picture: Any, name: str) -> None:
    source = job.inputs[CASE].pixels.astype(np.int64)
    shift = int(float(job.assignments[name].get("shift", "0")))
    expected = np.minimum(source + shift, 255).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(picture, expected)


def test_an_honest_engine_is_measured_like_a_pipeline(tmp_path: Path) -> None:
    job = job_of(
        tmp_path, {"toy": f"{sys.executable} {TOY}"}, ["shift=3", "toy.shift=5", "toy.note=a=b,c"]
    )
    cells, alone, memory = measured(job)
    cell, made = cells["toy"], alone["toy"]
    assert (cell.outcome, cell.reason) == ("ok", None)
    (sample,) = cell.samples
    assert 0 < sample["stages_ms"]["unet"] <= sample["latency_ms"]
    assert sample["latency_ms"] < sample["state"]["answered_ms"]
    assert cell.decisions == {"interpreter": sys.version.split()[0]}
    assert cell.memory["rss_peak_bytes"] > 5e6
    assert cell.work == {}
    assert isinstance(made, Alone)
    assert made.picture_sha256 == sample["output_sha256"]
    assert made.distinct_pictures == 1
    assert memory.notes == []


MINIMAL = """
import hashlib, json, sys

def answer(request):
    if request["type"] == "describe":
        return {"type": "described", "options": {}, "version": "0", "precisions": ["fp32"],
                "tiers": {"fp32": "approx"}}
    if request["type"] == "load":
        return {"type": "loaded", "load_ms": 0, "tf32": False}
    if request["type"] == "estimate":
        return {"type": "estimated"}
    if request["type"] == "prepare":
        return {"type": "prepared", "prepare_ms": 0}
    black = bytes(32 * 32 * 3)
    sha = hashlib.sha256(black).hexdigest()
    if request["type"] == "upscale":
        return {"type": "timed", "latency_ms": 0.001, "output_sha256": sha}
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (32, 32, 3), }".ljust(117) + b"\\n"
    file = request["outputs"] + ".npy"
    with open(file, "wb") as out:
        out.write(b"\\x93NUMPY\\x01\\x00" + bytes([len(header), 0]) + header + black)
    if request["type"] == "paint":
        return {"type": "painted", "picture": file}
    return {"type": "repainted", "picture": file, "picture_sha256": sha}

for line in sys.stdin:
    if json.loads(line)["type"] == "exit":
        break
    print(json.dumps(answer(json.loads(line))), flush=True)
"""


def test_an_engine_that_tells_only_what_it_must_is_enough(tmp_path: Path) -> None:
    (tmp_path / "minimal.py").write_text(MINIMAL)
    job = job_of(tmp_path, {"minimal": f"{sys.executable} {tmp_path / 'minimal.py'}"})
    memory = Memory()
    with Coordinator(job, memory) as coordinator:
        coordinator.open()
        assert coordinator.run(memory, (), lambda: False) == 1
        alone = coordinator.pictures(CASE)["minimal"]
    (cell,) = (each for each in memory.records if isinstance(each, CellRecord))
    assert (cell.outcome, cell.reason, cell.decisions) == ("ok", None, {})
    assert cell.samples[0]["gpu_ms"] is None
    assert isinstance(alone, Alone)
    assert (alone.picture_float, alone.eps, alone.distinct_pictures) == (None, None, 1)
    assert alone.picture_sha256 == cell.samples[0]["output_sha256"]


def test_whatever_an_engine_answers_is_its_own_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of all faults: every one of them is told, and the honest arm has its numbers."""
    monkeypatch.setattr("srbench.worker_process._PATIENCE_S", 0.2)
    faults = {**lying_engine.UPSCALE, **lying_engine.PREPARE, **lying_engine.LOAD}
    liar = f"{sys.executable} {LIAR}"
    names = {"honest": liar, **dict.fromkeys(faults, liar)}
    cells, _, memory = measured(job_of(tmp_path, names, [f"{f}.fault={f}" for f in faults]))
    assert (cells["honest"].outcome, cells["honest"].reason) == ("ok", None)
    assert cells["honest"].samples
    told = {name: cells[name].reason for name in faults}
    assert {name for name in faults if cells[name].outcome != "crash"} == set()
    assert told.pop("dead") == "the worker was killed by SIGSEGV"
    assert told.pop("orphan") == "the worker ended with exit code 4"
    assert {
        name: why for name, why in told.items() if not why.startswith("answered rubbish: ")
    } == {}
    for name, words in {
        "words": "b'hello, world' is no line of JSON",
        "binary": "is no line of JSON",
        "list": "is no answer of the protocol",
        "deep": "is no line of JSON",
        "flood": "a line of more than 16 MiB",
        "nan": "is no line of JSON",
        "infinite": "is no line of JSON",
        "endless": "holds a whole number of more than 64 bits",
        "negative": "'timed': latency_ms is -1",
        "slower": "'timed': latency_ms is 1e+06, but its answer came after",
        "faster-stage": "'timed': unet is 1e+06, but its answer came after",
        "text": "'timed': latency_ms is 'fast'",
        "truth": "'timed': latency_ms is True",
        "missing": "'timed': latency_ms is missing",
        "unknown": "there is no field 'latency'. Did you mean 'latency_ms'?",
        "short-hash": "output_sha256 is 'ab', expected 64 hexadecimal digits",
        "reading": "sm_clock_mhz is no number",
        "another-type": "'loaded' where 'timed' belongs",
        "request": "is no answer of the protocol",
        "melted": "no such outcome: 'melted'",
        "fine": "no such outcome: 'ok'",
        "twice": "after its answer",
        "closed": "its standard output is closed",
        "load-time": "'loaded': load_ms is 1e+06, but its answer came after",
        "load-null": "'loaded': tf32 is null",
        "number": "'prepared': decisions is an object that does not belong there",
    }.items():  # fmt: skip
        assert words in told[name], name
    assert sum("answered rubbish" in note for note in memory.notes) == len(told)


def test_pictures_that_are_none_are_told(tmp_path: Path) -> None:
    faults = {**lying_engine.PAINT, **lying_engine.REPAINT}
    liar = f"{sys.executable} {LIAR}"
    names = {"honest": liar, **dict.fromkeys(faults, liar)}
    cells, alone, _ = measured(job_of(tmp_path, names, [f"{f}.fault={f}" for f in faults]))
    assert {cell.reason for cell in cells.values()} == {None}
    assert isinstance(alone["honest"], Alone)
    told = {}
    for name in faults:
        made = alone[name]
        assert isinstance(made, Failure), name
        assert made.outcome is Outcome.CRASH
        told[name] = made.reason
    for name, words in {
        "no-file": "there is no such file",
        "truncated": "has 1000 bytes, its header tells of 3200",
        "header-only": "has 128 bytes, its header tells of 3200",
        "pickle": "holds object (1,), expected uint8 [H, W, 3]",
        "letters": "cannot be read",
        "floats": "holds float32 (32, 32, 3), expected uint8 [H, W, 3]",
        "grey": "holds uint8 (32, 32), expected uint8 [H, W, 3]",
        "small": "is 16x16 pixels, expected 32x32",
        "vast": "is 1099511627776x1099511627776 pixels, expected 32x32",
        "elsewhere": "/etc/passwd does not begin with the prefix that was given",
        "no-float": "picture_float: /etc/passwd does not begin",
        "memory": "allocator_peak_bytes is -1",
        "hash": "which is not that of its file",
    }.items():
        assert words in told[name], (name, told[name])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("protocol", "speaks version 2 of the protocol, this srbench 1"),
        ("tier", "the tier of fp32 is 'superb'"),
        ("no-tier", "the tier of fp32 is None"),
        ("precision", r"precisions are \['fp64'\]"),
        ("no-version", "version is empty"),
        ("nan-option", "is no line of JSON"),
        ("mute", "liar: the worker broke at its start: no answer within 0.5 s"),
        ("dribble", "no answer within 0.5 s"),
    ],
)
def test_an_engine_that_cannot_tell_what_it_is_ends_the_run(
    tmp_path: Path, fault: str, words: str
) -> None:
    slow = fault in ("mute", "dribble")
    job = job_of(
        tmp_path,
        {"liar": f"{sys.executable} {LIAR}"},
        [f"fault={fault}"],
        timeout_s=0.5 if slow else 60.0,
    )
    with Coordinator(job, Memory()) as coordinator, pytest.raises(InfrastructureError, match=words):
        coordinator.open()


def test_an_engine_may_not_speak_first(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"liar": f"{sys.executable} {LIAR} early"})
    arm = Arm("liar", job, tmp_path, lambda _: None)
    time.sleep(0.5)
    described = arm.describe()
    assert isinstance(described, Failure)
    assert "ready" in described.reason
    arm.kill()


@pytest.mark.parametrize(("kind", "fault"), [("estimate", "no-size"), ("estimate", "need")])
def test_an_estimate_that_cannot_be_is_a_crash_of_its_arm(
    tmp_path: Path, kind: str, fault: str
) -> None:
    job = job_of(tmp_path, {"liar": f"{sys.executable} {LIAR}"}, [f"fault={fault}"])
    cells, alone, _ = measured(job)
    assert kind in lying_engine.BY_REQUEST
    assert isinstance(alone["liar"], Failure)
    assert cells["liar"].outcome in ("ok", "crash")


def test_a_hang_is_a_time_out_and_the_other_arm_goes_on(tmp_path: Path) -> None:
    toy = f"{sys.executable} {TOY}"
    sets = ["hung.hang_on=16", "gone.crash_on=16"]
    job = job_of(tmp_path, {"toy": toy, "hung": toy, "gone": toy}, sets, timeout_s=3.0)
    cells, _, memory = measured(job)
    assert cells["toy"].outcome == "ok"
    assert sum("nor that of a C library" in note for note in memory.notes) == 2
    assert (cells["hung"].outcome, cells["hung"].reason) == ("timeout", "no answer within 3 s")
    assert cells["gone"].reason == "the worker ended with exit code 3"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["toy.shifd=1"], "--set toy.shifd: no such option. Did you mean 'shift'"),
        (["toy.shift=much"], "--set shift=much: expected float"),
        (["toy.shift=nan"], "--set shift=nan: expected float"),
        (["toy.mode=fast"], "--set mode=fast: expected one of plain, torch"),
        (["toy.shift=10"], "must be between 0 and 9 levels"),
    ],
)
def test_options_are_refused_by_the_engine_that_has_them(
    tmp_path: Path, sets: list[str], words: str
) -> None:
    job = job_of(tmp_path, {"toy": f"{sys.executable} {TOY}"}, sets)
    with Coordinator(job, Memory()) as coordinator, pytest.raises(UsageError, match=words):
        coordinator.open()


def test_a_program_that_vanishes_is_a_crash(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"toy": f"{sys.executable} {TOY}"})
    gone = replace(job.arms["toy"].launch, command=(str(tmp_path / "gone"),))
    job = replace(job, arms={"toy": replace(job.arms["toy"], launch=gone)})
    with (
        Coordinator(job, Memory()) as coordinator,
        pytest.raises(InfrastructureError, match="gone: cannot be started"),
    ):
        coordinator.open()
