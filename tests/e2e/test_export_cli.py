"""export as a user types it."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest

from tests.e2e.conftest import Srbench
from tests.factories import change_head, make_run, write_run

pytestmark = pytest.mark.e2e


def test_csv_to_stdout_and_to_a_file(srbench: Srbench) -> None:
    runs = [write_run(make_run(seed=seed, blocks=1), Path("results")) for seed in (1, 2)]
    done = srbench("export", *[run.stem for run in runs])
    assert (done.code, done.err) == (0, "")
    lines = list(csv.DictReader(StringIO(done.out)))
    assert len(lines) == 2 * 3 * 2 * 5
    assert {line["run"] for line in lines} == {run.stem for run in runs}
    written = srbench("export", *runs, "--output", "out/samples.csv")
    assert (written.code, written.out) == (0, "out/samples.csv\n")
    assert Path("out/samples.csv").read_text() == done.out


def test_json_formats_are_one_document(srbench: Srbench) -> None:
    run = write_run(make_run(blocks=1), Path("elsewhere"))
    done = srbench("export", run.stem, "--format", "pytest-benchmark", "--results", "elsewhere")
    assert len(json.loads(done.out)["benchmarks"]) == 6
    assert len(json.loads(srbench("export", run, "--format", "json").out)) == 30


def test_parquet_goes_to_a_file(srbench: Srbench) -> None:
    run = write_run(make_run(blocks=1), Path("results"))
    done = srbench("export", run, "--format", "parquet", "--output", "samples.parquet")
    assert done.code == 0
    assert Path("samples.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("gone",), "run 'gone': none of that id"),
        (("RUN", "--format", "cvs"), "--format cvs: unknown. Did you mean 'csv'?"),
        (("RUN", "--format", "parquet"), "--format parquet: not text; name a file with --output"),
        (("RUN", "RUN", "--format", "pytest-benchmark"), "a file holds one run"),
        (("RUN", "--output", "file/x.csv"), "--output file/x.csv: cannot be written"),
    ],
)
def test_bad_input_is_exit_2_in_one_line(
    srbench: Srbench, arguments: tuple[str, ...], reason: str
) -> None:
    run = write_run(make_run(blocks=1), Path("results"))
    Path("file").touch()
    done = srbench("export", *(str(run) if word == "RUN" else word for word in arguments))
    assert done.code == 2
    assert reason in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_show_and_compare_as_json(srbench: Srbench) -> None:
    runs = [write_run(make_run(seed=seed), Path("results")) for seed in (1, 2)]
    shown = srbench("show", runs[0], "--json")
    document = json.loads(shown.out)
    assert (shown.code, document["results"]) == (0, str(runs[0]))
    assert len(document["overview"]) == 6
    text = srbench("show", runs[0])
    assert (text.code, text.err) == (0, "")
    assert "noise of images %" in text.out
    compared = json.loads(srbench("compare", *runs, "--json").out)
    assert [compared[side]["run"] for side in "ab"] == [run.stem for run in runs]
    other = write_run(change_head(make_run(seed=3), weights={"digest": "00"}), Path("results"))
    refused = srbench("compare", runs[0], other)
    assert (refused.code, refused.out) == (5, "")
    assert refused.err.startswith("srbench: other weights")
