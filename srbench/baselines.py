"""Promoted runs: `results/baselines/<profile>/<name>.jsonl`, what later runs are held against."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from srbench.durable import replace_file
from srbench.errors import NotComparableError, UsageError
from srbench.gate import Policy, blemishes
from srbench.records import Run
from srbench.store import find_run, read_run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A promoted run on disk."""

    profile: str
    name: str
    path: Path


def baseline_path(root: Path, profile: str, name: str) -> Path:
    """Where a baseline of that name lies.

    Raises:
        UsageError: The name would not be a plain file name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"baseline name '{name}': use letters, digits, '.', '_' and '-' only")
    return root / "baselines" / profile / f"{name}.jsonl"


def list_baselines(root: Path) -> list[Baseline]:
    """All promoted runs under the results folder `root`, by profile and name."""
    paths = sorted((root / "baselines").glob("*/*.jsonl"))
    return [Baseline(path.parent.name, path.stem, path) for path in paths]


def promote(path: Path, root: Path, name: str, policy: Policy, *, force: bool = False) -> Baseline:
    """Make a run the baseline `name` of its profile, replacing an older one at once.

    The run's own lines are kept; only the crops, which the gate does not read, are dropped.

    Args:
        path: The results file.
        root: Results folder.
        name: Of the baseline.
        policy: Whose fidelity limits the run must meet.
        force: Promote a run that is unfinished, broken or unfaithful all the same.

    Raises:
        NotComparableError: The run has a single arm: nothing could be held against it.
        UsageError: The run does not deserve it, or the folder cannot be written.
    """
    run = read_run(path)
    target = baseline_path(root, run.head.profile, name)
    if not force and (blemish := _blemish(run, policy)):
        raise UsageError(f"run {run.head.run_id} is no baseline: {blemish}; --force overrides")
    try:
        replace_file(target, _lines_without_crops(path))
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from error
    return Baseline(run.head.profile, name, target)


def resolve(text: str, profile: str, root: Path) -> tuple[Run, str]:
    """Find what `--against` names: a results file, a promoted name, or a run id.

    Args:
        text: As given.
        profile: Of the run under judgement; promoted names are looked up under it.
        root: Results folder.

    Returns:
        The run and what to call it in messages.

    Raises:
        NotComparableError: Nothing of that name exists.
    """
    if Path(text).is_file():
        return read_run(Path(text)), f"'{text}'"
    if _NAME.fullmatch(text):
        promoted = baseline_path(root, profile, text)
        if promoted.is_file():
            return read_run(promoted), promoted_name(text)
    try:
        return read_run(find_run(text, root)), f"run '{text}'"
    except UsageError as error:
        if not _is_missing(text, root):
            raise
        raise NotComparableError(_nothing_named(text, profile, root)) from error


def promoted_name(name: str) -> str:
    """What a baseline is called in messages."""
    return f"promoted '{name}'"


def _is_missing(text: str, root: Path) -> bool:
    """Whether nothing bears that name, as against a file that exists and is damaged."""
    return not Path(text).exists() and not list(root.glob(f"*/{Path(text).stem}.jsonl"))


def _nothing_named(text: str, profile: str, root: Path) -> str:
    known = list_baselines(root)
    here = [each.name for each in known if each.profile == profile]
    elsewhere = [each.profile for each in known if each.name == text]
    message = f"no baseline '{text}' for {profile} in {root / 'baselines'}"
    if elsewhere:
        return f"{message}, only for {', '.join(elsewhere)}"
    if here:
        return f"{message}; there are: {', '.join(here)}"
    return f"{message}; make one with: srbench baseline promote RUN --name {text}"


def _blemish(run: Run, policy: Policy) -> str | None:
    if not run.ended:
        return "it has not finished"
    found = blemishes(run, policy)
    return found[0].message if found else None


def _lines_without_crops(path: Path) -> str:
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break  # a torn last line; `read_run` has refused damage anywhere else
        if line.get("kind") == "fidelity":
            line["crops"] = {}
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)
