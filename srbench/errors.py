"""The error tree and the exit codes: every failure a user meets is one of these, in one line."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What every command returns to the shell."""

    OK = 0
    REGRESSION = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INFRASTRUCTURE = 4
    NOT_COMPARABLE = 5
    INTERRUPTED = 130


class SrbenchError(Exception):
    """Base of all errors shown to the user: what is wrong, where, and what to do, in one line."""

    exit_code = ExitCode.USAGE


class UsageError(SrbenchError):
    """Bad option, name or input file."""


class InfrastructureError(SrbenchError):
    """The machine failed: device lost, worker crash, not enough memory."""

    exit_code = ExitCode.INFRASTRUCTURE


class NotComparableError(SrbenchError):
    """There is nothing to compare with: no baseline, another GPU, other weights or inputs."""

    exit_code = ExitCode.NOT_COMPARABLE


def did_you_mean(name: str, known: list[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of `known`, or " Known: a, b." when none is."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(sorted(known))}."
