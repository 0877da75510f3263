"""Who computes a metric: pyiqa by default, torchmetrics as the permissive alternative."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from srbench.errors import UsageError, did_you_mean
from srbench.fidelity.metrics import METRICS
from srbench.metrics_weights import have_lpips, heads_file, torch_home

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

    def measure(self, metric: str, candidate: torch.Tensor, reference: torch.Tensor) -> Measurement:
        """Measure one picture, [1, 3, H, W] RGB in [0, 1], against another of the same size."""


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
        self._version = ""

    def measure(self, metric: str, candidate: torch.Tensor, reference: torch.Tensor) -> Measurement:
        """See `Provider`."""
        import torch

        if metric not in self._metrics:
            with _library_manners():
                self._metrics[metric] = self._prepare(metric)
        provider = f"{self.name} {self._version} ({METRICS[metric].variant})"
        function = self._metrics[metric]
        if isinstance(function, str):
            return Measurement(None, function, provider)
        try:
            with torch.inference_mode(), _library_manners():
                value = float(function(candidate.to(self.device), reference.to(self.device)))
        except _UNAVAILABLE as error:
            return Measurement(None, f"{self.name} failed ({_first_line(error)})", provider)
        if value != value or value in (float("inf"), float("-inf")):
            return Measurement(None, f"{self.name} returned {value}", provider)
        return Measurement(value, None, provider)

    def _prepare(self, metric: str) -> Callable[[Any, Any], Any] | str:
        if have_lpips():
            os.environ["TORCH_HOME"] = str(torch_home())
        elif metric == "lpips":  # both libraries would download, which nobody asked for
            return "its weights are missing; `srbench weights fetch --metrics` gets them"
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
        import pyiqa

        self._version = _version("pyiqa")
        studio = {"test_y_channel": True, "color_space": "ycbcr"}
        heads = {"pretrained_model_path": str(heads_file())}
        special: dict[str, tuple[str, dict[str, Any]]] = {
            "psnr": ("psnr", studio),
            "psnr_rgb": ("psnr", {"test_y_channel": False}),
            "ssim": ("ssim", studio),
            "ssim_rgb": ("ssimc", {}),
            "lpips": ("lpips", heads),
        }
        name, options = special.get(metric, (metric, {}))
        built = pyiqa.create_metric(name, device=self.device, **options)
        if METRICS[metric].needs_reference:
            function: Callable[[Any, Any], Any] = built
            return function
        return lambda candidate, _: built(candidate)


class TorchmetricsProvider(_LazyProvider):
    """torchmetrics (Apache-2.0): PSNR, SSIM and LPIPS."""

    name = "torchmetrics"

    def _build(self, metric: str) -> Callable[[Any, Any], Any]:
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        self._version = _version("torchmetrics")
        match metric:
            case "psnr":
                return lambda a, b: _psnr(_luma(a), _luma(b))
            case "psnr_rgb":
                return _psnr
            case "ssim":
                return lambda a, b: ssim(_luma(a) * 255, _luma(b) * 255, data_range=255.0)
            case "ssim_rgb":
                return lambda a, b: ssim(a, b, data_range=1.0)
            case "lpips":
                from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

                network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
                network.to(self.device)
                function: Callable[[Any, Any], Any] = network.forward
                return function
        raise ValueError("torchmetrics is asked for psnr, ssim and lpips only")


def _psnr(candidate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """With pyiqa's 1e-8, so that both providers read 80 dB on equal pictures."""
    from torchmetrics.functional import mean_squared_error

    mse: torch.Tensor = mean_squared_error(candidate, reference)
    return -10 * (mse + 1e-8).log10()


def _luma(image: torch.Tensor) -> torch.Tensor:
    """Y of BT.601 studio range, [1, 1, H, W]: 16/255 to 235/255."""
    weights = image.new_tensor((65.481, 128.553, 24.966)).view(1, 3, 1, 1)
    return ((image * weights).sum(dim=1, keepdim=True) + 16) / 255


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


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
