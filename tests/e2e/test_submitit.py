"""The way to Slurm that srbench/executors/README.md shows, on this machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from srbench.store import newest_run, read_run

submitit = pytest.importorskip("submitit")
pytestmark = pytest.mark.e2e

SHOWN = '"run", "--out", "results"'
CHEAP = '"simulate", "--cases", "16x16x1", "--blocks", "1", "--pairs", "1"'


def test_the_snippet_of_the_readme_submits_a_run(
    project_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (project_root / "srbench/executors/README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert SHOWN in snippet
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(project_root))
    monkeypatch.setattr(sys, "argv", ["snippet"])
    exec(compile(snippet.replace(SHOWN, CHEAP), "README.md", "exec"), {})
    assert "SIMULATED" in capsys.readouterr().out
    run = read_run(newest_run(tmp_path / "results"))
    assert run.ended
    assert run.finished_blocks == {0}
