"""Two systems, each with weights, cases and a baseline of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.contract import PipelineError
from pipelines.s3diff.weight_sources import S3DIFF_FILES
from pipelines.srdiff.config import CONFIGS
from pipelines.srdiff.weight_sources import SEEDED, checkpoint_file
from srbench.cases import SRDIFF as SRDIFF_CASES
from srbench.cases import SRDIFF_SMOKE, parse_cases
from srbench.config import Settings
from srbench.errors import UsageError
from srbench.preparation import chosen_cases
from srbench.registry import BUILT_IN
from srbench.systems import (
    S3DIFF,
    SRDIFF,
    common_system,
    recorded_system,
    resolve_weights,
    system_of,
)
from srbench.weights import system_of_weights

OURS = ("srdiff-baseline", "srdiff-optimized")


def test_every_pipeline_has_the_system_of_its_name() -> None:
    for name in BUILT_IN:
        assert name.startswith(f"{common_system([name]).name}-")
    assert system_of("tests.fixtures_pipelines:Bicubic") is None
    assert common_system(["tests.fixtures_pipelines:Bicubic"]) is S3DIFF
    assert common_system(["mine.fast:Engine", "srdiff-baseline"]) is SRDIFF
    assert {system.baseline for system in (S3DIFF, SRDIFF)} <= set(BUILT_IN)
    assert system_of(SRDIFF.baseline) is SRDIFF


def test_pipelines_of_one_run_are_of_one_system() -> None:
    assert common_system(OURS) is SRDIFF
    with pytest.raises(
        UsageError, match=r"s3diff-baseline \(s3diff\), srdiff-ddim \(srdiff\) take"
    ):
        common_system(["s3diff-baseline", "srdiff-ddim"])
    with pytest.raises(UsageError, match="Did you mean 'srdiff-ddim'"):
        system_of("srdiff-dim")
    assert recorded_system("srdiff-baseline") is SRDIFF
    assert recorded_system("srdiff-of-another-day") is S3DIFF


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
    (tmp_path / S3DIFF_FILES[0]).touch()
    assert system_of_weights(tmp_path) is S3DIFF


def test_nothing_of_it_imports_torch() -> None:
    script = (
        "import sys; from srbench.systems import resolve_weights; import srbench.weights;"
        "resolve_weights(['srdiff-ddim'], 'synthetic', 'cuda'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
