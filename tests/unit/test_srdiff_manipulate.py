"""Interpolation and fusion: what they mean, and their program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.contract import PipelineError
from pipelines.matlab_resize import imresize
from pipelines.pictures import read_picture, write_png
from pipelines.srdiff import SRDiff, manipulate
from pipelines.srdiff.checkpoint import from_tensors, write_checkpoint
from pipelines.srdiff.config import Config
from pipelines.srdiff.manipulate import parse_weights
from tests.golden.srdiff_recipe import golden_tensors

SMALL = Config(hidden_size=8, dim_mults=(1, 2, 2, 4), rrdb_features=8, rrdb_blocks=2)
SIDE = 32


@pytest.fixture(scope="module")
def model() -> SRDiff:
    return SRDiff(from_tensors(SMALL, golden_tensors(SMALL)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.ckpt"
    write_checkpoint(path, golden_tensors(SMALL), step=1)
    return path


def smooth(seed: int, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """A picture whose residual from its own upsampled LR stays small."""
    random = np.random.RandomState(seed)
    small = random.randint(60, 200, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return np.ascontiguousarray(imresize(small, 8)[:height, :width])


def planes(picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 * 2 - 1


class Case:
    """Tensors of one scene: two pictures of one LR, and what the LR becomes."""

    def __init__(self) -> None:
        self.a, self.b = planes(smooth(0)), planes(smooth(1))
        self.lr = planes(imresize(smooth(0), 0.25))
        self.lr_up = planes(imresize(imresize(smooth(0), 0.25), 4))


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def between(model: SRDiff, case: Case, weight: float, **options: object) -> torch.Tensor:
    ends = case.a, case.b, case.lr, case.lr_up
    return model.interpolate(*ends, weight=weight, **{"t": 30, "seed": 3, **options})  # type: ignore[arg-type]


def test_ends_of_an_interpolation_know_nothing_of_the_other_end(model: SRDiff, case: Case) -> None:
    other = planes(smooth(9))
    start, end = between(model, case, 0.0), between(model, case, 1.0)
    rest = case.lr, case.lr_up
    assert torch.equal(start, model.interpolate(case.a, other, *rest, t=30, weight=0.0, seed=3))
    assert torch.equal(end, model.interpolate(other, case.b, *rest, t=30, weight=1.0, seed=3))
    middle = between(model, case, 0.5)
    assert not torch.equal(middle, start)
    assert not torch.equal(middle, end)


def test_low_timesteps_keep_the_ends(model: SRDiff, case: Case) -> None:
    """One step removes the noise of one step: what is left of it is a few hundredths."""
    kept = between(model, case, 0.0, t=0)
    assert (kept - case.a).abs().mean() < 0.02
    assert (kept - case.b).abs().mean() > 0.1


def test_the_reference_starts_a_step_too_low(model: SRDiff, case: Case) -> None:
    assert not torch.equal(
        between(model, case, 0.3), between(model, case, 0.3, indexing="reference")
    )
    with pytest.raises(PipelineError, match="t=0: expected a timestep from 1 to 99"):
        between(model, case, 0.3, t=0, indexing="reference")
    with pytest.raises(PipelineError, match="t=100: expected a timestep from 0 to 99"):
        between(model, case, 0.3, t=100)


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 8:20, 8:24] = 1
    return mask


@pytest.mark.parametrize("t", [0, 50])
def test_fusion_changes_nothing_outside_the_mask(
    model: SRDiff, case: Case, mask: torch.Tensor, t: int
) -> None:
    fused = model.fuse(case.a, case.b, mask, case.lr, case.lr_up, t=t, seed=1)
    inside = mask.expand_as(fused) > 0
    assert torch.equal(fused[~inside], case.a[~inside])
    assert (fused[inside] != case.a[inside]).float().mean() > 0.9


def test_little_noise_keeps_what_was_pasted(model: SRDiff, case: Case, mask: torch.Tensor) -> None:
    """The source is near the LR's colours, else the residual would be cut at half the range."""
    source = (case.a + 0.2 * torch.sin(torch.arange(SIDE) / 2.0)).clamp(-1, 1)
    inside = mask.expand_as(source) > 0
    error = [
        (model.fuse(case.a, source, mask, case.lr, case.lr_up, t=t, seed=1) - source)[inside]
        .abs()
        .mean()
        for t in (0, 80)
    ]
    assert error[0] < 0.02
    assert error[1] > 3 * error[0]


