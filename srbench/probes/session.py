"""Processes of a worker's session seen from outside: their ids, their memory on the host."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_PROC = Path("/proc")
_SESSION_FIELD = 3
"""Of `/proc/<pid>/stat` after the program's name: state, parent, group, session."""


def session_pids(leader: int) -> set[int]:
    """Ids of the living processes of a session; whoever opened one of its own is not among them."""
    found = set()
    for stat in _PROC.glob("[0-9]*/stat"):
        # Gone between the listing and the reading.
        with contextlib.suppress(OSError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[_SESSION_FIELD]) == leader:
                found.add(int(stat.parent.name))
    return found


def reset_host_peaks(pids: set[int]) -> None:
    """Let the peak resident set of processes begin now, where the kernel allows it."""
    for pid in pids:
        with contextlib.suppress(OSError):
            (_PROC / str(pid) / "clear_refs").write_text("5")


def host_peak_bytes(pids: set[int]) -> int | None:
    """Sum of the peak resident sets of processes; None where none of them tells."""
    peaks = []
    for pid in pids:
        with contextlib.suppress(OSError):
            status = (_PROC / str(pid) / "status").read_text(errors="replace")
            if match := re.search(r"VmHWM:\s+(\d+) kB", status):
                peaks.append(int(match.group(1)) * 1024)
    return sum(peaks) if peaks else None
