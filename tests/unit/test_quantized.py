"""What a quantized pipeline decides: how it computes, and what its ranges are taken of."""

from __future__ import annotations

import re

import pytest
import torch

from pipelines.osediff.quantized_options import W6A6Options, W8A8Options
from pipelines.passionsr import install
from pipelines.passionsr.install import (
    SHIPPED,
    calibration_pictures,
    choose_arithmetic,
    shipped_calibration,
)
from pipelines.stable_diffusion.device import Card
from srbench.inputs import PHOTOGRAPHS

CPU, META = Card("cpu", None), Card("meta", None)
OLD, A10 = Card("Tesla T4", (7, 5)), Card("NVIDIA A10", (8, 6))


@pytest.mark.parametrize(
    ("asked", "device", "card", "computed", "words"),
    [
        ("auto", "cpu", CPU, "simulated", "int8 kernels need a card of sm80 or later; here cpu"),
        ("auto", "cuda", OLD, "simulated", "sm80 or later; here Tesla T4"),
        ("auto", "cuda", A10, "int8", "NVIDIA A10"),
        ("auto", "meta", META, "int8", "meta"),
        ("simulated", "cuda", A10, "simulated", "asked for"),
        ("int8", "cpu", CPU, "int8", "exact and slower than full precision"),
        ("int8", "cuda", OLD, "int8", "exact and slower than full precision"),
        ("fp8", "cpu", CPU, "fp8", "linear layers, convolutions in int8; .*slower"),
        ("fp8", "meta", META, "fp8", "linear layers"),
    ],
)
def test_arithmetic_by_wish_and_device(
    asked: str, device: str, card: Card, computed: str, words: str
) -> None:
    choices = W8A8Options(arithmetic=asked)  # type: ignore[arg-type]
    found, reason = choose_arithmetic(choices, torch.device(device), card)
    assert found == computed
    assert re.search(words, reason)


def test_six_bits_are_simulated_on_every_device() -> None:
    for device, card in (("cpu", CPU), ("cuda", A10), ("meta", META)):
        found, reason = choose_arithmetic(W6A6Options(), torch.device(device), card)
        assert (found, reason) == ("simulated", "no card multiplies 6 bits: accuracy only")


def test_a_card_without_fp8_computes_in_int8_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = "NVIDIA A10 is of compute capability 8.6"
    monkeypatch.setattr(install, "fp8_supported", lambda device: lacking)
    found, reason = choose_arithmetic(W8A8Options(arithmetic="fp8"), torch.device("cuda"), A10)
    assert found == "int8"
    assert reason == f"fp8 asked for, but {lacking}; NVIDIA A10 (sm86)"


def test_ranges_are_not_taken_of_what_is_measured() -> None:
    pictures = calibration_pictures()
    assert len(pictures) == 4
    assert {(picture.shape, str(picture.dtype)) for picture in pictures} == {
        ((120, 120, 3), "uint8")
    }
    assert min(float(picture.std()) for picture in pictures) > 10
    again = calibration_pictures()
    assert all((a == b).all() for a, b in zip(pictures, again, strict=True))
    assert not {name for name, *_ in install._PHOTOGRAPHS} & {name for name, _ in PHOTOGRAPHS}


def test_a_shipped_calibration_is_for_its_weights_alone() -> None:
    assert shipped_calibration("osediff", 8, "of other weights") is None
    assert shipped_calibration("nothing", 8, "") is None
    assert SHIPPED.is_dir()
