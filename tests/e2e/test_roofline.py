"""`srbench roofline` as a user types it, with real workers and the published architecture."""

import json
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.roofline.ceilings import Ceiling, CeilingsFile, write_ceilings
from tests.e2e.conftest import Srbench
from tests.factories import make_run, write_run

pytestmark = pytest.mark.e2e

CASE = "32x32x4"
PLAIN = "tests.fixtures_pipelines:Bicubic"


def stored_ceilings(root: Path, profile: str, precision: str) -> None:
    work = {"shape": "", "times_ms": [1.0]}
    write_ceilings(
        root,
        CeilingsFile(
            profile=profile,
            device="cpu" if profile == "cpu" else "cuda",
            precision=precision,
            measured_at="2025-01-02T03:04:05+00:00",
            srbench_version="0",
            fingerprint={},
            ceilings=[
                Ceiling(name="matmul", kind="linear", flops=int(1e11), bytes=1, **work),
                Ceiling(name="conv", kind="conv", flops=int(5e10), bytes=1, **work),
                Ceiling(name="copy", kind="copy", flops=0, bytes=int(5e8), **work),
            ],
        ),
    )


@pytest.mark.full
def test_a_card_that_is_not_here_has_counts_and_datasheet_limits(srbench: Srbench) -> None:
    done = srbench("roofline", "--gpu", "a10", "--cases", CASE, "--json")
    assert done.code == ExitCode.OK
    document = json.loads(done.out)
    assert (document["profile"], document["precision"]) == ("a10", "fp16")
    assert document["ceilings"] is None
    (case,) = document["cases"]
    assert case["case"] == CASE
    assert list(case["pipelines"]) == ["s3diff-baseline", "s3diff-optimized"]
    for arm in case["pipelines"].values():
        stages = arm["stages"]
        assert {"vae_encode", "unet", "vae_decode"} < set(stages)
        assert arm["tflop"] == pytest.approx(sum(stage["tflop"] for stage in stages.values()))
        assert arm["bytes"] == sum(stage["bytes"] for stage in stages.values()) > 1e9
        assert arm["ideal_bytes"] < arm["bytes"]
        assert arm["limit_ms"]["datasheet"] >= arm["tflop"] / 125 * 1e3
        assert arm["datasheet_limit_ms"]["a10"] == pytest.approx(arm["limit_ms"]["datasheet"])
        assert arm["datasheet_limit_ms"]["h100"] < arm["datasheet_limit_ms"]["a10"]
        assert arm["limit_ms"]["measured"] is None
        assert arm["time_ms"] is arm["percent_of_limit"]["datasheet"] is None
        assert stages["unet"]["regime"] in ("compute", "memory")
    page = Path(document["page"])
    assert page == Path("reports/a10_roofline.md")
    assert "a10_roofline.svg" in page.read_text()
    assert Path("reports/a10_roofline.svg").read_text().startswith("<?xml")
    assert not Path("results/a10").exists(), "nothing was measured"


@pytest.mark.full
def test_without_a_gpu_every_card_has_its_limit_and_nothing_is_measured(srbench: Srbench) -> None:
    done = srbench("roofline", "--cases", CASE, "--out", "pages")
    assert done.code == ExitCode.OK
    for words in ("a10 s", "h100 s", "No ceiling was measured", "No times: no run is stored"):
        assert words in done.out
    assert Path("pages/cpu_roofline.md").is_file()
    assert not Path("results/cpu").exists()


