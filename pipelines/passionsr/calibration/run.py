"""A calibration from photographs to its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipelines.contract import PipelineError, WeightsSource
from pipelines.passionsr.calibration.leakage import check_leaks
from pipelines.passionsr.calibration.measure import Row, measure
from pipelines.passionsr.calibration.model import Condition
from pipelines.passionsr.calibration.objectives import Objective
from pipelines.passionsr.calibration.quantized import quantize_model
from pipelines.passionsr.calibration.schedule import Schedule, System
from pipelines.passionsr.calibration.set import (
    CalibrationSet,
    SetSettings,
    check_files,
    choose_crops,
)
from pipelines.passionsr.calibration.store import Store
from pipelines.passionsr.calibration.systems import open_model
from pipelines.passionsr.calibration.targets import make_targets
from pipelines.passionsr.calibration.task import DqcTask
from pipelines.passionsr.checkpoint import save_quantization
from pipelines.passionsr.choices import Components, Method
from pipelines.passionsr.facts import QuantizationFacts
from pipelines.passionsr.network import NetworkSettings
from pipelines.passionsr.settings import LayerSettings, Mode
from pipelines.passionsr.statistics import initialise, initialise_published
from pipelines.pictures import Note
from pipelines.training.loop import Plan, run

CALIBRATION, HELD_OUT = "calibration", "held-out"
"""Names of the sets of pictures."""
_MEASURED = 6
"""Pictures of the calibration set that fidelity is measured on, and of those held out."""
_HELD_OUT_SEED = 1_000_003
"""Added to the seed for pictures that are only looked at."""
_METHODS: dict[str, Method] = {"MaxMin": "maxmin", "SmoothQuant": "smoothquant", "start": "dqc"}
"""What is measured before anything is learned; learning goes on from the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is calibrated, and how.

    Attributes:
        system: `osediff` or `s3diff`.
        bits: Of weights and activations.
        mode: `fixed`, or `paper` for the published procedure with its bugs.
        components: `unet`, or `unet+vae`.
        pictures: Of the calibration set.
        epochs: Of each stage; None for the schedule's own.

    Raises:
        PipelineError: Mode `paper` for another system than OSEDiff.
    """

    system: System
    bits: int
    mode: Mode = "fixed"
    components: Components = "unet+vae"
    pictures: SetSettings
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.mode == "paper" and self.system != "osediff":
            raise PipelineError(
                f"--mode paper: repeats what was published for OSEDiff; for {self.system} leave it "
                "fixed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What a calibration reads and writes.

    Attributes:
        photographs: Files.
        held_out: Files that are only looked at.
        evaluation: Folders of pictures that must not be among the photographs.
        work: Folder of targets, states and logs.
        out: The file.
        resume: Continue what is in `work`.
        allow_leaks: Only tell of them.
    """

    photographs: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()
    evaluation: tuple[Path, ...] = ()
    work: Path
    out: Path
    resume: bool = True
    allow_leaks: bool = False


@dataclass(frozen=True, slots=True)
class Calibrated:
    """How a calibration ended.

    Attributes:
        rows: Fidelity of what was tried, in order; empty where it was stopped.
        signal: That stopped it, 0 for none.
    """

    rows: tuple[Row, ...]
    signal: int


def calibrate(request: Request, places: Places, weights: WeightsSource, note: Note) -> Calibrated:
    """Calibrate from the beginning, or from the last state in the folder.

    On the CPU a continued run equals an uninterrupted one, bit by bit, if both use as many threads.

    Raises:
        PipelineError: One line that names what is wrong.
    """
    check_files(places.photographs, places.held_out, places.out)
    pictures = choose_crops(places.photographs, request.pictures)
    if places.evaluation:
        check_leaks(pictures, places.evaluation, allow=places.allow_leaks, note=note)
    bench = _Bench(request, places, weights, pictures, note)
    task = bench.task()
    plan = Plan(
        out=places.work / "run",
        steps=task.steps,
        identity=bench.identity(),
        images=1,
        resume=places.resume,
        save_every=len(pictures),
        log_every=len(pictures),
    )
    outcome = run(task, plan, Accelerator(cpu=True), note)
    if outcome.signal:
        return Calibrated((), outcome.signal)
    save_quantization(places.out, bench.quantized.networks, bench.facts(task))
    return Calibrated(tuple(map(Row.from_json, task.rows)), 0)


