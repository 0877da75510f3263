"""The workflows parse, and every `srbench` line in them is one that the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from srbench.cli import app

FOLDER = Path(__file__).resolve().parents[2] / ".github" / "workflows"
NAMES = ["ci.yml", "gate.yml"]


def _workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def _steps(name: str) -> list[dict[str, Any]]:
    return [step for job in _workflow(name)["jobs"].values() for step in job["steps"]]


def _lines() -> list[str]:
    """Command lines of srbench: from the program's name to what ends a command in a shell."""
    scripts = [step.get("run", "") for name in NAMES for step in _steps(name)]
    found = [line for script in scripts for line in script.splitlines() if "bin/srbench " in line]
    starts = [line.split("bin/srbench ", 1)[1] for line in found]
    return [re.split(r" (?:\|\||>) ", line)[0] for line in starts]


def test_there_are_workflows_and_no_others() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == NAMES
    assert len(_lines()) == 11


@pytest.mark.parametrize("line", _lines())
def test_srbench_lines_parse(line: str) -> None:
    name, *arguments = shlex.split(re.sub(r"\$\(.*?\)", "value", line))
    command = typer.main.get_command(app)
    room = command.make_context("srbench", [name, "--help"], resilient_parsing=True)
    found = command.get_command(room, name)  # type: ignore[attr-defined]
    assert found is not None, f"no command {name}"
    found.make_context(name, arguments, parent=room)


@pytest.mark.parametrize("name", NAMES)
def test_permissions_are_minimal_and_actions_pinned(name: str) -> None:
    workflow = _workflow(name)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    uses = [step["uses"] for step in _steps(name) if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in uses)


@pytest.mark.parametrize("name", NAMES)
def test_no_expression_is_pasted_into_a_script(name: str) -> None:
    assert not [step for step in _steps(name) if "${{" in step.get("run", "")]


def test_make_targets_exist() -> None:
    makefile = (FOLDER.parents[1] / "Makefile").read_text(encoding="utf-8")
    scripts = [step.get("run", "") for name in NAMES for step in _steps(name)]
    targets = re.findall(r"^make (\S+)", "\n".join(scripts), re.MULTILINE)
    assert targets
    assert all(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) for target in targets)
