"""Where derived and downloaded files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$SRBENCH_CACHE`, else `srbench` in the user's cache folder. It may not exist yet."""
    chosen = os.environ.get("SRBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "srbench"
