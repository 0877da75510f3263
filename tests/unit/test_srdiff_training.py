"""The parts of the training, and short runs of it in this process."""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from skimage import data as photographs
from skimage.metrics import structural_similarity
from torch import nn

from pipelines.contract import PipelineError
from pipelines.photographs import HELD_OUT, TRAINING
from pipelines.pictures import write_png
from pipelines.srdiff import SRDiff
from pipelines.srdiff.checkpoint import read_checkpoint, read_encoder, write_checkpoint
from pipelines.srdiff.config import CONFIGS
from pipelines.srdiff.dataset import PatchDataset, Sample
from pipelines.srdiff.mini import make
from pipelines.srdiff.pairs import open_pairs
from pipelines.srdiff.rrdb import RRDBNet
from pipelines.srdiff.sampling import to_residual
from pipelines.srdiff.train import main, settings_of
from pipelines.srdiff.training.loop import Outcome, Run, train
from pipelines.srdiff.training.objective import DiffusionObjective, distance, window_ssim
from pipelines.srdiff.training.reporting import Watched
from pipelines.srdiff.training.settings import (
    PRESETS,
    Decay,
    Init,
    Loss,
    Precision,
    Settings,
    Stage,
)
from pipelines.srdiff.training.start import Origin, build, carry_picture
from pipelines.srdiff.training.trainer import Trainer
from pipelines.training.averaging import Average
from pipelines.training.batches import Share, reseed
from pipelines.training.records import Table
from pipelines.training.states import State, load_state, run_folder, save_state

MINI = CONFIGS["mini-x4"]
SHORT = {"steps": 4, "batch": 2, "patch": 32, "seed": 3}


