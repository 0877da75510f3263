from typing import Any

import pytest

from srbench.cases import DOCUMENTED
from srbench.errors import NotComparableError, UsageError
from srbench.nvml import Gpu, visible_order
from srbench.profiles import (
    choose_profile,
    load_profile,
    profile_names,
    profile_of,
    profile_or_bare,
    slug,
)

GIB = 2**30


def gpu(name: str, index: int = 0) -> Gpu:
    return Gpu(index, name, f"GPU-{index}", 24 * GIB)


def test_shipped_profiles() -> None:
    assert profile_names() == ["a10", "cpu", "h100", "h200", "l20", "meta", "simulated"]


@pytest.mark.parametrize("name", ["a10", "l20"])
def test_published_times_cover_the_documented_cases(name: str) -> None:
    profile = load_profile(name)
    documented = [case.name for case in DOCUMENTED]
    assert list(profile.original_s) == documented
    assert list(profile.lyradiff_s) == documented
    for case in documented:
        assert profile.lyradiff_s[case] < profile.original_s[case]


def test_published_figures() -> None:
    assert load_profile("a10").original_s["1920x1080x2"] == 42.24
    assert load_profile("l20").lyradiff_s["128x128x4"] == 0.10
    assert load_profile("h100").original_s == {}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A10", "a10"),
        ("NVIDIA L20", "l20"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L200", "l200"),
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090"),
    ],
)
def test_device_names(device: Any, name: str) -> None:
    assert profile_of(gpu(device)).name == name
    assert profile_of(gpu(device)).device == "cuda"


def test_unknown_card_gets_a_folder_but_no_figures() -> None:
    profile = profile_of(gpu("NVIDIA X1"))
    assert (profile.title, profile.fp16_tflops, profile.memory_gib) == ("NVIDIA X1", None, 24)
    assert slug("!!") == "gpu"
    assert profile_or_bare("x1").original_s == {}


def test_auto() -> None:
    assert choose_profile("auto", [])[0].name == "cpu"
    profile, found = choose_profile("auto", [gpu("NVIDIA A10"), gpu("NVIDIA L20", 1)])
    assert profile.name == "a10"
    assert found is not None
    assert found.index == 0
    assert choose_profile("x1", [gpu("NVIDIA X1")])[0].name == "x1"


def test_cpu_can_be_asked_for_beside_a_gpu() -> None:
    assert choose_profile("cpu", [gpu("NVIDIA A10")]) == (load_profile("cpu"), None)


@pytest.mark.parametrize(
    ("name", "gpus", "error", "words"),
    [
        ("a10", [], NotComparableError, "found no GPU"),
        ("a10", [gpu("NVIDIA H100 PCIe")], NotComparableError, "found NVIDIA H100 PCIe"),
        ("l20", [gpu("NVIDIA A10"), gpu("NVIDIA L20", 1)], NotComparableError, "DEVICES=1"),
        ("a11", [], UsageError, "Did you mean 'a10'"),
    ],
)
def test_mismatches_say_what_was_found(name: str, gpus: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        choose_profile(name, gpus)


def test_visible_devices_are_numbered_as_in_cuda() -> None:
    cards = [gpu("a", 0), gpu("b", 1), gpu("c", 2)]
    assert visible_order(cards, None) == cards
    assert visible_order(cards, "2,0") == [cards[2], cards[0]]
    assert visible_order(cards, "GPU-1") == [cards[1]]
    assert visible_order(cards, "1,-1,0") == [cards[1]]
    assert visible_order(cards, "") == []
