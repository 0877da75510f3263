"""Folders upscaled by a small honest pipeline: kept in order, resumed, killed, out of memory."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from skimage import data

from pipelines.contract import PipelineError, Precision, WeightsSource
from pipelines.pictures import colour_profile
from srbench import upscaling_journal
from srbench.batch import Conduct, upscale_batch
from srbench.batch_results import Fate, Result, Summary
from srbench.cli.batch import Bar, Lines
from srbench.errors import InfrastructureError, UsageError
from srbench.images import image_profile, place_file, read_image, write_image
from srbench.upscaling import Request, plan_files, plan_samples
from srbench.upscaling_journal import NAME, Journal
from tests.fixtures_pipelines import Bicubic, BicubicOptions

SEED = 5
SKIMAGE = Path(data.__file__).parent


class Counted(Bicubic):
    """Adds a byte to the file `mark` for every picture it paints, and takes its time."""

    def upscale(self, image: NDArray[np.uint8], scale: int, *, seed: int) -> NDArray[np.uint8]:
        with Path(self.options.mark).open("ab") as file:
            file.write(b".")
        time.sleep(0.01)
        return super().upscale(image, scale, seed=seed)


def nothing(_: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of photographs, and how its pictures are made."""

    source: Path
    target: Path
    pipeline: str = "tests.fixtures_pipelines:Bicubic"
    options: BicubicOptions = field(default_factory=BicubicOptions)
    weights: Path = Path("/")
    digest: str = "0"
    scale: int = 2
    seed: int = SEED
    samples: int | None = None

    def upscale(
        self,
        *,
        overwrite: bool = False,
        stop: Callable[[], bool] = lambda: False,
        written: Callable[[Path], None] = nothing,
    ) -> dict[str, Result]:
        if self.samples is None:
            files = plan_files(self.source, self.target)
        else:
            files = plan_samples(self.source, self.target, self.samples, self.seed)
        request = Request(
            self.pipeline, self.options, files, self.scale, self.seed, "cpu", Precision.FP32
        )
        weights = WeightsSource(self.weights, "mini", self.digest, synthetic=True)
        conduct = Conduct(nothing, written, stop, overwrite)
        with Journal.open(self.target) as journal:
            done = list(upscale_batch(request, weights, journal, conduct))
        return {result.source.relative_to(self.source).as_posix(): result for result in done}

    def fates(self, **choices: Any) -> list[str]:
        return [str(result.fate) for result in self.upscale(**choices).values()]

    def expected(self, name: str, sample: int = 0) -> NDArray[np.uint8]:
        image = read_image(self.source / name)
        return Bicubic(self.options).upscale(image, self.scale, seed=self.seed + sample)

    def stored(self) -> list[str]:
        return sorted(
            path.relative_to(self.target).as_posix()
            for path in self.target.rglob("*")
            if path.is_file() and path.name != NAME
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Three photographs, two of them in folders of their own."""
    photo = data.astronaut()
    for number, name in enumerate(("b.png", "a/deep/c.bmp", "a/d.PNG")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.ascontiguousarray(photo[60 * number :][:24, 180 : 212 + number]))
    return Folder(source=tmp_path / "in", target=tmp_path / "out")


def test_folders_names_and_order_are_kept(folder: Folder) -> None:
    for name in ("notes.txt", "a/._d.PNG", ".thumbnails/e.png"):
        (folder.source / name).parent.mkdir(exist_ok=True)
        (folder.source / name).touch()
    written: list[Path] = []
    done = folder.upscale(written=written.append)
    assert list(done) == ["a/d.PNG", "a/deep/c.bmp", "b.png"]
    assert [path.relative_to(folder.target).as_posix() for path in written] == list(done)
    assert folder.stored() == list(done)
    for name, result in done.items():
        assert result.fate is Fate.WRITTEN
        assert result.outputs == (folder.target / name,)
        assert np.array_equal(read_image(folder.target / name), folder.expected(name))


def test_what_is_there_is_not_made_again_and_no_weights_are_read(
    folder: Folder, tmp_path: Path
) -> None:
    assert folder.fates() == ["written"] * 3
    before = {path: path.stat().st_mtime_ns for path in folder.target.rglob("*.*")}
    without_weights = replace(folder, weights=tmp_path / "gone")
    assert without_weights.fates() == ["skipped"] * 3
    (folder.target / "b.png").unlink()
    with pytest.raises(PipelineError, match="no weights there"):
        without_weights.upscale()
    assert folder.fates() == ["skipped", "skipped", "written"]
    del before[folder.target / NAME], before[folder.target / "b.png"]
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"scale": 3},
        {"digest": "1"},
        {"options": BicubicOptions(filter="lanczos")},
        {"pipeline": "tests.fixtures_pipelines:EitherPrecision"},
    ],
    ids=str,
)
def test_pictures_of_another_request_are_made_again(folder: Folder, change: dict[str, Any]) -> None:
    folder.upscale()
    changed = replace(folder, **change)
    assert changed.fates() == ["written"] * 3
    assert np.array_equal(read_image(folder.target / "b.png"), changed.expected("b.png"))
    assert changed.fates() == ["skipped"] * 3


def test_a_changed_input_is_upscaled_again_and_a_changed_output_is_left_alone(
    folder: Folder,
) -> None:
    folder.upscale()
    write_image(folder.source / "b.png", read_image(folder.source / "b.png")[::-1])
    retouched = folder.target / "a/d.PNG"
    write_image(retouched, np.zeros((9, 9, 3), np.uint8))
    done = folder.upscale()
    assert [str(result.fate) for result in done.values()] == ["failed", "skipped", "written"]
    assert "changed since srbench wrote it" in done["a/d.PNG"].reason
    assert not read_image(retouched).any()
    assert folder.fates(overwrite=True) == ["written"] * 3
    assert np.array_equal(read_image(retouched), folder.expected("a/d.PNG"))


def test_bad_inputs_are_named_and_stop_nothing(folder: Folder) -> None:
    whole = (folder.source / "b.png").read_bytes()
    broken = {
        "a.jpg": (b"no picture", "not an image"),
        "c.png": (whole[:-300], "truncated"),
        "e.webp": (b"", "empty file"),
    }
    for name, (content, _) in broken.items():
        (folder.source / name).write_bytes(content)
    write_image(folder.source / "f.png", read_image(folder.source / "b.png")[:15])
    done = folder.upscale()
    assert "32x15 pixels; sides must be at least 16" in done.pop("f.png").reason
    for name, (_, said) in broken.items():
        failed = done.pop(name)
        assert (failed.fate, failed.bad_input) == (Fate.FAILED, True)
        assert failed.reason.startswith((said, said[:-1]))
    assert [str(result.fate) for result in done.values()] == ["written"] * 3
    assert len(folder.stored()) == 3
    assert (folder.target / NAME).read_text().count('"failure"') == 4
    (folder.source / "a.jpg").write_bytes(whole)
    assert folder.upscale()["a.jpg"].fate is Fate.WRITTEN


def test_one_that_does_not_fit_stops_nothing(folder: Folder) -> None:
    starved = replace(
        folder,
        pipeline="tests.fixtures_pipelines:Starved",
        options=BicubicOptions(break_on=read_image(folder.source / "a/d.PNG").shape[1]),
    )
    done = starved.upscale()
    assert [str(result.fate) for result in done.values()] == ["failed", "written", "written"]
    assert "out of memory on cpu (no room for 9 GiB)" in done["a/d.PNG"].reason
    assert not done["a/d.PNG"].bad_input
    heavy = replace(folder, pipeline="tests.fixtures_pipelines:Heavy", seed=0)
    with pytest.raises(InfrastructureError, match="weights of 99 GiB"):
        heavy.upscale()


def test_only_missing_samples_are_painted(folder: Folder, tmp_path: Path) -> None:
    counted = replace(
        folder,
        pipeline="tests.unit.test_upscaling_batch:Counted",
        options=BicubicOptions(mark=str(tmp_path / "painted")),
        samples=2,
    )
    painted = tmp_path / "painted"
    assert counted.fates() == ["written"] * 3
    assert painted.stat().st_size == 6
    more = replace(counted, samples=4)
    seen: list[Path] = []
    done = more.upscale(written=seen.append, stop=lambda: len(seen) == 3)
    assert [str(result.fate) for result in done.values()] == ["written", "interrupted"]
    assert painted.stat().st_size == 9
    (folder.target / "sample-0001/a/d.png").unlink()
    assert more.fates() == ["written"] * 3
    assert painted.stat().st_size == 6 + 6 + 1
    for sample in range(4):
        picture = read_image(folder.target / f"sample-{sample:04d}/a/deep/c.png")
        assert np.array_equal(picture, counted.expected("a/deep/c.bmp", sample))


def test_outputs_never_replace_inputs(folder: Folder) -> None:
    inside = replace(folder, target=folder.source / "big")
    assert inside.fates() == ["written"] * 3
    assert inside.fates() == ["skipped"] * 3  # its own pictures are no inputs
    with pytest.raises(UsageError, match="both input and output"):
        plan_files(folder.source, folder.source / "a/..")
    with pytest.raises(UsageError, match="both input and output"):
        plan_samples(folder.source, folder.source, 2, 0)
    (folder.source / "a/a").mkdir()
    write_image(folder.source / "a/a/d.PNG", read_image(folder.source / "b.png"))
    with pytest.raises(UsageError, match=r"a/d\.PNG would replace an input"):
        plan_files(folder.source / "a", folder.source)


def real(name: str) -> bytes:
    profile = colour_profile(SKIMAGE / name)
    assert profile is not None
    return profile


def test_colour_profiles_go_with_the_colours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide, plain, grey = real("rocket.jpg"), real("astronaut.png"), real("page.png")
    picture = Image.fromarray(np.ascontiguousarray(data.astronaut()[60:84, 180:212]))
    (tmp_path / "in").mkdir()
    saved = {"wide.jpg": wide, "plain.png": plain, "grey.png": grey, "odd.tif": wide[:200]}
    for name, profile in saved.items():
        what = picture.convert("L") if name == "grey.png" else picture
        what.save(tmp_path / "in" / name, icc_profile=profile)
    exif = Image.Exif()
    exif[0x0110] = "Camera of somebody"
    picture.save(tmp_path / "in/private.webp", icc_profile=wide, exif=exif, lossless=True)
    Folder(source=tmp_path / "in", target=tmp_path / "out").upscale()
    kept = {path.name: colour_profile(path) for path in (tmp_path / "out").glob("*.*g*")}
    kept |= {"odd.tif": colour_profile(tmp_path / "out/odd.tif")}
    expected = {"wide.jpg": wide, "plain.png": plain, "grey.png": None, "odd.tif": None}
    assert {name: kept[name] for name in expected} == expected
    with Image.open(tmp_path / "out/private.webp") as image:
        assert image.info["icc_profile"] == wide
        assert not image.getexif()
    assert "wide.jpg: colours are processed as stored, in its profile 'Adobe RGB" in caplog.text
    assert "grey.png: its colour profile 'Dot Gain 20%' (GRAY)" in caplog.text
    assert "odd.tif: its colour profile is damaged" in caplog.text
    assert "plain.png" not in caplog.text
    assert image_profile(tmp_path / "in/wide.jpg", tmp_path / "x.ppm") is None
    assert "x.ppm: has no room for the input's colour profile" in caplog.text


def lead(folder: Folder) -> None:
    """Upscale in a process of its own."""
    folder.upscale()


def die_in_the_midst(folder: Folder, share: float) -> None:
    """The same, but killed when it has written that share of the second picture."""
    placed: list[Path] = []

    def place(path: Path, content: bytes, temporary: Path) -> None:
        if placed:
            temporary.write_bytes(content[: int(len(content) * share)])
            os.kill(os.getpid(), signal.SIGKILL)
        placed.append(path)
        place_file(path, content, temporary)

    pytest.MonkeyPatch().setattr(upscaling_journal, "place_file", place)
    folder.upscale()


@cache
def server() -> ForkServerContext:
    """It has imported torch and forks a process in milliseconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", "torch", "tests.unit.test_upscaling_batch"])
    return context


def started(target: Callable[..., None], *arguments: Any) -> Any:
    process = server().Process(target=target, args=arguments)
    process.start()
    return process


def check_pictures(folder: Folder) -> int:
    """Every picture that has its name is whole; returns how many do."""
    names = [name for name in folder.stored() if not name.endswith(".part")]
    for name in names:
        assert np.array_equal(read_image(folder.target / name), folder.expected(name))
    return len(names)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_killed_while_a_picture_is_written(folder: Folder, share: float) -> None:
    process = started(die_in_the_midst, folder, share)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert check_pictures(folder) == 1
    assert len(folder.stored()) == 2  # the other is what was half written
    assert folder.fates() == ["skipped", "written", "written"]
    assert len(folder.stored()) == check_pictures(folder) == 3
    assert (folder.target / NAME).read_text().count('"kind": "picture"') == 3


def test_killed_again_and_again(folder: Folder, tmp_path: Path) -> None:
    photo = read_image(folder.source / "b.png")
    for number in range(9):
        write_image(folder.source / f"{number}.png", np.roll(photo, number, axis=1))
    painted = tmp_path / "painted"
    counted = replace(
        folder,
        pipeline="tests.unit.test_upscaling_batch:Counted",
        options=BicubicOptions(mark=str(painted)),
    )
    painted.touch()
    dice = random.Random(1)
    kills = 0
    for _ in range(12):
        process = started(lead, counted)
        enough = painted.stat().st_size + dice.randint(1, 4)
        while process.is_alive() and painted.stat().st_size < enough:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.03))
        process.kill()
        process.join()
        check_pictures(counted)
        if process.exitcode == 0:
            break
        kills += 1
    assert kills > 2
    assert check_pictures(counted) == 12
    assert painted.stat().st_size <= 12 + kills
    assert counted.fates() == ["skipped"] * 12