def test_pictures_of_other_sizes_are_refused(model: SRDiff, case: Case) -> None:
    with pytest.raises(PipelineError, match="picture of 16x32, but lr_up is 32x32"):
        model.interpolate(case.a[..., :16], case.b, case.lr, case.lr_up)
    with pytest.raises(PipelineError, match="lr_up of 32x32 is not 4 times lr, 4x8"):
        model.sample(case.lr[..., :4], case.lr_up)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """36x41 pictures over a 9x10 one: cropped to 32x40 over 8x10."""
    for name, seed in (("a", 0), ("b", 1)):
        write_png(tmp_path / f"{name}.png", smooth(seed, 36, 41))
    write_png(tmp_path / "lr.png", imresize(smooth(0, 36, 40), 0.25))
    mask = np.zeros((36, 41, 3), np.uint8)
    mask[8:20, 8:24] = 255
    write_png(tmp_path / "mask.png", mask)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The program's exit code."""
    monkeypatch.setattr("sys.argv", ["manipulate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        manipulate.main()
    return int(ended.value.code or 0)


def files(folder: Path, *names: str) -> list[Path]:
    return [folder / f"{name}.png" for name in names]


def test_interpolate_writes_a_strip_or_a_folder(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [*files(folder, "lr", "a", "b")]
    options = ["--weights", weights, "--t", 3, "--weight", "0,0.5", "--device", "cpu"]
    assert run(monkeypatch, "interpolate", *common, folder / "strip.png", *options) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(folder / "strip.png")]
    assert "41x36 is cropped to 40x32: multiples of 8" in told.err
    assert run(monkeypatch, "interpolate", *common, folder / "parts", *options) == 0
    parts = [read_picture(folder / "parts" / f"weight_{w}.png") for w in ("0", "0.5")]
    assert parts[0].shape == (32, 40, 3)
    assert np.array_equal(read_picture(folder / "strip.png"), np.concatenate(parts, axis=1))
    assert not np.array_equal(parts[0], parts[1])


def test_fuse_writes_the_target_with_the_region_redrawn(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = files(folder, "lr", "a", "b", "mask", "out")
    assert run(monkeypatch, "fuse", *inputs, "--weights", weights, "--t", 3) == 0
    fused, target = read_picture(folder / "out.png"), read_picture(folder / "a.png")[:32, :40]
    changed = (fused != target).any(axis=2)
    assert changed[8:20, 8:24].mean() > 0.9
    changed[8:20, 8:24] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("interpolate lr a b out --weight 0,2", "--weight 0,2: expected a number from 0 to 1"),
        ("interpolate lr a b out --t 100", "t=100: expected a timestep from 0 to 99"),
        ("interpolate a a b out", "is not {}/a.png (41x36) enlarged by 4"),
        ("interpolate lr a lr out", "lr.png: 10x9, but {}/a.png is 41x36"),
        ("interpolate lr a gone out", "gone.png: no such file"),
        ("interpolate lr a b gone/out", "{}/gone: no such folder"),
        ("fuse lr a b lr out", "lr.png: 10x9, but {}/a.png is 41x36"),
        ("fuse lr a b mask out --weights gone.ckpt", "gone.ckpt: no such"),
        ("fuse lr a b mask out.jpg", "out.jpg: results are PNG files"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: str,
    message: str,
    folder: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, *rest = command.split()
    positional = 4 if name == "interpolate" else 5
    paths = [folder / (n if "." in n else f"{n}.png") for n in rest[:positional]]
    options = ["--weights", weights, *rest[positional:]]  # the last of two counts
    before = sorted(folder.iterdir())
    assert run(monkeypatch, name, *paths, *options) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("manipulate: ")
    assert message.format(folder) in told[-1]
    assert sorted(folder.iterdir()) == before


def test_pictures_too_small_for_the_network(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(folder / "a.png", smooth(0, 12, 40))
    write_png(folder / "lr.png", smooth(0, 3, 10))
    inputs = files(folder, "lr", "a", "a", "out")
    assert run(monkeypatch, "interpolate", *inputs, "--weights", weights) == 2
    assert "a.png: 40x12 is too small, sides must be at least 16" in capsys.readouterr().err


def test_weights_are_numbers_from_0_to_1() -> None:
    assert parse_weights("0,0.4,1") == [0.0, 0.4, 1.0]
    for text in ("", "a", "0,,1", "nan", "-0.1"):
        with pytest.raises(PipelineError, match="expected a number from 0 to 1"):
            parse_weights(text)
