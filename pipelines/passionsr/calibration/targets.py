"""What full precision makes of the calibration pictures: computed once, kept on disk.

The published code keeps the targets of all 500 pictures in the card's memory, and its copies of the
networks in full precision are the quantized ones by accident.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.contract import PipelineError
from pipelines.passionsr.calibration.model import OneStepModel
from pipelines.passionsr.calibration.set import CalibrationSet
from pipelines.passionsr.calibration.store import Store
from pipelines.pictures import Note
from pipelines.training.batches import reseed

TEACHER_NOISE = 0
"""Number of the stream of noise that the stored latents are sampled with."""


@torch.no_grad()
def make_targets(
    model: OneStepModel,
    pictures: CalibrationSet,
    folder: Path,
    *,
    weights_digest: str,
    sampled: bool,
    note: Note,
) -> Store:
    """Every picture's own tensors, those that are there already kept.

    Each holds `lr` uint8 [h, w, 3]; `hr` [1, 3, H, W] in [-1, 1]; `latent` (scaled), `eps` and `x0`
    [1, C, h', w']; `image` [1, 3, H', W'], not clamped; where the model has them the `scores`
    [1, 2]; the `noise` of sampled latents.

    Args:
        model: In full precision: nothing of it is quantized yet.
        pictures: The set.
        folder: Of the files.
        weights_digest: Identity of the weights.
        sampled: Latents drawn from the posterior (published) instead of its mean.
        note: Told progress.

    Raises:
        PipelineError: The folder holds targets of something else, or cannot be written; or the
            weights give no numbers.
    """
    origin = {
        "model": type(model).__name__,
        "set": pictures.fingerprint(),
        "weights": weights_digest,
        "latents": "sampled" if sampled else "mean",
    }
    store = Store(folder, origin)
    missing = [number for number in range(len(pictures)) if number not in store]
    if missing:
        note(f"{folder}: outputs in full precision of {len(missing)} pictures")
    for number in missing:
        pair = pictures.pair(number)
        condition = model.condition(pair.lr)
        noise = None
        if sampled:
            shape = model.latent_shape(condition)
            noise = draw_noise(shape, pictures.settings.seed, TEACHER_NOISE, number)
        latent = model.encode(condition, noise)
        eps = model.eps(condition, latent)
        x0 = model.x0(latent, eps)
        tensors = {
            "lr": torch.from_numpy(pair.lr),
            "hr": torch.from_numpy(pair.hr).permute(2, 0, 1)[None].float() / 127.5 - 1,
            "latent": latent,
            "eps": eps,
            "x0": x0,
            "image": model.decode(x0),
        }
        if noise is not None:
            tensors["noise"] = noise
        if condition.scores is not None:
            tensors["scores"] = condition.scores
        if not all(tensors[name].isfinite().all() for name in ("eps", "image")):
            raise PipelineError(
                f"{pictures.crops[number].name}: full precision gives values that are no numbers; "
                "look at the weights"
            )
        store.put(number, tensors)
    return store


def draw_noise(shape: tuple[int, ...], seed: int, *stream: int) -> torch.Tensor:
    """Standard normal float32 noise that only these numbers have."""
    return torch.randn(shape, generator=reseed(torch.Generator(), seed, *stream))
