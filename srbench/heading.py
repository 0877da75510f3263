"""How every results file begins: its id, its time, the version that writes it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from srbench import __version__
from srbench.profiles import Profile


def start_of_run(profile: Profile) -> dict[str, Any]:
    """The fields of `RunRecord` that no setting decides."""
    now = datetime.now(UTC)
    return {
        "run_id": f"{now:%Y%m%dT%H%M%SZ}-{profile.name}-{secrets.token_hex(2)}",
        "started_at": now.isoformat(timespec="seconds"),
        "srbench_version": __version__,
        "profile": profile.name,
    }