def test_a_pipeline_that_tells_no_operators_is_shown_by_its_flops(srbench: Srbench) -> None:
    done = srbench("roofline", "--gpu", "l20", "--cases", "16x16x2", "--pipelines", PLAIN, "--json")
    assert done.code == ExitCode.OK
    arm = json.loads(done.out)["cases"][0]["pipelines"][PLAIN]
    assert arm["tflop"] == 32 * 16 * 16 * 4 / 1e12
    assert arm["stages"]["unet"]["bytes"] is None
    assert "l20_roofline.svg" not in Path("reports/l20_roofline.md").read_text()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the mini networks whose times are made up: what they computed is not."""
    from dataclasses import asdict, replace

    import torch

    from pipelines.contract import Precision
    from pipelines.s3diff.baseline import S3DiffBaseline
    from pipelines.s3diff.options import BaselineOptions
    from pipelines.s3diff.weight_sources import resolve_weights

    weights = resolve_weights("mini", "cpu")
    pipeline = S3DiffBaseline(BaselineOptions())
    pipeline.load(weights, torch.device("cpu"), Precision.FP32)
    flops = pipeline.work(32, 32, 4).flops
    options = json.loads(json.dumps(asdict(BaselineOptions())))
    facts = {"kind": "mini", "digest": weights.digest, "synthetic": True, "label": "mini"}
    run = make_run(
        cases=[CASE], arms=["s3diff-baseline"], blocks=2,
        head={"options": {"s3diff-baseline": options}, "weights": facts},
    )  # fmt: skip
    cells = [replace(cell, work={**cell.work, "flops": flops}) for cell in run.cells]
    root = tmp_path_factory.mktemp("measured") / "results"
    return write_run(replace(run, cells=cells), root)


@pytest.mark.full
def test_a_run_is_held_against_the_networks_it_measured(srbench: Srbench, measured: Path) -> None:
    root = measured.parents[1]
    stored_ceilings(root, "cpu", "fp32")
    done = srbench("roofline", "--run", measured, "--results", root, "--json")
    assert done.code == ExitCode.OK, done.err
    document = json.loads(done.out)
    assert (document["profile"], document["precision"]) == ("cpu", "fp32")
    assert document["run"] == measured.stem
    arm: dict[str, Any] = document["cases"][0]["pipelines"]["s3diff-baseline"]
    assert arm["tflop"] < 0.1, "not the published networks"
    assert arm["not_measured"] is None
    assert arm["tflop_per_s"] == pytest.approx(arm["tflop"] / arm["time_ms"] * 1e3)
    assert arm["percent_of_limit"]["datasheet"] is None
    limit = arm["limit_ms"]["measured"]
    assert limit >= arm["tflop"] / 100 * 1e3
    assert arm["percent_of_limit"]["measured"] == pytest.approx(100 * limit / arm["time_ms"])
    assert arm["stages"]["unet"]["time_ms"] > 0
    assert (root / "cpu" / f"{measured.stem}.limits.json").is_file()
    page = Path(document["page"])
    assert page == Path(f"reports/cpu_roofline_{measured.stem}.md")
    assert document["synthetic_weights"] == "mini"
    written = page.read_text()
    assert "**SYNTHETIC weights** (mini)" in written
    # Without --run the newest run that fits is shown, at its precision.
    plain = srbench("roofline", "--results", root, "--pipelines", "s3diff-baseline")
    assert plain.code == ExitCode.OK, plain.err
    assert page.read_text() == written
    assert plain.err == "counting 1 case x 1 pipeline\n"
    # Options make it other work: the published networks are not those of this run.
    other = srbench(
        "roofline", "--gpu", "cpu", "--results", root, "--cases", CASE, "--precision", "fp16",
        "--pipelines", "s3diff-baseline",
    )  # fmt: skip
    assert other.code == ExitCode.OK
    assert f"run {measured.stem} is fp32, this is fp16" in other.out
    assert "Ceilings measured on" not in other.out
    assert page.read_text() == written, "a page of counts alone has a name of its own"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--gpu", "a100"], ExitCode.USAGE, "no such profile"),
        (["--gpu", "meta"], ExitCode.USAGE, "not a device with limits"),
        (["--cases", "8x8x2"], ExitCode.USAGE, "at least 16"),
        (["--pipelines", "s3diff-fast"], ExitCode.USAGE, "unknown"),
        (["--set", "nonsense=1"], ExitCode.USAGE, "such an option"),
        (["--run", "nothing"], ExitCode.USAGE, "none of that id"),
        (["--gpu", "h100", "--measure"], ExitCode.NOT_COMPARABLE, "no NVIDIA H100"),
        (["--measure"], ExitCode.NOT_COMPARABLE, "--gpu cpu"),
    ],
)
def test_bad_input_is_one_line(
    srbench: Srbench, arguments: list[str], code: ExitCode, words: str
) -> None:
    done = srbench("roofline", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "a10"], "was measured on cpu"),
        (["--set", "guidance=1"], "options are those of --run"),
        (["--cases", "64x64x4"], "not in"),
        (["--pipelines", "s3diff-optimized"], "not in"),
    ],
)
def test_what_a_run_decides_cannot_be_changed(
    srbench: Srbench, measured: Path, arguments: list[str], words: str
) -> None:
    done = srbench("roofline", "--run", measured, *arguments)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert words in done.err


def test_damaged_ceilings_are_said(srbench: Srbench) -> None:
    stored_ceilings(Path("results"), "a10", "fp16")
    Path("results/a10/ceilings.json").write_text("{}")
    done = srbench("roofline", "--gpu", "a10", "--cases", CASE)
    assert done.code == ExitCode.USAGE
    assert "results/a10/ceilings.json: damaged" in done.err


@pytest.mark.full
def test_the_ceilings_of_this_cpu_are_measured_once(srbench: Srbench) -> None:
    arguments = ["roofline", "--gpu", "cpu", "--cases", "16x16x2", "--pipelines", PLAIN]
    first = srbench(*arguments)
    assert first.code == ExitCode.OK, first.err
    assert "measuring the ceilings of CPU" in first.err
    assert "matmul-512" in first.out
    assert "of the time of upsampling and convolution" in first.out
    before = Path("results/cpu/ceilings.json").read_bytes()
    again = srbench(*arguments)
    assert again.err == "counting 1 case x 1 pipeline\n"
    assert Path("results/cpu/ceilings.json").read_bytes() == before
