"""What coordinator and worker say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from srbench.wire import Message, reply, request

VERSION = 1
"""Of the protocol that `pipelines/external/PROTOCOL.md` describes. Raised when a program that keeps
to the older one could no longer take part; new fields with defaults in requests leave it."""


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(Message):
    """Import a pipeline, build its options, tell its facts; no weight is touched.

    Attributes:
        arm: Name of the arm.
        pipeline: Name of the pipeline, or `module:attribute`.
        assignments: Of `srbench.registry.split_assignments`, by arm.
        protocol: Version that the coordinator speaks.
    """

    arm: str
    pipeline: str
    assignments: dict[str, dict[str, str]]
    protocol: int = VERSION


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Described(Message):
    """Facts of a pipeline.

    Attributes:
        options: All options as JSON values.
        version: Of the pipeline's semantics.
        precisions: Supported ones.
        tiers: Precision -> fidelity tier.
        protocol: Version that the worker speaks.
    """

    options: dict[str, Any]
    version: str
    precisions: list[str]
    tiers: dict[str, str]
    protocol: int = VERSION


@request
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


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Message):
    """Weights are on the device.

    Attributes:
        load_ms: What that took.
        tf32: Whether TF32 arithmetic is allowed.
    """

    load_ms: float
    tf32: bool


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Message):
    """Ask a loaded pipeline whether it takes a size, and what one image of it will need."""

    width: int
    height: int
    scale: int


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated(Message):
    """The size is taken; what an image needs, each None where it is not known.

    Attributes:
        needed_bytes: Device memory beside the weights.
        free_bytes: What is free on the device now.
        output_size: Of a foreign engine, height and width of its pictures; None where they are
            scale times the input's.
    """

    needed_bytes: int | None = None
    free_bytes: int | None = None
    output_size: list[int] | None = None


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Message):
    """Prepare a size."""

    width: int
    height: int
    scale: int


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Message):
    """The size is prepared.

    Attributes:
        prepare_ms: What that took.
        decisions: What the pipeline chose for this size on this device, by subject.
    """

    prepare_ms: float
    decisions: dict[str, str] = field(default_factory=dict)


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale(Message):
    """Time one image.

    Attributes:
        image: `.npy` file of the uint8 input.
        scale: Factor.
        seed: Of the posterior noise.
        block: Block that the image belongs to. Only a simulated device asks for this and the next.
        attempt: Of that block, from 1.
        position: Of the timed image in its cell; None in the warm-up.
    """

    image: str
    scale: int
    seed: int
    block: int = 0
    attempt: int = 1
    position: int | None = None


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Timed(Message):
    """One timed image, see `srbench.records.Sample`."""

    latency_ms: float
    output_sha256: str
    gpu_ms: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Paint(Message):
    """Make the pictures of one image, nothing measured.

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


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Painted(Message):
    """The pictures of one image.

    Attributes:
        picture: `.npy` of the uint8 output.
        picture_float: `.npy` of the float32 output, None when a foreign engine has none.
        eps: `.npy` of the network's noise prediction, None when the pipeline shows none.
        memory: See `srbench.records.CellRecord`; of a foreign engine what it tells itself.
    """

    picture: str
    picture_float: str | None = None
    eps: str | None = None
    memory: dict[str, int | None] = field(default_factory=dict)


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Repaint(Paint):
    """Make the 8-bit picture of one image again."""


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Repainted(Message):
    """The `.npy` of a uint8 output, and the hash of its values."""

    picture: str
    picture_sha256: str


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Solo(Paint):
    """Measure what only an otherwise idle device tells, and keep the pictures for the fidelity.

    Attributes:
        other_seed: Of one more picture, to see how much the model itself varies; None for none.
        thorough: Also measure the energy and paint the picture again and again.
    """

    other_seed: int | None = None
    thorough: bool = True


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Alone(Painted):
    """Result of the solo phase.

    Attributes:
        work: See `srbench.records.CellRecord`, with `flops` by stage.
        energy_j: Joules an image, or None.
        energy_reason: Why it is None; None where nobody asked.
        energy: See `srbench.records.CellRecord`.
        picture_sha256: Of the picture's values, to be held against those of the timed images.
        distinct_pictures: How many different pictures several tries gave, 1 when the pipeline is
            deterministic; None when there was one try only.
        repeat: `.npy` of the uint8 output furthest from `picture` among those tries; None when
            all were equal.
        other_seed: `.npy` of the uint8 output under `Solo.other_seed`.
        states: Readings of the card from the phase's start to its end, as in a sample's `state`;
            empty on CPU.
    """

    work: dict[str, Any]
    energy_j: float | None
    energy_reason: str | None
    picture_sha256: str
    energy: dict[str, float | None] = field(default_factory=dict)
    distinct_pictures: int | None = None
    repeat: str | None = None
    other_seed: str | None = None
    states: list[dict[str, Any]] = field(default_factory=list)


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class CountWork(Message):
    """Count one image on the meta device; before `Load` the published architecture."""

    width: int
    height: int
    scale: int


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Message):
    """Work of one image, see `pipelines.contract.WorkCounts`."""

    flops: dict[str, int]
    launches: int
    calls: dict[str, int]
    host_device_bytes: int
    peak_tensor_bytes: int


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Message):
    """Compare an arm's pictures with a reference's.

    Attributes:
        case: Name of the case.
        pipeline: The arm judged.
        reference: An arm or one of `srbench.fidelity.roles`.
        image: `.npy` file of the uint8 input, for crops beside the metrics; None makes no crops.
        reference_files: `picture`, `picture_float` and `eps` of an `Alone` or `Painted`; only the
            first is always there.
        candidate_files: The same of the arm judged.
        device: Where networks of metrics run.
    """

    case: str
    pipeline: str
    reference: str
    image: str | None
    reference_files: dict[str, str | None]
    candidate_files: dict[str, str | None]
    device: str


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Message):
    """A `FidelityRecord` as its JSON object."""

    record: dict[str, Any]


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class CountOperators(CountWork):
    """Count one image as `CountWork` does, and tell its operators by size."""


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class CountedOperators(Counted):
    """Work of one image with the operators behind it.

    Attributes:
        operators: The fields of `pipelines.contract.OperatorCount` in order, one list a size; empty
            where the pipeline does not tell.
    """

    operators: list[list[Any]] = field(default_factory=list)


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureCeilings(Message):
    """Measure what the libraries reach on `cpu` or `cuda`; no pipeline is needed.

    Attributes:
        device: `cpu` or `cuda`.
        gpu_uuid: The card whose clocks and power are read; None on CPU.
    """

    device: str
    gpu_uuid: str | None = None


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings(Message):
    """What was measured.

    Attributes:
        precision: `fp32` or `fp16`, of the operands.
        ceilings: `srbench.roofline.ceilings.Ceiling` as JSON objects.
        states: Readings of the card before the first and after the last, empty on CPU.
    """

    precision: str
    ceilings: list[dict[str, Any]]
    states: list[dict[str, Any]]