def short(stage: Stage, **changes: Any) -> Settings:
    return settings_of(stage, "mini-x4", SHORT | changes)


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
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of photographs, some to train on and one to validate on."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (folder / split).mkdir()
    write_png(folder / "train/a.png", np.ascontiguousarray(photographs.astronaut()[:64, 200:280]))
    write_png(folder / "train/b.png", np.ascontiguousarray(photographs.coffee()[100:172, 200:272]))
    write_png(folder / "val/c.png", np.ascontiguousarray(photographs.chelsea()[100:132, 100:140]))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of stage 1 that nobody trained."""
    path = tmp_path_factory.mktemp("encoder") / "rrdb.ckpt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_checkpoint(path, dict(RRDBNet(MINI).state_dict()), 0)
    return path


def run_of(root: Path, out: Path, rrdb: Path | None = None, **changes: Any) -> Run:
    watched = changes.pop("watched", Watched(log_every=2))
    values = {"resume": True, "workers": 0, "save_every": 2} | changes
    return Run(data=root, out=out, rrdb=rrdb, watched=watched, **values)


def go(settings: Settings, run: Run) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    return train(settings, run, said.append), said


def trainer_of(settings: Settings, encoder: Path) -> Trainer:
    weights = read_encoder(encoder, MINI) if settings.stage is Stage.DIFFUSION else {}
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=settings.accumulate)
    return Trainer(accelerator, Origin(settings, "", ""), build(settings, weights))


def samples_of(root: Path, count: int) -> list[Sample]:
    patches = PatchDataset(open_pairs(root, "train", 4, print), 32, 4, augment=False, seed=1)
    return [Sample(*(tensor[None] for tensor in patches.sample(n))) for n in range(count)]


def losses_of(out: Path) -> list[float]:
    with (out / "loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_presets_are_the_published_recipes() -> None:
    def recipe(stage: Stage, config: str) -> tuple[int, int, int, float, int]:
        s = PRESETS[stage, config]
        return s.batch, s.steps, s.patch, s.lr, s.lr_halve_every

    assert recipe(Stage.RRDB, "df2k-x4") == (64, 100_000, 160, 2e-4, 200_000)
    assert recipe(Stage.DIFFUSION, "df2k-x4") == (64, 400_000, 160, 2e-4, 200_000)
    assert recipe(Stage.DIFFUSION, "celeba-x8") == (32, 300_000, 160, 2e-4, 100_000)
    assert recipe(Stage.DIFFUSION, "paper-x4") == (16, 400_000, 160, 2e-4, 100_000)
    published = [s for s in PRESETS.values() if s.config != "mini-x4"]
    assert all(not s.augment and not s.ema and not s.warmup for s in published)
    assert set(PRESETS) == {(stage, config) for stage in Stage for config in CONFIGS}


def test_learning_rate_halves_or_follows_a_cosine() -> None:
    halving = settings_of(Stage.DIFFUSION, "celeba-x8", {})
    rates = [halving.lr_at(step) for step in (0, 99_999, 100_000, 250_000)]
    assert rates == [2e-4, 2e-4, 1e-4, 5e-5]
    cosine = short(Stage.RRDB, decay=Decay.COSINE, warmup=1, steps=8, lr=1.0)
    assert [cosine.lr_at(step) for step in (0, 4)] == pytest.approx([0.5, 0.5])
    assert cosine.lr_at(7) < 0.04


def test_settings_survive_json_and_name_what_differs() -> None:
    old = short(Stage.DIFFUSION, decay=Decay.HALVE)
    assert Settings.from_json(old.to_json()) == old
    older = {k: v for k, v in replace(old, consistency=0.0).to_json().items() if k != "consistency"}
    assert Settings.from_json(older) == replace(old, consistency=0.0)
    new = replace(old, lr=0.5, loss=Loss.L2, steps=9)
    assert old.differences(new) == ["--lr 0.001, now 0.5", "--loss l1, now l2"]
    cosine = replace(old, decay=Decay.COSINE)
    assert cosine.differences(replace(cosine, steps=9)) == ["--steps 4, now 9"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "--steps 0: must be positive"),
        ({"lr": math.nan}, "--lr nan: must be positive"),
        ({"clip": -1.0}, "--clip -1.0: must not be negative"),
        ({"ema": 1.0}, "--ema 1.0"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        short(Stage.RRDB, **change)


def test_a_batch_is_shared_without_gaps_whatever_the_division() -> None:
    settings = short(Stage.DIFFUSION, batch=12, accumulate=2)
    for processes in (1, 2, 3):
        shares = [Share(rank, processes, settings.part(processes), 2) for rank in range(processes)]
        numbers = [n for share in shares for part in range(2) for n in share.numbers(5, part)]
        assert sorted(numbers) == list(range(60, 72))
    with pytest.raises(PipelineError, match="give a multiple of 10"):
        settings.part(5)


def test_average_is_the_exponential_moving_average() -> None:
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    average = Average(module, 0.5)
    expected = module.weight.detach().double().clone()
    for update in range(1, 9):
        with torch.no_grad():
            module.weight.add_(update)
        average.update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
    live = module.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(module.weight.detach().double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(module.weight, live)
    assert list(average.state_dict()) == ["weight"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_clipping_clips(root: Path, encoder: Path, accumulate: int) -> None:
    settings = short(Stage.DIFFUSION, clip=1e-3, accumulate=accumulate)
    trainer = trainer_of(settings, encoder)
    for slot, sample in enumerate(samples_of(root, accumulate)):
        _, norm = trainer.add(sample, slot)
        assert (norm is None) == (slot < accumulate - 1)
    assert norm is not None
    # Adam's first moment after one update is a tenth of the gradient that it was given.
    moments = [m["exp_avg"] for m in trainer.state(1).content["optimizer"]["state"].values()]
    given = 10 * torch.linalg.vector_norm(torch.cat([m.flatten() for m in moments]))
    assert norm > 20 * settings.clip
    assert float(given) == pytest.approx(settings.clip, rel=1e-2)


@pytest.mark.parametrize("consistency", [0.0, 3.0])
def test_loss_is_that_of_the_noise_in_x_t(
    root: Path, encoder: Path, tmp_path: Path, consistency: float
) -> None:
    settings = short(Stage.DIFFUSION, consistency=consistency)
    objective = build(settings, read_encoder(encoder, MINI))
    assert isinstance(objective, DiffusionObjective)
    hr, lr, lr_up = samples_of(root, 1)[0]
    loss = objective(hr, lr, lr_up, reseed(torch.Generator(), 7, 1))
    write_checkpoint(tmp_path / "model.ckpt", objective.tensors(), 0)
    model = SRDiff.from_checkpoint(tmp_path / "model.ckpt")
    generator = reseed(torch.Generator(), 7, 1)
    t = torch.randint(100, (1,), generator=generator)
    eps = torch.empty_like(hr).normal_(generator=generator)
    x = model.schedule.add_noise(to_residual(hr, lr_up), t, eps)
    error = model.predict_noise(x, t, model.encode(lr)) - eps
    squares = error.reshape(1, 3, 8, 4, 8, 4).mean(dim=(3, 5))
    expected = error.abs().mean() + consistency * squares.abs().mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)


def test_losses_are_the_three_of_the_authors() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.zeros(1, 3, 40, 40) for _ in range(2))
    a[..., 12:28, 12:28] = torch.rand(1, 3, 16, 16, generator=generator)
    b[..., 12:28, 12:28] = torch.rand(1, 3, 16, 16, generator=generator)
    expected = structural_similarity(
        *(x[0].double().numpy() for x in (a, b)),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )[1].mean()
    assert float(window_ssim(a.double(), b.double())) == pytest.approx(expected, abs=1e-9)
    l1 = distance(Loss.L1, a, b)
    torch.testing.assert_close(l1, (a - b).abs().mean())
    torch.testing.assert_close(distance(Loss.L2, a, b), (a - b).square().mean())
    torch.testing.assert_close(distance(Loss.SSIM, a, b), l1 + 1 - window_ssim(a, b))


@pytest.mark.parametrize("config", ["mini-x4", "celeba-x8"])
def test_the_encoder_can_begin_as_an_upsampling(config: str) -> None:
    rrdb = RRDBNet(CONFIGS[config])
    carry_picture(rrdb)
    lr = 2 * torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(1)) - 1
    scale = CONFIGS[config].scale
    nearest = lr.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    torch.testing.assert_close(rrdb(lr), nearest, atol=1e-6, rtol=0)


def test_the_encoder_is_frozen_unless_it_is_to_be_trained(root: Path, encoder: Path) -> None:
    weights = read_encoder(encoder, MINI)
    for trained in (False, True):
        trainer = trainer_of(short(Stage.DIFFUSION, train_rrdb=trained, lr=1e-2), encoder)
        before = {n: p.detach().clone() for n, p in trainer.objective.named_parameters()}
        trainer.begin(1)
        trainer.add(samples_of(root, 1)[0], 0)
        moved = {
            n for n, p in trainer.objective.named_parameters() if not torch.equal(p, before[n])
        }
        assert any(name.startswith("unet.") for name in moved)
        assert {"rrdb.conv_first.weight", "rrdb.conv_last.weight"} <= moved if trained else True
        if not trained:
            after = trainer.objective.rrdb.state_dict()
            assert all(torch.equal(after[name], value) for name, value in weights.items())


@pytest.mark.parametrize("stage", list(Stage))
def test_a_few_steps_learn_a_patch(root: Path, encoder: Path, stage: Stage) -> None:
    trainer = trainer_of(
        short(stage, lr=2e-3, decay=Decay.HALVE, warmup=0, init=Init.PYTORCH), encoder
    )
    sample = samples_of(root, 1)[0]
    losses = []
    for step in range(40):
        trainer.begin(step)
        losses.append(float(trainer.add(sample, 5)[0]))
    assert losses[-1] < 0.7 * losses[0]


def test_two_stages_make_a_checkpoint_that_loads_strictly(root: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    watched = Watched(log_every=2, validate_every=4, sample_every=3, samples=1)
    stage_one, said = go(short(Stage.RRDB), run_of(root, first, watched=watched))
    assert stage_one.files == (first / "rrdb.ckpt",)
    assert any(line.startswith("step 4  validation: loss") for line in said)
    stage_two, _ = go(
        short(Stage.DIFFUSION, ema=0.9), run_of(root, second, first / "rrdb.ckpt", watched=watched)
    )
    plain, averaged = (read_checkpoint(file) for file in stage_two.files)
    assert plain.config == averaged.config == MINI
    encoder = read_encoder(first / "rrdb.ckpt", MINI)
    for checkpoint in (plain, averaged):
        assert all(torch.equal(checkpoint.rrdb[name], value) for name, value in encoder.items())
    assert any(not torch.equal(averaged.unet[name], value) for name, value in plain.unet.items())
    assert len(list((second / "samples").glob("*.png"))) == 1
    with (second / "validation.csv").open() as file:
        names = [row["what"] for row in csv.DictReader(file)]
    assert names == ["psnr", "lr_psnr", "loss"]
    assert len(losses_of(second)) == 4
    assert any((second / "tensorboard").iterdir())


def test_sigterm_saves_and_the_run_continues_bit_equal(
    root: Path, encoder: Path, tmp_path: Path
) -> None:
    settings = short(Stage.DIFFUSION, steps=6, ema=0.9, accumulate=2)
    whole, _ = go(settings, run_of(root, tmp_path / "whole", encoder))
    broken = run_of(root, tmp_path / "broken", encoder, save_every=100)

    def stop(line: str) -> None:
        if line.startswith("step 2/"):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(settings, broken, stop)
    assert (stopped.step, stopped.files, stopped.signal) == (3, (), signal.SIGTERM)
    continued, said = go(settings, broken)
    assert any("continued at step 3" in line for line in said)
    for ours, theirs in zip(continued.files, whole.files, strict=True):
        a, b = read_checkpoint(ours), read_checkpoint(theirs)
        assert all(torch.equal(a.unet[name], value) for name, value in b.unet.items())
    loss = (tmp_path / "broken/loss.csv").read_bytes()
    assert loss == (tmp_path / "whole/loss.csv").read_bytes()


def test_another_run_in_the_folder_is_refused(root: Path, encoder: Path, tmp_path: Path) -> None:
    settings = short(Stage.DIFFUSION, steps=2)
    run = run_of(root, tmp_path, encoder)
    go(settings, run)
    with pytest.raises(PipelineError, match=r"begun with --lr 0\.001, now 0\.5; --seed 3, now 4"):
        go(replace(settings, lr=0.5, seed=4), run)
    with pytest.raises(PipelineError, match="holds a run of 2 steps"):
        go(settings, replace(run, resume=False))
    other = tmp_path / "other.ckpt"
    write_checkpoint(other, dict(RRDBNet(MINI).state_dict()), 0)
    with pytest.raises(PipelineError, match="another encoder in --rrdb"):
        go(settings, replace(run, rrdb=other))
    with run_folder(tmp_path), pytest.raises(PipelineError, match="another training is writing"):
        go(settings, run)


def test_bad_input_is_named(root: Path, encoder: Path, tmp_path: Path) -> None:
    large = short(Stage.DIFFUSION, patch=160)
    with pytest.raises(PipelineError, match="no picture is as large as the patch of 160"):
        go(large, run_of(root, tmp_path / "a", encoder))
    with pytest.raises(PipelineError, match="patch 20: must be a multiple of 8"):
        go(replace(large, patch=20), run_of(root, tmp_path / "b", encoder))
    with pytest.raises(PipelineError, match=r"--rrdb .*rrdb\.ckpt.*for --config df2k-x4"):
        go(replace(large, config="df2k-x4"), run_of(root, tmp_path / "c", encoder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match="no train pictures"):
        go(large, run_of(tmp_path / "empty", tmp_path / "d", encoder))
    if not torch.cuda.is_available():
        with pytest.raises(PipelineError, match="needs a GPU"):
            go(replace(large, precision=Precision.FP16), run_of(root, tmp_path / "e", encoder))


def test_bad_input_is_one_line_and_exit_code_2(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "diffusion", "--data", root, "--rrdb", tmp_path / "no", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    expected = f"train: --rrdb {tmp_path}/no: no such checkpoint file (for --config df2k-x4)"
    assert said.err.splitlines() == [expected]


def test_a_loss_that_is_no_number_stops_the_run(root: Path, encoder: Path, tmp_path: Path) -> None:
    settings = short(Stage.DIFFUSION, lr=1e30, clip=0.0, warmup=0, decay=Decay.HALVE)
    with pytest.raises(PipelineError, match="the loss is no number any more"):
        go(settings, run_of(root, tmp_path, encoder, save_every=100))
    assert load_state(tmp_path, print) is None


def test_half_precision_learns_in_float32_weights(
    root: Path, encoder: Path, tmp_path: Path
) -> None:
    settings = short(Stage.DIFFUSION, precision=Precision.BF16)
    outcome, _ = go(settings, run_of(root, tmp_path, encoder))
    assert all(t.dtype == torch.float32 for t in read_checkpoint(outcome.files[0]).unet.values())
    assert all(0 < loss < 2 for loss in losses_of(tmp_path))


def test_states_are_kept_in_pairs_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    identity = {"settings": short(Stage.RRDB).to_json()}
    with run_folder(tmp_path):
        for step in (1, 2, 3):
            save_state(tmp_path, State(step, identity, {"x": torch.tensor(step)}))
    last, before = tmp_path / "state-00000003.pt", tmp_path / "state-00000002.pt"
    assert set(tmp_path.glob("*.pt")) == {last, before}
    last.write_bytes(last.read_bytes()[:100])
    said: list[str] = []
    state = load_state(tmp_path, said.append)
    assert state is not None
    assert (state.step, state.identity, int(state.content["x"])) == (2, identity, 2)
    assert "state-00000003.pt: damaged" in said[0]
    before.write_bytes(b"")
    with pytest.raises(PipelineError, match="its states are damaged"):
        load_state(tmp_path, said.append)


def test_rows_after_the_state_and_torn_rows_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n4,0.")
    Table(path, ("step", "loss"), 2).add([(3, 0.25)])
    assert path.read_text() == "step,loss\n1,0.5\n2,0.4\n3,0.25\n"


def test_the_small_model_is_made_of_photographs_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the recipe are fetched from packages; where they lie already, nothing is."""
    train, held_out = (
        [Path(name).stem for names in group.values() for name in names]
        for group in (TRAINING, HELD_OUT)
    )
    assert not set(train) & set(held_out)
    for split, names in (("train", train), ("val", held_out)):
        (tmp_path / "photographs" / split).mkdir(parents=True)
        for number, name in enumerate(names):
            picture = photographs.astronaut()[8 * number : 8 * number + 40, 200:240]
            path = tmp_path / "photographs" / split / f"{name}.png"
            write_png(path, np.ascontiguousarray(picture))
    for stage in Stage:
        monkeypatch.setitem(PRESETS, (stage, "mini-x4"), short(stage, steps=2))
    path = make(tmp_path, lambda line: None)
    assert path is not None
    assert SRDiff.from_checkpoint(path).config == MINI
