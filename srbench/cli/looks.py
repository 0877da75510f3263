"""Sequential runs: their options, their planned looks, and the gate's word at each of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.errors import NotComparableError, UsageError

if TYPE_CHECKING:
    from srbench.gate import Policy
    from srbench.records import Run
    from srbench.running import Looking

UntilDecided = Annotated[
    bool,
    typer.Option(
        "--until-decided",
        help="Look after 6 and 10 blocks and end where the gate has its verdict, or at 16.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(help="With --until-decided: the promoted baseline or run to decide against."),
]
PolicyFile = Annotated[
    Path | None, typer.Option(help="With --until-decided: TOML file with a [gate] table.")
]


def planned_looks(
    blocks: int | None, against: str | None, policy: Path | None, *, until_decided: bool
) -> list[int]:
    """Numbers of blocks at which a new run is looked at; none unless it is sequential.

    Raises:
        UsageError: An option of sequential runs in one that is not, or a number of blocks that is
            no look's.
    """
    from srbench.stats.sequential import LOOKS

    if until_decided:
        planned = [at for at, _ in LOOKS]
        if blocks is not None and blocks not in planned:
            *first, last = map(str, planned)
            raise UsageError(
                f"--blocks {blocks}: the looks of --until-decided are after {', '.join(first)} and "
                f"{last} blocks; give one of these as the most, or leave it out"
            )
        return [at for at in planned if at <= (blocks or planned[-1])]
    for option, value in (("against", against), ("policy", policy)):
        if value is not None:
            raise UsageError(f"--{option}: goes with --until-decided; the gate has one of its own")
    return []


def looking_by_gate(
    looks: Sequence[int], against: str | None, policy_file: Path | None, results: Path, profile: str
) -> Looking:
    """Whether the gate would leave no question of time open if the run ended here.

    Args:
        looks: Of the run; without any it goes on to its last block.
        against: As of `srbench gate --against`.
        policy_file: As of `srbench gate --policy`.
        results: Results folder.
        profile: Of the run.

    Raises:
        NotComparableError: `against` names nothing.
        UsageError: The policy is wrong; said before anything is measured.
    """
    from srbench.running import Looking

    if not looks:
        if policy_file is not None:
            raise UsageError("--policy: goes with --until-decided, which the run was begun without")
        return Looking()
    from srbench.baselines import resolve
    from srbench.cli.conduct import note
    from srbench.gate import judge, load_policy, require_judgeable, time_is_decided
    from srbench.noise import read_noise

    policy = load_policy(policy_file)
    reference, name = (None, "") if against is None else resolve(against, profile, results)
    noise = read_noise(results, profile)
    terms = {"policy_sha256": _digest(policy)}
    if reference is not None:
        terms["against_run_id"] = reference.head.run_id

    def check(run: Run) -> None:
        require_judgeable(run, policy, reference, name, noise)

    def decided(run: Run) -> bool:
        try:
            return time_is_decided(judge(run, policy, reference, name).checks)
        except NotComparableError as error:
            note(f"the look after {len(run.finished_blocks)} blocks finds nothing: {error}")
            return False

    return Looking(check, decided, terms)


def _digest(policy: Policy) -> str:
    return hashlib.sha256(json.dumps(asdict(policy), sort_keys=True).encode()).hexdigest()
