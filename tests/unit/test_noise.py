from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import expm1
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srbench.errors import UsageError
from srbench.noise import MOST_SD, NoiseFile, read_noise, smallest_margin, write_noise
from srbench.simulation.noise import PROFILES, Bimodal, ProcessNoise, block_log_ratios
from srbench.stats import minimum_detectable_difference, minimum_detectable_effect

NOISE = NoiseFile(
    profile="cpu",
    device_name="Some CPU",
    driver=None,
    run_id="20250102T030405Z-cpu-0000",
    measured_at="2025-01-02T03:04:05+00:00",
    pipeline="s3diff-optimized",
    precision="fp32",
    weights="mini (synthetic)",
    pairs=5,
    blocks=10,
    sd={"48x32x4": 0.0094, "64x64x2": 0.02, "geomean": 0.008},
)


def test_noise_is_read_as_written(tmp_path: Path) -> None:
    path = write_noise(tmp_path, NOISE)
    assert path == tmp_path / "noise" / "cpu.json"
    assert read_noise(tmp_path, "cpu") == NOISE
    newer = replace(NOISE, run_id="later")
    assert write_noise(tmp_path, newer) == path
    assert read_noise(tmp_path, "cpu") == newer
    assert list(path.parent.iterdir()) == [path]


def test_no_file_is_none(tmp_path: Path) -> None:
    assert read_noise(tmp_path, "h100") is None


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in _content().items() if name != key}


def _content(**changes: Any) -> dict[str, Any]:
    return {"kind": "noise", "schema_version": 1, **asdict(NOISE), **changes}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "no JSON"),
        ("[]", "no noise record"),
        (json.dumps({"kind": "run"}), "no noise record"),
        (json.dumps(_without("schema_version")), "no schema_version"),
        (json.dumps(_content(schema_version=2)), "newer than 1"),
        (json.dumps(_without("pairs")), "no pairs"),
        (json.dumps(_content(blocks="ten")), "blocks is no number"),
        (json.dumps(_content(device_name=None)), "device_name is no text"),
        (json.dumps(_content(driver=550)), "driver is no text"),
        (json.dumps(_content(sd={})), "sd is no table"),
        (json.dumps(_content(sd={"a": -0.1})), "sd is no table"),
        (json.dumps(_content(sd={"a": float("nan")})), "sd is no table"),
        (json.dumps(_content(sd={"a": float("inf")})), "sd is no table"),
        (json.dumps(_content(sd={"a": 800})), "sd is no table of numbers from 0 to 10"),
        (json.dumps(_content(sd={"a": 10**400})), "sd is no table"),
        (json.dumps(_content(profile="h100")), "it is of profile 'h100'"),
        (json.dumps(_content(profile="\x1b[31m")), r"it is of profile '\[31m'"),
        (json.dumps(_content(schema_version=True)), "no schema_version"),
        (json.dumps(_content(schema_version=0)), "no schema_version"),
    ],
)
def test_damage_is_one_sentence_with_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "noise" / "cpu.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_noise(tmp_path, "cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("a file in the way")
    with pytest.raises(UsageError, match=r"noise/cpu\.json: cannot be written"):
        write_noise(tmp_path, NOISE)


@pytest.mark.parametrize(("blocks", "alpha"), [(6, 0.004), (10, 0.003), (16, 0.003)])
def test_smallest_margin_is_what_80_per_cent_power_needs(blocks: int, alpha: float) -> None:
    expected = expm1(minimum_detectable_effect(0.02, blocks, alpha))
    assert smallest_margin(NOISE, "64x64x2", blocks) == pytest.approx(expected)


def test_the_noisiest_machine_still_has_a_margin() -> None:
    noisiest = replace(NOISE, sd={"64x64x2": MOST_SD})
    for blocks, reference in ((2, None), (2, 1), (16, 1)):
        assert smallest_margin(noisiest, "64x64x2", blocks, reference) > 1


@pytest.mark.parametrize(("reference", "alpha"), [(6, 0.003), (10, 0.003), (3, 0.01)])
def test_a_promoted_run_adds_its_noise_to_the_smallest_margin(reference: int, alpha: float) -> None:
    least = smallest_margin(NOISE, "64x64x2", 16, reference)
    expected = expm1(minimum_detectable_difference(0.02, 16, reference, alpha))
    assert least == pytest.approx(expected)
    assert least > 1.2 * smallest_margin(NOISE, "64x64x2", 16)


