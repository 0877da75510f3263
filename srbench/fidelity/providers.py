"""Who computes a metric: pyiqa by default, torchmetrics as the permissive alternative."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from srbench.errors import UsageError, did_you_mean
from srbench.fidelity.frechet import (
    Picture,
    frechet_distance,
    inception_features,
    load_inception,
)
from srbench.fidelity.metrics import METRICS
from srbench.metrics_weights import heads_file, torch_home, why_missing

if TYPE_CHECKING:
    import torch

_UNAVAILABLE = (
    OSError,
    RuntimeError,
    ValueError,
    AssertionError,
    ImportError,
    LookupError,
    AttributeError,
    TypeError,
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value, or the reason why there is none."""

    value: float | None
    reason: str | None
    provider: str


class Provider(Protocol):
    """A library that measures pictures."""

    name: str
    device: str

    def describe(self, metric: str) -> str:
        """Library, version and variant, as in records; nothing is loaded for it."""

    def measure(self, metric: str, candidate: torch.Tensor, reference: torch.Tensor) -> Measurement:
        """Measure one picture, [1, 3, H, W] RGB in [0, 1], against another of the same size."""

    def measure_folders(
        self, metric: str, candidates: Iterable[Picture], references: Iterable[Picture]
    ) -> Measurement:
        """Measure all pictures, [H, W, 3] RGB, against all references."""


def open_provider(name: str, device: str) -> Provider:
    """`pyiqa` or `torchmetrics`, computing on `device`.

    Raises:
        UsageError: Unknown name.
    """
    if name == "pyiqa":
        return PyiqaProvider(device)
    if name == "torchmetrics":
        return TorchmetricsProvider(device)
    raise UsageError(f"provider '{name}': unknown.{did_you_mean(name, ['pyiqa', 'torchmetrics'])}")


class _LazyProvider:
    """Builds each metric at its first use and remembers why one cannot be built."""

    name = ""

    def __init__(self, device: str) -> None:
        self.device = device
        self._metrics: dict[str, Callable[[Any, Any], Any] | str] = {}

    def describe(self, metric: str) -> str:
        """See `Provider`."""
        return f"{self.name} {_version(self.name)} ({METRICS[metric].variant})"

    def measure(self, metric: str, candidate: torch.Tensor, reference: torch.Tensor) -> Measurement:
        """See `Provider`."""
        return self._compute(metric, candidate.to(self.device), reference.to(self.device))

    def measure_folders(
        self, metric: str, candidates: Iterable[Picture], references: Iterable[Picture]
    ) -> Measurement:
        """See `Provider`."""
        return self._compute(metric, candidates, references)

    def _compute(self, metric: str, candidate: Any, reference: Any) -> Measurement:
        import torch

        if metric not in self._metrics:
            with _library_manners():
                self._metrics[metric] = self._prepare(metric)
        provider = self.describe(metric)
        function = self._metrics[metric]
        if isinstance(function, str):
            return Measurement(None, function, provider)
        try:
            with torch.inference_mode(), float32(), _library_manners():
                value = float(function(candidate, reference))
        except _UNAVAILABLE as error:
            return Measurement(None, f"{self.name} failed ({_first_line(error)})", provider)
        if value != value or value in (float("inf"), float("-inf")):
            return Measurement(None, f"{self.name} returned {value}", provider)
        return Measurement(value, None, provider)

    def _prepare(self, metric: str) -> Callable[[Any, Any], Any] | str:
        if reason := why_missing(metric):  # the libraries would download, which nobody asked for
            return reason
        os.environ["TORCH_HOME"] = str(torch_home())
        try:
            return self._build(metric)
        except _UNAVAILABLE as error:
            return f"{self.name} cannot compute it here ({_first_line(error)})"

    def _build(self, metric: str) -> Callable[[Any, Any], Any]:
        raise NotImplementedError


class PyiqaProvider(_LazyProvider):
    """pyiqa (its licence is noncommercial)."""

    name = "pyiqa"

    def _build(self, metric: str) -> Callable[[Any, Any], Any]:
        # Read when the hub library is imported: unreachable hubs are otherwise tried for a minute.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if metric == "fid":
            return self._fid(load_inception(self.device))
        import pyiqa

        studio = {"test_y_channel": True, "color_space": "ycbcr"}
        special: dict[str, tuple[str, dict[str, Any]]] = {
            "psnr": ("psnr", studio),
            "psnr_rgb": ("psnr", {"test_y_channel": False}),
            "ssim": ("ssim", studio),
            "ssim_rgb": ("ssimc", {}),
            "lpips": ("lpips", {"pretrained_model_path": str(heads_file())}),
            "lpips-vgg": ("lpips-vgg", {"pretrained_model_path": str(heads_file("vgg"))}),
        }
        name, options = special.get(metric, (metric, {}))
        # Not the wrapper: it allows TF32 around every call, whatever was set before.
        network: Callable[..., Any] = pyiqa.create_metric(name, device=self.device, **options).net
        if METRICS[metric].needs_reference:
            return network
        return lambda candidate, _: network(candidate)

    def _fid(self, network: torch.nn.Module) -> Callable[[Any, Any], Any]:
        def distance(candidates: Iterable[Picture], references: Iterable[Picture]) -> float:
            ours, theirs = (
                inception_features(network, pictures, self.device)
                for pictures in (candidates, references)
            )
            return frechet_distance(ours, theirs)

        return distance


class TorchmetricsProvider(_LazyProvider):
    """torchmetrics (Apache-2.0): PSNR, SSIM, LPIPS and DISTS."""

    name = "torchmetrics"

    def _build(self, metric: str) -> Callable[[Any, Any], Any]:
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        match metric:
            case "psnr":
                return lambda a, b: _psnr(_luma(a), _luma(b))
            case "psnr_rgb":
                return _psnr
            case "ssim":
                return lambda a, b: ssim(_luma(a) * 255, _luma(b) * 255, data_range=255.0)
            case "ssim_rgb":
                return lambda a, b: ssim(a, b, data_range=1.0)
            case "lpips" | "lpips-vgg":
                from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

                backbone: Literal["alex", "vgg"] = "alex" if metric == "lpips" else "vgg"
                network = LearnedPerceptualImagePatchSimilarity(backbone, normalize=True)
                network.to(self.device)
                function: Callable[[Any, Any], Any] = network.forward
                return function
            case "dists":
                from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity

                structure = DeepImageStructureAndTextureSimilarity(reduction="mean")
                compared: Callable[[Any, Any], Any] = structure.to(self.device).forward
                return compared
        raise ValueError("torchmetrics is asked for psnr, ssim, lpips and dists only")


def _psnr(candidate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """With pyiqa's 1e-8, so that both providers read 80 dB on equal pictures."""
    from torchmetrics.functional import mean_squared_error

    mse: torch.Tensor = mean_squared_error(candidate, reference)
    return -10 * (mse + 1e-8).log10()


def _luma(image: torch.Tensor) -> torch.Tensor:
    """Y of BT.601 studio range, [1, 1, H, W]: 16/255 to 235/255."""
    weights = image.new_tensor((65.481, 128.553, 24.966)).view(1, 3, 1, 1)
    return ((image * weights).sum(dim=1, keepdim=True) + 16) / 255


@lru_cache
def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Real float32 and the same kernels every time: no autocast is on, TF32 is off."""
    import torch

    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = allowed


@contextlib.contextmanager
def _library_manners() -> Iterator[None]:
    """Keep what libraries print off stdout, which carries our result, and mute their warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
