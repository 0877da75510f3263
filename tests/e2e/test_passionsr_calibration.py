"""Calibration by its command: bad input, a kill, and what it must bring on the trained model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from skimage import data as photographs

from pipelines.contract import WeightsSource
from pipelines.osediff.weight_sources import resolve_weights as resolve_osediff
from pipelines.passionsr.__main__ import main
from pipelines.passionsr.calibration.measure import Fidelity, measure
from pipelines.passionsr.calibration.quantized import quantize_model
from pipelines.passionsr.calibration.run import Places, Request, calibrate
from pipelines.passionsr.calibration.schedule import System
from pipelines.passionsr.calibration.set import SetSettings, choose_crops
from pipelines.passionsr.calibration.systems import open_model
from pipelines.passionsr.calibration.targets import make_targets
from pipelines.passionsr.checkpoint import Expected, load_quantization
from pipelines.passionsr.facts import read_facts
from pipelines.passionsr.install import SHIPPED
from pipelines.passionsr.settings import LayerSettings
from pipelines.passionsr.statistics import initialise
from pipelines.pictures import write_png
from pipelines.s3diff.weight_sources import resolve_weights as resolve_s3diff
from tests.tiny_s3diff import few_adapters, write_sane_weights

pytestmark = pytest.mark.e2e

GAIN_DB = {8: 2.0, 6: 4.0}
"""What calibration must bring over MaxMin, by bits."""
SYSTEMS: tuple[System, ...] = ("osediff", "s3diff")
BITS = (8, 6)


def weights_of(system: System) -> WeightsSource:
    resolve = resolve_osediff if system == "osediff" else resolve_s3diff
    return resolve("mini", "cpu")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    write_png(folder / "cat.png", photographs.chelsea()[:128, 100:240])
    write_png(folder / "face.png", photographs.astronaut()[:128, 160:300])
    return folder


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> str:
    """The one line of a command that ends in exit code 2."""
    monkeypatch.setattr(sys, "argv", ["passionsr", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("passionsr: ")
    return said[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--images", 2), "--images 2: ranges need at least 4 pictures"),
        (("--side", 100), "--side 100: must be a multiple of 32"),
        (("--side", 256), "cat.png: 140x128 px, smaller than a crop of 256x256"),
        (("--side", 64, "--images", 90), "have room for 8 crops of 64x64 px, 90 are asked for"),
        (("--photos", "/nowhere"), "/nowhere: no such folder"),
        (("--images", 0), "--images 0: ranges need at least 4 pictures"),
        (("--out", "/proc"), "--out /proc: cannot be written"),
        (("--out", "/dev/null/file"), "--out /dev/null/file: cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    tmp_path: Path,
    words: tuple[object, ...],
    said: str,
) -> None:
    start = ("--system", "s3diff", "--weights", "mini", "--photos", photos, "--work", tmp_path)
    assert said in refused(capsys, monkeypatch, *start, *words)


def test_leak_is_refused_before_anything_is_computed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    tmp_path: Path,
) -> None:
    words = ("--system", "s3diff", "--weights", "mini", "--photos", photos, "--evaluation", photos)
    small = ("--images", 4, "--side", 64, "--work", tmp_path / "work")
    said = refused(capsys, monkeypatch, *words, *small)
    assert "cat.png" in said
    assert "--allow-leaks" in said
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_shipped_files_belong_to_the_shipped_weights(system: System, bits: int) -> None:
    path = SHIPPED / f"{system}-w{bits}a{bits}.safetensors"
    facts = read_facts(path)
    assert (facts.system, facts.weight_bits, facts.activation_bits) == (system, bits, bits)
    assert facts.components == ("unet", "vae")
    assert facts.s_alpha is None
    assert facts.weights_digest == weights_of(system).digest
    assert path.stat().st_size < 1_000_000


def told(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def run_command(words: tuple[str, ...], said: Path) -> None:
    """The command in a process of its own; what it says goes into a file."""
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["passionsr", *words]
    main()


def started(said: Path, *words: object) -> BaseProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_command, args=(tuple(map(str, words)), said))
    process.start()
    return process


@pytest.mark.full
def test_kill_and_resume_is_bit_equal(photos: Path, tmp_path: Path) -> None:
    weights = write_sane_weights(tmp_path / "weights", few_adapters())
    small = ("--images", 4, "--side", 64, "--epochs", 1, "--bits", 6)
    common = ("--system", "s3diff", "--weights", weights, "--photos", photos, *small)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    victim = started(tmp_path / "killed.txt", *common, "--work", broken)
    while "unet let, epoch 0" not in told(tmp_path / "killed.txt") and victim.is_alive():
        time.sleep(0.01)
    victim.kill()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL, told(tmp_path / "killed.txt")
    for work, said in ((broken, tmp_path / "continued.txt"), (whole, tmp_path / "whole.txt")):
        process = started(said, *common, "--work", work)
        process.join(500)
        assert process.exitcode == 0, told(said)
    assert "continued at step" in told(tmp_path / "continued.txt")
    files = [work / "s3diff-w6a6.safetensors" for work in (whole, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()


def crops(tmp_path: Path, side: int) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Photographs to calibrate on, and others; `mini` has seen none of them."""
    found = []
    for name in ("chelsea", "rocket", "astronaut", "coffee"):
        write_png(tmp_path / f"{name}.png", getattr(photographs, name)()[:side, : 3 * side])
        found.append(tmp_path / f"{name}.png")
    return tuple(found[:2]), tuple(found[2:])


@pytest.mark.full
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_calibration_beats_maxmin_on_pictures_it_never_saw(
    system: System, bits: int, tmp_path: Path
) -> None:
    ours, others = crops(tmp_path, 256)
    request = Request(system=system, bits=bits, pictures=SetSettings(images=5, side=128), epochs=1)
    places = Places(
        photographs=ours, held_out=others, work=tmp_path / "work", out=tmp_path / "out.safetensors"
    )
    done = calibrate(request, places, weights_of(system), lambda line: None)
    rows = {row.name: row.fidelity for row in done.rows}
    for pictures, fidelity in rows["after decoder lbq"].items():
        assert fidelity.eps_db >= rows["MaxMin"][pictures].eps_db + GAIN_DB[bits]


@pytest.mark.full
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_shipped_calibration_beats_maxmin(system: System, bits: int, tmp_path: Path) -> None:
    """Of ranges that are taken of the very pictures that both are measured on."""
    weights, count = weights_of(system), 6
    paths = [path for part in crops(tmp_path, 256) for path in part]
    pictures = choose_crops(paths, SetSettings(images=count, side=256))
    model = open_model(system, weights, 4)
    targets = make_targets(
        model,
        pictures,
        tmp_path / "targets",
        weights_digest=weights.digest,
        sampled=False,
        note=lambda line: None,
    )
    path = SHIPPED / f"{system}-w{bits}a{bits}.safetensors"
    quantized = quantize_model(model, bits, "fixed", "unet+vae")
    settings = LayerSettings(weight_bits=bits, activation_bits=bits)
    expected = Expected(settings=settings, system=system, weights_digest=weights.digest)
    load_quantization(path, quantized.networks, expected)
    found = measure(model, targets, count)

    def send() -> None:
        for number in range(count):
            condition = model.condition(targets.get(number)["lr"].numpy())
            latent = model.encode(condition)
            model.decode(model.x0(latent, model.eps(condition, latent)))

    initialise(quantized.layers(), send, "maxmin")
    plain: Fidelity = measure(model, targets, count)
    assert found.eps_db >= plain.eps_db + GAIN_DB[bits]
    assert found.x0_db >= plain.x0_db + 1
