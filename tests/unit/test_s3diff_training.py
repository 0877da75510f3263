"""Training of S3Diff: against a float64 reference, and short runs of it in this process."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from skimage import data as photographs
from torch import nn
from torch.func import functional_call
from torch.utils.data import Dataset

from pipelines.contract import PipelineError, Precision, WeightsSource, posterior_noise
from pipelines.degradations import degrade
from pipelines.diffusion.lora import LoraPair
from pipelines.pictures import write_png
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.degradation import DegradationEstimator
from pipelines.s3diff.expected import expected_tensors
from pipelines.s3diff.lora import unet_block, vae_block
from pipelines.s3diff.meta import meta_checkpoint
from pipelines.s3diff.options import BaselineOptions, ColorFix
from pipelines.s3diff.recipe import small_architecture
from pipelines.s3diff.train.__main__ import main
from pipelines.s3diff.train.checkpoint import Base, Keeper, write_pickle
from pipelines.s3diff.train.discriminators import Discriminator
from pipelines.s3diff.train.fresh import fresh_adapters, open_start
from pipelines.s3diff.train.model import TrainableS3Diff
from pipelines.s3diff.train.optimization import Optimization
from pipelines.s3diff.train.photos import Photo, PhotoDataset, Sample
from pipelines.s3diff.train.run import Places, open_accelerator, open_model, train
from pipelines.s3diff.train.samples import draw_roles, make_part
from pipelines.s3diff.train.settings import AdamSettings, Settings, read_settings
from pipelines.s3diff.train.task import S3DiffTask
from pipelines.s3diff.weights import Checkpoint, check_folder, read_checkpoint
from pipelines.stable_diffusion.checkpoint_files import read_pickle
from pipelines.stable_diffusion.steps import pixels_to_tensor
from pipelines.training.batches import Share, numbered_loader, reseed
from pipelines.training.loop import Outcome
from pipelines.training.states import State, load_state, save_state
from tests.tiny_s3diff import few_adapters, tiny_architecture, write_sane_weights

KEYS = Path(__file__).parent / "data" / "s3diff_keys.json"
SMALL = (
    "data.crop=64",
    "data.min_area_px=0",
    "data.min_bytes=0",
    "lora.rank_unet=4",
    "lora.rank_vae=4",
    "loss.lpips=0",
    "discriminator.kind=patch",
    "discriminator.width=8",
    "optimizer.generator.lr=2e-4",
    "run.precision=fp32",
    "run.batch=2",
    "run.accumulate=1",
    "run.save_every=100",
    "run.checkpoint_every=0",
    "run.log_every=1",
    "run.look_every=0",
    "run.seed=3",
)

Tree = dict[str, dict[str, torch.Tensor]]


def small(*changes: str, steps: int = 4) -> Settings:
    """The published recipe, but for what must be small here."""
    return read_settings("published", [*SMALL, *changes], steps)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps a process's precision for ever; runs here have several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sane_weights(tmp_path_factory.mktemp("weights") / "tiny", tiny_architecture())


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For runs of many steps."""
    return write_sane_weights(tmp_path_factory.mktemp("weights") / "light", few_adapters())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    crops = {
        "a": photographs.astronaut()[20:120, 160:270],
        "b": photographs.coffee()[100:190, 200:300],
    }
    for name, pixels in crops.items():
        write_png(folder / f"{name}.png", np.ascontiguousarray(pixels))
    return folder


def source(folder: Path) -> WeightsSource:
    return WeightsSource(folder, "folder", "", synthetic=True)


def places(weights: Path, photos: Path, out: Path, **changes: Any) -> Places:
    return Places(data=(photos,), weights=weights, out=out, **changes)


def go(settings: Settings, where: Places) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    return train(settings, where, said.append), said


def task_of(
    settings: Settings,
    weights: Path,
    photos: Path,
    discriminator: Discriminator | None = None,
    lpips: nn.Module | None = None,
) -> tuple[S3DiffTask, TrainableS3Diff]:
    model = open_model(open_start(weights, settings.lora, settings.run.seed), settings)
    accelerator = open_accelerator(settings.run.precision)
    found = [Photo(path, path.name, path.stat().st_size) for path in sorted(photos.iterdir())]
    samples = PhotoDataset(found, settings.data.crop, seed=settings.run.seed)
    task = S3DiffTask(accelerator, settings, model, discriminator, lpips, samples)
    return task, model


def losses_of(out: Path, name: str = "loss") -> list[float]:
    with (out / "loss.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]


# --- the arithmetic, in float64 -----------------------------------------------------------------


class PlainJudge(Discriminator):
    """Two levels, no augmentation: what it says is easily computed again."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            heads = nn.ModuleList([nn.Conv2d(3, 1, 5, stride=4), nn.Conv2d(3, 2, 9, stride=8)])
        super().__init__(heads)

    def forward(self, image: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
        return judged(self.trained, image)


def judged(heads: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    assert isinstance(heads, nn.ModuleList)
    return [head(image) for head in heads]


class PlainDistance(nn.Module):
    """Squared distance of filtered pictures, [B], in place of LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(6))
        self.register_buffer("kernel", weights / 5)
        self.kernel: torch.Tensor

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.conv2d(a - b, self.kernel).square().mean(dim=(1, 2, 3))


