"""What git tells of a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

PATIENCE_S = 60


def ask_git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command without its last newline; None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the working tree a folder is in and whether it is modified, None outside one."""
    commit = ask_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}
