"""What machine, driver, versions and commit a run was made with; nothing personal."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pipelines
import srbench
from srbench.git import git_state
from srbench.nvml import Gpu, driver_facts

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "diffusers",
    "transformers",
    "peft",
    "numpy",
    "pillow",
    "pyiqa",
    "torchmetrics",
)


def fingerprint(gpu: Gpu | None) -> dict[str, Any]:
    """Facts of this machine for a run on a card, or on CPU for None.

    The host's name enters as a hash only: equal machines can be told, nobody is named.
    """
    facts: dict[str, Any] = {
        "host": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        "cpu_model": cpu_model(),
        "cpu_cores": usable_cores(),
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": package_versions(),
        "cpu_threads": cpu_threads(),
        "code_sha256": code_digest(),
        **git_state(Path.cwd()),
    }
    if gpu is not None:
        facts |= {
            "gpu_name": gpu.name,
            "gpu_uuid": gpu.uuid,
            "gpu_memory_bytes": gpu.memory_bytes,
            **driver_facts(gpu.uuid),
        }
    return facts


@cache
def code_digest() -> str:
    """SHA-256 of srbench's and its pipelines' sources: versions and commits miss an edited file."""
    digest = hashlib.sha256()
    for package in (pipelines, srbench):
        root = Path(str(package.__file__)).parent
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{file.relative_to(root.parent)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def cpu_threads() -> int:
    """Threads that compute when the CPU is measured: `OMP_NUM_THREADS`, else half of the cores.

    With a thread on every core, whatever else runs for a moment holds up all of them at the next
    barrier: on a busy 2-core machine single images took 70 times as long.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else max(1, usable_cores() // 2)


def cpu_model() -> str:
    """The processor's name as the kernel tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.machine()


def package_versions() -> dict[str, str | None]:
    """Package -> version, None where it is not installed; nothing is imported."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
