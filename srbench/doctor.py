"""What is there and what is missing for a run on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.contract import PipelineError
from srbench.config import Settings
from srbench.errors import SrbenchError
from srbench.fingerprint import cpu_model, package_versions, usable_cores
from srbench.nvml import driver_facts, list_gpus
from srbench.profiles import profile_of
from srbench.store import check_writable

SYNTHETIC_BYTES = 6e9
"""Room that full-size synthetic weights take."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination.

    Attributes:
        what: What was looked at.
        word: `ok`, `warn` (works, with less) or `bad` (does not work).
        detail: What was found and what to do.
    """

    what: str
    word: str
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything a run needs, without importing or making anything heavy."""
    yield _python()
    yield from _packages()
    yield Finding("cpu", "ok", f"{cpu_model()}, {usable_cores()} cores")
    yield _gpu()
    yield _weights(settings.weights)
    yield _lpips()
    yield _disk()
    yield _writable(settings.out)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= (3, 11)
    return Finding("python", "ok" if good else "bad", version if good else f"{version}, needs 3.11")


def _packages() -> Iterator[Finding]:
    needed = ("torch", "diffusers", "transformers", "numpy", "pillow")
    for name, version in package_versions().items():
        if version is not None:
            yield Finding(name, "ok", version)
        else:
            yield Finding(name, "bad" if name in needed else "warn", "not installed")


def _gpu() -> Finding:
    gpus = list_gpus()
    if not gpus:
        return Finding("gpu", "warn", "none found; runs measure on the CPU")
    gpu = gpus[0]
    facts = driver_facts(gpu.uuid)
    return Finding(
        "gpu",
        "ok",
        f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, driver {facts.get('driver')}, "
        f"profile {profile_of(gpu).name}",
    )


def _weights(name: str | None) -> Finding:
    from pipelines.s3diff.weight_sources import hub_snapshot, resolve_weights

    try:
        if name not in (None, "mini", "synthetic"):
            source = resolve_weights(name, "cpu")
            return Finding("weights", "ok", f"{source.path} ({source.digest[:12]})")
        snapshot = hub_snapshot()
    except PipelineError as error:
        return Finding("weights", "bad", str(error))
    if snapshot is not None and name is None:
        return Finding("weights", "ok", f"{snapshot}")
    kind = name or "mini on CPU, synthetic on CUDA"
    return Finding(
        "weights", "warn", f"{kind}: seeded, not trained; `srbench weights fetch` gets trained ones"
    )


def _lpips() -> Finding:
    from srbench.metrics_weights import have_lpips

    if have_lpips():
        return Finding("lpips weights", "ok", "found")
    return Finding("lpips weights", "warn", "missing; `srbench weights fetch --metrics` gets them")


def _disk() -> Finding:
    from pipelines.cache import cache_folder

    folder = cache_folder()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1e9:.1f} GB free for the cache in {folder}"
    if free >= SYNTHETIC_BYTES:
        return Finding("disk", "ok", detail)
    return Finding("disk", "warn", f"{detail}; full-size weights need {SYNTHETIC_BYTES / 1e9:.0f}")


def _writable(out: Path) -> Finding:
    existing = next((p for p in (out, *out.absolute().parents) if p.exists()), out)
    try:
        check_writable(existing)
    except SrbenchError as error:
        return Finding("results folder", "bad", str(error))
    return Finding("results folder", "ok", f"{out} can be written")
