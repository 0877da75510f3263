"""report, gate, baseline and compare as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from srbench.noise import NoiseFile, write_noise
from tests.e2e.conftest import Srbench
from tests.factories import (
    BASELINE,
    CASES,
    OPTIMIZED,
    QUIET,
    change_fidelity,
    change_head,
    make_run,
    write_run,
)

pytestmark = pytest.mark.e2e


@pytest.fixture
def promoted(srbench: Srbench) -> str:
    """A promoted baseline `main` in ./results; its run id."""
    path = write_run(make_run(seed=100), Path("results"))
    done = srbench("baseline", "promote", path.stem)
    assert (done.code, done.out) == (0, "results/baselines/cpu/main.jsonl\n")
    return path.stem


def test_untouched_run_passes(srbench: Srbench, promoted: str) -> None:
    run = write_run(make_run(seed=1), Path("results"))
    done = srbench("gate", run, "--against", "main")
    assert done.code == 0
    assert done.out.endswith("verdict: PASS\n")
    assert done.err == ""
    assert srbench("gate", promoted).code == 0


@pytest.mark.parametrize(
    ("run", "named"),
    [
        (make_run(seed=1, slowdown=1.3), "FAIL latency 48x32x4 +3"),
        (make_run(seed=1, peak_growth=1.2), "FAIL peak_tensor_bytes 48x32x4 s3diff-optimized"),
        (
            change_fidelity(make_run(seed=1), 0, metrics={"psnr": 51.0, "worst_block_psnr": 14.0}),
            "FAIL worst 64x64 block 48x32x4 14 dB",
        ),
    ],
)
def test_planted_regressions_are_named_in_one_line(
    srbench: Srbench, promoted: str, run: object, named: str
) -> None:
    path = write_run(run, Path("results"))  # type: ignore[arg-type]
    done = srbench("gate", path, "--against", "main")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith(f"srbench gate: {named}")
    assert "verdict: FAIL" in done.out


@pytest.mark.parametrize(
    ("against", "head", "reason"),
    [
        ("nothing", {}, "no baseline 'nothing' for cpu in results/baselines; there are: main"),
        ("main", {"weights": {"digest": "00"}}, "other weights: 00"),
        ("main", {"cases": ["16x16x2"]}, "no case in common"),
    ],
)
def test_not_comparable_is_exit_5(
    srbench: Srbench, promoted: str, against: str, head: dict[str, object], reason: str
) -> None:
    run = change_head(make_run(seed=1), **head)
    path = write_run(run, Path("results"))
    done = srbench("gate", path, "--against", against)
    assert done.code == 5
    assert done.err.startswith(f"srbench gate: NOT COMPARABLE {reason}")
    assert done.err.count("\n") == 1
    document = json.loads(srbench("gate", path, "--against", against, "--json").out)
    assert (document["exit_code"], document["verdict"]) == (5, "no_baseline")


def test_an_empty_run_is_exit_5_in_one_line(srbench: Srbench) -> None:
    run = replace(make_run(), cells=[], fidelity=[], finished_blocks=set(), ended=False)
    done = srbench("gate", write_run(run, Path("results")))
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert "holds no measured cell: nothing to judge" in done.err


def test_revisions_of_one_pipeline_are_judged_by_the_margin(srbench: Srbench) -> None:
    arm = {"pipeline": "s3diff-optimized", "revision": None, "commit": None}
    head = {"arms": {BASELINE: arm, OPTIMIZED: arm}}
    same = {"speedup": 1.0, "peak_growth": 1 / 0.8, "noise": QUIET}
    run = write_run(make_run(head=head, **same), Path("results"))
    assert srbench("gate", run).code == 0
    slow = write_run(make_run(seed=1, slowdown=1.08, head=head, **same), Path("results"))
    done = srbench("gate", slow)
    assert done.code == 1
    assert done.err.startswith("srbench gate: FAIL latency 48x32x4 +8 % slower than s3diff-base")


def test_a_margin_under_the_measured_noise_is_exit_2(srbench: Srbench, promoted: str) -> None:
    run = make_run(seed=1)
    noise = NoiseFile(
        profile="cpu",
        device_name=run.head.fingerprint["cpu_model"],
        driver=None,
        run_id="20250101T000000Z-cpu-0000",
        measured_at=run.head.started_at,
        pipeline=OPTIMIZED,
        precision="fp32",
        weights="mini",
        pairs=5,
        blocks=10,
        sd=dict.fromkeys([*CASES, "geomean"], 0.1),
    )
    write_noise(Path("results"), noise)
    path = write_run(run, Path("results"))
    done = srbench("gate", path, "--against", "main")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "margin 5 % of 48x32x4 is below 2" in done.err
    assert "noise/cpu.json" in done.err
    assert srbench("gate", path).code == 0  # a speed-up has no margin
    Path("srbench.toml").write_text("[gate]\nmargin = 0.5\n")
    assert srbench("gate", path, "--against", "main").code == 0


def test_a_proven_gain_suggests_its_promotion(srbench: Srbench, promoted: str) -> None:
    path = write_run(make_run(seed=1, slowdown=0.7), Path("results"))
    done = srbench("gate", path, "--against", "main")
    assert done.code == 0
    assert done.err.startswith("srbench gate: note: latency 48x32x4 3")
    assert done.err.endswith(f"keep it with: srbench baseline promote {path} --name main\n")
    assert done.err.count("\n") == 1
    by_path = srbench("gate", path, "--against", "results/baselines/cpu/main.jsonl")
    assert (by_path.code, by_path.err) == (0, "")
    open_question = replace(make_run(seed=2, slowdown=0.7), ended=False)
    path = write_run(open_question, Path("results"))
    assert "note:" not in srbench("gate", path, "--against", "main").err


def test_a_simulated_run_says_so(srbench: Srbench) -> None:
    run = write_run(make_run(head={"purpose": "simulation"}), Path("results"))
    done = srbench("gate", run)
    assert done.code == 0
    assert done.out.endswith("verdict: PASS (SIMULATED)\n")
    assert json.loads(srbench("gate", run, "--json").out)["simulated"] is True


def test_json_is_one_document_and_junit_is_written(srbench: Srbench, promoted: str) -> None:
    run = write_run(make_run(seed=1, slowdown=1.3), Path("results"))
    arguments = ("gate", run, "--against", "main", "--json", "--junit", "out/junit.xml")
    done = srbench(*arguments)
    document = json.loads(done.out)
    assert (done.code, document["exit_code"], document["verdict"]) == (1, 1, "fail")
    latency = next(c for c in document["checks"] if c["metric"] == "latency")
    assert latency["case"] == CASES[0]
    assert latency["value"] == pytest.approx(0.3, abs=0.06)
    assert latency["threshold"] == 0.05
    suite = ElementTree.parse("out/junit.xml").getroot()
    assert int(suite.attrib["failures"]) == 4


def test_github_annotations_and_summary(
    srbench: Srbench, promoted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    run = write_run(make_run(seed=1, slowdown=1.3), Path("results"))
    done = srbench("gate", run, "--against", "main", "--github")
    assert "::error title=srbench gate::latency 48x32x4 +3" in done.out
    assert Path("summary.md").read_text().startswith("## srbench gate: FAIL")
    quiet = srbench("gate", run, "--against", "main", "--github", "--json")
    json.loads(quiet.out)
    assert "::error" in quiet.err


def test_inconclusive_is_exit_3_unless_the_policy_says_else(srbench: Srbench) -> None:
    run = write_run(make_run(blocks=1), Path("results"))
    done = srbench("gate", run)
    assert done.code == 3
    assert done.err.startswith("srbench gate: INCONCLUSIVE speed-up 48x32x4")
    Path("srbench.toml").write_text('[gate]\non_inconclusive = "warn"\n')
    done = srbench("gate", run)
    assert done.code == 0
    assert "srbench gate: warning: open question: speed-up 48x32x4" in done.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("gate", "nothing.jsonl"), "nothing.jsonl: no such results file"),
        (("gate", "RUN", "--policy", "p.toml"), "p.toml: [gate] unknown key 'margn'. Did you mean"),
        (("gate", "RUN", "--policy", "gone.toml"), "gone.toml: cannot be read"),
        (("gate", "RUN", "--junit", "p.toml/x.xml"), "--junit p.toml/x.xml: cannot be written"),
        (("report", "--results", "empty"), "empty: no results in it"),
        (("report", "RUN", "--out", "p.toml"), "--out p.toml: cannot be written"),
        (("baseline", "promote", "RUN", "--name", "../x"), "baseline name '../x'"),
        (("compare", "RUN", "gone"), "run 'gone': none of that id"),
    ],
)
def test_bad_input_is_exit_2_in_one_line(
    srbench: Srbench, arguments: tuple[str, ...], reason: str
) -> None:
    run = write_run(make_run(), Path("results"))
    Path("p.toml").write_text("[gate]\nmargn = 1\n")
    done = srbench(*(str(run) if word == "RUN" else word for word in arguments))
    assert done.code == 2
    assert reason in done.err
    assert done.err.count("\n") == 1


def test_report_takes_the_newest_run(srbench: Srbench) -> None:
    write_run(make_run(seed=1), Path("results"))
    newest = write_run(make_run(seed=2, crops=True), Path("results"))
    done = srbench("report")
    assert (done.code, done.out) == (0, "reports/cpu.md\n")
    assert newest.stem in Path("reports/cpu.md").read_text()
    assert Path("reports/cpu_crops.png").is_file()


def test_baselines_are_listed_and_shown(srbench: Srbench, promoted: str) -> None:
    listed = srbench("baseline", "list")
    assert listed.out.splitlines()[-1].split()[:3] == ["cpu", "main", promoted]
    assert "geomean" in srbench("baseline", "show", "main").out
    missing = srbench("baseline", "show", "mian")
    assert missing.code == 5
    assert "Did you mean 'main'?" in missing.err


def test_unfaithful_run_is_promoted_only_by_force(srbench: Srbench) -> None:
    bad = change_fidelity(make_run(), 0, metrics={"psnr": 9.0, "worst_block_psnr": 5.0})
    run = write_run(bad, Path("results"))
    assert srbench("baseline", "promote", run).code == 2
    assert srbench("baseline", "promote", run, "--force").code == 0


def test_results_folder_from_option_and_environment(
    srbench: Srbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(make_run(), Path("elsewhere"))
    assert srbench("baseline", "promote", run.stem).code == 2
    assert srbench("baseline", "promote", run.stem, "--results", "elsewhere").code == 0
    monkeypatch.setenv("SRBENCH_OUT", "elsewhere")
    assert srbench("gate", run.stem, "--against", "main").code == 0


def test_compare_prints_both_sides(srbench: Srbench) -> None:
    runs = [write_run(make_run(seed=seed), Path("results")) for seed in (1, 2)]
    done = srbench("compare", *runs)
    assert done.code == 0
    assert all(run.stem in done.out for run in runs)


def test_the_module_runs_as_a_program(tmp_path: Path, project_root: Path) -> None:
    run = write_run(make_run(seed=1, speedup=0.8), tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "srbench", "gate", str(run)],
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("srbench gate: FAIL speed-up 48x32x4 0.80x")
