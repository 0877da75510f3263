"""This project's own gates: exact work of the documented cases, and the ratio on this CPU."""

import json
import sys
from pathlib import Path

import pytest

from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import OptimizedOptions
from srbench.cases import parse_cases
from srbench.cli import main
from srbench.records import CellRecord
from srbench.store import newest_run, read_run
from tests.e2e.conftest import Srbench

pytestmark = pytest.mark.e2e

BASELINE, OPTIMIZED = "s3diff-baseline", "s3diff-optimized"
# TFLOP of the published program, and the least for the same function (adapters merged, prompts
# cached, shared prefix, keys and values once, upsampling folded into transposed convolutions).
PUBLISHED = {
    "128x128x4": (5.55, 4.83),
    "512x512x2": (34.49, 30.37),
    "720x1280x2": (132.09, 116.51),
    "1024x1024x2": (147.18, 129.58),
    "1920x1080x2": (278.04, 245.01),
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `srbench run --gpu meta`: the documented cases."""
    folder = tmp_path_factory.mktemp("counted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["srbench", "run", "--gpu", "meta"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return newest_run(folder / "results")


@pytest.fixture(scope="module")
def cells(counted: Path) -> dict[tuple[str, str], CellRecord]:
    return {(cell.case, cell.pipeline): cell for cell in read_run(counted).cells}


@pytest.mark.parametrize("case", PUBLISHED)
def test_flops_are_the_published_ones(case: str, cells: dict[tuple[str, str], CellRecord]) -> None:
    baseline, optimized = (cells[case, name].work for name in (BASELINE, OPTIMIZED))
    for work, wanted in zip((baseline, optimized), PUBLISHED[case], strict=True):
        assert sum(work["flops"].values()) / 1e12 == pytest.approx(wanted, rel=0.002)
    assert baseline["calls"]["unet"] == optimized["calls"]["unet"]
    assert baseline["calls"]["text_encoder"] == 2
    assert "text_encoder" not in optimized["calls"]
    assert optimized["host_device_bytes"] == 0
    assert optimized["launches"] < baseline["launches"]


def test_parked_bytes_of_the_largest_case(cells: dict[tuple[str, str], CellRecord]) -> None:
    """136 GB in fp16 are 272 GB in fp32, counted by walking the published task queue."""
    work = cells["1920x1080x2", BASELINE].work
    assert work["host_device_bytes"] / 2e9 == pytest.approx(136.0, rel=0.002)
    assert work["calls"] == {"text_encoder": 2, "vae_encoder": 12, "unet": 56, "vae_decoder": 6}


@pytest.mark.parametrize("name", PUBLISHED)
def test_memory_estimate_is_near_the_counted_peak(
    name: str, cells: dict[tuple[str, str], CellRecord]
) -> None:
    (case,), pipeline = parse_cases([name]), S3DiffOptimized(OptimizedOptions())
    estimate = pipeline.memory_estimate(case.height, case.width, case.scale)
    assert 0.9 < estimate / cells[name, OPTIMIZED].memory["peak_tensor_bytes"] < 1.35


def test_the_work_of_the_documented_cases_has_not_grown(
    srbench: Srbench, project_root: Path, counted: Path
) -> None:
    """Where a change means it: `srbench run --gpu meta`, then `baseline promote --name work`."""
    promoted = project_root / "results" / "baselines" / "meta" / "work.jsonl"
    judged = srbench("gate", counted, "--against", promoted)
    assert judged.code == 0, judged.err


@pytest.mark.full  # `make run` and its gate, once more
def test_optimized_is_not_slower_and_paints_the_same_here(srbench: Srbench) -> None:
    """A busy machine may leave the speed unproven, which warns; slower or other pictures fail."""
    few = ("--cases", "32x32x4", "--blocks", "2")
    measured = srbench("run", "--weights", "mini", *few, "--json")
    assert measured.code == 0, measured.err
    Path("policy.toml").write_text('[gate]\non_inconclusive = "warn"\n')
    run = json.loads(measured.out)["results"]
    judged = srbench("gate", run, "--policy", "policy.toml", "--json")
    assert judged.code == 0, judged.err
    verdicts = {(c["metric"], c["case"]): c["verdict"] for c in json.loads(judged.out)["checks"]}
    assert verdicts["psnr", "32x32x4"] == verdicts["worst_block_psnr", "32x32x4"] == "pass"
    assert verdicts["speedup", "32x32x4"] != "fail"
