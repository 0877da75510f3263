"""Systems, each with weights, cases and a baseline of its own; guests with their own weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.contract import PipelineError
from pipelines.osediff.weight_sources import OSEDIFF_FILES
from pipelines.s3diff.weight_sources import S3DIFF_FILES
from pipelines.srdiff.config import CONFIGS
from pipelines.srdiff.weight_sources import SEEDED, checkpoint_file
from srbench.built_in import BUILT_IN
from srbench.cases import DOCUMENTED, OSEDIFF_SMOKE, SRDIFF_SMOKE, parse_cases
from srbench.cases import SRDIFF as SRDIFF_CASES
from srbench.config import Settings
from srbench.errors import UsageError
from srbench.preparation import chosen_cases
from srbench.systems import (
    BICUBIC,
    OSEDIFF,
    REALESRGAN,
    S3DIFF,
    SRDIFF,
    common_system,
    recorded_system,
    resolve_weights,
    system_of,
)
from srbench.weights import examine_weights, system_of_weights

OURS = ("srdiff-baseline", "srdiff-optimized")


def test_every_pipeline_has_the_system_of_its_name() -> None:
    for name in BUILT_IN:
        system = S3DIFF.name if name == "lyradiff" else name.partition("-")[0]
        assert common_system([name]).name == system
    assert system_of("tests.fixtures_pipelines:Bicubic") is None
    assert common_system(["tests.fixtures_pipelines:Bicubic"]) is S3DIFF
    assert common_system(["mine.fast:Engine", "srdiff-baseline"]) is SRDIFF
    assert {system.baseline for system in (S3DIFF, OSEDIFF, SRDIFF)} <= set(BUILT_IN)
    assert common_system(["osediff-baseline", "osediff-w6a6-maxmin"]) is OSEDIFF
    assert system_of(SRDIFF.baseline) is SRDIFF


def test_pipelines_of_one_run_are_of_one_system() -> None:
    assert common_system(OURS) is SRDIFF
    with pytest.raises(
        UsageError, match=r"s3diff-baseline \(s3diff\), srdiff-ddim \(srdiff\) take"
    ):
        common_system(["s3diff-baseline", "srdiff-ddim"])
    with pytest.raises(UsageError, match=r"osediff-w8a8 \(osediff\), s3diff-w8a8 \(s3diff\) take"):
        common_system(["osediff-w8a8", "s3diff-w8a8"])
    with pytest.raises(UsageError, match="Did you mean 'srdiff-ddim'"):
        system_of("srdiff-dim")
    with pytest.raises(UsageError, match="Did you mean 'osediff-w8a8-maxmin'"):
        system_of("osediff-w8a8-minmax")
    assert recorded_system("srdiff-baseline") is SRDIFF
    assert recorded_system("srdiff-of-another-day") is S3DIFF


def test_guests_stand_beside_any_system() -> None:
    guests = ["bicubic", "realesrgan-x4plus"]
    for host in ("s3diff-optimized", "osediff-w8a8", "srdiff-ddim", "s3diff-authors"):
        for names in ([host, *guests], [*guests, host]):
            assert common_system(names) is system_of(host)
            assert not common_system(names).guest
    assert common_system(["mine.fast:Engine", *guests]) is S3DIFF
    assert common_system(guests) is common_system(guests[::-1]) is REALESRGAN
    assert common_system(["bicubic"]) is BICUBIC
    assert chosen_cases(Settings(pipelines=("bicubic",)), "cpu") == parse_cases(["smoke"])
    with pytest.raises(UsageError, match=r"^--pipelines: s3diff-.* \(s3diff\), srdiff-ddim \(srd"):
        common_system(["bicubic", "s3diff-baseline", "srdiff-ddim"])


def test_guests_alone_need_no_weights_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRBENCH_WEIGHTS", "nowhere")
    alone = resolve_weights(["bicubic"], None, "cuda")
    assert not alone.synthetic
    assert alone == resolve_weights(["bicubic"], "mini", "cpu")
    with pytest.raises(PipelineError, match="bicubic has no weights; leave the option out"):
        resolve_weights(["bicubic"], "folder", "cpu")


def test_osediff_is_measured_at_the_documented_sizes_or_two_small_ones() -> None:
    ours = Settings(pipelines=("osediff-optimized", "osediff-w8a8"))
    assert chosen_cases(ours, "cuda") == DOCUMENTED
    assert chosen_cases(ours, "cpu") == OSEDIFF_SMOKE == parse_cases(["osediff-smoke"])
    assert all(case.scale == 4 and min(case.width, case.height) >= 128 for case in OSEDIFF_SMOKE)
    assert OSEDIFF_SMOKE[0] == DOCUMENTED[0]


@pytest.mark.parametrize(("device", "cases"), [("cuda", SRDIFF_CASES), ("cpu", SRDIFF_SMOKE)])
def test_cases_are_those_of_the_system(device: str, cases: object) -> None:
    ours = Settings(pipelines=OURS)
    assert chosen_cases(ours, device) == cases
    assert chosen_cases(replace(ours, cases=("24x16x4",)), device) == parse_cases(["24x16x4"])
    assert chosen_cases(Settings(), device) != cases


def test_the_released_size_is_seeded_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    default = resolve_weights(OURS, None, "cuda")
    assert (default.kind, default.synthetic) == ("synthetic", True)
    assert resolve_weights(OURS, "synthetic", "cpu") == default
    assert CONFIGS["df2k-x4"] == SEEDED
    monkeypatch.setenv("SRBENCH_WEIGHTS", "nowhere.ckpt")
    with pytest.raises(PipelineError, match=r"nowhere.ckpt: .* \(from SRBENCH_WEIGHTS\)"):
        resolve_weights(OURS, None, "cuda")
    assert resolve_weights(OURS, "synthetic", "cuda") == default


def test_the_small_model_is_trained_and_the_default_of_a_cpu() -> None:
    found = resolve_weights(OURS, None, "cpu")
    assert (found.kind, found.synthetic) == ("mini", False)
    assert found.path.is_file()
    assert found.digest != resolve_weights(OURS, "synthetic", "cpu").digest


def test_a_digest_is_of_the_contents(tmp_path: Path) -> None:
    for name, content in (("a.ckpt", b"x"), ("b.ckpt", b"x"), ("c.ckpt", b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (resolve_weights(OURS, str(tmp_path / f"{name}.ckpt"), "cpu") for name in "abc")
    assert a.digest == b.digest != c.digest
    assert a.kind == "folder"
    assert a.path.name == "a.ckpt"


def test_a_folder_means_its_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="found none; name the file"):
        checkpoint_file(tmp_path)
    for name in ("config.yaml", "model_ckpt_steps_90.ckpt", "model_ckpt_steps_400.ckpt"):
        (tmp_path / name).touch()
    assert checkpoint_file(tmp_path).name == "model_ckpt_steps_400.ckpt"
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.ckpt").touch()
    assert checkpoint_file(other).name == "a.ckpt"
    (other / "b.safetensors").touch()
    with pytest.raises(PipelineError, match=r"found a.ckpt, b.safetensors; name the file"):
        checkpoint_file(other)


def test_weights_are_told_apart_by_their_layout(tmp_path: Path) -> None:
    assert system_of_weights(tmp_path / "nowhere") is S3DIFF
    assert system_of_weights(tmp_path) is S3DIFF
    (tmp_path / "a.ckpt").touch()
    assert system_of_weights(tmp_path / "a.ckpt") is SRDIFF
    assert system_of_weights(tmp_path) is SRDIFF
    (tmp_path / "RealESRGAN_x4plus.pth").touch()
    assert system_of_weights(tmp_path / "RealESRGAN_x4plus.pth") is REALESRGAN
    (tmp_path / S3DIFF_FILES[0]).touch()
    assert system_of_weights(tmp_path) is S3DIFF


@pytest.mark.parametrize("name", OSEDIFF_FILES)
def test_a_folder_of_osediff_is_told_by_its_adapters(tmp_path: Path, name: str) -> None:
    (tmp_path / "sd-turbo").mkdir()
    assert system_of_weights(tmp_path) is S3DIFF
    (tmp_path / name).touch()
    assert system_of_weights(tmp_path) is OSEDIFF
    (tmp_path / "sd-turbo").rmdir()
    assert system_of_weights(tmp_path) is OSEDIFF
    found = examine_weights(tmp_path)
    assert found.problems
    assert found.facts == []
    (tmp_path / S3DIFF_FILES[0]).touch()
    assert system_of_weights(tmp_path) is S3DIFF


def test_nothing_of_it_imports_torch() -> None:
    script = (
        "import sys; from srbench.systems import resolve_weights; import srbench.weights;"
        "resolve_weights(['srdiff-ddim'], 'synthetic', 'cuda'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
