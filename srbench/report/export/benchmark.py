"""A run as the JSON of pytest-benchmark 5, so that its `compare` and `list` read our runs.

The statistics are those of pytest-benchmark by the definitions of its documentation: quartiles by
the method of Moore and McCabe ("Introduction to the Practice of Statistics", method 2, and the
interpolation of method 3 for odd counts), Tukey's fences at 1.5 IQR.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

from srbench.errors import UsageError
from srbench.records import Run
from srbench.stats.runs import latencies_ms

FORMAT_VERSION = "5.0.0"
"""The version of pytest-benchmark whose files these are like."""


def benchmark_document(run: Run) -> dict[str, Any]:
    """The run as pytest-benchmark's JSON: one benchmark a case and arm, samples in seconds.

    The group of a benchmark is its case, so that `compare` sets the arms of a case side by side;
    its `fullname` is the same in every run, so that `compare A B` finds both.

    Raises:
        UsageError: The run has no timed image.
    """
    benchmarks = [
        _benchmark(run, case, arm, seconds)
        for case in run.head.cases
        for arm in run.head.pipelines
        if (seconds := [time / 1000 for time in latencies_ms(run, case, arm)])
    ]
    if not benchmarks:
        raise UsageError(f"run {run.head.run_id}: no timed image to export")
    return {
        "machine_info": _machine(run),
        "commit_info": _commit(run),
        "benchmarks": benchmarks,
        "datetime": run.head.started_at,
        "version": FORMAT_VERSION,
    }


def describe(seconds: Sequence[float]) -> dict[str, Any]:
    """The statistics of a benchmark with the keys of pytest-benchmark, in seconds.

    Args:
        seconds: At least one time.
    """
    ordered = sorted(seconds)
    count = len(ordered)
    mean = fmean(ordered)
    deviation = stdev(ordered) if count > 1 else 0.0
    low, high = _quartiles(ordered)
    spread = high - low
    fences = low - 1.5 * spread, high + 1.5 * spread
    inside = [value for value in ordered if fences[0] <= value <= fences[1]]
    beyond_deviation = sum(abs(value - mean) > deviation for value in ordered)
    total = sum(ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": deviation,
        "rounds": count,
        "median": median(ordered),
        "iqr": spread,
        "q1": low,
        "q3": high,
        "iqr_outliers": count - len(inside),
        "stddev_outliers": beyond_deviation,
        "outliers": f"{beyond_deviation};{count - len(inside)}",
        "ld15iqr": inside[0],
        "hd15iqr": inside[-1],
        "ops": count / total if total > 0 else 0,
        "total": total,
        "data": list(seconds),
        "iterations": 1,
    }


def _quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    count = len(ordered)
    if count == 1:
        return ordered[0], ordered[0]
    half = count // 2
    if count % 2 == 0:
        return median(ordered[:half]), median(ordered[half:])
    quarter, rest = divmod(count, 4)
    if rest == 1:
        lower = 0.25 * ordered[quarter - 1] + 0.75 * ordered[quarter]
        upper = 0.75 * ordered[3 * quarter] + 0.25 * ordered[3 * quarter + 1]
        return lower, upper
    lower = 0.75 * ordered[quarter] + 0.25 * ordered[quarter + 1]
    upper = 0.25 * ordered[3 * quarter + 1] + 0.75 * ordered[3 * quarter + 2]
    return lower, upper


def _benchmark(run: Run, case: str, arm: str, seconds: Sequence[float]) -> dict[str, Any]:
    head = run.head
    return {
        "group": case,
        "name": f"{arm}[{case}]",
        "fullname": f"srbench::{arm}[{case}]",
        "params": {"case": case, "pipeline": arm},
        "param": case,
        "extra_info": {
            "run": head.run_id,
            "purpose": head.purpose,
            "profile": head.profile,
            "precision": head.precision,
            "weights": head.weights.get("label"),
            "version": head.versions.get(arm),
            "options": head.options.get(arm, {}),
        },
        "options": {
            "disable_gc": False,
            "timer": "perf_counter_ns",
            "min_rounds": head.blocks * head.pairs,
            "warmup": True,
        },
        "stats": describe(seconds),
    }


def _machine(run: Run) -> dict[str, Any]:
    facts = run.head.fingerprint
    return {
        "node": facts.get("host"),
        "processor": facts.get("cpu_model"),
        "machine": facts.get("gpu_name") or facts.get("cpu_model"),
        "python_version": facts.get("python"),
        "system": facts.get("os"),
        "cpu": {"brand_raw": facts.get("cpu_model"), "count": facts.get("cpu_cores")},
        "gpu": facts.get("gpu_name"),
        "driver": facts.get("driver"),
        "versions": facts.get("versions"),
    }


def _commit(run: Run) -> dict[str, Any]:
    facts = run.head.fingerprint
    return {
        "id": facts.get("commit") or "unversioned",
        "time": None,
        "author_time": None,
        "dirty": bool(facts.get("dirty")),
        "project": "srbench",
        "branch": "(unknown)",
    }
