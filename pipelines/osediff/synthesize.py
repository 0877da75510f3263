"""Seeded adapters beside the seeded snapshot of S3Diff: latency is real, pictures are not."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.osediff.adapter_file import published_content
from pipelines.osediff.architecture import adapted
from pipelines.osediff.weights import expected_tensors
from pipelines.s3diff.recipe import Recipe, recipe
from pipelines.s3diff.synthesize import tensor
from pipelines.stable_diffusion.weight_folder import SNAPSHOT

if TYPE_CHECKING:
    from torch import Tensor


def synthesize(source: Path, folder: Path, plan: Recipe) -> None:
    """Write `osediff.pkl`, and `sd-turbo/` as a link into seeded weights of S3Diff.

    Args:
        source: Seeded weights of S3Diff.
        folder: Made here.
        plan: What `source` was made of.
    """
    import torch

    architecture = adapted(plan.architecture)
    expected = expected_tensors(architecture)

    def state(group: str, alike: str) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(tensor(plan, alike, _as_in_s3diff(name), shape))
            for name, shape in expected[group].items()
        }

    folder.mkdir(parents=True)
    (folder / SNAPSHOT).symlink_to((source / SNAPSHOT).resolve())
    content = published_content(
        architecture,
        state("adapters_unet", "state_dict_unet"),
        state("adapters_vae", "state_dict_vae"),
    )
    torch.save(content, folder / "osediff.pkl")


def _as_in_s3diff(name: str) -> str:
    """What S3Diff's checkpoint calls a tensor: its recipe knows which layers are special."""
    return re.sub(r"\.default_\w+\.", ".default.", name).replace(".base_layer.", ".")


def main() -> None:
    """Entry of the subprocess that fills the cache: `--source DIR --out DIR`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    synthesize(arguments.source, arguments.out, recipe("full"))


if __name__ == "__main__":
    main()
