"""Sequential runs: their options, their planned looks, and the gate's word at each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.errors import UsageError

if TYPE_CHECKING:
    from srbench.records import Run

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
        UsageError: An option of sequential runs in one that is not.
    """
    from srbench.stats.sequential import LOOKS

    if until_decided:
        return [at for at, _ in LOOKS if at <= (blocks or LOOKS[-1][0])]
    for option, value in (("against", against), ("policy", policy)):
        if value is not None:
            raise UsageError(f"--{option}: goes with --until-decided; the gate has one of its own")
    return []


def decided_by_gate(
    looks: list[int], against: str | None, policy_file: Path | None, results: Path
) -> Callable[[Run], bool]:
    """Whether the gate would leave no question of time open if the run ended here.

    Args:
        looks: Of the run; without any it goes on to its last block.
        against: As of `srbench gate --against`.
        policy_file: As of `srbench gate --policy`.
        results: Results folder.

    Raises:
        UsageError: The policy is wrong; said before anything is measured.
    """
    if not looks:
        return lambda run: False
    from srbench.baselines import resolve
    from srbench.gate import Verdict, judge, load_policy

    policy = load_policy(policy_file)

    def decided(run: Run) -> bool:
        reference, name = (None, "") if against is None else resolve(against, run, results)
        checks = judge(run, policy, reference, name).checks
        timed = [check for check in checks if check.metric in ("latency", "speedup", "time")]
        return bool(timed) and all(check.verdict is not Verdict.INCONCLUSIVE for check in timed)

    return decided
