"""Peak memory of one image: allocator, process on the card, resident set on the host."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srbench.nvml import Monitor

_PROCESS = Path("/proc/self")

Listing = Sequence[tuple[int, int | None]]
"""Compute processes of the card and their bytes, of `Monitor.processes`."""


class MemoryProbe:
    """Resets the peaks when made; `read` tells them. For a phase in which no other worker computes.

    `allocator_peak_bytes`: largest sum of live tensor blocks in PyTorch's caching allocator, the
        weights included. Exact and the same on every run of the same code.
    `reserved_peak_bytes`: largest sum of the segments that the allocator held from the driver for
        them: the above, plus fragmentation and cached free blocks. The cache is emptied when the
        probe is made, so what other sizes left is not counted.
    `process_vram_bytes`: the most that the driver accounts to this process: the reserved peak plus
        what is outside of the allocator (CUDA context, loaded kernels, library workspaces, some
        hundreds of MB). The driver tells only the present, so it is its number after the image plus
        what the allocator gave back since its peak; the share of context and kernels is
        `process_vram_bytes - reserved_peak_bytes`.
    `rss_peak_bytes`: largest resident set of the process on the host, with shared libraries and
        pinned memory. Of its whole life where the kernel does not allow a reset.
    """

    def __init__(self, device: str, monitor: Monitor | None = None) -> None:
        """Begin to watch `cpu` or `cuda`; `monitor` is the card's, where there is one."""
        self._cuda = device == "cuda"
        self._monitor = monitor
        self._resettable = _reset_host_peak()
        if self._cuda:
            import torch

            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._before = monitor.processes() if monitor else []

    def read(self) -> dict[str, int | None]:
        """Peaks in bytes since the probe was made, None where not measurable here."""
        allocated = reserved = vram = None
        if self._cuda:
            import torch

            allocated = torch.cuda.max_memory_allocated()
            reserved = torch.cuda.max_memory_reserved()
            present = self._process_bytes()
            if present is not None:
                vram = present + reserved - torch.cuda.memory_reserved()
        return {
            "allocator_peak_bytes": allocated,
            "reserved_peak_bytes": reserved,
            "process_vram_bytes": vram,
            "rss_peak_bytes": _host_peak_bytes(self._resettable),
        }

    def _process_bytes(self) -> int | None:
        if self._monitor is None:
            return None
        return bytes_of_process(os.getpid(), self._before, self._monitor.processes())


def bytes_of_process(pid: int, before: Listing, after: Listing) -> int | None:
    """What the driver accounts to a process after an image.

    In a container the driver may list processes under ids of the host. Ours is then the one whose
    memory changed while it alone computed.

    Args:
        pid: Its id here.
        before: The card's processes before the image.
        after: After it.

    Returns:
        Bytes; None where the driver does not tell or the process cannot be told from others.
    """
    known = {number: size for number, size in after if number == pid}
    if not known:
        earlier = set(before)
        known = {number: size for number, size in after if (number, size) not in earlier}
    return next(iter(known.values())) if len(known) == 1 else None


def _reset_host_peak() -> bool:
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _host_peak_bytes(resettable: bool) -> int:
    """Peak resident set; of the whole life of the process where the kernel cannot reset it."""
    if resettable:
        match = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())
        if match:
            return int(match.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
