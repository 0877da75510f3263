"""Distributed calibration: schedule, coordinates, files, the learning itself, whole runs."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from skimage import data as photographs
from torch import nn

from pipelines.contract import PipelineError, WeightsSource
from pipelines.osediff.mini import derive
from pipelines.passionsr.calibration.coordinates import coordinates
from pipelines.passionsr.calibration.measure import Fidelity, Row, table
from pipelines.passionsr.calibration.quantized import Quantized
from pipelines.passionsr.calibration.run import Places, Request, calibrate
from pipelines.passionsr.calibration.schedule import Component, Learned, Schedule, Stage, stages
from pipelines.passionsr.calibration.set import SetSettings
from pipelines.passionsr.calibration.store import Store
from pipelines.passionsr.calibration.systems import S3DiffModel
from pipelines.passionsr.calibration.task import DqcTask
from pipelines.passionsr.facts import read_facts
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.settings import Mode
from pipelines.passionsr.statistics import initialise, initialise_published
from pipelines.pictures import write_png
from tests.tiny_s3diff import few_adapters, write_sane_weights

Tensor = torch.Tensor
UNET_LET = Stage(Component.UNET, Learned.LET)
UNET_LBQ = Stage(Component.UNET, Learned.BOUNDS)
PICTURES = 4


def test_published_order_of_stages() -> None:
    names = [str(stage) for stage in stages("unet+vae")]
    assert names == [
        *("encoder let", "encoder lbq"),
        *("unet let", "unet lbq"),
        *("decoder let", "decoder lbq"),
    ]
    assert stages("unet") == (UNET_LET, UNET_LBQ)


@pytest.mark.parametrize(("components", "decay"), [("unet", 0.1), ("unet+vae", 0.2)])
def test_published_rates(components: Any, decay: float) -> None:
    schedule = Schedule.of("paper", components)
    assert schedule.epochs == 2
    for stage in stages(components):
        first, second = (schedule.rate(stage, step, 500) for step in (0, 500))
        assert first == schedule.rate(stage, 499, 500) == 1e-5
        decays = stage.component is Component.UNET
        assert second == pytest.approx(1e-5 * (decay if decays else 1))
        assert second == schedule.rate(stage, 999, 500)


def test_own_rates_fall_to_nothing() -> None:
    schedule = Schedule.of("fixed", "unet+vae", epochs=3)
    rates = [schedule.rate(UNET_LET, step, 10) for step in range(30)]
    assert rates[0] == schedule.let_rate
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01 * rates[0]
    assert schedule.rate(UNET_LBQ, 0, 10) == schedule.bounds_rate


def test_epochs_must_be_positive() -> None:
    with pytest.raises(PipelineError, match="--epochs 0"):
        Schedule.of("fixed", "unet", epochs=0)


class Toy:
    """Three quantized layers that learn what they were in full precision: a loss and its model."""

    def __init__(self, mode: Mode = "fixed", bits: int = 3) -> None:
        torch.manual_seed(0)
        self.plain = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.Flatten(2)
        ).requires_grad_(False)
        self.plain.append(nn.Linear(16, 3).requires_grad_(False))
        self.network = nn.Sequential(*self.plain)
        for index in (0, 2, 4):
            self.network[index] = QuantizedLayer.wrap(self.plain[index], bits, bits, mode=mode)
        layers = {str(index): self.network[index] for index in (0, 2, 4)}
        self.quantized, self.mode = Quantized("unet", {"unet": layers}), mode
        sizes = torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None, None]
        self.pictures = [torch.randn(1, 4, 4, 4) * sizes for _ in range(PICTURES)]
        self.prepared: list[Stage] = []

    def initialise(self) -> list[Any]:
        def send() -> None:
            for picture in self.pictures:
                self.network(picture)

        if self.mode == "paper":
            initialise_published(self.quantized.layers(), [send])
        else:
            initialise(self.quantized.layers(), send, "smoothquant")
        return ["initial"]

    def prepare(self, stage: Stage) -> None:
        self.prepared.append(stage)

    def loss(self, stage: Stage, number: int, epoch: int) -> Tensor:
        picture = self.pictures[number]
        return F.mse_loss(self.network(picture), self.plain(picture))

    def mean_loss(self, stage: Stage) -> float:
        with torch.no_grad():
            return sum(float(self.loss(stage, n, 0)) for n in range(PICTURES)) / PICTURES

    def task(self, schedule: Schedule) -> DqcTask:
        return DqcTask(
            self.quantized,
            self,  # type: ignore[arg-type]
            schedule,
            PICTURES,
            seed=3,
            initial=self.initialise,
            measured=str,
            note=lambda line: None,
        )


FAST = Schedule(mode="fixed", epochs=3, let_rate=0.03, bounds_rate=0.02)


def learn(toy: Toy, schedule: Schedule, upto: int | None = None) -> tuple[DqcTask, list[float]]:
    task = toy.task(schedule)
    losses = []
    task.begin(range(task.steps))
    for step in range(task.steps if upto is None else upto):
        losses.append(float(task.update(step)["loss"]))
    return task, losses


def test_learning_lowers_the_loss_and_never_raises_it() -> None:
    toy = Toy()
    task, _ = learn(toy, FAST)
    losses = [epoch.loss for epoch in task.epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    assert toy.mean_loss(UNET_LBQ) == pytest.approx(losses[-1], rel=1e-4)
    assert [epoch.number for epoch in task.epochs] == [*range(4), *range(4)]
    assert task.rows == ["initial", "after unet let", "after unet lbq"]
    assert toy.prepared == [UNET_LET, UNET_LBQ]


def test_stages_learn_what_they_should_alone() -> None:
    toy = Toy()
    task, _ = learn(toy, FAST, upto=0)
    before = {n: p.detach().clone() for n, p in toy.network.named_parameters()}
    half = task.steps // 2
    for step in range(half):
        task.update(step)
    changed = {n for n, p in toy.network.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert not any("act_quantizer" in name for name in changed)
    before = {n: p.detach().clone() for n, p in toy.network.named_parameters()}
    for step in range(half, task.steps):
        task.update(step)
    changed = {n for n, p in toy.network.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert not any("quantizer" not in name for name in changed)


def test_epoch_that_does_not_help_is_taken_back() -> None:
    toy = Toy()
    wild = replace(FAST, let_rate=5.0, bounds_rate=5.0, epochs=2)
    task, _ = learn(toy, wild)
    taken_back = [epoch for epoch in task.epochs if not epoch.kept]
    assert taken_back
    losses = [epoch.loss for epoch in task.epochs]
    assert losses == sorted(losses, reverse=True)
    assert toy.mean_loss(UNET_LBQ) == pytest.approx(losses[-1], rel=1e-4)


def test_same_seed_same_parameters() -> None:
    first, second = Toy(), Toy()
    learn(first, FAST)
    learn(second, FAST)
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name])


@pytest.mark.parametrize(("mode", "stop"), [("fixed", 6), ("fixed", 12), ("paper", 14)])
def test_continued_anywhere_equals_uninterrupted(mode: Mode, stop: int, tmp_path: Path) -> None:
    """In mode `paper` zero points keep the first step, and gradients add up over an epoch."""
    schedule = replace(FAST, mode=mode)
    whole = Toy(mode)
    expected, _ = learn(whole, schedule)
    begun, _ = learn(Toy(mode), schedule, upto=stop)
    torch.save(begun.state_dict(), tmp_path / "state.pt")
    toy = Toy(mode)
    task = toy.task(schedule)
    task.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    task.begin(range(stop, task.steps))
    for step in range(stop, task.steps):
        task.update(step)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, toy.network.state_dict()[name])
    assert task.epochs == expected.epochs
    assert task.rows == expected.rows


def test_published_gradients_add_up_over_an_epoch() -> None:
    schedule = replace(Schedule.of("paper", "unet"), let_rate=0.0, bounds_rate=0.0)
    toy = Toy("paper", bits=8)
    task = toy.task(schedule)
    task.begin(range(task.steps))
    gradients = []
    for step in range(2 * PICTURES):
        task.update(step)
        gradients.append(task._coordinates.vector.grad.norm().item())  # type: ignore[union-attr]
    assert gradients[PICTURES - 1] > 1.5 * gradients[0]
    assert gradients[PICTURES] < gradients[PICTURES - 1]


def test_coordinates_move_parameters_by_shares_of_their_size() -> None:
    toy = Toy()
    toy.initialise()
    layers = toy.quantized.layers().values()
    vector = coordinates(layers, Learned.LET, relative=True)
    before = [layer.scale_factor.detach().clone() for layer in layers]
    with torch.no_grad():
        vector.vector += 0.1
    vector.write()
    for layer, scale in zip(layers, before, strict=True):
        assert torch.allclose(layer.scale_factor.detach(), 1.1 * scale, rtol=1e-5)
        quantizer = layer.get_submodule("act_quantizer_0")
        width = (quantizer.x_max - quantizer.x_min).detach()
        assert torch.allclose(layer.offset.detach(), 0.1 * width * scale, rtol=1e-5)


def test_scales_stay_positive() -> None:
    toy = Toy()
    toy.initialise()
    layers = toy.quantized.layers().values()
    vector = coordinates(layers, Learned.LET, relative=True)
    with torch.no_grad():
        vector.vector -= 100
    vector.write()
    assert all(bool((layer.scale_factor > 0).all()) for layer in layers)


def test_gradient_in_units_is_the_chain_rule() -> None:
    toy = Toy()
    toy.initialise()
    vector = coordinates(toy.quantized.layers().values(), Learned.BOUNDS, relative=True)
    toy.loss(UNET_LBQ, 0, 0).backward()
    parameter = next(p for n, p in toy.network.named_parameters() if n == "0.act_quantizer_0.x_max")
    assert parameter.grad is not None
    own = parameter.grad.item()
    quantizer = toy.network.get_submodule("0.act_quantizer_0")
    width = (quantizer.x_max - quantizer.x_min).item()
    vector.take_gradient()
    assert vector.vector.grad is not None
    assert any(math.isclose(g, own * width, rel_tol=1e-5) for g in vector.vector.grad.tolist())
    assert parameter.grad is None


def test_store_keeps_tensors_of_one_origin(tmp_path: Path) -> None:
    store = Store(tmp_path / "targets", {"weights": "a"})
    assert 0 not in store
    store.put(0, {"x": torch.arange(6).view(2, 3)})
    assert 0 in store
    assert torch.equal(store.get(0)["x"], torch.arange(6).view(2, 3))
    with pytest.raises(PipelineError, match="of other photographs, settings or weights"):
        0 in Store(tmp_path / "targets", {"weights": "b"})  # noqa: B015
    path = tmp_path / "targets" / "000000.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    assert 0 not in store
    with pytest.raises(PipelineError, match="cannot be read"):
        store.get(0)


def test_rows_survive_a_state_and_make_a_table() -> None:
    row = Row("MaxMin", {"calibration": Fidelity(1.0, 2.0, 3.0), "held-out": Fidelity(4, 5, 6)})
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    lines = table([row, replace(row, name="after unet lbq")]).splitlines()
    assert len(lines) == 4
    assert lines[2].split() == ["MaxMin", "1.00", "2.00", "3.00", "4.00", "5.00", "6.00"]
    assert len({len(line) for line in lines[1:]}) == 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsSource:
    folder = write_sane_weights(tmp_path_factory.mktemp("weights") / "tiny", few_adapters())
    return WeightsSource(folder, "folder", "d" * 64, synthetic=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("photographs")
    write_png(folder / "cat.png", photographs.chelsea()[:128, 100:240])
    write_png(folder / "face.png", photographs.astronaut()[:128, 160:300])
    return folder / "cat.png", folder / "face.png"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


REQUEST = Request(
    system="s3diff", bits=6, components="unet", pictures=SetSettings(images=4, side=64), epochs=1
)


def places(root: Path, photos: tuple[Path, ...]) -> Places:
    return Places(photographs=photos, work=root / "work", out=root / "file.safetensors")


def test_gradients_reach_encoder_unet_and_decoder(weights: WeightsSource) -> None:
    model = S3DiffModel(weights, 4)
    for network in (model.unet, model.vae):
        network.requires_grad_(True)
    condition = model.condition(photographs.chelsea()[:16, :16])
    latent = model.encode(condition)
    model.decode(model.x0(latent, model.eps(condition, latent))).square().mean().backward()
    names = [
        *("vae.encoder.down_blocks.0.resnets.0.conv1.base", "vae.encoder.conv_out.base"),
        *("unet.down_blocks.0.resnets.0.conv2", "unet.up_blocks.3.attentions.0.proj_in.base"),
        *("vae.decoder.up_blocks.3.resnets.0.conv1", "vae.post_quant_conv"),
    ]
    for name in names:
        network, path = name.split(".", 1)
        gradient = getattr(model, network).get_parameter(f"{path}.weight").grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0


def test_run_writes_facts_and_beats_maxmin(
    weights: WeightsSource, photos: tuple[Path, ...], tmp_path: Path
) -> None:
    said: list[str] = []
    done = calibrate(REQUEST, places(tmp_path, photos), weights, said.append)
    assert done.signal == 0
    facts = read_facts(tmp_path / "file.safetensors")
    assert (facts.system, facts.weight_bits, facts.components) == ("s3diff", 6, ("unet",))
    assert facts.weights_digest == weights.digest
    assert facts.calibration["images"] == 4
    assert facts.s_alpha is None
    low, high = facts.calibration["degradation_scores"]
    assert all(0 <= a < b <= 1 for a, b in zip(low, high, strict=True))
    by_stage: dict[str, list[float]] = {}
    for stage, _, loss, _ in facts.calibration["epochs"]:
        by_stage.setdefault(stage, []).append(loss)
    assert all(losses == sorted(losses, reverse=True) for losses in by_stage.values())
    rows = {row.name: row.fidelity["calibration"] for row in done.rows}
    assert rows["after unet lbq"].eps_db >= rows["MaxMin"].eps_db + 2
    assert str(tmp_path) not in (tmp_path / "file.safetensors").read_bytes().decode("latin-1")


def test_published_procedure_is_for_osediff() -> None:
    with pytest.raises(PipelineError, match=r"--mode paper: .* for s3diff leave it fixed"):
        replace(REQUEST, mode="paper")


@pytest.mark.full
@pytest.mark.parametrize("components", ["unet", "unet+vae"])
def test_published_procedure(weights: WeightsSource, tmp_path: Path, components: Any) -> None:
    """All layers and the attention quantize; two epochs at 1e-5 of each stage.

    For the UNet alone bounds end as those of the last picture, as published, which costs fidelity.
    """
    derive(weights.path, tmp_path / "osediff", (0.5, 0.5))
    source = replace(weights, path=tmp_path / "osediff")
    files = tmp_path / "cat.png", tmp_path / "face.png"
    write_png(files[0], photographs.chelsea()[:260, 100:400])
    write_png(files[1], photographs.astronaut()[:260, 160:460])
    pictures = SetSettings(images=5, side=128)
    request = Request(
        system="osediff", bits=6, mode="paper", components=components, pictures=pictures
    )
    done = calibrate(request, places(tmp_path, files), source, lambda line: None)
    facts = read_facts(tmp_path / "file.safetensors")
    assert (facts.mode, facts.s_alpha) == ("paper", 0.3)
    assert facts.split
    assert facts.calibration["degradation_scores"] == []
    assert [row.name for row in done.rows][:2] == ["statistics", *_after(components)[:1]]
    first, last = (done.rows[i].fidelity["calibration"].eps_db for i in (0, -1))
    assert abs(last - first) < (6 if components == "unet" else 1)
    epochs = [(stage, number) for stage, number, _, _ in facts.calibration["epochs"]]
    assert epochs == [(str(stage), number) for stage in stages(components) for number in range(3)]
    tensors = load_file(tmp_path / "file.safetensors")
    assert any(name.endswith("scale_factor_vw") for name in tensors)
    assert any(name.startswith("unet.time_embedding.linear_1.") for name in tensors)


def _after(components: str) -> list[str]:
    return ["after unet let"] if components == "unet" else ["after encoder lbq"]


@pytest.mark.full
def test_interrupted_run_continues_to_the_same_file(
    weights: WeightsSource, photos: tuple[Path, ...], tmp_path: Path
) -> None:
    request = replace(REQUEST, pictures=replace(REQUEST.pictures, seed=1))
    whole = places(tmp_path / "whole", photos)
    calibrate(request, whole, weights, lambda line: None)
    halves = places(tmp_path / "halves", photos)

    def interrupt(line: str) -> None:
        if line.startswith("unet let, epoch 0"):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = calibrate(request, halves, weights, interrupt)
    assert stopped.signal == signal.SIGTERM
    assert not halves.out.exists()
    calibrate(request, halves, weights, lambda line: None)
    assert halves.out.read_bytes() == whole.out.read_bytes()
    other = replace(request, bits=8)
    with pytest.raises(PipelineError, match="begun with bits 6, now 8"):
        calibrate(other, halves, weights, lambda line: None)
