"""What adapters of other people's checkouts share; for Python 3.8 or newer, beside the adapters.

Their programs are run as they are. What they need of their surroundings (folder, import path, a
card) is checked here first, and every lack is a sentence.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.external.srbench_engine import Refused
else:
    from srbench_engine import Refused

_POSTERIOR_MODULES = ("diffusers.models.autoencoders.vae", "diffusers.models.vae")


def enter(folder: str, option: str, files: tuple[str, ...], paths: tuple[str, ...]) -> Path:
    """Work in a checkout as its own scripts do.

    Args:
        folder: Of the checkout, as given.
        option: That gave it, for messages.
        files: That must be in it.
        paths: Folders in it to import from; `.` is the checkout.

    Returns:
        The folder, which is the current one now.
    """
    if not folder:
        raise Refused(f"--set {option}=PATH is missing: the folder of the checkout")
    root = Path(folder).expanduser().absolute()
    for name in files:
        if not (root / name).is_file():
            raise Refused(f"--set {option}={folder}: {name} is not there; name the checkout")
    os.chdir(root)
    sys.argv = sys.argv[:1]  # their modules read options from it
    sys.path[:0] = [str(root / path) for path in paths]
    return root


def require_file(path: Path, what: str) -> str:
    """A file or folder that their program is about to read."""
    if not path.exists():
        raise Refused(f"{path}: missing; {what}")
    return str(path)


def imported(name: str) -> Any:
    """A module, theirs or one that they need."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Refused(
            f"{sys.executable} cannot import {name} ({error}); install what the checkout requires "
            "there, or name another interpreter by --set NAME.python="
        ) from error
    except (RuntimeError, AssertionError, OSError) as error:
        raise _refused_or(error, name) from error


def built(make: Any, **arguments: Any) -> Any:
    """What a class of theirs makes; where it asks for a card that is not there, a sentence."""
    try:
        return make(**arguments)
    except (RuntimeError, AssertionError, KeyError) as error:
        if "size mismatch" in str(error) or isinstance(error, KeyError):
            said = " ".join(str(error).split())[:120]
            raise Refused(
                f"these weights do not fit the sizes of the checkout's networks ({said}); give "
                "published ones by --weights"
            ) from error
        raise _refused_or(error, getattr(make, "__name__", "it")) from error


def _refused_or(error: Exception, name: str) -> Exception:
    import torch

    if torch.cuda.is_available():
        return error
    said = " ".join(str(error).split())[:120]
    return Refused(f"{name} needs a CUDA card, and torch {torch.__version__} finds none ({said})")


class SeededPosterior:
    """The latent drawn from float32 noise of the seed, made on the CPU, as in every srbench arm."""

    def __init__(self) -> None:
        """Replace the sampling of diffusers' posterior, where their program has imported it."""
        self.seed = 0
        loaded = (sys.modules.get(name) for name in _POSTERIOR_MODULES)
        kinds = [module.DiagonalGaussianDistribution for module in loaded if module is not None]
        self.replaced = bool(kinds)
        for kind in kinds:
            kind.sample = lambda posterior, generator=None: self._sample(posterior)

    def _sample(self, posterior: Any) -> Any:
        import torch

        mean = posterior.mean
        generator = torch.Generator("cpu").manual_seed(self.seed)
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float32)
        return mean + posterior.std * noise.to(mean.device, mean.dtype)

    def seeded(self, seed: int) -> None:
        """Draw from that seed; it also seeds whatever else their program draws."""
        import torch

        self.seed = seed
        torch.manual_seed(seed)

    @property
    def told(self) -> str:
        """For the report."""
        if self.replaced:
            return "posterior noise drawn on the CPU from the seed, as in the other arms"
        return "drawn by the checkout itself after torch.manual_seed(seed)"
