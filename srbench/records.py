"""The lines of a results file: typed records, one JSON object a line. See results/SCHEMA.md.

Nothing is rounded before it is stored, nothing derived is stored, and a missing value is null with
a reason beside it, never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from srbench.samples import Samples, in_columns
from srbench.shape import misfit

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A line of a results file; `kind` tells which."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The line as a JSON object, `kind` first; what is nested in it is the record's own."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Self:
        """Inverse of `to_json`; keys of later minor additions are ignored.

        Raises:
            TypeError: A field is missing or of another type.
        """
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in line.items() if key in known}
        if wrong := misfit(cls, values):
            raise TypeError(wrong)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(Record):
    """First line: everything that was decided before the first measurement.

    Attributes:
        schema_version: Version of this file's format.
        run_id: `<UTC time>-<profile>-<4 hex>`, also the file's stem.
        started_at: ISO 8601, UTC.
        srbench_version: Version of the package that wrote the file.
        profile: `cpu`, `a10`, … the folder under `results/`.
        device: `cpu` or `cuda`.
        precision: `fp32` or `fp16`, of both arms.
        tf32: Whether TF32 matrix arithmetic was allowed.
        cases: Case names WxHxS in the order of the tables.
        pipelines: Arm names; the first is the baseline.
        options: Arm name -> all options of that arm as JSON values.
        versions: Arm name -> version of the pipeline's semantics.
        tiers: Arm name -> fidelity tier at this precision.
        weights: `kind`, `digest`, `synthetic`, `label`.
        inputs: Case name -> {`sha256` of the uint8 LR pixels, `source`}.
        blocks, pairs, seed, noise_seed: The block plan and its seeds.
        fingerprint: Machine, driver, versions, commit; see `srbench.fingerprint`.
        argv: The command line.
        purpose: `run`; `aa` (the same pipeline in both arms); `ladder` (the options of a pipeline
            switched on one after another); `work` (counters only, device `meta`); `simulation` (a
            fake device: nothing in the file was measured).
        arms: Arm name -> {`pipeline`, `revision` (as typed or null), `commit` (hash or null)}.
        looks: Numbers of blocks after which a sequential run may end; empty for a fixed number.
        against: What a sequential run is held against at its looks; null for its own baseline.
        decided_by: Of a sequential run: `policy_sha256`, and `against_run_id` where it is held
            against another run.
        pairing: `interleaved` (both workers warm, images in turns) or `block` (one worker after
            the other, where both do not fit on the device).
        ladder: Of a ladder, its arms in order, see `srbench.ladder.LadderArm`.
        executor: `local`, or `ray` where blocks were measured on machines of a cluster.
        group: Shared by the runs, one a profile, that one command began; null for one alone.
    """

    kind: ClassVar[str] = "run"
    schema_version: int = SCHEMA_VERSION
    run_id: str
    started_at: str
    srbench_version: str
    profile: str
    device: str
    precision: str
    tf32: bool
    cases: list[str]
    pipelines: list[str]
    options: dict[str, dict[str, Any]]
    versions: dict[str, str]
    tiers: dict[str, str]
    weights: dict[str, Any]
    inputs: dict[str, dict[str, str]]
    blocks: int
    pairs: int
    seed: int
    noise_seed: int
    fingerprint: dict[str, Any]
    argv: list[str]
    purpose: str = "run"
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: list[int] = field(default_factory=list)
    against: str | None = None
    decided_by: dict[str, str] = field(default_factory=dict)
    pairing: str = "interleaved"
    ladder: list[dict[str, Any]] = field(default_factory=list)
    executor: str = "local"
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Record):
    """One timed image.

    Attributes:
        pair: Index of the ABBA pair inside the cell, 0-based.
        position: Order of execution inside the cell and block, 0-based over both arms.
        latency_ms: Wall time of `upscale` around a device synchronise.
        gpu_ms: Time between CUDA events around the image; null on CPU.
        stages_ms: Stage -> time (CUDA events, or wall clock on CPU).
        state: `before` and `after` -> `sm_clock_mhz`, `power_w`, `power_instant_w`,
            `temperature_c`, `throttle_reasons` (NVML bit mask), `utilization_pct`,
            `memory_used_bytes` (of the whole card), `compute_pids` (as the driver numbers them);
            empty on CPU.
        output_sha256: Of the uint8 output, so that the timed path is the checked path.
    """

    kind: ClassVar[str] = "sample"
    pair: int
    position: int
    latency_ms: float
    gpu_ms: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    output_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord(Record):
    """One case of one arm in one block.

    Attributes:
        block: Block index, 0-based.
        case: Case name.
        pipeline: Arm name.
        outcome: `ok`, `oom`, `timeout`, `crash`, `unsupported` or `throttled`.
        reason: One line when the outcome is not ok.
        load_ms: Loading the weights in this worker (the same value in all cells of a worker).
        prepare_ms: `prepare` for this size.
        decisions: What the pipeline chose for this size on this device, by subject.
        warmup_ms: Latencies of the discarded first images, the first call first.
        samples: The timed images (dictionaries of `Sample`).
        memory: Of the solo phase, null where not measurable here: `peak_tensor_bytes`,
            `allocator_peak_bytes`, `reserved_peak_bytes`, `process_vram_bytes`, `rss_peak_bytes`.
        work: Counters of the solo phase: `launches`, `host_device_bytes`, `calls`.
        energy_j: Joules per image, gross, null where not measured.
        energy: What is behind it: `gross_j`, `net_j` (less what the idle card draws), `polled_j`
            (integral of polled power) an image; `idle_w`, `window_s`, `images`.
        picture_sha256: Of the solo phase's picture, the one whose fidelity is judged: the timed
            path must be the checked path.
    """

    kind: ClassVar[str] = "cell"
    block: int
    case: str
    pipeline: str
    outcome: str
    reason: str | None = None
    load_ms: float | None = None
    prepare_ms: float | None = None
    decisions: dict[str, str] = field(default_factory=dict)
    warmup_ms: list[float] = field(default_factory=list)
    samples: Sequence[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, int | None] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)
    energy_j: float | None = None
    energy: dict[str, float | None] = field(default_factory=dict)
    picture_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The line as a JSON object, its samples as a list of objects."""
        # Named: `slots` made this class anew, and a bare super() means the one before.
        line = super(CellRecord, self).to_json()
        return {**line, "samples": list(self.samples)}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Self:
        """Inverse of `to_json`, the samples in columns.

        Raises:
            TypeError: A field, of the cell or of a sample, is missing or of another type.
            ValueError: A number in a sample is not finite.
        """
        rows = line.get("samples", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError("samples is no list of objects")
        samples = in_columns(rows)
        for row in samples.examples() if isinstance(samples, Samples) else samples:
            Sample.from_json(row)
        return super(CellRecord, cls).from_json({**line, "samples": samples})


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRecord(Record):
    """How close one arm's picture is to a reference's, same input and noise.

    Attributes:
        case: Case name.
        pipeline: The arm judged.
        reference: The arm (`s3diff-baseline`; in a ladder also the rung before) it is held
            against, or a role: `fp32` (the baseline pipeline in float32), `repeat` (the worst of
            the arm's own four further pictures), `other_seed` (the arm's own picture with other
            noise), `other_process` (the worst of what the arm timed in other processes, where that
            differs from its judged picture).
        metrics: Metric -> value. `psnr` (8-bit RGB), `psnr_float`, `ssim` (Y), `lpips`,
            `worst_block_psnr` (lowest over 64x64 blocks of the 8-bit picture), `eps_relative_l2`,
            `max_abs_diff` (8-bit levels), `worst_band_psnr` (lowest over 16x64 and 64x16 bands,
            where seams show), `flat_blocks` (64x64 blocks of one colour in this arm only),
            `distinct_pictures` (of five in `repeat`; of all processes in `other_process`).
        not_measured: Metric -> why.
        providers: Metric -> `library version (variant)`.
        worst_block: [top, left] of the worst 64x64 block in output pixels.
        crops: `input`, `baseline`, `candidate` -> base64 PNG of the same region around it.
        picture_sha256: Of the arm's picture. A run that was resumed has made it again.
        outcome: `ok` or why there is nothing to compare.
        reason: One line when the outcome is not ok.
    """

    kind: ClassVar[str] = "fidelity"
    case: str
    pipeline: str
    reference: str
    metrics: dict[str, float] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    providers: dict[str, str] = field(default_factory=dict)
    worst_block: list[int] | None = None
    crops: dict[str, str] = field(default_factory=dict)
    picture_sha256: str | None = None
    outcome: str = "ok"
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecord(Record):
    """Written after the last cell of a block: the block is complete and `--resume` skips it.

    Attributes:
        block: Block index.
        finished_at: ISO 8601, UTC.
        notes: Power capping, solo phases that failed, timed images unlike the judged one.
        fingerprint: Of the machine that measured it, where that is not the run's; else empty.
    """

    kind: ClassVar[str] = "block"
    block: int
    finished_at: str
    notes: list[str] = field(default_factory=list)
    fingerprint: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidRecord(Record):
    """The block's cells above this line do not count: something disturbed them. It is repeated.

    Attributes:
        block: Block index.
        attempt: Of this block, from 1.
        reasons: What was seen: thermal throttling, a foreign process, a machine that was lost.
    """

    kind: ClassVar[str] = "void"
    block: int
    attempt: int
    finished_at: str
    reasons: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRecord(Record):
    """Last line of a finished run.

    Attributes:
        finished_at: ISO 8601, UTC.
        interrupted: Ctrl-C; the run counts as unfinished.
        decided_at: Blocks after which a sequential run was decided; null otherwise.
    """

    kind: ClassVar[str] = "end"
    finished_at: str
    interrupted: bool = False
    decided_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole results file, read back.

    Attributes:
        head: Its first line.
        cells: That count.
        fidelity: Of its pictures.
        finished_blocks: Blocks that are complete.
        ended: Whether it is whole.
        voids: Attempts at blocks that do not count.
        machines: Block -> fingerprint, of the blocks measured on another machine than the run's.
    """

    head: RunRecord
    cells: list[CellRecord]
    fidelity: list[FidelityRecord]
    finished_blocks: set[int]
    ended: bool
    voids: list[VoidRecord] = field(default_factory=list)
    machines: dict[int, dict[str, Any]] = field(default_factory=dict)
    _by_arm: dict[tuple[str, str], list[CellRecord]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def cells_by_arm(self) -> dict[tuple[str, str], list[CellRecord]]:
        """(case, arm) -> its cells in block order; of a block measured again the last counts."""
        if not self._by_arm:
            found: dict[tuple[str, str], dict[int, CellRecord]] = {}
            for cell in self.cells:
                found.setdefault((cell.case, cell.pipeline), {})[cell.block] = cell
            self._by_arm.update(
                {place: [last[block] for block in sorted(last)] for place, last in found.items()}
            )
        return self._by_arm
