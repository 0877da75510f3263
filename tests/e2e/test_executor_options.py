"""Where a command works, as its options say; and how several runs end in one exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer

from srbench.cli.executor import shipped
from srbench.cli.finishing import Concluded, leave_all
from srbench.config import Settings, load_settings
from srbench.errors import ExitCode, InfrastructureError, NotComparableError
from srbench.executors.leader import Led
from tests.e2e.conftest import Srbench
from tests.factories import make_run

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--address", "localhost:6379"), "--address: goes with --executor ray"),
        (("run", "--gpu", "a10,l20"), "several cards are those of a cluster"),
        (("run", "--executor", "slurm"), "--executor 'slurm': expected local or ray"),
        (("run", "--gpu", "meta", "--executor", "ray"), "nothing is measured with --gpu meta"),
        (("aa", "--address", "auto"), "--address: goes with --executor ray"),
        (("ladder", "--gpu", "a10,l20"), "add --executor ray"),
        (("simulate", "--gpu", "a10"), "--gpu: goes with --executor ray"),
        (("simulate", "--resume", "--gpu", "a10"), "--gpu: cannot be changed"),
        (("simulate", "--executor", "ray", "--address", "here"), "expected HOST:PORT"),
        (("simulate", "--executor", "ray", "--address", "ray://h:1"), "cannot follow a run"),
    ],
)
def test_bad_options_are_one_line(srbench: Srbench, arguments: tuple[str, ...], words: str) -> None:
    done = srbench(*arguments)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_the_executor_is_a_setting_like_others(tmp_path: Path) -> None:
    environment = {"SRBENCH_EXECUTOR": "ray", "SRBENCH_ADDRESS": "head:6379"}
    found = load_settings({}, folder=tmp_path, environment=environment)
    assert (found.executor, found.address) == ("ray", "head:6379")
    (tmp_path / "srbench.toml").write_text('executor = "ray"\n')
    assert load_settings({}, folder=tmp_path, environment={}).executor == "ray"


def test_weights_are_named_from_the_root_for_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped(Settings(weights="mine")).weights == str(tmp_path / "mine")
    assert shipped(Settings(weights="mini")).weights == "mini"
    assert shipped(Settings()).weights is None


def test_nothing_imports_ray_or_torch_unless_it_is_asked_for(srbench: Srbench) -> None:
    before = {"ray", "torch"} & sys.modules.keys()
    assert srbench("run", "--help").code == ExitCode.OK
    assert {"ray", "torch"} & sys.modules.keys() == before


def test_the_worst_of_several_runs_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(profile="a10")
    led = [
        Led("a10", run, None, tmp_path / "a.jsonl"),
        Led("l20", None, InfrastructureError("no machine came")),
        Led("h100", run, NotComparableError("other weights"), tmp_path / "h.jsonl"),
    ]

    def conclude(*_: object) -> Concluded:
        return Concluded(ExitCode.OK, "", {"run": "it", "exit_code": 0}, "a table")

    with pytest.raises(typer.Exit) as left:
        leave_all(led, Settings(out=tmp_path / "results"), conclude, as_json=True)
    assert left.value.exit_code == ExitCode.INFRASTRUCTURE
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "srbench: l20: no machine came",
        "srbench: h100: other weights",
    ]
    good, never, broken = json.loads(said.out)["runs"]
    assert good["exit_code"] == 0
    assert never == {
        "run": None,
        "profile": "l20",
        "exit_code": ExitCode.INFRASTRUCTURE,
        "error": "no machine came",
    }
    assert (broken["exit_code"], broken["error"]) == (ExitCode.NOT_COMPARABLE, "other weights")
    with pytest.raises(typer.Exit) as stopped:
        leave_all([Led("a10", None)], Settings(out=tmp_path / "results"), conclude, as_json=False)
    assert stopped.value.exit_code == ExitCode.INTERRUPTED
