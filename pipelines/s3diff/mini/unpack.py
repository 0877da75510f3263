"""Entry of the subprocess that unpacks `mini` into the cache: `--out DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.s3diff.mini.packing import unpack
from pipelines.s3diff.weight_sources import MINI


def main() -> None:
    """Write the weights folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    unpack(MINI, parser.parse_args().out)


if __name__ == "__main__":
    main()
