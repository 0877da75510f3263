"""Ceilings of this machine, measured in a worker process and stored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from srbench import __version__
from srbench.errors import InfrastructureError
from srbench.fingerprint import fingerprint
from srbench.locks import measuring_into
from srbench.nvml import Gpu
from srbench.outcome import Failure
from srbench.profiles import Profile
from srbench.protocol import Ceilings, MeasureCeilings
from srbench.roofline.ceilings import Ceiling, CeilingsFile, write_ceilings
from srbench.scratch import run_folder
from srbench.store import check_writable
from srbench.worker_process import WorkerProcess


def measure_and_store(
    profile: Profile,
    gpu: Gpu | None,
    root: Path,
    timeout_s: float,
    note: Callable[[str], None],
) -> CeilingsFile:
    """Measure the device of a profile and replace `root/<profile>/ceilings.json`.

    Args:
        profile: Of this machine's device.
        gpu: Its card, None on CPU.
        root: Results folder.
        timeout_s: Seconds the worker may take.
        note: Told that it takes a while.

    Raises:
        UsageError: The folder cannot be written.
        InfrastructureError: The worker broke.
    """
    check_writable(root / profile.name)
    note(f"measuring the ceilings of {gpu.name if gpu else profile.title}")
    with measuring_into(root / profile.name), run_folder() as folder:
        worker = WorkerProcess(folder / "ceilings.log")
        try:
            uuid = None if gpu is None else gpu.uuid
            request = MeasureCeilings(device=profile.device, gpu_uuid=uuid)
            reply = worker.ask(Ceilings, request, timeout_s)
        finally:
            worker.kill()
    if isinstance(reply, Failure):
        raise InfrastructureError(f"measuring ceilings: {reply.outcome}: {reply.reason}")
    found = CeilingsFile(
        profile=profile.name,
        device=profile.device,
        precision=reply.precision,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        srbench_version=__version__,
        fingerprint=fingerprint(gpu),
        ceilings=[Ceiling(**each) for each in reply.ceilings],
        states=reply.states,
    )
    write_ceilings(root, found)
    return found
