"""Messages between coordinator and worker: one JSON object a line, each a typed dataclass."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from srbench.errors import InfrastructureError

REQUESTS: dict[str, type[Message]] = {}
REPLIES: dict[str, type[Message]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A line of the protocol; `type` on the wire is the class's name in lower case."""

    def encode(self) -> bytes:
        """The line, newline included."""
        return json.dumps({"type": type(self).__name__.lower(), **asdict(self)}).encode() + b"\n"


def decode(line: bytes, registry: dict[str, type[Message]]) -> Message:
    """Read a line as one of `registry`'s messages.

    Raises:
        InfrastructureError: It is none, so something else wrote into the channel.
    """
    try:
        content = json.loads(line)
        return registry[content.pop("type")](**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InfrastructureError(f"worker protocol: not understood: {line[:200]!r}") from error


M = TypeVar("M", bound=type[Message])


def _request(message: M) -> M:
    REQUESTS[message.__name__.lower()] = message
    return message


def _reply(message: M) -> M:
    REPLIES[message.__name__.lower()] = message
    return message


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(Message):
    """Import a pipeline, build its options, tell its facts; no weight is touched.

    Attributes:
        pipeline: Name of the arm.
        assignments: Of `srbench.registry.split_assignments`.
    """

    pipeline: str
    assignments: dict[str, dict[str, str]]


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Described(Message):
    """Facts of a pipeline.

    Attributes:
        options: All options as JSON values.
        version: Of the pipeline's semantics.
        precisions: Supported ones.
        tiers: Precision -> fidelity tier.
    """

    options: dict[str, Any]
    version: str
    precisions: list[str]
    tiers: dict[str, str]


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Message):
    """Load the weights: the fields of `WeightsSource`, `cpu` or `cuda`, `fp32` or `fp16`.

    Attributes:
        path: Folder of the weights.
        kind: Of the weights.
        digest: Of the weights.
        synthetic: Of the weights.
        device: `cpu` or `cuda`.
        precision: `fp32` or `fp16`.
        gpu_uuid: The card whose clocks, power and memory are read; None on CPU.
    """

    path: str
    kind: str
    digest: str
    synthetic: bool
    device: str
    precision: str
    gpu_uuid: str | None = None


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Message):
    """Weights are on the device.

    Attributes:
        load_ms: What that took.
        tf32: Whether TF32 arithmetic is allowed.
    """

    load_ms: float
    tf32: bool


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Message):
    """Prepare a size."""

    width: int
    height: int
    scale: int


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Message):
    """The size is prepared."""

    prepare_ms: float


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale(Message):
    """Time one image.

    Attributes:
        image: `.npy` file of the uint8 input.
        scale: Factor.
        seed: Of the posterior noise.
    """

    image: str
    scale: int
    seed: int


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Timed(Message):
    """One timed image, see `srbench.records.Sample`."""

    latency_ms: float
    gpu_ms: float | None
    stages_ms: dict[str, float]
    state: dict[str, Any]
    output_sha256: str


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class Solo(Message):
    """Measure what only an otherwise idle device tells, and keep the pictures for the fidelity.

    Attributes:
        image: `.npy` file of the uint8 input.
        scale: Factor.
        seed: Of the posterior noise.
        outputs: Prefix of the files to write.
    """

    image: str
    scale: int
    seed: int
    outputs: str


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Alone(Message):
    """Result of the solo phase.

    Attributes:
        memory: See `srbench.records.CellRecord`.
        work: See `srbench.records.CellRecord`, with `flops` by stage.
        energy_j: Joules an image, or None.
        energy_reason: Why it is None.
        picture: `.npy` of the uint8 output.
        picture_sha256: Of its values, to be held against those of the timed images.
        picture_float: `.npy` of the float32 output.
        eps: `.npy` of the network's noise prediction, None when the pipeline shows none.
    """

    memory: dict[str, int | None]
    work: dict[str, Any]
    energy_j: float | None
    energy_reason: str | None
    picture: str
    picture_sha256: str
    picture_float: str
    eps: str | None


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class CountWork(Message):
    """Count one image on the meta device; before `Load` the published architecture."""

    width: int
    height: int
    scale: int


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Message):
    """Floating-point operations by stage."""

    flops: dict[str, int]


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Message):
    """Compare an arm's pictures with the reference's; the files of two `Alone` replies."""

    case: str
    pipeline: str
    reference: str
    image: str
    reference_files: dict[str, str | None]
    candidate_files: dict[str, str | None]
    device: str


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Message):
    """A `FidelityRecord` as its JSON object."""

    record: dict[str, Any]


@_request
@dataclass(frozen=True, slots=True, kw_only=True)
class Exit(Message):
    """Leave."""


@_reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Message):
    """The request raised.

    Attributes:
        outcome: Of `srbench.outcome.Outcome`.
        reason: One line.
    """

    outcome: str
    reason: str
