"""Peak memory of one image: allocator, process on the card, resident set on the host."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srbench.nvml import Monitor

_PROCESS = Path("/proc/self")


class MemoryProbe:
    """Resets the peaks when made; `read` tells them."""

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

    def read(self) -> dict[str, int | None]:
        """Peaks in bytes since the probe was made, None where not measurable here."""
        allocated = reserved = vram = None
        if self._cuda:
            import torch

            allocated = torch.cuda.max_memory_allocated()
            reserved = torch.cuda.max_memory_reserved()
            vram = self._monitor.process_bytes(os.getpid()) if self._monitor else None
        return {
            "allocator_peak_bytes": allocated,
            "reserved_peak_bytes": reserved,
            "process_vram_bytes": vram,
            "rss_peak_bytes": _host_peak_bytes(self._resettable),
        }


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
