"""`srbench simulate` and the gate on it: what is planted is found, what is not planted is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.records import Run
from srbench.simulation.preparing import WEIGHTS
from srbench.store import list_runs, newest_run, read_run
from tests.e2e.conftest import Done, Srbench
from tests.e2e.leading import Show, begin_here
from tests.e2e.simulated import cells, latencies

pytestmark = pytest.mark.e2e

CASE, OTHER = "16x16x4", "24x16x4"
SAME = "--same-pipeline"


QUIET = Show(cases=(CASE,), blocks=6, noise="quiet", speedup=1.2)
SAME_PIPELINE = Show(cases=(CASE,), blocks=1, speedup=None, seed=1)


def newest() -> Path:
    return list_runs(Path("results"))[-1]


def gate(srbench: Srbench, *arguments: object, margin: float = 0.05) -> Done:
    Path("policy.toml").write_text(f"[gate]\nmargin = {margin}\n")
    return srbench("gate", newest(), "--policy", "policy.toml", *arguments)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quiet run to be held against."""
    out = tmp_path_factory.mktemp("earlier") / "results"
    begin_here(replace(QUIET, seed=1), out)
    return newest_run(out)


def everything(run: Run) -> Any:
    """All that was stored but times of day and names."""
    return [cell.to_json() for cell in run.cells], [record.to_json() for record in run.fidelity]


def test_the_seed_decides_every_number(tmp_path: Path) -> None:
    spoilt = Show(cases=(CASE,), blocks=1, noise="noisy", plants=("nondeterministic", "bimodal"))
    first, again, other = (
        begin_here(replace(spoilt, seed=seed), tmp_path / name)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert everything(first) == everything(again)
    assert cells(first) == cells(other)
    assert all(latencies(first)[cell] != latencies(other)[cell] for cell in cells(first))


def test_it_never_looks_like_a_measurement(srbench: Srbench) -> None:
    done = srbench("simulate", "--cases", CASE, OTHER, "--blocks", 1, "--speedup", 3)
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


def test_nothing_is_found_where_nothing_is_planted(srbench: Srbench) -> None:
    begin_here(replace(SAME_PIPELINE, blocks=6))
    judged = gate(srbench)
    assert (judged.code, judged.err) == (ExitCode.OK, "")


@pytest.mark.parametrize(
    "planted",
    [
        {
            "memory=1.05": ["allocator_peak_bytes", "+5.0 %"],
            "energy=1.1": ["energy", "+10.0 %"],
            "work=1.01": ["launches", "4,242", "4,200"],
        },
        {"bad-tile": ["worst 64x64 block", "row 0, column 0", "at least 30 dB"]},
        {"nondeterministic": ["different pictures", "dB apart"]},
        {"nan": ["NaN"]},
    ],
    ids=lambda planted: " ".join(planted),
)
def test_planted_effects_fail_and_are_named(
    srbench: Srbench, planted: dict[str, list[str]]
) -> None:
    begin_here(replace(SAME_PIPELINE, blocks=2, pairs=1, plants=tuple(planted)))
    judged = gate(srbench)
    assert judged.code == ExitCode.REGRESSION
    (line,) = (line for line in judged.err.splitlines() if "FAIL" in line)
    for words in planted.values():
        assert any(all(word in part for word in [CASE, *words]) for part in line.split("; "))
    assert "latency" not in line


@pytest.mark.parametrize(
    ("noise", "slow", "margin"),
    [("quiet", 1.02, 0.01), pytest.param("typical", 1.08, 0.02, marks=pytest.mark.full)],
)
def test_a_planted_slow_down_fails_between_revisions(
    srbench: Srbench, noise: str, slow: float, margin: float
) -> None:
    begin_here(replace(SAME_PIPELINE, blocks=6, noise=noise, plants=(f"slow={slow}",)))
    judged = gate(srbench, margin=margin)
    assert judged.code == ExitCode.REGRESSION
    assert f"latency {CASE} +{100 * (slow - 1):.0f} % slower than base" in judged.err


def test_a_run_passes_alone_and_against_an_earlier_one(srbench: Srbench, earlier: Path) -> None:
    begin_here(replace(QUIET, seed=2))
    for against in ((), ("--against", earlier)):
        judged = gate(srbench, *against, margin=0.02)
        assert (judged.code, judged.err) == (ExitCode.OK, "")


def test_a_planted_slow_down_fails_against_an_earlier_run(srbench: Srbench, earlier: Path) -> None:
    begin_here(replace(QUIET, seed=3, plants=("slow=1.05",)))
    failed = gate(srbench, "--against", earlier, margin=0.02)
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
    ("arguments", "looks", "blocks", "decided_at", "code"),
    [
        (["--noise", "quiet"], [6, 10, 16], 6, 6, ExitCode.OK),
        (["--plant", "slow=1.04"], [6, 10, 16], 10, 10, ExitCode.OK),
        (["--plant", "slow=1.04", "--blocks", "6"], [6], 6, None, ExitCode.INCONCLUSIVE),
    ],
)
def test_a_sequential_run_ends_where_it_is_decided(
    srbench: Srbench,
    arguments: list[str],
    looks: list[int],
    blocks: int,
    decided_at: int | None,
    code: ExitCode,
) -> None:
    done = srbench("simulate", "--cases", CASE, SAME, "--until-decided", *arguments)
    assert done.code == ExitCode.OK, done.err
    run = read_run(newest())
    assert run.head.looks == looks
    assert run.finished_blocks == set(range(blocks))
    end = json.loads(newest().read_text().splitlines()[-1])
    assert end["decided_at"] == decided_at
    assert gate(srbench).code == code
