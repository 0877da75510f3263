"""`srbench simulate` and the gate on it: what is planted is found, what is not planted is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.records import Run
from srbench.simulation.preparing import WEIGHTS
from srbench.store import list_runs, read_run
from tests.e2e.conftest import Done, Srbench
from tests.e2e.simulated import cells, latencies

pytestmark = pytest.mark.e2e

CASE, OTHER = "16x16x4", "24x16x4"
SAME = "--same-pipeline"


def newest(out: str = "results") -> Path:
    return list_runs(Path(out))[-1]


def simulate(srbench: Srbench, *arguments: object, out: str = "results") -> Run:
    done = srbench("simulate", "--cases", CASE, *arguments, "--out", out)
    assert done.code == ExitCode.OK, done.err
    return read_run(newest(out))


def gate(srbench: Srbench, *arguments: object, margin: float = 0.05) -> Done:
    Path("policy.toml").write_text(f"[gate]\nmargin = {margin}\n")
    return srbench("gate", newest(), "--policy", "policy.toml", *arguments)


def everything(run: Run) -> Any:
    """All that was stored but times of day and names."""
    return [cell.to_json() for cell in run.cells], [record.to_json() for record in run.fidelity]


def test_the_seed_decides_every_number(srbench: Srbench) -> None:
    spoilt = ("--blocks", 1, "--noise", "noisy", "--plant", "nondeterministic,bimodal")
    first, again, other = (
        simulate(srbench, *spoilt, "--seed", seed, out=f"{name}/results")
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert everything(first) == everything(again)
    assert cells(first) == cells(other)
    assert all(latencies(first)[cell] != latencies(other)[cell] for cell in cells(first))


def test_it_never_looks_like_a_measurement(srbench: Srbench) -> None:
    done = srbench("simulate", "--cases", CASE, OTHER, "--blocks", 2, "--speedup", 3)
    assert done.code == ExitCode.OK, done.err
    head = read_run(newest()).head
    assert newest().parent == Path("results/simulated")
    assert (head.purpose, head.profile, head.device) == ("simulation", "simulated", "simulated")
    assert head.weights["label"] == "simulated" == WEIGHTS.digest
    assert head.fingerprint["gpu_name"].startswith("simulated device")
    assert head.cases == [CASE, OTHER]
    assert "SIMULATED" in done.out
    assert "SIMULATED" in Path("reports/simulated.md").read_text()
    assert "SIMULATED" in srbench("gate", newest()).out


def test_json_is_one_document(srbench: Srbench) -> None:
    done = srbench("simulate", "--cases", CASE, "--blocks", 1, "--speedup", 3, "--json")
    document = json.loads(done.out)
    assert document["head"]["purpose"] == "simulation"
    (row,) = document["comparisons"][0]["rows"]
    assert row["speedup"]["value"] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        [SAME, "--seed", "1"],
        [SAME, "--seed", "2", "--noise", "quiet", "--blocks", "6"],
        [SAME, "--seed", "3", "--noise", "quiet", "--blocks", "6"],
        ["--speedup", "1.2", "--seed", "1", "--blocks", "6"],
    ],
)
def test_nothing_is_found_where_nothing_is_planted(srbench: Srbench, arguments: list[str]) -> None:
    simulate(srbench, *arguments)
    judged = gate(srbench)
    assert (judged.code, judged.err) == (ExitCode.OK, "")


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        ("memory=1.05", ["allocator_peak_bytes", "+5.0 %"]),
        ("energy=1.1", ["energy", "+10.0 %"]),
        ("work=1.01", ["launches", "4,242", "4,200"]),
        ("bad-tile", ["worst 64x64 block", "row 0, column 0", "at least 30 dB"]),
        ("nondeterministic", ["different pictures", "dB apart"]),
        ("nan", ["NaN"]),
    ],
)
def test_a_planted_effect_fails_and_is_named(
    srbench: Srbench, plant: str, named: list[str]
) -> None:
    simulate(srbench, "--seed", 1, SAME, "--blocks", 2, "--plant", plant)
    judged = gate(srbench)
    assert judged.code == ExitCode.REGRESSION
    (line,) = (line for line in judged.err.splitlines() if "FAIL" in line)
    for word in [CASE, *named]:
        assert word in line
    assert "latency" not in line


@pytest.mark.parametrize(
    ("noise", "blocks", "slow", "margin"), [("quiet", 6, 1.02, 0.01), ("typical", 10, 1.05, 0.02)]
)
def test_a_planted_slow_down_fails_between_revisions(
    srbench: Srbench, noise: str, blocks: int, slow: float, margin: float
) -> None:
    device = ("--seed", 1, "--noise", noise, "--blocks", blocks)
    simulate(srbench, *device, SAME, "--plant", f"slow={slow}")
    judged = gate(srbench, margin=margin)
    assert judged.code == ExitCode.REGRESSION
    assert f"latency {CASE} +{100 * (slow - 1):.0f} % slower than base" in judged.err


def test_a_planted_slow_down_fails_against_an_earlier_run(srbench: Srbench) -> None:
    quiet = ("--noise", "quiet", "--blocks", 6)
    simulate(srbench, *quiet, "--seed", 1, out="earlier")
    against = ("--against", newest("earlier"))
    simulate(srbench, *quiet, "--seed", 2)
    assert gate(srbench, *against, margin=0.02).code == ExitCode.OK
    simulate(srbench, *quiet, "--seed", 3, "--plant", "slow=1.05")
    failed = gate(srbench, *against, margin=0.02)
    assert failed.code == ExitCode.REGRESSION
    assert f"latency {CASE} +5 % slower" in failed.err


@pytest.mark.parametrize(
    ("plant", "outcome", "reason"),
    [("oom", "oom", "tried to allocate"), ("crash", "crash", "SIGSEGV")],
)
def test_a_broken_cell_is_an_outcome_and_the_rest_goes_on(
    srbench: Srbench, plant: str, outcome: str, reason: str
) -> None:
    done = srbench(
        *("simulate", "--cases", CASE, OTHER, "--blocks", 2, "--plant", f"{plant}={OTHER}")
    )
    assert done.code == ExitCode.INFRASTRUCTURE
    assert reason in done.err.splitlines()[-1]
    run = read_run(newest())
    broken = [cell for cell in run.cells if cell.outcome != "ok"]
    assert {(cell.block, cell.case, cell.outcome) for cell in broken} == {
        (block, OTHER, outcome) for block in (0, 1)
    }
    assert all(reason in (cell.reason or "") for cell in broken)
    assert len(cells(run)) == 8
    assert len(latencies(run)) == 6
    assert outcome in srbench("gate", newest()).err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noise", "quite"], "Did you mean 'quiet'"),
        (["--plant", "slwo=1.1"], "Did you mean 'slow'"),
        (["--plant", "oom=64x64x3"], "no case of this run"),
        (["--plant", "throttle=10"], "blocks 0 to 9"),
        (["--speedup", "0"], "above 0"),
        ([SAME, "--speedup", "2"], "--speedup"),
        (["--against", "main"], "--until-decided"),
        (["--blocks", "0"], "--blocks"),
        (["--resume"], "no results"),
        (["--resume", "--plant", "slow"], "--plant: cannot be changed"),
    ],
)
def test_bad_input_is_one_line(srbench: Srbench, arguments: list[str], words: str) -> None:
    done = srbench("simulate", *arguments)
    assert done.code == ExitCode.USAGE
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not done.out


@pytest.mark.parametrize(
    ("arguments", "blocks", "decided_at", "code"),
    [
        (["--noise", "quiet", "--seed", "0"], 6, 6, ExitCode.OK),
        (["--plant", "slow=1.04", "--seed", "0"], 10, 10, ExitCode.OK),
        (["--plant", "slow=1.04", "--seed", "5"], 16, None, ExitCode.INCONCLUSIVE),
    ],
)
def test_a_sequential_run_ends_where_it_is_decided(
    srbench: Srbench, arguments: list[str], blocks: int, decided_at: int | None, code: ExitCode
) -> None:
    run = simulate(srbench, SAME, "--until-decided", *arguments)
    assert run.head.looks == [6, 10, 16]
    assert run.finished_blocks == set(range(blocks))
    end = json.loads(newest().read_text().splitlines()[-1])
    assert end["decided_at"] == decided_at
    assert gate(srbench).code == code
