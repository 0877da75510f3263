"""What is there and what is missing for a run on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.contract import PipelineError
from srbench.config import Settings
from srbench.doctor_card import Finding, examine_card
from srbench.errors import SrbenchError
from srbench.fingerprint import cpu_model, package_versions, usable_cores
from srbench.nvml import Gpu, list_gpus
from srbench.outcome import one_line
from srbench.store import check_writable

SYNTHETIC_BYTES = 6e9
"""Room that full-size synthetic weights take."""


LEAST_CORES = 2
BUSY_SHARE = 0.5
"""Half of the cores compute when a CPU is measured; the other half is for everything else."""

LEAST_RESULTS_BYTES = 1e9
"""A run's file has some MB, its report some tens; a disk that is nearly full is not worth a run."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything a run needs, without importing or making anything heavy."""
    yield _python()
    yield from _packages()
    yield cpu_finding(cpu_model(), usable_cores(), os.getloadavg()[0], os.cpu_count() or 1)
    yield from _gpu()
    yield _weights(settings.weights)
    yield _lpips()
    yield _realesrgan()
    yield _disk()
    yield from _results(settings.out)


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


def cpu_finding(model: str, cores: int, load: float, machine_cores: int) -> Finding:
    """Whether the CPU is free to measure on.

    Args:
        model: Its name.
        cores: That this process may use.
        load: Average of runnable processes over a minute; in a container the whole machine's.
        machine_cores: Of the whole machine.
    """
    found = f"{model}, {cores} cores, load {load:.1f} on {machine_cores}"
    if cores < LEAST_CORES:
        return Finding("cpu", "warn", f"{found}; with one core everything else disturbs the times")
    if load > BUSY_SHARE * machine_cores:
        return Finding("cpu", "warn", f"{found}: others compute here, CPU times will be noisy")
    return Finding("cpu", "ok", found)


def _gpu() -> Iterator[Finding]:
    gpus = list_gpus()
    if not gpus:
        yield Finding("gpu", "warn", "none found; runs measure on the CPU")
        return
    yield from examine_card(gpus[0])
    yield torch_finding(gpus[0])


_ASK_TORCH = """
import torch
torch.cuda.init()
print(torch.cuda.get_device_name())
"""


def torch_finding(gpu: Gpu) -> Finding:
    """Whether torch can really use the card, asked in a process of its own: it takes seconds."""
    command = [sys.executable, "-c", _ASK_TORCH]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        return Finding("torch on the card", "ok", answer.stdout.strip())
    said = answer.stderr.strip().splitlines()
    why = one_line(said[-1] if said else f"exit code {answer.returncode}")
    return Finding("torch on the card", "bad", f"the driver shows {gpu.name}, torch says: {why}")


def _weights(name: str | None) -> Finding:
    from pipelines.s3diff.weight_sources import hub_snapshot
    from srbench.systems import resolve_weights
    from srbench.weights import system_of_weights

    try:
        if name not in (None, "mini", "synthetic"):
            system = system_of_weights(Path(name).expanduser())
            if system.guest:
                told = f"{name}: of {system.name}, which takes it by --set weights=FILE"
                return Finding("weights", "bad", told)
            source = resolve_weights([system.baseline], name, "cpu")
            detail = f"{source.path} ({source.digest[:12]}), of {system.name}"
            return Finding("weights", "ok", detail)
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


def _realesrgan() -> Finding:
    from pipelines.external.realesrgan.weight_sources import find_network

    try:
        return Finding("realesrgan network", "ok", str(find_network("")))
    except PipelineError:
        told = "missing; `srbench weights fetch --realesrgan` gets it"
        return Finding("realesrgan network", "warn", told)


def _disk() -> Finding:
    from pipelines.cache import cache_folder

    folder = cache_folder()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1e9:.1f} GB free for the cache in {folder}"
    if free >= SYNTHETIC_BYTES:
        return Finding("disk", "ok", detail)
    return Finding("disk", "warn", f"{detail}; full-size weights need {SYNTHETIC_BYTES / 1e9:.0f}")


def _results(out: Path) -> Iterator[Finding]:
    existing = next((p for p in (out, *out.absolute().parents) if p.exists()), out)
    try:
        check_writable(existing)
    except SrbenchError as error:
        yield Finding("results folder", "bad", str(error))
        return
    yield Finding("results folder", "ok", f"{out} can be written")
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1e9:.1f} GB free for results"
    if free >= LEAST_RESULTS_BYTES:
        yield Finding("results disk", "ok", detail)
    else:
        yield Finding("results disk", "warn", f"{detail}; free some before a long run")
