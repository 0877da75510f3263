"""The limits of a run beside it: `results/<profile>/<run id>.limits.json`.

A report counts nothing and starts no worker; `srbench roofline` leaves it what it found.
"""

from __future__ import annotations

import json
from pathlib import Path

from srbench.durable import replace_file
from srbench.errors import UsageError
from srbench.records import RunRecord
from srbench.roofline.model import Roofline

LIMITS_VERSION = 1
_KIND = "limits"
StoredLimits = dict[str, dict[str, dict[str, float]]]
"""Case -> arm -> `datasheet` or `measured` -> the least milliseconds of an image."""


def limits_path(root: Path, profile: str, run_id: str) -> Path:
    """Where they lie under the results folder `root`."""
    return root / profile / f"{run_id}.limits.json"


def write_limits(root: Path, roofline: Roofline) -> Path | None:
    """Keep the limits of the run that a roofline's times are from.

    Returns:
        The file; None where the times are of no run.

    Raises:
        UsageError: It cannot be written.
    """
    if roofline.run_id is None:
        return None
    limits = {
        case: {arm: each.whole.limits_ms for arm, each in arms.items() if not each.not_measured}
        for case, arms in roofline.cases.items()
    }
    path = limits_path(root, roofline.profile.name, roofline.run_id)
    content = {"kind": _KIND, "schema_version": LIMITS_VERSION, "limits_ms": limits}
    try:
        replace_file(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def read_limits(root: Path, head: RunRecord) -> StoredLimits:
    """The limits of a run; empty where `srbench roofline` was not asked.

    Raises:
        UsageError: The file is damaged, or written by a newer srbench.
    """
    path = limits_path(root, head.profile, head.run_id)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != _KIND or content["schema_version"] > LIMITS_VERSION:
            raise ValueError(f"kind or version {content['schema_version']!r}")
        return {
            str(case): {
                str(arm): {str(source): float(limit) for source, limit in each.items()}
                for arm, each in arms.items()
            }
            for case, arms in content["limits_ms"].items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: damaged ({error}); make it again: srbench roofline --run {head.run_id}"
        ) from error