def result(name: str, fate: Fate, **facts: Any) -> Result:
    return Result(Path(name), fate, (Path("o") / name,), **facts)


def test_a_batch_ends_with_what_happened_in_it() -> None:
    written, there = result("a.png", Fate.WRITTEN), result("b.png", Fate.SKIPPED)
    bad = result("c.png", Fate.FAILED, reason="cut", bad_input=True)
    large = result("d.png", Fate.FAILED, reason="out of memory")
    codes = {
        (written, there): 0, (written, bad): 4, (there, bad): 4, (bad, bad): 2, (bad,): 2,
        (bad, large): 4, (large,): 4,
    }  # fmt: skip
    for results, code in codes.items():
        error = Summary(results, 0, 0, 1.0).error()
        assert (0 if error is None else int(error.exit_code)) == code
        assert error is None or "cut" in str(error) or "memory" in str(error)


def test_progress_is_a_line_a_picture_or_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    done = [
        result("a.png", Fate.WRITTEN, seconds=4.0, width=32, height=24),
        result("b.png", Fate.SKIPPED, seconds=0.1),
        result("c[/].png", Fate.FAILED, reason="cut", seconds=0.1),
        result("d.png", Fate.WRITTEN, seconds=2.0, width=32, height=24),
    ]
    lines = Lines(5, 2)
    for each in done:
        lines.done(each)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "[1/5] a.png: 32x24, x2, 4.0 s, about 16 s left",
        "[2/5] b.png: there already, about 12 s left",
        "[3/5] c[/].png: failed: cut, about 8 s left",
        "[4/5] d.png: 32x24, x2, 2.0 s, about 3 s left",
    ]
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=80, color_system=None)
    with Progress("{task.completed:.0f} of {task.total:.0f}", console=console) as progress:
        bar = Bar(5, 2, progress)
        for each in done:
            bar.done(each)
    assert "c[/].png: failed: cut" in terminal.getvalue()
    assert "4 of 5" in terminal.getvalue()
