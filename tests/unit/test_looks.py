"""Options of sequential runs, and the last resort of the command line."""

from pathlib import Path

import pytest

import srbench.cli
from srbench.cli.looks import looking_by_gate, planned_looks
from srbench.errors import ExitCode, UsageError


@pytest.mark.parametrize(
    ("blocks", "looks"), [(None, [6, 10, 16]), (16, [6, 10, 16]), (10, [6, 10]), (6, [6])]
)
def test_looks_are_those_that_the_blocks_reach(blocks: int | None, looks: list[int]) -> None:
    assert planned_looks(blocks, None, None, until_decided=True) == looks
    assert planned_looks(blocks, None, None, until_decided=False) == []


@pytest.mark.parametrize("blocks", [1, 5, 7, 20])
def test_a_number_of_blocks_that_is_no_look_is_refused(blocks: int) -> None:
    with pytest.raises(UsageError, match=f"--blocks {blocks}: .* after 6, 10 and 16 blocks"):
        planned_looks(blocks, None, None, until_decided=True)


def test_options_of_sequential_runs_do_not_fall_on_deaf_ears(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--against: goes with --until-decided"):
        planned_looks(None, "main", None, until_decided=False)
    with pytest.raises(UsageError, match="--policy: goes with --until-decided"):
        looking_by_gate([], None, tmp_path / "policy.toml", tmp_path, "cpu")


def test_a_bug_is_no_regression(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python would leave with 1, which is the gate's word for slower."""

    def app(**_: object) -> int:
        raise LookupError("no such luck")

    monkeypatch.setattr(srbench.cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        srbench.cli.main()
    assert ended.value.code == ExitCode.INFRASTRUCTURE
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "srbench: internal error: LookupError: no such luck; please report it"
