"""Code of another git revision as an arm of its own: a worktree, its environment, its workers.

Base and head revision are measured in the same run by the same instruments: the workers run this
srbench, and the `pipelines` (or the user's own modules) of the revision.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pipelines
import srbench
from pipelines.cache import cache_folder
from srbench.armspec import ArmSpec
from srbench.errors import InfrastructureError, UsageError
from srbench.git import ask_git, git_state
from srbench.outcome import one_line
from srbench.worker_process import Launch

REQUIREMENTS = "requirements.txt"


def checked_out(arm: ArmSpec, note: Callable[[str], None]) -> ArmSpec:
    """Give an arm of another revision the commit and the launch of its code.

    The worktree and, where the revision pins other packages, a virtual environment for them are
    kept in the cache folder and used again.

    Args:
        arm: One without a revision is returned as it is.
        note: Told when packages have to be installed, which takes minutes and the network.

    Raises:
        UsageError: No git repository here, or no such revision in it.
        InfrastructureError: The revision cannot be checked out or its packages not installed.
    """
    if arm.revision is None:
        return arm
    repository = _repository(arm)
    commit = ask_git(repository, "rev-parse", "--verify", "--quiet", f"{_wanted(arm)}^{{commit}}")
    if commit is None:
        raise UsageError(f"--pipelines {arm.name}: {repository} has no revision '{_wanted(arm)}'")
    folder = cache_folder() / "revisions"
    tree = _worktree(repository, commit, folder / commit)
    python = _python(repository, tree, folder / f"{commit}-environment", note)
    launch = Launch(
        # -P: the current folder, whose code is another revision's, must not come first.
        command=(python, "-P", "-m", "srbench.worker"),
        # Our own revisions bring their `pipelines`; to a user's modules this one's is the contract.
        python_path=(str(_alone(srbench, folder)), str(tree), str(_alone(pipelines, folder))),
    )
    return replace(arm, commit=commit, launch=launch)


def _wanted(arm: ArmSpec) -> str:
    """A resumed run goes on with its commit, wherever the branch has moved since."""
    return arm.commit or str(arm.revision)


def _repository(arm: ArmSpec) -> Path:
    """Where the pipeline's code is kept: the current folder's repository for `module:attribute`."""
    folder = Path.cwd() if ":" in arm.pipeline else Path(str(pipelines.__file__)).resolve().parent
    top = ask_git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        raise UsageError(
            f"--pipelines {arm.name}: {folder} is in no git repository, so there are no revisions"
        )
    return Path(top)


def _worktree(repository: Path, commit: str, folder: Path) -> Path:
    """The revision's files, as they were committed: somebody may have edited those in the cache."""
    found = git_state(folder)
    if found["commit"] == commit:
        if found["dirty"]:
            _must(["git", "reset", "--hard", "--quiet", commit], folder)
        return folder
    # Of a repository that is gone, or half made by a process that was killed.
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A folder of the cache that was deleted is still registered: --force takes it over.
    _must(["git", "worktree", "add", "--force", "--detach", str(folder), commit], repository)
    return folder


def _alone(package: ModuleType, folder: Path) -> Path:
    """A folder that holds this installation's package and nothing else, to go into a path."""
    source = Path(str(package.__file__)).resolve().parent
    key = hashlib.sha256(str(source).encode()).hexdigest()[:12]
    link = folder / f"instruments-{key}" / source.name
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(source)
    return link.parent


def _python(repository: Path, tree: Path, environment: Path, note: Callable[[str], None]) -> str:
    """The interpreter for a worktree: this one where the pinned packages are the same."""
    pinned = tree / REQUIREMENTS
    if not pinned.is_file() or _same(pinned, repository / REQUIREMENTS):
        return sys.executable
    python = environment / "bin" / "python"
    done = environment / "installed"
    if not done.is_file():
        note(f"installing the packages that {tree.name[:12]} pins into {environment}")
        _must([sys.executable, "-m", "venv", str(environment)], tree)
        install = ["-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(pinned)]
        _must([str(python), *install], tree)
        done.touch()
    return str(python)


def _same(first: Path, second: Path) -> bool:
    return second.is_file() and first.read_bytes() == second.read_bytes()


def _must(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = one_line(done.stderr.strip() or done.stdout.strip())
        raise InfrastructureError(f"{' '.join(command[:4])} …: {said}")
