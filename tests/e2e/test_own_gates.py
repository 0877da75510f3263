"""This project's own gates: exact work of the documented cases, and the ratio on this CPU."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Srbench

pytestmark = pytest.mark.e2e


def test_the_work_of_the_documented_cases_has_not_grown(
    srbench: Srbench, project_root: Path
) -> None:
    """Where a change means it: `srbench run --gpu meta`, then `baseline promote --name work`."""
    counted = srbench("run", "--gpu", "meta", "--json")
    assert counted.code == 0, counted.err
    run = json.loads(counted.out)["results"]
    promoted = project_root / "results" / "baselines" / "meta" / "work.jsonl"
    judged = srbench("gate", run, "--against", promoted)
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
