"""The head of a Markdown page: which run, on what, and how its tables are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srbench.report.model import ReportModel, block_count

_MEMORY_NAMES = {
    "peak_tensor_bytes": "peak of live tensor bytes during one image, weights excluded",
    "allocator_peak_bytes": "peak allocated by the CUDA caching allocator, weights included",
}


def page_header(model: ReportModel, heading: str) -> str:
    """Title, banners, facts and how to read, of one run.

    Args:
        model: The run.
        heading: Heading marks of the title.
    """
    head = model.run.head
    weights = head.weights.get("label") or head.weights.get("kind") or "unknown"
    lines = [f"{heading} {model.profile.title}: {head.run_id}"]
    if model.simulated:
        lines.append(
            "**SIMULATED: a fake device made up every number here. Nothing was measured, and "
            "nothing follows from it for any machine.**"
        )
    if model.synthetic:
        lines.append(
            "**SYNTHETIC weights: no network here was trained. The times are real, the pictures "
            "and their likeness to anything but the baseline mean nothing.**"
        )
    state = "" if model.run.ended else " (**not finished**)"
    facts = [
        f"- Device: {_device(head.fingerprint, model.profile.title)}",
        f"- Precision: {head.precision}{', TF32 allowed' if head.tf32 else ''}",
        f"- Weights: {weights} (`{str(head.weights.get('digest', ''))[:12]}`)",
        f"- Plan: {block_count(model.run)} of {head.blocks} blocks x {head.pairs} pairs, "
        f"seed {head.seed}, noise seed {head.noise_seed}{state}",
        *_design(model),
        f"- Versions: srbench {head.srbench_version}, "
        + ", ".join(f"{arm} {version}" for arm, version in head.versions.items()),
        *_environment(head.fingerprint),
        f"- Started: {head.started_at}",
    ]
    return "\n\n".join([*lines, "\n".join(facts), _how_to_read(model)])


def _design(model: ReportModel) -> list[str]:
    """What a reader must know of the design beyond the usual."""
    head = model.run.head
    lines = []
    if head.looks:
        *early, last = head.looks
        looks = f"{', '.join(map(str, early))} and {last}" if early else str(last)
        against = f" against {head.against}" if head.against else ""
        done = len(model.run.finished_blocks)
        decided = f"; decided after {done}" if model.run.ended and done < head.blocks else ""
        lines.append(f"- Sequential: looks{against} after {looks} blocks{decided}")
    if head.pairing == "block":
        lines.append("- Pairing: block (one arm after the other)")
    if head.purpose == "ladder":
        lines.append("- Purpose: ladder, the options of a pipeline switched on one after another")
    if head.purpose == "aa":
        lines.append("- Purpose: A/A, the same pipeline in both arms")
    if model.run.voids:
        count = len(model.run.voids)
        blocks = "block, measured" if count == 1 else "blocks, each measured"
        lines.append(f"- Voided: {count} disturbed {blocks} again")
    return lines


def _how_to_read(model: ReportModel) -> str:
    processes = "pair of processes"
    turns = "inside it the two arms take turns image by image"
    if model.run.head.purpose == "ladder":
        processes = "process for each arm"
        turns = (
            "inside it one arm is measured after the other, up or down the ladder, so that "
            "neighbours on it are neighbours in time"
        )
    elif model.run.head.pairing == "block":
        turns = "inside it one arm is measured after the other, as both do not fit on the device"
    return (
        f"How to read: a *block* is a fresh {processes}; {turns}. Time cost is the median "
        "over all images from uint8 picture in host memory to uint8 picture in host memory. The "
        "speed-up is not the quotient of those two medians "
        "but the paired estimate: the median ratio of neighbouring images in each block, averaged "
        "over blocks, with Student's t interval over blocks (none with one block). Memory is the "
        f"{_MEMORY_NAMES[model.memory_metric]}. PSNR is of the 8-bit RGB picture against the "
        "baseline's with the same noise; the worst block is its lowest 64x64 square."
    )


def _device(fingerprint: Mapping[str, Any], title: str) -> str:
    if gpu := fingerprint.get("gpu_name"):
        return str(gpu)
    if cpu := fingerprint.get("cpu_model"):
        cores = fingerprint.get("cpu_cores")
        return f"{cpu}, {cores} cores" if cores else str(cpu)
    return title


def _environment(fingerprint: Mapping[str, Any]) -> list[str]:
    lines = []
    if commit := fingerprint.get("commit"):
        lines.append(f"- Commit: {commit}{' (modified)' if fingerprint.get('dirty') else ''}")
    libraries = fingerprint.get("versions")
    if isinstance(libraries, dict) and libraries:
        named = ", ".join(f"{name} {version}" for name, version in libraries.items() if version)
        lines.append(f"- Libraries: {named}")
    return lines
