"""The stages of the small model's training, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from pipelines.perceptual import open_lpips
from pipelines.photographs import gather
from pipelines.pictures import Note, list_pictures, read_picture
from pipelines.s3diff.mini.autoencoder import AutoencoderObjective, build_vae
from pipelines.s3diff.mini.base import BaseObjective, build_unet
from pipelines.s3diff.mini.crops import Crops
from pipelines.s3diff.mini.estimator import EstimatorObjective, build_estimator
from pipelines.s3diff.mini.linear_start import carry_components, silence_branches
from pipelines.s3diff.mini.packing import pack
from pipelines.s3diff.mini.sizes import architecture
from pipelines.s3diff.mini.snapshot import Tensors, text_encoder_tensors, write_base
from pipelines.s3diff.mini.stage import Objective, Settings, StageTask
from pipelines.s3diff.options import NEGATIVE_PROMPT, POSITIVE_PROMPT
from pipelines.s3diff.train.fresh import open_start
from pipelines.s3diff.train.settings import LoraSettings
from pipelines.training.loop import Plan, run

ESTIMATOR = Settings(steps=3000, batch=16, crop=160, lr=2e-3)
AUTOENCODER = Settings(steps=2500, batch=8, crop=64, lr=2e-3)
BASE = Settings(steps=2000, batch=8, crop=64, lr=1e-3, lpips=0.4)
FILE_NAME = "s3diff-mini.safetensors"
_HELD_OUT_SIDE = 256
_SAVE_EVERY = 250
_LOOKED_AT = 320
"""Crops that the principal components are found of."""


def make(out: Path, note: Note) -> Path | None:
    """Train every stage that is not done yet and pack the weights.

    Args:
        out: New folder, or one of an earlier call, which is continued.
        note: Told progress.

    Returns:
        The weights; None where the training was stopped.

    Raises:
        PipelineError: One line that names what is wrong.
    """
    gather(out / "photographs", note)
    begun_s = time.process_time()
    stages = Stages(out, note)
    weights = stages.adapters()
    note(f"{time.process_time() - begun_s:.0f} s of processor time in this call")
    return weights and pack(weights, out / FILE_NAME)


class Stages:
    """Each stage with those that it builds on; what is done is only read.

    Args:
        out: Folder of the whole training, with `photographs/`.
        note: Told progress.
    """

    def __init__(self, out: Path, note: Note) -> None:
        self._out, self._note = out, note
        self._sizes = architecture()
        self._accelerator = Accelerator()

    def estimator(self) -> Tensors | None:
        """Weights of the degradation network; None where it was stopped."""

        def build(settings: Settings) -> Objective:
            network = build_estimator(self._sizes, settings.seed)
            return EstimatorObjective(network, self._crops(settings), settings, self._held_out())

        tensors = self._stage("estimator", ESTIMATOR, build)
        return tensors and _part(tensors, "estimator")

    def autoencoder(self) -> Tensors | None:
        """Weights of the VAE."""

        def build(settings: Settings) -> Objective:
            vae, crops = build_vae(self._sizes.vae, settings.seed), self._crops(settings)
            silence_branches(vae)
            carry_components(vae, crops.batch(0, _LOOKED_AT) * 2 - 1)
            return AutoencoderObjective(vae, crops, settings, self._held_out())

        tensors = self._stage("autoencoder", AUTOENCODER, build)
        return tensors and _part(tensors, "vae")

    def base(self) -> Path | None:
        """Folder with `sd-turbo/` and `de_net.pth`."""
        degradation, first = self.estimator(), self.autoencoder()
        if degradation is None or first is None:
            return None
        unet = build_unet(self._sizes.unet, BASE.seed)
        text = text_encoder_tensors(self._sizes, BASE.seed)
        networks = {"unet": unet.state_dict(), "vae": first, "text_encoder": text}
        start = self._out / "base" / "start"
        write_base(start, self._sizes, networks, degradation)

        def build(settings: Settings) -> Objective:
            vae = build_vae(self._sizes.vae, settings.seed)
            vae.load_state_dict(first)
            return BaseObjective(
                vae,
                unet,
                embed_prompts(start, settings.seed),
                open_lpips("vgg", self._accelerator.device),
                self._crops(settings),
                settings,
                self._held_out(),
            )

        tensors = self._stage("base", BASE, build)
        if tensors is None:
            return None
        networks |= {name: _part(tensors, name) for name in ("unet", "vae")}
        folder = self._out / "base" / "weights"
        write_base(folder, self._sizes, networks, degradation)
        return folder

    def adapters(self) -> Path | None:
        """A whole weights folder: the last stage is S3Diff's own training."""
        base = self.base()
        if base is None:
            return None
        from pipelines.s3diff.train.run import Places, train
        from pipelines.s3diff.train.settings import read_settings

        settings = read_settings("mini", [])
        places = Places(
            data=(self._out / "photographs" / "train",),
            weights=base,
            out=self._out / "adapters",
            validation=self._out / "photographs" / "val",
        )
        outcome = train(settings, places, self._note)
        return None if outcome.step < settings.run.steps else self._out / "adapters" / "weights"

    def _stage(
        self, name: str, settings: Settings, build: Callable[[Settings], Objective]
    ) -> Tensors | None:
        """Averaged weights of a stage by parameter; None where it was stopped."""
        done = self._out / name / "average.pt"
        if done.is_file():
            tensors: Tensors = torch.load(done, weights_only=True)
            return tensors
        objective = build(settings).to(self._accelerator.device)
        task = StageTask(objective.to(memory_format=torch.channels_last))
        plan = Plan(
            out=self._out / name,
            steps=settings.steps,
            identity=settings.to_json(),
            images=settings.batch,
            save_every=_SAVE_EVERY,
            look_every=2 * _SAVE_EVERY,
        )
        self._note(f"stage {name}: {settings.steps} updates of {settings.batch} crops")
        if run(task, plan, self._accelerator, self._note).step < settings.steps:
            return None
        tensors = {n: t.cpu().contiguous() for n, t in task.average_state_dict().items()}
        temporary = done.with_name(f".{done.name}.part")
        torch.save(tensors, temporary)
        temporary.replace(done)
        return tensors

    def _crops(self, settings: Settings) -> Crops:
        return Crops.read(self._out / "photographs" / "train", settings.crop, settings.seed)

    def _held_out(self) -> list[NDArray[np.uint8]]:
        pictures = [read_picture(path) for path in list_pictures(self._out / "photographs" / "val")]
        return [_middle(picture, _HELD_OUT_SIDE) for picture in pictures]


def embed_prompts(folder: Path, seed: int) -> torch.Tensor:
    """Embeddings of the positive and the negative prompt, [2, 77, width].

    Args:
        folder: `sd-turbo/` and `de_net.pth`.
        seed: Of adapters that are not looked at.
    """
    checkpoint = open_start(folder, LoraSettings(), seed)
    encode = checkpoint.prompt_encoder(torch.device("cpu"))
    with torch.no_grad():
        return torch.cat([encode(POSITIVE_PROMPT), encode(NEGATIVE_PROMPT)])


def _part(tensors: Tensors, prefix: str) -> Tensors:
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def _middle(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]