class _Bench:
    """The model with its pictures and targets.

    Attributes:
        quantized: Its layers.
    """

    def __init__(
        self,
        request: Request,
        places: Places,
        weights: WeightsSource,
        pictures: CalibrationSet,
        note: Note,
    ) -> None:
        self._request, self._places, self._weights, self._note = request, places, weights, note
        self._schedule = Schedule.of(request.mode, request.components, request.epochs)
        self._sets = {CALIBRATION: pictures}
        if places.held_out:
            seed = request.pictures.seed + _HELD_OUT_SEED
            looked_at = replace(request.pictures, images=_MEASURED, seed=seed)
            self._sets[HELD_OUT] = choose_crops(places.held_out, looked_at)
        self._model = open_model(
            request.system, weights, request.pictures.scale, fold_time=request.mode == "fixed"
        )
        self._targets = {name: self._make_targets(name) for name in self._sets}
        self.quantized = quantize_model(self._model, request.bits, request.mode, request.components)

    def _make_targets(self, name: str) -> Store:
        return make_targets(
            self._model,
            self._sets[name],
            self._places.work / name,
            weights_digest=self._weights.digest,
            sampled=self._request.mode == "paper",
            note=self._note,
        )

    def task(self) -> DqcTask:
        """What is to be learned."""
        count, seed = len(self._sets[CALIBRATION]), self._request.pictures.seed
        objective = Objective(
            self._model,
            self._targets[CALIBRATION],
            Store(self._places.work / "inputs", {}),
            self._schedule,
            self._request.components,
            count,
            seed,
        )
        return DqcTask(
            self.quantized,
            objective,
            self._schedule,
            count,
            seed,
            initial=self._initialise,
            measured=self._measured,
            note=self._note,
        )

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        request = self._request
        return {
            "system": request.system,
            "bits": request.bits,
            "components": request.components,
            "schedule": asdict(self._schedule),
            "weights": self._weights.digest,
            **{name: pictures.fingerprint() for name, pictures in self._sets.items()},
        }

    def facts(self, task: DqcTask) -> QuantizationFacts:
        """What the file says of itself."""
        request, pictures = self._request, self._sets[CALIBRATION]
        plain = LayerSettings(
            weight_bits=request.bits, activation_bits=request.bits, mode=request.mode
        )
        layer = NetworkSettings.of_mode("unet", plain).layer
        return QuantizationFacts(
            weight_bits=request.bits,
            activation_bits=request.bits,
            mode=request.mode,
            split=layer.split,
            s_alpha=layer.s_alpha if request.mode == "paper" else None,
            system=request.system,
            components=tuple(self.quantized.networks),
            method="dqc",
            weights_digest=self._weights.digest,
            calibration={
                "fingerprint": pictures.fingerprint(),
                "photographs": len(pictures.photographs()),
                **asdict(request.pictures),
                "schedule": asdict(self._schedule),
                "degradation_scores": self._scores(),
                "epochs": [list(astuple(epoch)) for epoch in task.epochs],
                "psnr_db": task.rows,
            },
        )

    def _initialise(self) -> list[Any]:
        """Scales and bounds to learn from; on the way what cheaper methods reach."""
        layers = self.quantized.layers()
        if self._request.mode == "paper":
            initialise_published(self.quantized.every(), self._batches())
            return [self._measured("statistics")]
        rows = []
        for name, method in _METHODS.items():
            initialise(layers, self._send_all, method)
            rows.append(self._measured(name))
        return rows

    def _measured(self, name: str) -> Any:
        fidelity = {
            part: measure(self._model, targets, min(len(self._sets[part]), _MEASURED))
            for part, targets in self._targets.items()
        }
        row = Row(name, fidelity)
        self._note(str(row))
        return row.to_json()

    def _send_all(self) -> None:
        for send in self._batches(together=1):
            send()

    def _batches(self, together: int | None = None) -> list[Callable[[], None]]:
        """Calls that each send some pictures through the whole model."""
        count, size = len(self._sets[CALIBRATION]), together or self._model.together
        return [
            partial(self._send, range(first, min(first + size, count)))
            for first in range(0, count, size)
        ]

    @torch.no_grad()
    def _send(self, numbers: range) -> None:
        model = self._model
        targets = [self._targets[CALIBRATION].get(number) for number in numbers]
        conditions = [model.condition(target["lr"].numpy()) for target in targets]
        condition = conditions[0]
        if len(conditions) > 1:
            condition = Condition(torch.cat([each.x for each in conditions]))
        sampled = [target["noise"] for target in targets if "noise" in target]
        latent = model.encode(condition, torch.cat(sampled) if sampled else None)
        x0 = model.x0(latent, model.eps(condition, latent))
        if self._request.components == "unet+vae":
            model.decode(x0)

    def _scores(self) -> list[list[float]]:
        """Least and greatest degradation scores of the set; empty for a model without."""
        targets = self._targets[CALIBRATION]
        found = [targets.get(n).get("scores") for n in range(len(self._sets[CALIBRATION]))]
        scores = [score for score in found if score is not None]
        if not scores:
            return []
        table = torch.cat(scores)
        return [table.amin(0).tolist(), table.amax(0).tolist()]
