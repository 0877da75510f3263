"""What a simulated worker does on request: everything but a measurement."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srbench import protocol
from srbench.cases import Case
from srbench.errors import UsageError
from srbench.fidelity.repeats import digest, paint_again
from srbench.registry import assignments_for, option_names, parse_options
from srbench.scratch import keep, keep_if
from srbench.simulation import numbers, pictures
from srbench.simulation.comparing import compare
from srbench.simulation.noise import PROFILES, Bimodal, ProcessNoise
from srbench.simulation.plants import Plants, disturbed, parse_plants
from srbench.simulation.scenario import Scenario, SimulatedOptions
from srbench.wire import Message

VERSION = "1"
_TIERS = {"fp32": "exact", "fp16": "reduced"}
_ENDLESS = "import time; time.sleep(86400)"


class SimulatedBench:
    """State of a simulated worker; the counterpart of `srbench.workbench.Workbench`."""

    def __init__(self, scenario: Scenario) -> None:
        """A worker of a scenario, no arm yet."""
        self._scenario = scenario
        self._arm = ""
        self._options = SimulatedOptions()
        self._plants = Plants()
        self._precision = "fp16"
        self._block = -1
        self._starts: dict[str, int] = {}
        self._noise: ProcessNoise | None = None
        self._images: dict[str, NDArray[np.uint8]] = {}
        self._hashes: dict[str, str] = {}
        self._warmed = self._painted = 0
        self._tasks: dict[type[Message], Callable[[Any], Message]] = {
            protocol.Describe: self._describe,
            protocol.Load: self._load,
            protocol.Estimate: self._estimate,
            protocol.Prepare: self._prepare,
            protocol.Upscale: self._upscale,
            protocol.Solo: self._solo,
            protocol.Paint: self._paint,
            protocol.Repaint: self._repaint,
            protocol.Judge: self._judge,
        }

    def handle(self, request: Message) -> Message:
        """Do one request; whatever it raises is the caller's to turn into an outcome."""
        task = self._tasks.get(type(request))
        if task is None:
            raise UsageError(f"a simulated device does not do '{type(request).__name__}'")
        return task(request)

    def free_memory(self) -> None:
        """There is none."""

    def _describe(self, request: protocol.Describe) -> protocol.Described:
        names = option_names(SimulatedOptions)
        values = assignments_for(request.arm, names, request.assignments)
        self._arm, self._options = request.arm, parse_options(SimulatedOptions, values)
        self._plants = parse_plants([self._options.plants])
        return protocol.Described(
            options=asdict(self._options), version=VERSION, precisions=list(_TIERS), tiers=_TIERS
        )

    def _load(self, request: protocol.Load) -> protocol.Loaded:
        self._precision = request.precision
        return protocol.Loaded(load_ms=numbers.LOAD_MS, tf32=False)

    def _estimate(self, request: protocol.Estimate) -> protocol.Estimated:
        return protocol.Estimated(needed_bytes=0, free_bytes=0)

    def _prepare(self, request: protocol.Prepare) -> protocol.Prepared:
        self._warmed = 0
        case = Case(request.width, request.height, request.scale)
        return protocol.Prepared(prepare_ms=numbers.prepare_ms(case))

    def _upscale(self, request: protocol.Upscale) -> protocol.Timed:
        case = self._case(request.image, request.scale)
        self._strike(case)
        time.sleep(self._scenario.pace_ms / 1e3)
        hot = disturbed(self._plants.throttle, request.block, request.attempt)
        noise = self._noise_of(request.block)
        position = self._starts[case.name] + (request.position or 0)
        latency_ms = numbers.true_ms(case, self._options.speedup) * self._plants.slow
        latency_ms *= noise.factor(case.name, position)
        latency_ms *= numbers.HEAT_FACTOR if hot else 1.0
        if request.position is None:
            latency_ms *= numbers.warming(self._warmed)
            self._warmed += 1
        foreign = disturbed(self._plants.foreign, request.block, request.attempt)
        before, after = (
            numbers.reading(at, hot=hot, foreign=foreign) for at in (position, position + 1)
        )
        return protocol.Timed(
            latency_ms=latency_ms,
            gpu_ms=numbers.gpu_ms(latency_ms),
            stages_ms=numbers.stages_ms(latency_ms),
            state={"before": before, "after": after},
            output_sha256=self._hash(request),
        )

    def _solo(self, request: protocol.Solo) -> protocol.Alone:
        case = self._case(request.image, request.scale)
        self._strike(case)

        def upscale(seed: int = request.seed) -> NDArray[np.uint8]:
            return pictures.rounded(self._picture(request.image, request.scale, seed))

        painted = self._paint(request)
        picture = np.load(painted.picture, allow_pickle=False)
        repeats = paint_again(upscale, picture)
        other = None if request.other_seed is None else upscale(request.other_seed)
        energy = numbers.energy(case, self._options.speedup, self._plants)
        return protocol.Alone(
            **{**asdict(painted), "memory": numbers.memory(case, self._plants)},
            work=numbers.work(case, self._plants),
            energy_j=energy["gross_j"],
            energy_reason=None,
            energy=energy,
            picture_sha256=digest(picture),
            distinct_pictures=repeats.distinct,
            repeat=keep_if(repeats.worst, request.outputs, "repeat"),
            other_seed=keep_if(other, request.outputs, "other-seed"),
        )

    def _paint(self, request: protocol.Paint) -> protocol.Painted:
        exact = self._picture(request.image, request.scale, request.seed)
        eps = pictures.predicted_noise(request.seed, self._arm, self._precision)
        prefix = request.outputs
        return protocol.Painted(
            picture=keep(pictures.rounded(exact), prefix, "picture"),
            picture_float=keep(exact, prefix, "float"),
            eps=keep(eps, prefix, "eps"),
        )

    def _repaint(self, request: protocol.Repaint) -> protocol.Repainted:
        picture = pictures.rounded(self._picture(request.image, request.scale, request.seed))
        return protocol.Repainted(
            picture=keep(picture, request.outputs, "picture"), picture_sha256=digest(picture)
        )

    def _judge(self, request: protocol.Judge) -> protocol.Judged:
        return protocol.Judged(record=compare(request).to_json())

    def _noise_of(self, block: int) -> ProcessNoise:
        if self._noise is None or self._block != block:
            profile = PROFILES[self._options.noise]
            bimodal = Bimodal.of_a_near_tie(profile) if self._plants.bimodal else None
            self._block, self._starts = block, self._scenario.starts(block)
            self._noise = ProcessNoise(
                profile,
                seed=self._scenario.seed,
                block=block,
                blocks=self._scenario.blocks,
                images=self._scenario.images,
                arm=self._arm,
                bimodal=bimodal,
            )
        return self._noise

    def _case(self, file: str, scale: int) -> Case:
        height, width = self._image(file).shape[:2]
        return Case(width, height, scale)

    def _image(self, file: str) -> NDArray[np.uint8]:
        if file not in self._images:
            self._images[file] = np.load(file, allow_pickle=False)
        return self._images[file]

    def _picture(self, file: str, scale: int, seed: int) -> pictures.Floats:
        self._painted += 1
        return pictures.paint(
            self._image(file),
            scale,
            seed=seed,
            arm=self._arm,
            precision=self._precision,
            plants=self._plants,
            turn=self._painted,
            block=self._block,
        )

    def _hash(self, request: protocol.Upscale) -> str:
        """Of the picture; painted once a case where every picture is the same."""
        if request.image in self._hashes and not self._plants.nondeterministic:
            return self._hashes[request.image]
        picture = self._picture(request.image, request.scale, request.seed)
        self._hashes[request.image] = digest(pictures.rounded(picture))
        return self._hashes[request.image]

    def _strike(self, case: Case) -> None:
        """Fail as a real worker would, where that is planted."""
        if self._plants.oom == case.name:
            raise numbers.out_of_memory(case)
        if self._plants.crash == case.name:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._plants.hang == case.name:
            # As a compiler does that waits for a child of its own.
            subprocess.run([sys.executable, "-c", _ENDLESS], check=True)
