"""What a worker does on request: one pipeline, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srbench import protocol
from srbench.errors import UsageError
from srbench.fidelity.repeats import digest, paint_again
from srbench.fingerprint import cpu_threads
from srbench.nvml import Monitor
from srbench.probes.clock import synchronise, timed
from srbench.probes.energy import measure_energy
from srbench.probes.memory import MemoryProbe
from srbench.registry import (
    assignments_for,
    decisions_of,
    load_pipeline,
    option_names,
    output_size,
    parse_options,
    version_of,
)
from srbench.scratch import keep, keep_if, kept
from srbench.wire import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.contract import Pipeline, WorkCounts
    from srbench.fidelity.compare import Output


class Workbench:
    """State of a worker: the pipeline it was told to be."""

    def __init__(self) -> None:
        """A worker that is nothing yet."""
        self._pipeline: Pipeline | None = None
        self._device = "cpu"
        self._monitor: Monitor | None = None
        self._image: tuple[str, NDArray[np.uint8]] | None = None
        self._tasks: dict[type[Message], Callable[[Any], Message]] = {
            protocol.Describe: self._describe,
            protocol.Load: self._load,
            protocol.Estimate: self._estimate,
            protocol.Prepare: self._prepare,
            protocol.Upscale: self._upscale,
            protocol.Solo: self._solo,
            protocol.Paint: self._paint,
            protocol.Repaint: self._repaint,
            protocol.CountWork: self._count_work,
            protocol.CountOperators: self._count_operators,
            protocol.MeasureCeilings: self._measure_ceilings,
            protocol.Judge: self._judge,
        }

    def handle(self, request: Message) -> Message:
        """Do one request; whatever it raises is the caller's to turn into an outcome."""
        return self._tasks[type(request)](request)

    def free_memory(self) -> None:
        """Give cached device memory back after a failure."""
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline. Raises UsageError before `Describe`."""
        if self._pipeline is None:
            raise UsageError("the worker was not told which pipeline it is")
        return self._pipeline

    def _describe(self, request: protocol.Describe) -> protocol.Described:
        found = load_pipeline(request.pipeline)
        values = assignments_for(request.arm, option_names(found.Options), request.assignments)
        options = parse_options(found, values)
        self._pipeline = found(options)
        return protocol.Described(
            options=asdict(options),
            version=version_of(self._pipeline),
            precisions=[precision.value for precision in found.precisions],
            tiers={precision.value: tier.value for precision, tier in found.tiers.items()},
        )

    def _load(self, request: protocol.Load) -> protocol.Loaded:
        import torch

        from pipelines.contract import Precision, WeightsSource

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._device = request.device
        if request.device == "cpu":
            torch.set_num_threads(cpu_threads())
        if request.gpu_uuid is not None:
            self._monitor = Monitor(request.gpu_uuid)
        weights = WeightsSource(
            path=Path(request.path),
            kind=request.kind,  # type: ignore[arg-type]
            digest=request.digest,
            synthetic=request.synthetic,
        )
        device = torch.device(request.device)
        start = time.perf_counter_ns()
        self.pipeline.load(weights, device, Precision(request.precision))
        synchronise(self._device)
        load_ms = (time.perf_counter_ns() - start) / 1e6
        tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        return protocol.Loaded(load_ms=load_ms, tf32=tf32)

    def _estimate(self, request: protocol.Estimate) -> protocol.Estimated:
        import torch

        from srbench.painting import free_memory

        return protocol.Estimated(
            needed_bytes=self.pipeline.memory_estimate(
                request.height, request.width, request.scale
            ),
            free_bytes=free_memory(torch.device(self._device)),
        )

    def _prepare(self, request: protocol.Prepare) -> protocol.Prepared:
        start = time.perf_counter_ns()
        size = (request.height, request.width, request.scale)
        self.pipeline.prepare(*size)
        synchronise(self._device)
        prepare_ms = (time.perf_counter_ns() - start) / 1e6
        decisions = decisions_of(self.pipeline, *size)
        return protocol.Prepared(prepare_ms=prepare_ms, decisions=decisions)

    def _input(self, file: str) -> NDArray[np.uint8]:
        if self._image is None or self._image[0] != file:
            self._image = (file, np.load(file, allow_pickle=False))
        return self._image[1]

    def _upscale(self, request: protocol.Upscale) -> protocol.Timed:
        image, pipeline = self._input(request.image), self.pipeline
        before = self._readings()
        timing = timed(
            lambda: pipeline.upscale(image, request.scale, seed=request.seed), self._device
        )
        after = self._readings()
        _check_picture(timing.result, pipeline, image, request.scale)
        return protocol.Timed(
            latency_ms=timing.latency_ms,
            gpu_ms=timing.gpu_ms,
            stages_ms=timing.stages_ms,
            state=dict(zip(("before", "after"), before + after, strict=False)),
            output_sha256=digest(timing.result),
        )

    def _readings(self) -> list[dict[str, Any]]:
        """One reading of the card, none on CPU."""
        return [self._monitor.state()] if self._monitor else []

    def _solo(self, request: protocol.Solo) -> protocol.Alone:
        from pipelines.work import WorkCounter

        image, pipeline = self._input(request.image), self.pipeline

        def upscale(seed: int = request.seed) -> NDArray[np.uint8]:
            return pipeline.upscale(image, request.scale, seed=seed)

        states = self._readings()
        probe = MemoryProbe(self._device, self._monitor)
        picture = upscale()
        synchronise(self._device)
        memory = probe.read()
        with WorkCounter() as counter:
            upscale()
        counts = _totals(counter.counts())
        memory["peak_tensor_bytes"] = counts.pop("peak_tensor_bytes")
        picture_float, eps = self._exact(request)
        repeats = paint_again(upscale, picture) if request.thorough else None
        other = None if request.other_seed is None else upscale(request.other_seed)
        states += self._readings()
        energy = measure_energy(upscale, self._monitor) if request.thorough else None
        states += self._readings()
        return protocol.Alone(
            memory=memory,
            work=counts,
            energy_j=energy.gross_j if energy else None,
            energy_reason=energy.reason if energy else None,
            energy=energy.to_record() if energy else {},
            picture_sha256=digest(picture),
            picture=keep(picture, request.outputs, "picture"),
            picture_float=picture_float,
            eps=eps,
            distinct_pictures=repeats.distinct if repeats else None,
            repeat=keep_if(repeats.worst, request.outputs, "repeat") if repeats else None,
            other_seed=keep_if(other, request.outputs, "other-seed"),
            states=states,
        )

    def _paint(self, request: protocol.Paint) -> protocol.Painted:
        image, pipeline = self._input(request.image), self.pipeline
        picture = pipeline.upscale(image, request.scale, seed=request.seed)
        _check_picture(picture, pipeline, image, request.scale)
        picture_float, eps = self._exact(request)
        return protocol.Painted(
            picture=keep(picture, request.outputs, "picture"),
            picture_float=picture_float,
            eps=eps,
        )

    def _repaint(self, request: protocol.Repaint) -> protocol.Repainted:
        image = self._input(request.image)
        picture = self.pipeline.upscale(image, request.scale, seed=request.seed)
        return protocol.Repainted(
            picture=keep(picture, request.outputs, "picture"), picture_sha256=digest(picture)
        )

    def _exact(self, request: protocol.Paint) -> tuple[str, str | None]:
        """Keep the picture before its rounding, and the predicted noise if it is shown."""
        seen: list[NDArray[np.float32]] = []

        def observe(name: str, tensor: Any) -> None:
            if name == "eps":
                seen.append(tensor.detach().float().cpu().numpy())

        exact = self.pipeline.upscale_float(
            self._input(request.image), request.scale, seed=request.seed, observe=observe
        )
        prefix = request.outputs
        return keep(exact, prefix, "float"), keep_if(_joined(seen), prefix, "eps")

    def _count_work(self, request: protocol.CountWork) -> protocol.Counted:
        counts = self.pipeline.work(request.height, request.width, request.scale)
        return protocol.Counted(**_totals(counts))

    def _count_operators(self, request: protocol.CountOperators) -> protocol.CountedOperators:
        counts = self.pipeline.work(request.height, request.width, request.scale)
        # A pipeline of an older revision brings a contract without them.
        operators = getattr(counts, "operators", ())
        return protocol.CountedOperators(
            **_totals(counts), operators=[list(astuple(each)) for each in operators]
        )

    def _measure_ceilings(self, request: protocol.MeasureCeilings) -> protocol.Ceilings:
        from srbench.roofline.benchmarks import measure_ceilings

        self._device = request.device
        monitor = Monitor(request.gpu_uuid) if request.gpu_uuid is not None else None
        states = [monitor.state()] if monitor else []
        precision, ceilings = measure_ceilings(request.device)
        states += [monitor.state()] if monitor else []
        return protocol.Ceilings(
            precision=precision, ceilings=[asdict(each) for each in ceilings], states=states
        )

    def _judge(self, request: protocol.Judge) -> protocol.Judged:
        from srbench.fidelity.compare import compare_outputs

        record = compare_outputs(
            request.case,
            request.pipeline,
            request.reference,
            _output(request.reference_files),
            _output(request.candidate_files),
            request.device,
            lr=kept(request.image),
        )
        return protocol.Judged(record=record.to_json())


def _totals(counts: WorkCounts) -> dict[str, Any]:
    """The counters that are stored; the operators behind them are told only when asked for."""
    names = (each.name for each in fields(counts))
    return {name: getattr(counts, name) for name in names if name != "operators"}


def _check_picture(
    picture: NDArray[np.uint8], pipeline: Pipeline, image: NDArray[np.uint8], scale: int
) -> None:
    height, width = image.shape[:2]
    expected = (*output_size(pipeline, height, width, scale), 3)
    if picture.shape != expected or picture.dtype != np.uint8:
        raise ValueError(
            f"the pipeline returned {picture.dtype} {picture.shape}, expected uint8 {expected}"
        )


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """Observed tensors as one: a pipeline may show its tiles one by one."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return np.concatenate([part.ravel() for part in parts])


def _output(files: dict[str, str | None]) -> Output:
    from srbench.fidelity.compare import Output

    return Output(
        picture=kept(files["picture"]),
        picture_float=kept(files.get("picture_float")),
        eps=kept(files.get("eps")),
    )
