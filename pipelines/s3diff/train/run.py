"""A training from its settings and folders to its checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from pipelines.contract import PipelineError
from pipelines.perceptual import open_lpips
from pipelines.pictures import Note
from pipelines.s3diff.train.checkpoint import Base, Keeper, refuse_to_replace
from pipelines.s3diff.train.discriminators import Discriminator, open_discriminator
from pipelines.s3diff.train.fresh import open_start
from pipelines.s3diff.train.model import TrainableS3Diff
from pipelines.s3diff.train.photos import PhotoDataset, Root, Rule, find_photos, fingerprint
from pipelines.s3diff.train.settings import Precision, Settings
from pipelines.s3diff.train.task import S3DiffTask
from pipelines.s3diff.train.validation import Validation, read_validation
from pipelines.s3diff.weights import Checkpoint
from pipelines.training.loop import Outcome, Plan, run

_ACCELERATE = {
    Precision.FP32: "no",
    Precision.TF32: "no",
    Precision.FP16: "fp16",
    Precision.BF16: "bf16",
}
_STORED = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
_SAMPLED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a training reads and writes; nothing of it but the contents changes the weights.

    Attributes:
        data: Folders of photographs.
        weights: What training begins with: `sd-turbo/`, `de_net.pth` and perhaps `s3diff.pkl`.
        out: Folder of states, logs and checkpoints.
        validation: Folder of photographs that are only looked at.
        resume: Continue what is in `out`.
        workers: Processes that prepare crops; 0 for none beside this one.
        base: How the base networks come to lie beside the trained `s3diff.pkl`.
    """

    data: tuple[Path, ...]
    weights: Path
    out: Path
    validation: Path | None = None
    resume: bool = True
    workers: int = 0
    base: Base = Base.LINK


def train(settings: Settings, places: Places, note: Note) -> Outcome:
    """Train S3Diff's adapters, from the beginning or from the last state in the folder.

    On the CPU a continued run equals an uninterrupted one, bit by bit, if both use as many threads.

    Raises:
        PipelineError: One line that names what is wrong; states and checkpoints so far are left.
    """
    accelerator = open_accelerator(settings.run.precision)
    main = accelerator.is_main_process
    note = note if main else _say_nothing
    device = accelerator.device
    settings.part(accelerator.num_processes)
    refuse_to_replace(places.out, places.weights)
    photos = find_photos(_roots(settings, places), _rule(settings), note)
    lpips = open_lpips_for_loss(settings, device)
    validation = _open_validation(settings, places, lpips, device, note) if main else None
    checkpoint = open_start(places.weights, settings.lora, settings.run.seed)
    model = open_model(checkpoint, settings).to(device)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    task = S3DiffTask(
        accelerator,
        settings,
        model,
        _seeded_discriminator(settings, device),
        lpips,
        PhotoDataset(photos, settings.data.crop, seed=settings.run.seed, note=note),
        validation=validation,
        keeper=_open_keeper(settings, places) if main else None,
        workers=places.workers,
    )
    contents = {
        "photographs in --data": fingerprint(photos),
        "networks in --weights": checkpoint_fingerprint(checkpoint),
    }
    note(
        f"{places.out}: {settings.run.steps} steps of {settings.run.batch} crops of "
        f"{settings.data.crop} from {len(photos)} photographs, on {accelerator.num_processes} x "
        f"{device.type}, {settings.run.precision}, discriminator {settings.discriminator.kind}"
    )
    outcome = run(task, _plan(settings, places, contents), accelerator, note)
    accelerator.end_training()
    return outcome


def open_accelerator(precision: Precision) -> Accelerator:
    """The process's share of the machine.

    Raises:
        PipelineError: The precision cannot be had on it.
    """
    if precision is Precision.FP16 and not torch.cuda.is_available():
        raise PipelineError("run.precision fp16: needs a GPU; the CPU can do fp32 and bf16")
    accelerator = Accelerator(mixed_precision=_ACCELERATE[precision])
    if accelerator.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision is Precision.TF32
        torch.backends.cudnn.allow_tf32 = precision is Precision.TF32
        torch.backends.cudnn.benchmark = True  # one crop size for hours
    return accelerator


def open_model(checkpoint: Checkpoint, settings: Settings) -> TrainableS3Diff:
    """The networks as the settings want them, on the CPU."""
    model = TrainableS3Diff(checkpoint, gradient_checkpointing=settings.run.gradient_checkpointing)
    if settings.run.precision in _STORED:
        model.store_frozen(_STORED[settings.run.precision])
    return model


def open_lpips_for_loss(settings: Settings, device: torch.device) -> nn.Module | None:
    """LPIPS of the reconstruction loss, None where it has no weight.

    Raises:
        PipelineError: Its network is not there.
    """
    if not settings.loss.lpips:
        return None
    try:
        return open_lpips("vgg", device)
    except PipelineError as error:
        raise PipelineError(f"{error}; or train without it: --set loss.lpips=0") from error


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Of what a run begins with: whole adapters, the first numbers of all other tensors."""
    digest = hashlib.sha256()

    def add(tensors: Mapping[str, torch.Tensor], count: int | None) -> None:
        for name in sorted(tensors):
            values = tensors[name].detach().flatten()[:count].contiguous()
            digest.update(f"{name}{list(tensors[name].shape)}".encode())
            digest.update(values.numpy().tobytes())

    for pairs in (checkpoint.unet_lora, checkpoint.vae_lora):
        add({f"{layer}.down": pair.down for layer, pair in pairs.items()}, None)
        add({f"{layer}.up": pair.up for layer, pair in pairs.items()}, None)
    add(checkpoint.modulation, None)
    add(checkpoint.degradation, None)
    for network in (checkpoint.unet, checkpoint.vae, checkpoint.text_encoder):
        add(network, _SAMPLED)
    return digest.hexdigest()[:16]


def _roots(settings: Settings, places: Places) -> list[Root]:
    limits = [*settings.data.limits, *[0] * len(places.data)]
    return [Root(path, limit or None) for path, limit in zip(places.data, limits, strict=False)]


def _rule(settings: Settings) -> Rule:
    return Rule(settings.data.min_area_px, settings.data.min_bytes)


def _plan(settings: Settings, places: Places, contents: dict[str, str]) -> Plan:
    return Plan(
        out=places.out,
        steps=settings.run.steps,
        identity=settings.identity() | contents,
        images=settings.run.batch,
        resume=places.resume,
        save_every=settings.run.save_every,
        log_every=settings.run.log_every,
        look_every=settings.run.look_every if places.validation else 0,
    )


def _seeded_discriminator(settings: Settings, device: torch.device) -> Discriminator | None:
    if not settings.loss.gan:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.run.seed)
        return open_discriminator(settings.discriminator, device)


def _open_validation(
    settings: Settings,
    places: Places,
    lpips: nn.Module | None,
    device: torch.device,
    note: Note,
) -> Validation | None:
    if places.validation is None or not settings.run.look_every:
        return None
    if lpips is None:
        try:
            lpips = open_lpips("vgg", device)
        except PipelineError as error:
            note(f"LPIPS of the validation is not measured: {error}")
    crops = read_validation(places.validation, settings.data.crop, note)
    return Validation(crops, settings, lpips)


def _open_keeper(settings: Settings, places: Places) -> Keeper:
    run_settings = settings.run
    return Keeper(
        places.out, places.weights, run_settings.checkpoint_every, run_settings.steps, places.base
    )


def _say_nothing(line: str) -> None:
    pass
