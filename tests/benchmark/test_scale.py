"""A million samples, in one run and from a thousand machines: under a minute and 2 GiB a command.

`results/SCALE.md` holds what was measured. Time is that of the processor, so that what else the
machine does counts little; the files, 900 MB each, are made up by `srbench.simulation.fleet`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from srbench.simulation.fleet import Fleet, write_fleet
from srbench.store import RunWriter, list_runs, read_run

pytestmark = [pytest.mark.timing, pytest.mark.timeout(3600)]

CPU_S = 60.0
RSS_MIB = 2048.0
APPEND_MS = 500.0

Command = Callable[[Path, Path], list[str]]


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 blocks of 5 cases, 2 arms and 50 pairs."""
    out = tmp_path_factory.mktemp("one") / "results"
    write_fleet(Fleet(nodes=1, blocks=2000, pairs=50), out)
    return out


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand nodes with four kinds of cards, 1,000 samples each."""
    out = tmp_path_factory.mktemp("many") / "results"
    write_fleet(Fleet(nodes=1000, blocks=10, pairs=10), out)
    return out


def _newest(results: Path) -> str:
    return str(list_runs(results)[-1])


ONE: dict[str, Command] = {
    "report": lambda results, out: ["report", _newest(results), "--out", str(out)],
    "gate": lambda results, out: ["gate", _newest(results)],
    "show": lambda results, out: ["show", _newest(results)],
    "show --json": lambda results, out: ["show", _newest(results), "--json"],
    "export csv": lambda results, out: [
        *("export", _newest(results), "--output", str(out / "samples.csv"))
    ],
    "export parquet": lambda results, out: [
        *("export", _newest(results), "--format", "parquet", "--output", str(out / "x.parquet"))
    ],
}
MANY: dict[str, Command] = {
    "report of all": lambda results, out: [
        *("report", *map(str, list_runs(results)), "--out", str(out))
    ],
    "report with history": lambda results, out: [
        *("report", "--results", str(results), "--out", str(out))
    ],
}


@pytest.mark.parametrize("name", ONE)
def test_one_run_of_a_million_samples(
    name: str, one_run: Path, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    _weigh(ONE[name](one_run, tmp_path), benchmark)


@pytest.mark.parametrize("name", MANY)
def test_a_thousand_runs_of_a_thousand_samples(
    name: str, many_runs: Path, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    _weigh(MANY[name](many_runs, tmp_path), benchmark)


def test_a_block_is_stored_as_fast_at_the_end_of_a_long_run(
    one_run: Path, benchmark: BenchmarkFixture
) -> None:
    """Ten cells of 50 samples, half a megabyte, on disk."""
    path = list_runs(one_run)[0]
    records = [cell for cell in read_run(path).cells if cell.block == 1999]
    with RunWriter.resume(path) as writer:
        benchmark.pedantic(lambda: writer.append(records), rounds=20)
    assert 1000 * benchmark.stats.stats.median < APPEND_MS


def _weigh(arguments: list[str], benchmark: BenchmarkFixture) -> None:
    """Run a command and hold its processor time and its peak memory to the limits."""
    found: list[Any] = []

    def command() -> None:
        child = subprocess.Popen(
            [sys.executable, "-m", "srbench", *arguments], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        found.append(usage)

    benchmark.pedantic(command, rounds=1)
    cpu_s = found[0].ru_utime + found[0].ru_stime
    rss_mib = found[0].ru_maxrss / 1024
    benchmark.extra_info |= {"cpu_s": round(cpu_s, 1), "rss_mib": round(rss_mib)}
    assert cpu_s < CPU_S
    assert rss_mib < RSS_MIB
