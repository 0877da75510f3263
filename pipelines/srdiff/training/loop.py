"""The training loop: both stages, any number of processes, continued exactly where it stopped."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from pipelines.pictures import Note
from pipelines.srdiff.checkpoint import write_checkpoint
from pipelines.srdiff.dataset import PatchDataset, Sample
from pipelines.srdiff.pairs import open_pairs
from pipelines.srdiff.training.data import fingerprint
from pipelines.srdiff.training.objective import Objective
from pipelines.srdiff.training.reporting import Reporter, Watched
from pipelines.srdiff.training.settings import Settings, Stage
from pipelines.srdiff.training.start import (
    Origin,
    build,
    find_state,
    read_stage_one,
    tensors_fingerprint,
)
from pipelines.srdiff.training.trainer import Trainer, open_accelerator
from pipelines.training.batches import Share, numbered_loader
from pipelines.training.interruption import Interruption
from pipelines.training.states import run_folder, save_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where a training reads and writes, and how often; nothing of it changes the weights.

    Attributes:
        data: See `pipelines.srdiff.pairs.open_pairs`.
        out: Folder of states, logs and weights.
        rrdb: Checkpoint of stage 1, for stage 2.
        resume: Continue what is in `out`.
        workers: Processes that prepare patches.
        save_every: Updates from state to state.
        watched: What is logged.
    """

    data: Path
    out: Path
    rrdb: Path | None
    resume: bool
    workers: int
    save_every: int
    watched: Watched


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: Updates done.
        files: Weights, the plain ones first; none before the last step.
        signal: That stopped it, 0 for none.
    """

    step: int
    files: tuple[Path, ...]
    signal: int


def train(settings: Settings, run: Run, note: Note) -> Outcome:
    """Train one stage, from its beginning or from the last state in its folder.

    On the CPU a continued run is equal to an uninterrupted one, bit by bit, if both use as many
    threads.

    Raises:
        PipelineError: One line that names what is wrong; states written so far are left.
    """
    accelerator = open_accelerator(settings)
    main = accelerator.is_main_process
    note = note if main else _say_nothing
    processes = accelerator.num_processes
    part = settings.part(processes)
    share = Share(accelerator.process_index, processes, part, settings.accumulate)
    encoder = read_stage_one(run.rrdb, settings)
    scale = settings.architecture.scale
    with run_folder(run.out) if main else nullcontext():
        accelerator.wait_for_everyone()  # for the folder
        pairs = open_pairs(run.data, "train", scale, note)
        origin = Origin(settings, fingerprint(pairs), tensors_fingerprint(encoder))
        state = find_state(run.out, origin, resume=run.resume, note=note)
        patches = PatchDataset(
            pairs,
            settings.patch,
            scale,
            divisor=settings.divisor,
            augment=settings.augment,
            seed=settings.seed,
            note=note,
        )
        trainer = Trainer(accelerator, origin, build(settings, encoder))
        step = trainer.restore(state) if state else 0
        note(f"{run.out}: {_begins(settings, len(patches), step, accelerator)}")
        reporter = Reporter(run.out, run.data, origin.settings, run.watched, step, note, main=main)
        with reporter, Interruption() as interruption:
            loop = _Loop(trainer, reporter, run, share, interruption)
            step = loop.go(patches, step)
        accelerator.end_training()
        files = _write_weights(run.out, trainer, step) if step == settings.steps and main else ()
        stopped = interruption.signal if step < settings.steps else 0
        return Outcome(step, files, stopped)


class _Loop:
    def __init__(
        self,
        trainer: Trainer,
        reporter: Reporter,
        run: Run,
        share: Share,
        interruption: Interruption,
    ) -> None:
        self._trainer, self._reporter, self._run = trainer, reporter, run
        self._share, self._interruption = share, interruption

    def go(self, patches: PatchDataset, step: int) -> int:
        """Make the updates from `step` on; how many there are at the end."""
        trainer, steps, device = (
            self._trainer,
            self._reporter.steps,
            self._trainer.accelerator.device,
        )
        pinned = device.type == "cuda"
        parts = numbered_loader(
            patches, self._share, range(step, steps), workers=self._run.workers, pinned=pinned
        )
        while step < steps:
            trainer.begin(step)
            losses, norm = [], None
            for part in range(self._share.parts):
                sample = _on(device, next(parts))
                loss, norm = trainer.add(sample, self._share.slot(step, part))
                losses.append(loss)
            trainer.finish(step)
            step += 1
            self._reporter.keep(torch.stack(losses).mean(), norm)
            if self._pause(step):
                break
        return step

    def _pause(self, step: int) -> bool:
        """Log, save and validate where it is time; whether to stop."""
        trainer, run, last = self._trainer, self._run, step == self._reporter.steps
        alone = trainer.accelerator.num_processes == 1
        stop = alone and self._interruption.signal != 0
        save = last or stop or step % run.save_every == 0
        if save or step % run.watched.log_every == 0:
            # Several processes stop together, where they talk to each other anyway.
            stop = self._reporter.flush(trainer.accelerator, step, self._interruption.signal != 0)
        if (save or stop) and trainer.accelerator.is_main_process:
            save_state(run.out, trainer.state(step))
        if not stop:
            self._reporter.look(trainer.objective, trainer.average, step, trainer.accelerator)
        return stop


def _begins(settings: Settings, pictures: int, step: int, accelerator: Accelerator) -> str:
    place = f"{accelerator.num_processes} x {accelerator.device.type}"
    begun = f"continued at step {step}" if step else "begun"
    return (
        f"{settings.stage} {settings.config} {begun}: {settings.steps} steps of {settings.batch} "
        f"patches of {settings.patch} from {pictures} pictures, on {place}, {settings.precision}"
    )


def _write_weights(out: Path, trainer: Trainer, step: int) -> tuple[Path, ...]:
    stage = trainer.settings.stage
    name = "rrdb" if stage is Stage.RRDB else "model"
    files = [out / f"{name}.ckpt"]
    write_checkpoint(files[0], _on_cpu(trainer.objective), step)
    if trainer.average is not None:
        files.append(out / f"{name}-ema.ckpt")
        with trainer.average.applied():
            write_checkpoint(files[1], _on_cpu(trainer.objective), step)
    return tuple(files)


def _on_cpu(objective: Objective) -> dict[str, torch.Tensor]:
    return {n: t.detach().cpu().contiguous() for n, t in objective.tensors().items()}


def _on(device: torch.device, sample: Sample) -> Sample:
    """On a GPU without waiting: it may still be busy with earlier parts."""
    return Sample(
        *(t.to(device, non_blocking=True, memory_format=torch.channels_last) for t in sample)
    )


def _say_nothing(line: str) -> None:
    pass
