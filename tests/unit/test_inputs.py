import hashlib
from pathlib import Path

import numpy as np
import pytest

from srbench.cases import DOCUMENTED, SMOKE, Case
from srbench.errors import UsageError
from srbench.images import write_image
from srbench.inputs import case_input, fit


@pytest.mark.parametrize("case", [*SMOKE, *DOCUMENTED], ids=lambda case: case.name)
def test_inputs_have_the_size_of_the_case(case: Case) -> None:
    image = case_input(case, None)
    assert image.pixels.shape == (case.height, case.width, 3)
    assert image.pixels.dtype == np.uint8
    assert image.sha256 == hashlib.sha256(image.pixels.tobytes()).hexdigest()
    assert image.pixels.std() > 10


def test_each_case_of_a_matrix_has_a_photograph_of_its_own() -> None:
    sources = [case_input(case, None).source.split(" (")[0] for case in DOCUMENTED[:4]]
    assert len(set(sources)) == 4


def test_the_input_does_not_depend_on_what_else_is_run() -> None:
    odd = Case(40, 50, 3)
    assert case_input(odd, None).sha256 == case_input(odd, None).sha256
    assert case_input(odd, None, 1).sha256 != case_input(odd, None).sha256


def test_a_photograph_that_is_large_enough_is_only_cropped() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pixels, change = fit(photo, 32, 16)
    np.testing.assert_array_equal(pixels, photo[12:28, 14:46])
    assert change == "centre crop of 60x40"


def test_a_small_one_is_mirrored_and_says_so() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pixels, change = fit(photo, 61, 70)
    assert pixels.shape == (70, 61, 3)
    np.testing.assert_array_equal(pixels[15:55, :60], photo)
    np.testing.assert_array_equal(pixels[14, :60], photo[1])
    assert "mirrored" in change


def test_a_far_too_small_one_is_resampled_and_says_so() -> None:
    photo = np.full((40, 60, 3), 77, np.uint8)
    pixels, change = fit(photo, 200, 100)
    assert pixels.shape == (100, 200, 3)
    assert (pixels == 77).all()
    assert "Lanczos x3.33" in change


def test_own_images(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    write_image(tmp_path / "mine.png", photo)
    image = case_input(Case(64, 64, 2), tmp_path)
    np.testing.assert_array_equal(image.pixels, photo)
    assert image.source.startswith("mine.png, ")
    (tmp_path / "mine.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"mine\.png: not an image"):
        case_input(Case(64, 64, 2), tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        case_input(Case(64, 64, 2), tmp_path / "no")
