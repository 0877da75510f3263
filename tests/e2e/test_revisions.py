"""A git revision as an arm: its own worktree, its own code, this srbench's instruments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srbench.armspec import parse_arm
from srbench.records import Run
from srbench.revisions import checked_out
from srbench.store import read_run

pytestmark = pytest.mark.e2e
VERSION = """
from tests.fixtures_pipelines import Bicubic

class Mine(Bicubic):
    version = "{version}"
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path, version: str) -> str:
    (folder / "mine.py").write_text(VERSION.format(version=version))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", version)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's repository with two versions of a pipeline, the second checked out."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "1")
    git(folder, "tag", "old")
    commit(folder, "2")
    return folder


def srbench(folder: Path, project_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "SRBENCH_CACHE": str(folder.parent / "cache"),
        "PYTHONPATH": str(project_root),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "srbench", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def measure(folder: Path, project_root: Path) -> Run:
    few = ("--cases", "16x16x2", "--blocks", "1", "--pairs", "1", "--weights", "mini")
    arms = ("--pipelines", "mine:Mine@old,mine:Mine")
    done = srbench(folder, project_root, "run", "--json", *few, *arms)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return read_run(folder / document["results"])


def test_base_and_head_run_their_own_code(project: Path, project_root: Path) -> None:
    run = measure(project, project_root)
    assert run.head.versions == {"mine:Mine@old": "1", "mine:Mine": "2"}
    base = run.head.arms["mine:Mine@old"]
    assert base == {
        "pipeline": "mine:Mine",
        "revision": "old",
        "commit": git(project, "rev-parse", "old"),
    }
    assert run.head.arms["mine:Mine"]["commit"] is None
    assert git(project, "status", "--porcelain", "mine.py") == ""


def test_no_such_revision_and_no_repository(project: Path, project_root: Path) -> None:
    arms = "mine:Mine@nowhere,mine:Mine"
    done = srbench(project, project_root, "run", "--pipelines", arms, "--weights", "mini")
    assert done.returncode == 2
    assert "has no revision 'nowhere'" in done.stderr
    outside = project.parent
    done = srbench(outside, project_root, "run", "--pipelines", arms, "--weights", "mini")
    assert done.returncode == 2
    assert "in no git repository" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worktree_that_was_edited_is_put_right(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path / "cache"))
    arm = parse_arm("mine:Mine@old")
    commit = checked_out(arm, pytest.fail).commit
    file = tmp_path / "cache" / "revisions" / str(commit) / "mine.py"
    file.write_text("raise SystemExit('edited')")
    again = checked_out(arm, pytest.fail)
    assert file.read_text() == VERSION.format(version="1")
    assert again.commit == commit == git(project, "rev-parse", "old")


def test_a_worktree_outlives_the_clone_that_it_came_from(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path / "cache"))
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(project), str(again))
    arm = parse_arm("mine:Mine@old")
    monkeypatch.chdir(project)
    commit = checked_out(arm, pytest.fail).commit
    shutil.rmtree(project)
    monkeypatch.chdir(again)
    assert checked_out(arm, pytest.fail).commit == commit
    file = tmp_path / "cache" / "revisions" / str(commit) / "mine.py"
    assert file.read_text() == VERSION.format(version="1")
