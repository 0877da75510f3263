from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from srbench.baselines import Baseline, list_baselines, promote, resolve
from srbench.errors import NotComparableError, UsageError
from srbench.gate import Policy
from srbench.records import Run
from srbench.store import list_runs, read_run
from tests.factories import change_cell, change_fidelity, change_head, make_run, write_run


def _promote(run: Run, root: Path, name: str = "main", *, force: bool = False) -> Baseline:
    return promote(write_run(run, root), root, name, Policy(), force=force)


def test_promoted_run_reads_back_without_crops(tmp_path: Path) -> None:
    run = make_run(crops=True)
    made = _promote(run, tmp_path)
    assert made.path == tmp_path / "baselines" / "cpu" / "main.jsonl"
    back = read_run(made.path)
    assert back.head == run.head
    assert back.cells == run.cells
    assert back.ended
    assert all(not record.crops for record in back.fidelity)
    assert back.fidelity[0].metrics == run.fidelity[0].metrics
    assert list_baselines(tmp_path) == [made]
    assert [path.parent.name for path in list_runs(tmp_path)] == ["cpu"]


def test_promotion_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    _promote(make_run(seed=1), tmp_path)
    made = _promote(make_run(seed=2), tmp_path)
    assert read_run(made.path).head.seed == 2
    assert [path.name for path in made.path.parent.iterdir()] == ["main.jsonl"]


def test_unknown_lines_and_keys_survive_and_a_torn_line_does_not(tmp_path: Path) -> None:
    path = write_run(make_run(), tmp_path)
    with path.open("a") as file:
        file.write('{"kind": "later", "text": "a\\u2028b"}\n{"kind": "ce')
    lines = promote(path, tmp_path, "main", Policy()).path.read_bytes().splitlines()
    assert json.loads(lines[-1]) == {"kind": "later", "text": "a\u2028b"}


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (change_cell(make_run(), 0, outcome="oom", samples=[]), "oom 48x32x4 s3diff-baseline"),
        (change_fidelity(make_run(), 0, metrics={"psnr": 9.0}), "psnr 48x32x4 9 dB"),
        (replace(make_run(), ended=False), "it has not finished"),
        (replace(make_run(), fidelity=[]), "psnr 48x32x4 of s3diff-optimized was not measured"),
    ],
)
def test_unworthy_run_needs_force(tmp_path: Path, run: Run, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        _promote(run, tmp_path)
    assert "--force" in str(error.value)
    assert list_baselines(tmp_path) == []
    assert _promote(run, tmp_path, force=True).path.is_file()


def test_a_run_need_not_be_fast_to_be_a_baseline(tmp_path: Path) -> None:
    assert _promote(make_run(speedup=0.5), tmp_path).path.is_file()
    arm = {"pipeline": "p", "revision": None, "commit": None}
    slower = make_run(seed=1, speedup=0.5)
    slower = change_head(slower, arms=dict.fromkeys(slower.head.pipelines, arm))
    assert _promote(slower, tmp_path, "revisions").path.is_file()


def test_counters_alone_make_a_baseline_and_a_single_timed_arm_does_not(tmp_path: Path) -> None:
    single = make_run(arms=["s3diff-baseline"])
    with pytest.raises(NotComparableError, match="single arm"):
        _promote(single, tmp_path)
    counted = replace(single, cells=[replace(cell, samples=[]) for cell in single.cells])
    assert _promote(change_head(counted, purpose="work"), tmp_path, "work").path.is_file()
    with pytest.raises(UsageError, match="48x32x4 s3diff-baseline was not measured"):
        _promote(change_head(replace(single, cells=[]), purpose="work"), tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="baseline name"):
        _promote(make_run(), tmp_path, name)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = write_run(make_run(), tmp_path)
    (tmp_path / "baselines").touch()
    with pytest.raises(UsageError, match=r"main.jsonl: cannot be written"):
        promote(path, tmp_path, "main", Policy())


def test_against_is_a_path_a_name_or_an_id(tmp_path: Path) -> None:
    run = make_run(seed=1)
    _promote(make_run(seed=2), tmp_path)
    other = write_run(make_run(seed=3), tmp_path)
    found = [resolve(text, run.head.profile, tmp_path) for text in ("main", str(other), other.stem)]
    assert [each.head.seed for each, _ in found] == [2, 3, 3]
    assert [name for _, name in found] == ["promoted 'main'", f"'{other}'", f"run '{other.stem}'"]


def test_nothing_to_compare_with_says_what_there_is(tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(NotComparableError, match="make one with: srbench baseline promote RUN"):
        resolve("main", run.head.profile, tmp_path)
    _promote(make_run(profile="l20", psnr=75.0), tmp_path)
    with pytest.raises(NotComparableError, match=r"no baseline 'main' for cpu .*, only for l20"):
        resolve("main", run.head.profile, tmp_path)
    _promote(run, tmp_path, "june")
    with pytest.raises(NotComparableError, match="there are: june"):
        resolve("july", run.head.profile, tmp_path)
    with pytest.raises(NotComparableError, match=r"no baseline 'gone/x.jsonl'"):
        resolve("gone/x.jsonl", run.head.profile, tmp_path)


def test_damaged_baseline_is_not_a_missing_one(tmp_path: Path) -> None:
    made = _promote(make_run(), tmp_path)
    made.path.write_text('{"kind": "run", "schema_version": 99}\n')
    with pytest.raises(UsageError, match="schema_version 99 is newer"):
        resolve("main", make_run().head.profile, tmp_path)
