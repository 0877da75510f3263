"""Whole folders by the actors of a real Ray cluster: they die, the driver dies, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from srbench.images import find_images, read_image, write_image
from srbench.upscaling_journal import NAME
from tests.e2e.conftest import Done, Srbench
from tests.fixtures_pipelines import Bicubic, BicubicOptions

pytest.importorskip("ray")
pytestmark = pytest.mark.e2e

POISON, FAINT = 40, 41
ROOT = Path(__file__).parents[2]


class Deadly(Bicubic):
    """Kills its process over pictures that are POISON wide, and once over one that is FAINT."""

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        mark = Path(self.options.mark)
        if image.shape[1] == POISON or (image.shape[1] == FAINT and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().upscale(image, scale, seed=seed)


class Odd(Bicubic):
    """A bug in it."""

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        raise ZeroDivisionError("a bug\nof two lines")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of one machine with two cores to give away."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
        )
        try:
            yield made.address
        finally:
            made.shutdown()


def photographs(folder: Path, names: dict[str, int]) -> None:
    """A crop a name, of that width."""
    photo = data.astronaut()
    for number, (name, width) in enumerate(names.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(
            folder / name, np.ascontiguousarray(photo[9 * number :][:24, 100 : 100 + width])
        )


def expected(folder: Path, name: str, seed: int = 0) -> np.ndarray:
    return Bicubic(BicubicOptions()).upscale(read_image(folder / name), 2, seed=seed)


def lines_of(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / NAME).read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def upscale(srbench: Srbench, address: str, pipeline: type, *more: object) -> Done:
    name = f"{pipeline.__module__}:{pipeline.__qualname__}"
    return srbench(
        "upscale", "in", "out", "--pipeline", name, "--scale", 2, "--device", "cpu",
        "--executor", "ray", "--address", address, *more,
    )  # fmt: skip


@pytest.mark.full
def test_pictures_that_kill_their_actor_stop_nothing(
    srbench: Srbench, cluster: str, tmp_path: Path
) -> None:
    good = {"a b.png": 32, "sub/größe.bmp": 33, "sub/deep/日本.PNG": 34, "z.webp": FAINT}
    photographs(tmp_path / "in", {**good, "m.png": POISON, "n.png": 30})
    (tmp_path / "in/n.png").write_bytes((tmp_path / "in/n.png").read_bytes()[:-300])
    (tmp_path / "in/notes.txt").touch()
    mark = ("--set", f"mark={tmp_path / 'mark'}")
    done = upscale(srbench, cluster, Deadly, *mark, "--actors", 9, "--json")
    assert done.code == 4
    assert "--actors 9: the cluster has 2 cores; 2 actors are at work" in done.err
    document = json.loads(done.out)
    fates = {i["file"]: (i["outcome"], i["reason"]) for i in document["images"]}
    inputs = find_images(tmp_path / "in")[0]
    assert list(fates) == [str(path.relative_to(tmp_path)) for path in inputs]
    assert {name: fates.pop(f"in/{name}")[0] for name in good} == dict.fromkeys(good, "written")
    assert fates.pop("in/n.png")[1].startswith("truncated")
    assert "the process that works on it died 3 times" in fates.pop("in/m.png")[1]
    assert not fates
    assert (document["actors"], document["other_files"], document["left"]) == (2, 1, 0)
    assert document["pictures_per_s"] == pytest.approx(4 / document["seconds"])
    out = tmp_path / "out"
    for name in good:
        assert np.array_equal(read_image(out / name), expected(tmp_path / "in", name))
    assert Counter(line["file"] for line in lines_of(out, "picture")) == Counter(good.keys())
    assert sorted(line["source"] for line in lines_of(out, "failure")) == ["in/m.png", "in/n.png"]


def started(cluster: str, folder: Path) -> subprocess.Popen[str]:
    """`srbench upscale` by actors, in a process of its own."""
    command = (
        "upscale", "in", "out", "--pipeline", "tests.fixtures_pipelines:Slow", "--scale", "2",
        "--device", "cpu", "--executor", "ray", "--address", cluster, "--actors", "2",
    )  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "srbench", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(out: Path, pictures: int) -> None:
    end = time.monotonic() + 120
    while not (out / NAME).exists() or len(lines_of_safely(out)) < pictures:
        assert time.monotonic() < end
        time.sleep(0.02)


def lines_of_safely(out: Path) -> list[str]:
    return [line for line in (out / NAME).read_text().splitlines() if '"picture"' in line]


def test_killed_and_interrupted_it_goes_on(srbench: Srbench, cluster: str, tmp_path: Path) -> None:
    names = {f"{number:02d}.png": 32 + number % 3 for number in range(30)}
    photographs(tmp_path / "in", names)
    out = tmp_path / "out"
    process = started(cluster, tmp_path)
    wait_for(out, 4)
    process.kill()
    process.communicate()
    killed_at = len(lines_of(out, "picture"))
    assert killed_at < len(names)
    process = started(cluster, tmp_path)
    wait_for(out, killed_at + 4)
    process.send_signal(signal.SIGINT)
    told, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "finishing the current picture" in said
    assert said.splitlines()[-1].endswith("the same command goes on")
    assert "Traceback" not in said
    made = lines_of(out, "picture")
    assert killed_at < len(made) < len(names)
    # The kill may have come between a line and its picture.
    assert len(told.splitlines()) - (len(made) - killed_at) in (0, 1)
    assert sum("there already" in line for line in said.splitlines()) >= killed_at - 1
    # The local executor goes on where the other ended.
    done = srbench(
        "upscale", "in", "out", "--pipeline", "tests.fixtures_pipelines:Slow", "--scale", 2,
        "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0
    assert len(made) - 1 <= done.err.count("there already") - 1 <= len(made)
    assert Counter(line["file"] for line in lines_of(out, "picture")) == Counter(names.keys())
    for name in names:
        assert np.array_equal(read_image(out / name), expected(tmp_path / "in", name))


@pytest.mark.full
def test_samples_are_pictures_of_their_own(srbench: Srbench, cluster: str, tmp_path: Path) -> None:
    photographs(tmp_path / "in", {"a.png": 32, "b.png": 33})
    done = upscale(srbench, cluster, Bicubic, "--samples", 3, "--seed", 5)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"out/sample-{sample:04d}/{name}.png" for name in "ab" for sample in range(3)
    ]
    for sample in range(3):
        picture = read_image(tmp_path / f"out/sample-{sample:04d}/b.png")
        assert np.array_equal(picture, expected(tmp_path / "in", "b.png", 5 + sample))


@pytest.mark.full
def test_what_stops_all_is_one_sentence(srbench: Srbench, cluster: str, tmp_path: Path) -> None:
    photographs(tmp_path / "in", {f"{number}.png": 32 for number in range(6)})
    done = upscale(srbench, cluster, Odd)
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith("srbench: internal error on ")
    assert "ZeroDivisionError: a bug of two lines; please report it" in done.err
    assert done.err.count("please report it") == 1


@pytest.mark.full
def test_evaluate_by_actors_is_the_same_document(
    srbench: Srbench, cluster: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    photographs(tmp_path / "hr", {f"{number}.png": 64 for number in range(5)})
    for path in sorted((tmp_path / "hr").iterdir()):
        image = read_image(path).astype(int)
        noisy = (image + rng.integers(-8, 9, image.shape)).clip(0, 255).astype(np.uint8)
        (tmp_path / "sr").mkdir(exist_ok=True)
        write_image(tmp_path / "sr" / path.name, noisy)
    command = ("evaluate", "sr", "hr", "--metrics", "psnr,ssim_skimage,musiq", "--device", "cpu")
    here = srbench(*command, "--json", "--out", "here")
    there = srbench(
        *command, "--json", "--out", "there", "--executor", "ray", "--address", cluster,
        "--actors", 2,
    )  # fmt: skip
    assert (here.code, there.code) == (0, 0)
    assert json.loads(here.out)["mean"]["psnr"] is not None
    assert there.out == here.out
    assert " pictures/s with 2 actors" in there.err
    journals = [
        sorted((tmp_path / place / "measurements.jsonl").read_text().splitlines())
        for place in ("here", "there")
    ]
    assert journals[0] == journals[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--actors", 2), "--actors: goes with --executor ray"),
        (("--address", "auto"), "--address: goes with --executor ray"),
        (("--executor", "slurm"), "--executor slurm: expected local or ray"),
        (("--executor", "ray", "--address", "127.0.0.1:1"), "no Ray cluster answers there"),
    ],
)
@pytest.mark.parametrize("command", ["upscale", "evaluate"])
def test_bad_requests_are_exit_2(
    srbench: Srbench, tmp_path: Path, command: str, options: tuple[object, ...], said: str
) -> None:
    photographs(tmp_path / "in", {"a.png": 32})
    if command == "upscale":
        words = ("upscale", "in", "out", "--pipeline", "tests.fixtures_pipelines:Bicubic")
        done = srbench(*words, "--scale", 2, "--device", "cpu", *options)
    else:
        done = srbench("evaluate", "in", "in", "--device", "cpu", *options)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert "Traceback" not in done.err


def test_one_picture_needs_no_cluster(srbench: Srbench, tmp_path: Path) -> None:
    photographs(tmp_path, {"a.png": 32})
    bicubic = ("--pipeline", "tests.fixtures_pipelines:Bicubic", "--scale", 2)
    done = srbench("upscale", "a.png", "b.png", *bicubic, "--executor", "ray")
    assert done.code == 2
    assert "--executor ray: for folders" in done.err
