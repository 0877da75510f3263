"""`s3diff.pkl` of a training, in the authors' format, in a folder that can be run."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path

import torch

from pipelines.contract import PipelineError
from pipelines.replacing import replacing
from pipelines.s3diff.published_pickle import published_pickle
from pipelines.s3diff.train.model import TrainableS3Diff
from pipelines.training.states import why_unwritten


class Base(StrEnum):
    """How the base networks come to lie beside a trained `s3diff.pkl`."""

    LINK = "link"
    COPY = "copy"


class Keeper:
    """Writes checkpoints of a run.

    `weights/s3diff.pkl` is the newest, beside the base networks, so that `--weights OUT/weights`
    runs it; `checkpoints/s3diff-<step>.pkl` are all of them (the same file on the disk, by another
    name, as long as it is the newest).

    Args:
        out: Folder of the run.
        start: Weights folder that the run began with.
        every: Updates from checkpoint to checkpoint; 0 for the last one only.
        steps: Updates of the run.
        base: Whether `sd-turbo/` and `de_net.pth` are linked or copied.
    """

    def __init__(self, out: Path, start: Path, every: int, steps: int, base: Base) -> None:
        self._out, self._start, self._every, self._steps = out, start, every, steps
        self._base = base

    @property
    def newest(self) -> Path:
        """Where the newest checkpoint is, once there is one."""
        return newest(self._out)

    def after(self, step: int, model: TrainableS3Diff) -> None:
        """Write a checkpoint after so many updates, where it is time.

        Weights that are no numbers any more are not written: the loop is about to stop for them.

        Raises:
            PipelineError: It cannot be written; the one before is left as it was.
        """
        due = step == self._steps or (self._every and step % self._every == 0)
        if not due or not all_finite(model):
            return
        numbered = _numbered(self._out) / f"s3diff-{step:08d}.pkl"
        try:
            numbered.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(numbered, error) from error
        write_pickle(self.newest, model)
        try:
            numbered.unlink(missing_ok=True)
            _same_file(self.newest, numbered)
            for name in ("sd-turbo", "de_net.pth"):
                self._put_beside(name)
        except OSError as error:
            raise _unwritable(numbered, error) from error

    def _put_beside(self, name: str) -> None:
        source, target = (self._start / name).resolve(), self._out / "weights" / name
        if target.exists():
            return
        target.unlink(missing_ok=True)  # a link to what is gone
        if self._base is Base.LINK:
            target.symlink_to(source)
            return
        temporary = target.with_name(f".{name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            if source.is_dir():
                shutil.copytree(source, temporary, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(source, temporary)
            temporary.replace(target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.unlink(missing_ok=True)
            raise


def newest(out: Path) -> Path:
    """Where a run leaves its newest checkpoint."""
    return out / "weights" / "s3diff.pkl"


def refuse_to_replace(out: Path, start: Path) -> None:
    """Keep checkpoints of a run away from weights that are not its own.

    Args:
        out: Folder of the run.
        start: Weights folder that it begins with.

    Raises:
        PipelineError: `out/weights` is that folder, or holds an `s3diff.pkl` of another origin.
    """
    written = newest(out)
    if written.parent.resolve() == start.resolve():
        raise PipelineError(
            f"--out {out}: its checkpoints would replace {start / 's3diff.pkl'}, which --weights "
            "names; choose another --out"
        )
    if written.exists() and not _numbered(out).is_dir():
        raise PipelineError(
            f"--out {out}: {written} is no checkpoint of a training there and would be replaced; "
            "choose another --out"
        )


def all_finite(model: TrainableS3Diff) -> bool:
    """Whether all trained tensors are numbers."""
    tensors = [t for group in model.trained_tensors().values() for t in group.values()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def pickle_content(model: TrainableS3Diff) -> dict[str, object]:
    """What `s3diff.pkl` holds: the published dictionary, float32 on the CPU."""
    groups = {
        group: {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        for group, tensors in model.trained_tensors().items()
    }
    return published_pickle(
        model.architecture,
        groups["state_dict_unet"],
        groups["state_dict_vae"],
        groups["modulation"],
    )


def write_pickle(path: Path, model: TrainableS3Diff) -> None:
    """Write `s3diff.pkl`; the file appears whole or the old one stays.

    Raises:
        PipelineError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}-*.part"):
            left.unlink()
        with replacing(path, durable=True) as file:
            torch.save(pickle_content(model), file)
    except (OSError, RuntimeError) as error:
        raise _unwritable(path, error) from error


def _numbered(out: Path) -> Path:
    return out / "checkpoints"


def _same_file(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without hard links
        shutil.copyfile(old, new)


def _unwritable(path: Path, error: OSError | RuntimeError) -> PipelineError:
    if isinstance(error, shutil.Error):  # of a folder: a list of (source, target, reason)
        reason = error.args[0][0][2].split(": ", 1)[0]
    else:
        reason = why_unwritten(error)
    return PipelineError(
        f"{path}: the checkpoint cannot be written ({reason}); what was there before is intact"
    )
