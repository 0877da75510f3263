"""The systems that can be measured: each has weights, cases and a baseline of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from srbench.errors import UsageError
from srbench.registry import find_pipeline

if TYPE_CHECKING:
    from pipelines.contract import WeightsSource


@dataclass(frozen=True, slots=True)
class System:
    """A family of pipelines that compute with the same checkpoints.

    Attributes:
        name: As at the front of its pipelines' names.
        package: Has the module `weight_sources`, whose `resolve_weights(name, device)` needs no
            torch.
        matrix: Cases by default, on a card.
        smoke: Cases by default, on a CPU.
        guest: Its pipelines bring what they compute with, so they may stand in one run beside
            another system's, whose weights and cases then count.
    """

    name: str
    package: str
    matrix: str
    smoke: str
    guest: bool = False

    @property
    def baseline(self) -> str:
        """The pipeline that others are held against; guests have none."""
        return f"{self.name}-baseline"


S3DIFF = System("s3diff", "pipelines.s3diff", "documented", "smoke")
OSEDIFF = System("osediff", "pipelines.osediff", "documented", "osediff-smoke")
SRDIFF = System("srdiff", "pipelines.srdiff", "srdiff", "srdiff-smoke")
REALESRGAN = System(
    "realesrgan", "pipelines.external.realesrgan", "documented", "smoke", guest=True
)
BICUBIC = System("bicubic", "pipelines.external.bicubic", "documented", "smoke", guest=True)

_SYSTEMS = (S3DIFF, OSEDIFF, SRDIFF, REALESRGAN, BICUBIC)
"""Of guests alone the first one's weights are those of a run."""


def system_of(pipeline: str) -> System | None:
    """The system of a pipeline; None for one that is not ours and takes any weights.

    Raises:
        UsageError: No such pipeline.
    """
    entry = find_pipeline(pipeline)
    # A foreign engine lies elsewhere; its options are of the system whose weights it takes.
    place = entry.target if entry.options is None else entry.options
    return next((s for s in _SYSTEMS if place.startswith(f"{s.package}.")), None)


def recorded_system(pipeline: str) -> System:
    """The system of a pipeline in a record, which this version need not know any more."""
    try:
        return system_of(pipeline) or S3DIFF
    except UsageError:
        return S3DIFF


def common_system(pipelines: Iterable[str]) -> System:
    """The one system that the pipelines of a run belong to, S3Diff where none of them is ours.

    Guests count only among themselves.

    Raises:
        UsageError: An unknown pipeline, or pipelines of several systems.
    """
    known = {name: system_of(name) for name in pipelines}
    hosts = {name: system for name, system in known.items() if system and not system.guest}
    systems = set(hosts.values())
    if len(systems) > 1:
        told = ", ".join(f"{name} ({system.name})" for name, system in hosts.items())
        raise UsageError(f"--pipelines: {told} take different weights; measure them in two runs")
    if systems or None in known.values():
        return systems.pop() if systems else S3DIFF
    return min(filter(None, known.values()), key=_SYSTEMS.index, default=S3DIFF)


def resolve_weights(pipelines: Iterable[str], name: str | None, device: str) -> WeightsSource:
    """Find the weights that some pipelines share.

    Args:
        pipelines: Their names.
        name: A path, `mini` or `synthetic`; None takes the system's default.
        device: `cuda` or `cpu`.

    Raises:
        UsageError: See `common_system`.
        PipelineError: No such weights.
    """
    sources = import_module(f"{common_system(pipelines).package}.weight_sources")
    found: WeightsSource = sources.resolve_weights(name, device)
    return found