class Reference:
    """S3Diff in float64 with merged weights, one sample at a time, and AdamW with clipping."""

    def __init__(self, checkpoint: Checkpoint, prompts: torch.Tensor) -> None:
        sizes = checkpoint.architecture
        self.unet = UNet2DConditionModel.from_config(sizes.unet).double()
        self.vae = AutoencoderKL.from_config(sizes.vae).double()
        self.vae.load_state_dict(checkpoint.vae)
        self.unet.load_state_dict(checkpoint.unet)
        self.estimator = DegradationEstimator(
            sizes.degradation_width, sizes.degradation_wide, sizes.degradation_hidden
        )
        self.estimator.load_state_dict(checkpoint.degradation)
        self.estimator.double()
        self.prompts = prompts.double()
        self.frequencies = checkpoint.modulation["w"].double()
        self.lora = {"unet": checkpoint.unet_lora, "vae": checkpoint.vae_lora}
        self.leaves = {f"conv_in.{n}": t for n, t in self.unet.conv_in.named_parameters()}
        for net, pairs in self.lora.items():
            self.leaves |= {f"{net} {layer} A": pair.down for layer, pair in pairs.items()}
            self.leaves |= {f"{net} {layer} B": pair.up for layer, pair in pairs.items()}
        self.leaves |= {n: t for n, t in checkpoint.modulation.items() if n != "w"}
        self.leaves = {
            n: t.detach().double().clone().requires_grad_() for n, t in self.leaves.items()
        }

    def modulation(self, net: str, scores: torch.Tensor) -> torch.Tensor:
        """[blocks, r, r] of scores [2]."""
        phase = 2 * math.pi * torch.outer(scores, self.frequencies)
        features = torch.cat([phase[0].sin(), phase[0].cos(), phase[1].sin(), phase[1].cos()])
        p = self.leaves
        d = (p[f"{net}_de_mlp.0.weight"] @ features + p[f"{net}_de_mlp.0.bias"]).clamp(min=0)
        rows = []
        for embedding in p[f"{net}_block_embeddings.weight"]:
            b = p[f"{net}_block_mlp.0.weight"] @ embedding + p[f"{net}_block_mlp.0.bias"]
            joint = torch.cat([d, b.clamp(min=0)])
            rows.append(p[f"{net}_fuse_mlp.weight"] @ joint + p[f"{net}_fuse_mlp.bias"])
        flat = torch.stack(rows)
        side = math.isqrt(flat.shape[1])
        return flat.view(len(rows), side, side)

    def merged(self, net: str, network: nn.Module, matrices: torch.Tensor) -> dict[str, Any]:
        state: dict[str, Any] = {n: p.detach() for n, p in network.named_parameters()}
        block = unet_block if net == "unet" else vae_block
        for layer in self.lora[net]:
            a, b = self.leaves[f"{net} {layer} A"], self.leaves[f"{net} {layer} B"]
            base = state[f"{layer}.weight"]
            low = b.flatten(1) @ matrices[block(layer)].T @ a.flatten(1)
            state[f"{layer}.weight"] = base + 8 / a.shape[0] * low.view_as(base)
        if net == "unet":
            state |= {n: self.leaves[n] for n in ("conv_in.weight", "conv_in.bias")}
        return state

    def picture(
        self, lr: torch.Tensor, x: torch.Tensor, prompt: int, noise: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            scores = self.estimator(lr[None].double())[0]
        vae = self.merged("vae", self.vae, self.modulation("vae", scores))
        part = {n.removeprefix("encoder."): t for n, t in vae.items() if n.startswith("encoder.")}
        moments = self.vae.quant_conv(functional_call(self.vae.encoder, part, (x[None].double(),)))
        mean, log_variance = moments.chunk(2, dim=1)
        std = (log_variance.clamp(-30, 20) / 2).exp()
        z = (mean + std * noise[None].double()) * 0.18215
        state = self.merged("unet", self.unet, self.modulation("unet", scores))
        step, text = torch.tensor([999]), self.prompts[prompt][None]
        eps = functional_call(self.unet, state, (z, step, text)).sample
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        bar = float((1 - betas).prod())
        x0 = (z - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
        decoded = self.vae.decoder(self.vae.post_quant_conv(x0 / 0.18215))
        return torch.as_tensor(decoded[0].clamp(-1, 1))


class AdamWByHand:
    """Clipping to norm 1 and AdamW (Loshchilov and Hutter, 2019)."""

    def __init__(self, leaves: Mapping[str, torch.Tensor], lr: float, eps: float) -> None:
        self.leaves, self.lr, self.eps, self.t = leaves, lr, eps, 0
        self.m = {n: torch.zeros_like(p) for n, p in leaves.items()}
        self.v = {n: torch.zeros_like(p) for n, p in leaves.items()}

    def step(self, loss: torch.Tensor) -> float:
        gradients = torch.autograd.grad(loss, list(self.leaves.values()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        self.t += 1
        with torch.no_grad():
            for (name, p), gradient in zip(self.leaves.items(), gradients, strict=True):
                g = gradient * min(1.0, 1 / (norm + 1e-6))
                self.m[name] = 0.9 * self.m[name] + 0.1 * g
                self.v[name] = 0.999 * self.v[name] + 0.001 * g * g
                mean = self.m[name] / (1 - 0.9**self.t)
                root = (self.v[name] / (1 - 0.999**self.t)).sqrt()
                p -= self.lr * (0.01 * p + mean / (root + self.eps))
        return norm


def bce(logits: list[torch.Tensor], target: float) -> torch.Tensor:
    terms = [-(target * F.logsigmoid(x) + (1 - target) * F.logsigmoid(-x)).mean() for x in logits]
    return torch.as_tensor(sum(terms))


def test_an_update_is_that_of_the_float64_reference(weights: Path, photos: Path) -> None:
    """Both steps of the generator and both of the discriminator, in two parts each."""
    eps = "eps=1e-3"  # smooth where a gradient is about 0, so that float32 cannot flip its sign
    settings = small(
        *("run.batch=4", "run.accumulate=2", "loss.lpips=5.0", "samples.negative=0.5"),
        *(f"optimizer.{net}.{eps}" for net in ("generator", "discriminator")),
        *("samples.keep_hr=0.3", "optimizer.generator.lr=1e-3", "optimizer.discriminator.lr=2e-3"),
    )
    judge, distance = PlainJudge(), PlainDistance()
    task, model = task_of(settings, weights, photos, judge, distance)
    reference = Reference(read_checkpoint(source(weights)), model.prompts)
    before = {n: t.detach().clone() for n, t in reference.leaves.items()}
    heads = PlainJudge().trained.double()
    g = AdamWByHand(reference.leaves, 1e-3, 1e-3)
    d = AdamWByHand(dict(heads.named_parameters()), 2e-3, 1e-3)
    distance64 = PlainDistance().double()
    samples = [task._samples[n] for n in range(4)]
    task.begin(range(1))
    found = {n: float(v) for n, v in task.update(0).items()}

    drawings = [drawn(sample, number, settings) for number, sample in enumerate(samples)]
    assert len({(one.negative, one.kept) for one in drawings}) >= 3
    recon = []
    for number, one in enumerate(drawings):
        picture = reference.picture(one.lr, one.x, int(one.negative), noise_of(number, 1))
        target = (one.x if one.negative else one.hr).double()
        near = distance64(picture[None], target[None])[0]
        recon.append(2 * (picture - target).square().mean() + 5 * near)
    loss = torch.stack(recon).mean()
    norm = g.step(loss)
    assert norm > 1  # so that clipping is seen
    fakes = torch.stack(
        [reference.picture(o.lr, o.x, 0, noise_of(n, 2)) for n, o in enumerate(drawings)]
    )
    gan = 0.5 * bce(judged(heads, fakes), 0.8)
    gan_norm = g.step(gan)
    real = 0.5 * bce(judged(heads, torch.stack([one.hr.double() for one in drawings])), 0.8)
    d.step(real)
    fake = 0.5 * bce(judged(heads, fakes.detach()), 0.0)
    wanted = {
        "loss": float(loss.detach()),
        "grad_norm": norm,
        "gan": float(gan.detach()),
        "gan_grad_norm": gan_norm,
        "d_real": float(real.detach()),
        "d_fake": float(fake.detach()),
        "d_grad_norm": d.step(fake),
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=2e-4), name
    assert_moved_alike(live_leaves(model), reference.leaves, before)
    start = dict(PlainJudge().trained.named_parameters())
    assert_moved_alike(dict(judge.trained.named_parameters()), d.leaves, start)


def noise_of(number: int, purpose: int) -> torch.Tensor:
    generator = reseed(torch.Generator(), 3, number, purpose)
    return torch.empty(4, 8, 8).normal_(generator=generator)


class Drawn(NamedTuple):
    """HR and network input in [-1, 1], LR in [0, 1], and the roles of a sample."""

    hr: torch.Tensor
    lr: torch.Tensor
    x: torch.Tensor
    negative: bool
    kept: bool


def drawn(sample: Sample, number: int, settings: Settings) -> Drawn:
    lr = degrade(sample.hr[None], settings.degradation, [sample.seed])
    up = F.interpolate(lr, size=(64, 64), mode="bicubic")[0]
    stream = reseed(torch.Generator(), 3, number, 0)
    u, v = torch.rand(2, generator=stream, dtype=torch.float64).tolist()
    hr = sample.hr * 2 - 1
    kept = v < settings.samples.keep_hr
    x = hr if kept else (up * 2 - 1).clamp(-1, 1)
    return Drawn(hr, lr[0], x, u < settings.samples.negative, kept)


def live_leaves(model: TrainableS3Diff) -> dict[str, torch.Tensor]:
    """Trained tensors by the reference's names."""
    leaves = {}
    for group, tensors in model.trained_tensors().items():
        net = "unet" if group == "state_dict_unet" else "vae"
        for name, tensor in tensors.items():
            layer, _, rest = name.partition(".lora_")
            leaves[f"{net} {layer} {rest[0]}" if rest else name] = tensor.detach()
    del leaves["w"]
    return leaves


def assert_moved_alike(
    found: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    before: Mapping[str, torch.Tensor],
) -> None:
    """Up to the roundings of four float32 updates."""
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        moved = value.detach() - before[name].detach().double()
        error = float((found[name].detach().double() - value.detach()).norm())
        rounding = 2**-22 * float(value.detach().norm())
        assert error <= 2e-3 * float(moved.norm()) + rounding, name


def test_the_network_is_the_one_that_is_run(weights: Path, photos: Path) -> None:
    """A crop restored for training and upscaled by the baseline, without guidance, are equal."""
    settings = small()
    model = open_model(open_start(weights, settings.lora, 0), settings)
    pixels = photographs.chelsea()[100:116, 100:116]
    options = BaselineOptions(guidance=1.0, resize="bicubic", color_fix=ColorFix.NONE)
    pipeline = S3DiffBaseline(options)
    pipeline.load(source(weights), torch.device("cpu"), Precision.FP32)
    wanted = pipeline.upscale_float(np.ascontiguousarray(pixels), 4, seed=7)
    lr = pixels_to_tensor(torch.from_numpy(pixels.copy()))
    x = (2 * F.interpolate(lr, size=(64, 64), mode="bicubic") - 1).clamp(-1, 1)
    with torch.no_grad():
        noise = posterior_noise(7, (1, 4, 8, 8))
        two = [t.expand(2, -1, -1, -1) for t in (lr, x, noise)]
        pictures = model(two[0], two[1], torch.tensor([0, 1]), two[2])
    found = (pictures.permute(0, 2, 3, 1).numpy() + 1) / 2
    np.testing.assert_allclose(found[0], wanted, atol=2e-4)
    assert np.abs(found[1] - wanted).max() > 1e-3  # the negative prompt


# --- what is trained and how it is stored --------------------------------------------------------


def flat(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    tensors = dict(checkpoint.modulation)
    for pairs in (checkpoint.unet_lora, checkpoint.vae_lora):
        tensors |= {f"{layer} A": pair.down for layer, pair in pairs.items()}
        tensors |= {f"{layer} B": pair.up for layer, pair in pairs.items()}
    return tensors | {n: t for n, t in checkpoint.unet.items() if n.startswith("conv_in.")}


def zeros(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the same shapes, a number of memory each."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in tensors.items()}


def test_the_file_has_the_published_keys_at_full_size(tmp_path: Path) -> None:
    meta = meta_checkpoint(Architecture.published())

    def pairs(layers: Mapping[str, LoraPair]) -> dict[str, LoraPair]:
        return {
            layer: LoraPair(*(torch.zeros(()).expand(t.shape) for t in (pair.down, pair.up)))
            for layer, pair in layers.items()
        }

    model = TrainableS3Diff(
        replace(
            meta,
            unet=zeros(meta.unet),
            vae=zeros(meta.vae),
            unet_lora=pairs(meta.unet_lora),
            vae_lora=pairs(meta.vae_lora),
            modulation=zeros(meta.modulation),
            degradation=zeros(meta.degradation),
        )
    )
    assert sum(p.numel() for p in model.trained_parameters()) == 34_475_120
    write_pickle(tmp_path / "s3diff.pkl", model)
    content = read_pickle(tmp_path / "s3diff.pkl")
    for group, shapes in json.loads(KEYS.read_text()).items():
        assert {n: list(t.shape) for n, t in content[group].items()} == shapes
    mlps = [f"state_dict_{n}_{m}_mlp" for n in ("vae", "unet") for m in ("de", "block", "fuse")]
    plain = ["unet_lora_target_modules", "vae_lora_target_modules", "rank_unet", "rank_vae", "w"]
    groups = ["state_dict_unet", "state_dict_vae", "state_embeddings"]
    assert set(content) == {*plain, *mlps, *groups}
    assert (content["rank_unet"], content["rank_vae"]) == (32, 16)
    assert {n: list(t.shape) for n, t in content["state_dict_unet_fuse_mlp"].items()} == {
        "weight": [1024, 320],
        "bias": [1024],
    }
    embeddings = content["state_embeddings"]
    assert {n: list(t["weight"].shape) for n, t in embeddings.items()} == {
        "state_dict_vae_block": [6, 64],
        "state_dict_unet_block": [10, 64],
    }
    assert isinstance(content["w"], nn.Parameter)


def test_authors_format_loads_trains_a_step_and_is_written(tmp_path: Path, photos: Path) -> None:
    """The golden weights: published ranks and modulators, every layer adapted."""
    from tests.golden.recipe import write_golden_weights

    folder = write_golden_weights(tmp_path / "golden")
    settings = small("lora.rank_unet=32", "lora.rank_vae=16", "loss.gan=0", "run.batch=1", steps=1)
    outcome, _ = go(settings, places(folder, photos, tmp_path / "out"))
    assert outcome == Outcome(1, 0)
    written = tmp_path / "out" / "weights"
    assert check_folder(written) == []
    before, after = (read_checkpoint(source(f)) for f in (folder, written))
    old, new = flat(before), flat(after)
    assert torch.equal(old.pop("w"), new.pop("w"))
    still = [name for name, value in new.items() if torch.equal(old[name], value)]
    assert still == []
    for network in ("vae", "degradation", "text_encoder"):
        assert all(
            torch.equal(t, getattr(before, network)[n]) for n, t in getattr(after, network).items()
        )


def test_fresh_adapters_change_nothing_yet(weights: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("sd-turbo", "de_net.pth"):
        (bare / name).symlink_to(weights / name)
    settings = small()
    checkpoint = open_start(bare, settings.lora, 1)
    again, other = (open_start(bare, settings.lora, seed) for seed in (1, 2))
    tensors = flat(checkpoint)
    assert all(torch.equal(t, tensors[n]) for n, t in flat(again).items())
    assert not torch.equal(flat(other)["w"], tensors["w"])
    base = read_checkpoint(source(weights))
    assert checkpoint.architecture.rank_unet == 4
    assert set(checkpoint.unet_lora) == set(base.unet_lora)
    snapshot = open_start(bare, settings.lora, 1).unet
    assert all(
        torch.equal(t, snapshot[n]) for n, t in base.unet.items() if not n.startswith("conv_in.")
    )
    model = open_model(checkpoint, settings)
    zeroed = open_model(replace(checkpoint, unet_lora={}, vae_lora={}), settings)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    lr, noise = (torch.rand(1, c, s, s, generator=generator) for c, s in ((3, 16), (4, 8)))
    with torch.no_grad():
        pictures = [m(lr, x, torch.zeros(1, dtype=torch.long), noise) for m in (model, zeroed)]
    assert torch.equal(*pictures)


def test_fresh_adapters_have_the_published_deviations() -> None:
    tensors = fresh_adapters(
        replace(small_architecture(), degradation_features=256, block_features=64), 0
    )
    unet, modulation = tensors["state_dict_unet"], tensors["modulation"]
    downs = torch.cat([t.flatten() for n, t in unet.items() if ".lora_A." in n])
    assert float(downs.std()) == pytest.approx(1 / 8, rel=0.02)
    assert not any(t.any() for n, t in unet.items() if ".lora_B." in n)
    fuse = modulation["unet_fuse_mlp.weight"]
    assert float(fuse.std()) == pytest.approx(1e-5 * math.sqrt(2 / 320), rel=0.05)
    assert not any(t.any() for n, t in modulation.items() if n.endswith(".bias"))
    assert float(modulation["unet_block_embeddings.weight"].std()) == pytest.approx(1, rel=0.1)
    assert float(modulation["w"].std()) == pytest.approx(1, rel=0.3)


# --- samples -------------------------------------------------------------------------------------


def test_negative_samples_come_at_their_rate() -> None:
    settings = read_settings("published", ["discriminator.kind=none"])
    count = 6000
    roles = draw_roles(range(count), settings)
    for column, rate in enumerate((0.05, 0.01)):
        found = sum(role[column] for role in roles)
        spread = math.sqrt(count * rate * (1 - rate))
        assert abs(found - count * rate) < 4 * spread, (column, found)
    assert draw_roles([17, 5], settings) == [roles[17], roles[5]]


def test_roles_decide_input_and_target() -> None:
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(1, 3, 64, 64, generator=generator)
    parts = {
        (negative, kept): make_part(
            hr, [0], [9], small(f"samples.negative={negative}", f"samples.keep_hr={kept}")
        )
        for negative in (0, 1)
        for kept in (0, 1)
    }
    lr = parts[0, 0].lr
    assert lr.shape == (1, 3, 16, 16)
    for (negative, kept), part in parts.items():
        assert torch.equal(part.lr, lr)  # the degradation network always sees the degraded crop
        assert torch.equal(part.hr, 2 * hr - 1)
        assert torch.equal(part.x, part.hr) == bool(kept)
        assert torch.equal(part.target, part.x if negative else part.hr)
        assert part.prompts.tolist() == [negative]
        assert float(part.x.abs().max()) <= 1


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.full
def test_loss_falls_in_200_steps(light: Path, photos: Path, tmp_path: Path) -> None:
    changes = ("run.batch=1", "run.log_every=50", "loss.gan=0", "optimizer.generator.lr=2e-3")
    go(small(*changes, steps=200), places(light, photos, tmp_path))
    losses = losses_of(tmp_path)
    assert len(losses) == 200
    first, last = np.mean(losses[:40]), np.mean(losses[-40:])
    assert last < 0.75 * first


def test_a_run_stopped_by_a_signal_continues_bit_equal(
    light: Path, photos: Path, tmp_path: Path
) -> None:
    settings = small("run.batch=1", "run.checkpoint_every=2", "run.look_every=3", steps=3)
    where = places(light, photos, tmp_path / "whole", validation=photos)
    _, said = go(settings, where)
    assert any(line.startswith("step 3  validation: l2") for line in said)
    broken = replace(where, out=tmp_path / "broken", validation=None)

    def stop(line: str) -> None:
        if line.startswith("step 1/"):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(settings, broken, stop)
    assert stopped.signal == signal.SIGTERM
    outcome, said = go(settings, broken)
    assert outcome == Outcome(3, 0)
    assert any(f"continued at step {stopped.step}" in line for line in said)
    files = [folder / "loss.csv" for folder in (where.out, broken.out)]
    assert files[0].read_bytes() == files[1].read_bytes()
    whole, continued = (load_state(f.parent, print) for f in files)
    assert whole is not None
    assert continued is not None
    assert_same(whole.content, continued.content)
    assert {"model", "optimizer", "discriminator", "discriminator_optimizer"} == set(whole.content)
    names = ["s3diff-00000002.pkl", "s3diff-00000003.pkl"]
    assert [p.name for p in sorted((where.out / "checkpoints").iterdir())] == names
    assert check_folder(where.out / "weights") == []
    assert len(list((where.out / "samples").glob("*.png"))) == 1


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert set(a) == set(b)
        for key, value in a.items():
            assert_same(value, b[key])
    else:
        assert a == b


def test_another_run_in_the_folder_is_refused_by_key(
    light: Path, photos: Path, tmp_path: Path
) -> None:
    where = places(light, photos, tmp_path / "out")
    go(small("loss.gan=0", steps=1), where)
    changed = small("loss.gan=0", "optimizer.generator.lr=0.5", "samples.negative=0.1", steps=2)
    with pytest.raises(PipelineError) as refused:
        go(changed, where)
    assert "samples.negative 0.05, now 0.1; optimizer.generator.lr 0.0002, now 0.5" in str(
        refused.value
    )
    with pytest.raises(PipelineError, match=r"; and \d+ more; give the same"):
        go(
            read_settings(
                "published",
                [
                    *SMALL[1:],
                    "discriminator.width=9",
                    "data.crop=128",
                    "loss.mse=1",
                    "loss.gan=0",
                    "run.batch=1",
                    "samples.keep_hr=0",
                    "degradation.jpeg_last_probability=0",
                    "optimizer.generator.beta1=0.5",
                ],
                2,
            ),
            where,
        )
    with pytest.raises(PipelineError, match="holds a run of 1 steps"):
        go(small("loss.gan=0", steps=2), replace(where, resume=False))
    write_png(tmp_path / "c.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(PipelineError, match="photographs in --data"):
        go(small("loss.gan=0", steps=2), replace(where, data=(photos, tmp_path)))


def test_a_loss_that_is_no_number_stops_the_run(light: Path, photos: Path, tmp_path: Path) -> None:
    settings = small(
        *("loss.gan=0", "optimizer.generator.lr=1e30", "run.save_every=1"),
        "run.checkpoint_every=1",
    )
    with pytest.raises(PipelineError) as stopped:
        go(settings, places(light, photos, tmp_path))
    message = str(stopped.value)
    assert "no number" in message
    assert ".png seed" in message
    number = int(message.split("update ")[1].split()[0])
    state = load_state(tmp_path, print)
    assert (0 if state is None else state.step) == number - 1
    for file in (tmp_path / "checkpoints").glob("*.pkl"):
        content = read_pickle(file)
        assert all(t.isfinite().all() for t in content["state_dict_unet"].values())


def test_a_full_disk_leaves_the_old_checkpoint(weights: Path, tmp_path: Path) -> None:
    settings = small()
    model = open_model(open_start(weights, settings.lora, 0), settings)
    path = tmp_path / "weights" / "s3diff.pkl"
    write_pickle(path, model)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(PipelineError, match=r"s3diff\.pkl: the checkpoint .*File too large"):
            write_pickle(path, model)
        with pytest.raises(PipelineError, match=r"state-00000003\.pt: .*File too large"):
            save_state(tmp_path, State(3, {}, {"model": model.state_dict()}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert list(tmp_path.iterdir()) == [path.parent]


def test_a_finished_run_has_its_checkpoint(light: Path, photos: Path, tmp_path: Path) -> None:
    """Stopped by hand, then asked for as many steps as are done."""
    where = places(light, photos, tmp_path / "out")
    pickle = tmp_path / "out" / "weights" / "s3diff.pkl"

    def stop(line: str) -> None:
        if line.startswith("step 1/"):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(small("loss.gan=0", "run.batch=1"), where, stop)
    assert (stopped.signal, pickle.exists()) == (signal.SIGTERM, False)
    outcome, _ = go(small("loss.gan=0", "run.batch=1", steps=stopped.step), where)
    assert outcome == Outcome(stopped.step, 0)
    state = load_state(tmp_path / "out", print)
    assert state is not None
    written = read_pickle(pickle)["state_dict_unet"]
    assert all(
        torch.equal(t, written[n]) for n, t in state.content["model"]["state_dict_unet"].items()
    )


def test_weights_of_another_origin_are_not_replaced(
    light: Path, photos: Path, tmp_path: Path
) -> None:
    start = tmp_path / "weights"
    shutil.copytree(light, start)
    before = (start / "s3diff.pkl").read_bytes()
    with pytest.raises(PipelineError, match="which --weights names; choose another --out"):
        go(small("loss.gan=0"), places(start, photos, tmp_path))
    with pytest.raises(PipelineError, match="no checkpoint of a training there"):
        go(small("loss.gan=0"), places(light, photos, tmp_path))
    assert (start / "s3diff.pkl").read_bytes() == before
    assert list(tmp_path.iterdir()) == [start]


def test_base_networks_are_copied_over_links_to_what_is_gone(weights: Path, tmp_path: Path) -> None:
    settings = small()
    model = open_model(open_start(weights, settings.lora, 0), settings)
    beside = tmp_path / "weights"
    beside.mkdir()
    for name in ("sd-turbo", "de_net.pth"):
        (beside / name).symlink_to(tmp_path / "gone" / name)
    Keeper(tmp_path, weights, 0, 1, Base.COPY).after(1, model)
    assert check_folder(beside) == []
    assert not any((beside / name).is_symlink() for name in ("sd-turbo", "de_net.pth"))


@pytest.mark.parametrize("kept_as", [torch.channels_last, torch.contiguous_format])
def test_moments_follow_the_layout_of_the_parameters(kept_as: torch.memory_format) -> None:
    """A run goes on on the CPU after CUDA, where parameters are channels-last, and back."""
    accelerator = open_accelerator(small().run.precision)
    generator = torch.Generator().manual_seed(0)
    weight, *gradients = torch.randn(3, 6, 4, 3, 3, generator=generator)
    layouts = [kept_as, torch.channels_last, torch.contiguous_format]
    first, *others = (nn.Parameter(weight.clone(memory_format=layout)) for layout in layouts)
    adam = Optimization([first], AdamSettings(lr=0.1), accelerator)
    first.grad = gradients[0].clone(memory_format=kept_as)
    adam.step()
    kept = adam.state_dict()
    for layout, parameter in zip(layouts[1:], others, strict=True):
        parameter.data.copy_(first.data)
        parameter.grad = gradients[1].clone(memory_format=layout)
        again = Optimization([parameter], AdamSettings(lr=0.1), accelerator)
        again.load_state_dict(copy.deepcopy(kept))
        again.step()
    torch.testing.assert_close(*others)  # norms are summed in the order of memory


class WorkerIds(Dataset[int]):
    def __getitem__(self, number: int) -> int:
        return os.getpid()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_outlive_an_interrupt() -> None:
    """Ctrl-C reaches them too, while the training still ends its update."""
    ids = numbered_loader(WorkerIds(), Share(0, 1, 1, 1), range(8), workers=1, pinned=False)
    worker = int(next(ids))
    assert worker != os.getpid()
    os.kill(worker, signal.SIGINT)
    assert [int(one) for one in ids] == [worker] * 7


@pytest.mark.parametrize("change", ["run.precision='bf16'", "run.gradient_checkpointing=true"])
def test_ways_to_compute_give_about_the_same_update(
    weights: Path, photos: Path, change: str
) -> None:
    plain = small("loss.gan=0", "run.batch=1")
    changed = small("loss.gan=0", "run.batch=1", change)
    found = []
    for settings in (plain, changed):
        task, model = task_of(settings, weights, photos)
        task.begin(range(1))
        found.append(task.update(0))
        assert all(p.dtype == torch.float32 for p in model.trained_parameters())
        AcceleratorState._reset_state(reset_partial_state=True)
    tolerance = 0.05 if "bf16" in change else 1e-5
    for name in ("loss", "grad_norm"):
        assert float(found[1][name]) == pytest.approx(float(found[0][name]), rel=tolerance)


# --- settings and bad input ----------------------------------------------------------------------


def test_the_published_recipe_is_the_published_one() -> None:
    from pipelines import degradations

    dino = ["discriminator.weights=dino.pth"]
    settings = read_settings("published", dino)
    assert settings.degradation == degradations.Settings()
    assert (settings.run.batch, settings.run.accumulate, settings.part(4)) == (64, 4, 4)
    assert (settings.loss.mse, settings.loss.lpips, settings.loss.gan) == (2.0, 5.0, 0.5)
    assert settings.optimizer.generator == settings.optimizer.discriminator
    adam = settings.optimizer.generator
    assert (adam.lr, adam.beta1, adam.beta2) == (2e-5, 0.9, 0.999)
    assert (adam.weight_decay, adam.eps, adam.clip) == (1e-2, 1e-8, 1.0)
    assert (settings.data.crop, settings.data.limits) == (512, (0, 10_000))
    assert (settings.lora.rank_unet, settings.lora.rank_vae, settings.lora.alpha) == (32, 16, 8)
    unnamed = Settings(discriminator=settings.discriminator)
    assert replace(settings, data=replace(settings.data, limits=())) == unnamed
    with pytest.raises(PipelineError, match=r"run\.batch 64: .* 5 processes"):
        settings.part(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss.lpip=1", "loss.lpip: unknown; did you mean lpips?"),
        ("los.lpips=1", "los: unknown; did you mean loss?"),
        ("loss.lpips=high", "loss.lpips: expected a number, found 'high'"),
        ("loss.lpips=-1", "[loss] lpips -1.0: must not be negative"),
        ("run.batch=2.5", "run.batch: expected a whole number, found 2.5"),
        ("run.gradient_checkpointing=1", "run.gradient_checkpointing: expected true or false"),
        ("run.precision=fp8", "run.precision: expected one of fp32, tf32, fp16, bf16"),
        (f"run.seed={2**63}", "[run] seed 9223372036854775808: must be less than 2^63"),
        ("data.limits=[1, 0.5]", "data.limits: expected a whole number, found 0.5"),
        ("degradation.scale=2.5", "degradation.scale: expected a whole number"),
        ("run.accumulate=0", "[run] accumulate 0: must be positive"),
        ("data.crop=100", "[data] crop 100: must be a multiple of 64"),
        ("data.limits=[-1]", "[data] limits [-1]: must not be negative"),
        ("degradation.scale=3", "data.crop 64: must be a multiple of degradation.scale 3"),
        ("degradation.first.blur=1", "degradation.first.blur: unknown"),
        ("discriminator.kind=gan", "discriminator.kind: expected one of dino, patch, none, found"),
        ("lora.alpha=16", "[lora] alpha 16.0: the format of S3Diff stores none"),
        ("samples.negative=2", "[samples] negative 2.0: must be a probability"),
        ("optimizer.generator.lr=0", "[optimizer.generator] lr 0.0: must be positive"),
        ("optimizer.generator.beta1=1", "[optimizer.generator] beta1 1.0"),
        ("optimizer.generator=1", "optimizer.generator: expected a table, found 1"),
        ("lpips=1", "--set lpips=1: expected section.key=value"),
        ("loss.lpips", "--set loss.lpips: expected section.key=value"),
    ],
)
def test_wrong_settings_are_named(change: str, message: str) -> None:
    with pytest.raises(PipelineError) as refused:
        small(change)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_wrong_recipes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[loss]\nlpisp = 1.0\n")
    with pytest.raises(PipelineError, match=r"mine\.toml: loss\.lpisp: .* did you mean lpips"):
        read_settings(str(path), [])
    path.write_text("[loss\n")
    with pytest.raises(PipelineError, match=r"mine\.toml: not TOML"):
        read_settings(str(path), [])
    with pytest.raises(PipelineError, match="no such recipe"):
        read_settings(str(tmp_path / "none.toml"), [])
    with pytest.raises(PipelineError, match="expected published or mini, or a TOML file"):
        read_settings("large", [])


def test_wrong_weights_are_named(weights: Path, tmp_path: Path) -> None:
    lora = small().lora
    with pytest.raises(PipelineError, match="no such folder"):
        open_start(tmp_path / "none", lora, 0)
    with pytest.raises(PipelineError, match=r"rank_unet is 4, .* --set lora\.rank_unet=4"):
        open_start(weights, replace(lora, rank_unet=8), 0)
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(PipelineError, match=r"bare/de_net\.pth: missing"):
        open_start(bare, lora, 0)
    (bare / "de_net.pth").symlink_to(weights / "de_net.pth")
    with pytest.raises(PipelineError, match=r"bare/sd-turbo/unet/config\.json: missing"):
        open_start(bare, lora, 0)
    for name in ("unet", "vae", "text_encoder"):
        (bare / "sd-turbo" / name).mkdir(parents=True)
        for file in (weights / "sd-turbo" / name).iterdir():
            (bare / "sd-turbo" / name / file.name).symlink_to(file)
    with pytest.raises(PipelineError, match=r"bare/sd-turbo/tokenizer/vocab\.json: missing"):
        open_start(bare, lora, 0)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("none", "no such folder"),
        ("empty", "empty, expected a picture"),
        ("texts", "none of 1 files is a picture"),
        ("dwarfs", "no picture can be used"),
    ],
)
def test_bad_photographs_are_one_line_and_exit_code_2(
    weights: Path,
    tmp_path: Path,
    folder: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("empty", "texts", "dwarfs"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no picture")
    write_png(tmp_path / "dwarfs" / "a.png", np.zeros((20, 20, 3), np.uint8))
    words = ["train", "--recipe", "mini", "--data", tmp_path / folder, "--weights", weights]
    words += ["--out", tmp_path / "out", "--set", "loss.lpips=0"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    *_, last = said.err.splitlines()
    assert last.startswith("train: ")
    assert message in last
    assert not (tmp_path / "out").exists()


def test_missing_networks_of_the_losses_are_named(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path / "cache"))
    where = places(weights, photos, tmp_path / "out")
    with pytest.raises(PipelineError, match=r"vgg16.*--set loss\.lpips=0"):
        go(small("loss.lpips=1"), where)
    with pytest.raises(PipelineError, match=r"none\.pth"):
        go(small("discriminator.kind=dino", "discriminator.weights=none.pth"), where)
    said = []
    validated = replace(where, validation=photos, out=tmp_path / "looked")
    settings = small("loss.gan=0", "run.batch=1", "run.look_every=1", steps=1)
    train(settings, validated, said.append)
    assert any(line.startswith("LPIPS of the validation is not measured") for line in said)
    with pytest.raises(PipelineError, match="smaller than the crop of 128"):
        go(small("data.crop=128", "run.look_every=1"), validated)


def test_expected_names_are_what_is_trained(weights: Path) -> None:
    checkpoint = read_checkpoint(source(weights))
    model = TrainableS3Diff(checkpoint)
    expected = expected_tensors(checkpoint.architecture)
    for group, tensors in model.trained_tensors().items():
        assert {name: tuple(t.shape) for name, t in tensors.items()} == expected[group]
    trained = {id(p) for p in model.trained_parameters()}
    listed = [t for g in model.trained_tensors().values() for n, t in g.items() if n != "w"]
    assert trained == {id(tensor) for tensor in listed}
