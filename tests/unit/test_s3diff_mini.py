"""The small S3Diff: its stages learn, its file holds what the pipelines read, its weights work."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open

from pipelines.contract import PipelineError, Precision
from pipelines.degradations import Settings as Degradation
from pipelines.degradations import blur_and_noise, degrade
from pipelines.perceptual import backbone_file, open_lpips
from pipelines.photographs import HELD_OUT, TRAINING
from pipelines.pictures import read_picture, write_png
from pipelines.s3diff.degradation import DegradationEstimator
from pipelines.s3diff.mini.autoencoder import AutoencoderObjective, build_vae, sample_latent
from pipelines.s3diff.mini.base import BaseObjective, build_unet
from pipelines.s3diff.mini.crops import Crops
from pipelines.s3diff.mini.estimator import EstimatorObjective, build_estimator
from pipelines.s3diff.mini.linear_start import carry_components, silence_branches
from pipelines.s3diff.mini.packing import pack, unpack
from pipelines.s3diff.mini.sizes import architecture
from pipelines.s3diff.mini.stage import Objective, Settings, StageTask
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.weight_sources import MINI, resolve_weights
from pipelines.s3diff.weights import Checkpoint, check_folder, read_checkpoint

SETTINGS = Settings(steps=8, batch=2, crop=64, lr=1e-3, warmup=0)
UNIT_VARIANCE_GAIN = 0.0682649


def photograph(name: str) -> NDArray[np.uint8]:
    return read_picture(Path(str(files("skimage") / "data" / name)))


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    folder = tmp_path_factory.mktemp("photographs")
    write_png(folder / "astronaut.png", photograph("astronaut.png"))
    return Crops.read(folder, SETTINGS.crop, seed=0)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return read_checkpoint(resolve_weights("mini", "cpu"))


def test_crops_follow_from_their_numbers(crops: Crops) -> None:
    batch = crops.batch(5, 3)
    assert batch.shape == (3, 3, 64, 64)
    assert torch.equal(batch[1:], crops.batch(6, 2))
    assert not torch.equal(batch[0], batch[1])
    other = replace(crops, seed=1).batch(5, 3)
    assert not torch.equal(batch, other)


def test_a_picture_under_the_crop_is_named(tmp_path: Path) -> None:
    write_png(tmp_path / "low.png", np.zeros((16, 80, 3), np.uint8))
    with pytest.raises(PipelineError, match=r"low\.png: smaller than a crop of 64"):
        Crops.read(tmp_path, 64, 0)
    with pytest.raises(PipelineError, match="no pictures"):
        Crops.read(tmp_path / "..", 64, 0)


def test_the_encoder_begins_with_the_principal_components_of_patches(crops: Crops) -> None:
    x = crops.batch(0, 40) * 2 - 1
    vae = build_vae(architecture().vae, seed=0)
    silence_branches(vae)
    carry_components(vae, x)
    with torch.no_grad():
        latent, _ = sample_latent(vae, x, torch.zeros(40, 4, 8, 8))
    found = latent.permute(0, 2, 3, 1).flatten(0, 2).double()
    patches = F.unfold(x, 8, stride=8).transpose(1, 2).flatten(0, 1).double()
    centred = patches - patches.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    told = centred @ directions[:4].T
    best = (centred - told @ directions[:4]).square().sum()
    design = torch.cat([found, torch.ones(len(found), 1)], 1).double()
    fitted = design @ torch.linalg.lstsq(design, patches).solution
    ours = (patches - fitted).square().sum()
    assert ours < 1.15 * best
    deviations = found.std(0) / UNIT_VARIANCE_GAIN
    assert ((deviations > 0.6) & (deviations < 1.4)).all()


def objectives(crops: Crops) -> dict[str, Objective]:
    sizes = architecture()
    vae = build_vae(sizes.vae, 0)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randn(2, 77, sizes.unet["cross_attention_dim"], generator=generator)
    held_out = [photograph("chelsea.png")[:64, :64]]

    class Apart(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).square().mean((1, 2, 3))

    return {
        "estimator": EstimatorObjective(build_estimator(sizes, 0), crops, SETTINGS, held_out),
        "autoencoder": AutoencoderObjective(build_vae(sizes.vae, 0), crops, SETTINGS, held_out),
        "base": BaseObjective(
            vae, build_unet(sizes.unet, 0), prompts, Apart(), crops, SETTINGS, held_out
        ),
    }


@pytest.mark.parametrize("stage", ["estimator", "autoencoder", "base"])
def test_a_stage_continues_bit_by_bit(crops: Crops, stage: str) -> None:
    task = StageTask(objectives(crops)[stage])
    task.update(0)
    kept = copy.deepcopy(task.state_dict())
    last = task.update(1)
    again = StageTask(objectives(crops)[stage])
    again.load_state_dict(kept)
    assert {k: float(v) for k, v in again.update(1).items()} == {
        k: float(v) for k, v in last.items()
    }
    theirs, ours = task.average_state_dict(), again.average_state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert all(np.isfinite(value) for value in again.look(2).values.values())


def test_the_base_begins_as_the_autoencoder(crops: Crops) -> None:
    base = objectives(crops)["base"]
    assert isinstance(base, BaseObjective)
    x, noise = crops.batch(0, 1) * 2 - 1, torch.zeros(1, 4, 8, 8)
    with torch.no_grad():
        pictures = [base.restore(x, torch.tensor([prompt]), noise) for prompt in (0, 1)]
        latent, _ = sample_latent(base.vae, x, noise)
        plain = base.vae.decode(latent / UNIT_VARIANCE_GAIN / 0.18215).sample
    assert torch.equal(*pictures)
    torch.testing.assert_close(pictures[0], plain, rtol=1e-4, atol=1e-4)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = replace(SETTINGS, steps=100, warmup=9)
    rates = [settings.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(settings.lr / 10)
    assert max(rates) == pytest.approx(settings.lr, rel=0.03)
    assert rates[-1] < settings.lr / 1000
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_the_file_is_small_and_names_its_photographs() -> None:
    assert MINI.stat().st_size <= 12e6
    with safe_open(MINI, framework="pt") as file:
        credits = file.metadata()["photographs"]
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"F16"}
    card = (MINI.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    for licence, names in TRAINING.items():
        assert licence in credits
        for name in names:
            assert name in credits
            assert name in card
    for names in HELD_OUT.values():
        assert not any(name in credits for name in names)
        assert all(name in card for name in names)


def test_packing_and_unpacking_keep_every_tensor(tmp_path: Path) -> None:
    unpack(MINI, tmp_path / "weights")
    assert check_folder(tmp_path / "weights") == []
    again = pack(tmp_path / "weights", tmp_path / "again.safetensors")
    with safe_open(MINI, framework="pt") as a, safe_open(again, framework="pt") as b:
        assert list(a.keys()) == list(b.keys())
        assert all(torch.equal(a.get_tensor(n), b.get_tensor(n)) for n in a.keys())  # noqa: SIM118


def test_mini_is_trained_and_its_modulation_is_used(checkpoint: Checkpoint) -> None:
    assert checkpoint.architecture == architecture()
    assert not resolve_weights("mini", "cpu").synthetic
    for pairs in (checkpoint.unet_lora, checkpoint.vae_lora):
        assert all(float(pair.up.abs().max()) > 0 for pair in pairs.values())


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "chelsea.png"])
def test_degradation_scores_rise_with_blur_and_noise(checkpoint: Checkpoint, name: str) -> None:
    sizes = checkpoint.architecture
    estimator = DegradationEstimator(
        sizes.degradation_width, sizes.degradation_wide, sizes.degradation_hidden
    )
    estimator.load_state_dict(checkpoint.degradation)
    hr = torch.from_numpy(photograph(name).copy()).permute(2, 0, 1)[None] / 255
    lr = F.interpolate(hr, size=(96, 128), mode="area").expand(5, -1, -1, -1)
    ladders = {
        0: (torch.tensor([0.0, 0.7, 1.2, 1.7, 2.2]), torch.zeros(5)),
        1: (torch.zeros(5), torch.tensor([0.0, 6.0, 12.0, 18.0, 24.0])),
    }
    for index, (blur, noise) in ladders.items():
        with torch.no_grad():
            pictures = blur_and_noise(lr, blur, noise, torch.Generator().manual_seed(0))
            scores = estimator(pictures)[:, index]
        assert (scores.diff() > 0).all(), scores


@pytest.mark.skipif(
    not backbone_file("alex").is_file(), reason="no LPIPS network: srbench weights fetch --metrics"
)
def test_mini_restores_photographs_that_it_has_not_seen() -> None:
    pipeline = S3DiffOptimized(S3DiffOptimized.Options())
    pipeline.load(resolve_weights("mini", "cpu"), torch.device("cpu"), Precision.FP32)
    lpips = open_lpips("alex", torch.device("cpu"))
    gains, distances = [], []
    for number, name in enumerate(["astronaut.png", "coffee.png", "chelsea.png"]):
        hr = torch.from_numpy(photograph(name)[20:276, 100:356].copy()).permute(2, 0, 1)[None] / 255
        lr = degrade(hr, Degradation(), [number])
        pixels = (lr[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        restored = torch.from_numpy(pipeline.upscale(pixels, 4, seed=number).copy())
        plain = F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(0, 1)
        pictures = restored.permute(2, 0, 1)[None] / 255, plain
        gains.append([-10 * (picture - hr).square().mean().log10() for picture in pictures])
        distances.append([lpips(picture * 2 - 1, hr * 2 - 1) for picture in pictures])
    psnr, psnr_plain = np.mean(gains, axis=0)
    lpips_restored, lpips_plain = np.mean(distances, axis=0).squeeze()
    assert psnr > psnr_plain - 1.5
    assert lpips_restored < 0.9 * lpips_plain