def _streamed(profile: str, seeds: int, bimodal: Bimodal | None = None) -> np.ndarray[Any, Any]:
    """d of one cell of 5 ABBA pairs, as two workers that never meet would produce it."""
    found = []
    for seed in range(seeds):
        base, ours = (
            ProcessNoise(
                PROFILES[profile], seed=seed, block=2, blocks=6, images=10, arm=arm, bimodal=modes
            )
            for arm, modes in (("A", None), ("B", bimodal))
        )
        found.append(
            np.median(
                [
                    np.log(ours.factor("x", 2 * k + 1 - k % 2) / base.factor("x", 2 * k + k % 2))
                    for k in range(5)
                ]
            )
        )
    return np.array(found)


@pytest.mark.parametrize("profile", PROFILES)
def test_streaming_noise_has_the_spread_of_the_vectorised(profile: str) -> None:
    rng = np.random.default_rng(11)
    d = block_log_ratios(rng, PROFILES[profile], runs=4000, blocks=1, cells=1, pairs=5)
    streamed = _streamed(profile, 500)
    assert streamed.std() == pytest.approx(d.std(), rel=0.12)
    assert abs(streamed.mean()) < 4 * d.std() / np.sqrt(500)


def test_both_models_know_modes() -> None:
    modes = Bimodal(0.2, 0.25)
    rng = np.random.default_rng(12)
    d = block_log_ratios(
        rng, PROFILES["quiet"], runs=4000, blocks=1, cells=2, pairs=5, bimodal=modes
    )
    assert np.mean(d > 0.1) == pytest.approx(0.25, abs=0.03)
    assert np.array_equal(d[..., 0] > 0.1, d[..., 1] > 0.1)
    assert d.mean() == pytest.approx(modes.mean, abs=0.01)
    assert np.mean(_streamed("quiet", 300, modes) > 0.1) == pytest.approx(0.25, abs=0.08)


def test_slowdown_and_cells() -> None:
    rng = np.random.default_rng(13)
    slow = np.array([1.0, 1.1, 1.0])
    d = block_log_ratios(
        rng, PROFILES["quiet"], runs=500, blocks=4, cells=3, pairs=3, slowdown=slow
    )
    assert d.shape == (500, 4, 3)
    assert d.mean(axis=(0, 1)) == pytest.approx(np.log(slow), abs=1e-3)


def _process(arm: str = "A", **changes: Any) -> ProcessNoise:
    facts: dict[str, Any] = {"seed": 7, "block": 1, "blocks": 6, "images": 40, "arm": arm}
    return ProcessNoise(PROFILES["typical"], **(facts | changes))


def test_a_repeated_block_has_the_same_noise_in_any_order() -> None:
    first, again = _process(), _process()
    forward = [first.factor("a", position) for position in range(8)]
    assert [again.factor("a", position) for position in reversed(range(8))] == forward[::-1]
    assert _process(seed=8).factor("a", 0) != forward[0]
    assert _process(block=2).factor("a", 0) != forward[0]


def test_arms_share_block_and_state_but_not_process() -> None:
    """Over blocks, the arms' times move together but for the process effect."""
    profile = replace(PROFILES["typical"], drift=0.0, outliers=0.0)
    facts: dict[str, Any] = {"seed": 7, "blocks": 400, "images": 40}
    a, b = (
        [
            np.log(ProcessNoise(profile, arm=arm, block=block, **facts).factor("x", 3))
            for block in range(400)
        ]
        for arm in "AB"
    )
    shared = profile.block**2 + profile.iteration**2
    expected = shared / (shared + profile.process**2)
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(expected, abs=0.04)
    assert np.std(np.subtract(a, b)) == pytest.approx(np.sqrt(2) * profile.process, rel=0.15)


def test_drift_runs_over_the_whole_run() -> None:
    profile = replace(PROFILES["quiet"], block=0.0, process=0.0, iteration=0.0, outliers=0.0)
    facts: dict[str, Any] = {"seed": 0, "blocks": 4, "images": 10, "arm": "A"}
    last = ProcessNoise(profile, block=3, **facts).factor("x", 9)
    assert ProcessNoise(profile, block=0, **facts).factor("x", 0) == 1.0
    assert last == pytest.approx(np.exp(profile.drift * 39 / 40))
