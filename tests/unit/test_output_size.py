"""Pipelines whose pictures are not `scale` times as large as their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract import Precision, WeightsSource
from pipelines.osediff.options import OptimizedOptions
from srbench import protocol
from srbench.demo.choices import usual_text
from srbench.demo.session import Question, Session
from srbench.fidelity.compare import Output, compare_outputs
from srbench.registry import load_pipeline, output_size
from srbench.systems import OSEDIFF, S3DIFF, SRDIFF
from srbench.workbench import Workbench
from tests.fixtures_pipelines import Bicubic

IMAGE = np.random.RandomState(0).randint(0, 256, (20, 18, 3), dtype=np.uint8)


class Cropped(Bicubic):
    """In multiples of 8, which it tells."""

    def output_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        return height * scale // 8 * 8, width * scale // 8 * 8

    def upscale_float(
        self, image: np.ndarray, scale: int, *, seed: int, observe: Any = None
    ) -> np.ndarray:
        height, width = self.output_size(*image.shape[:2], scale)
        whole = super().upscale_float(image, scale, seed=seed, observe=observe)
        return np.ascontiguousarray(whole[:height, :width])


class Lying(Cropped):
    """Tells one size and paints another."""

    def output_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        return height, width

    def upscale_float(
        self, image: np.ndarray, scale: int, *, seed: int, observe: Any = None
    ) -> np.ndarray:
        return Bicubic.upscale_float(self, image, scale, seed=seed, observe=observe)


def timed(name: str, folder: Path) -> Any:
    """One timed image, as a worker is asked for it."""
    np.save(folder / "image.npy", IMAGE)
    bench = Workbench()
    bench.handle(protocol.Describe(pipeline=f"{__name__}:{name}", arm=name, assignments=FREE))
    facts = {"path": str(folder), "kind": "folder", "digest": "0", "synthetic": True}
    bench.handle(protocol.Load(**facts, device="cpu", precision="fp32"))
    return bench.handle(protocol.Upscale(image=str(folder / "image.npy"), scale=3, seed=0))


FREE: dict[str, dict[str, str]] = {"": {}, "Cropped": {}, "Lying": {}, "Bicubic": {}}


def test_a_worker_takes_the_size_that_a_pipeline_tells(tmp_path: Path) -> None:
    assert timed("Cropped", tmp_path).output_sha256
    with pytest.raises(ValueError, match=r"returned uint8 \(60, 54, 3\), expected uint8 \(20, 18"):
        timed("Lying", tmp_path)


def test_without_a_word_pictures_are_scaled() -> None:
    kind: Any = load_pipeline("s3diff-optimized")
    assert output_size(kind(kind.Options()), 20, 18, 3) == (60, 54)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((128, 128), 4, (512, 512)),
        ((130, 131), 4, (520, 520)),  # 524 pixels are resampled to the multiple of 8 below
        ((32, 64), 4, (512, 1024)),  # enlarged to 128 first, and not made smaller again
        ((300, 201), 2, (760, 512)),  # 201 is below 512 / 2
        ((512, 512), 2, (1024, 1024)),
    ],
)
@pytest.mark.parametrize("name", ["osediff-baseline", "osediff-optimized", "osediff-w8a8"])
def test_osediff_paints_its_reference_size(
    name: str, size: tuple[int, int], scale: int, expected: tuple[int, int]
) -> None:
    kind: Any = load_pipeline(name)
    assert output_size(kind(kind.Options()), *size, scale) == expected


def test_the_size_to_enlarge_to_is_an_option() -> None:
    kind: Any = load_pipeline("osediff-optimized")
    assert output_size(kind(OptimizedOptions(process_size=64)), 16, 24, 4) == (64, 96)


def test_pictures_of_two_sizes_are_not_compared_and_the_reason_is_told() -> None:
    small, large = (Output(np.zeros((side, 64, 3), np.uint8)) for side in (56, 60))
    record = compare_outputs("c", "ours", "theirs", small, large, "cpu")
    assert record.outcome == "invalid"
    assert record.reason == "the pictures differ in size: (56, 64, 3) and (60, 64, 3)"


def test_the_demo_shows_pictures_of_any_size(tmp_path: Path) -> None:
    session = Session(WeightsSource(tmp_path, "folder", "", synthetic=True), "cpu", Precision.FP32)
    arms = f"{__name__}:Cropped", "tests.fixtures_pipelines:Bicubic"
    found = session.run(IMAGE, Question(arms, 3, 0, {}), lambda text: None)
    assert (found.a.pixels.shape[:2], found.b.pixels.shape[:2]) == ((56, 48), (60, 54))
    assert found.difference is None


def test_the_demo_begins_with_the_colour_fix_of_its_system() -> None:
    assert usual_text(OSEDIFF, "color_fix") == "adain"
    assert usual_text(S3DIFF, "color_fix") == "wavelet"
    assert usual_text(SRDIFF, "color_fix") is None
