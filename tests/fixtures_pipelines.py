"""Small honest pipelines that drive the real coordinator and workers, and some that break."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from pipelines.contract import PipelineError, Precision, Tier, WorkCounts, stage


@dataclass(frozen=True, slots=True, kw_only=True)
class BicubicOptions:
    """`repeats` makes it slower without changing its picture; `break_on` names an LR width."""

    filter: Literal["bicubic", "lanczos"] = "bicubic"
    repeats: int = 1
    break_on: int = 0
    mark: str = ""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise PipelineError(f"option repeats={self.repeats}: must be at least 1")


class Bicubic:
    """Upscales with Pillow; the picture depends on the seed as a diffusion model's does."""

    name: ClassVar[str] = "bicubic"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = BicubicOptions
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32,)
    tiers: ClassVar[dict[Precision, Tier]] = {Precision.FP32: Tier.EXACT}

    def __init__(self, options: BicubicOptions) -> None:
        self.options = options

    def load(self, weights: Any, device: Any, precision: Precision) -> None:
        if not Path(weights.path).is_dir():
            raise PipelineError(f"{weights.path}: no weights there")
        os.write(1, b"chatter on stdout must not reach the protocol\n")

    def prepare(self, height: int, width: int, scale: int) -> None:
        pass

    def break_down(self) -> None:
        pass

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        result = self.upscale_float(image, scale, seed=seed)
        with stage("postprocess"):
            return np.rint(result * 255).astype(np.uint8)

    def upscale_float(
        self, image: np.ndarray, scale: int, *, seed: int, observe: Any = None
    ) -> np.ndarray:
        import torch

        if image.shape[1] == self.options.break_on:
            self.break_down()
        kind = Image.Resampling[self.options.filter.upper()]
        size = (image.shape[1] * scale, image.shape[0] * scale)
        with stage("preprocess"):
            source = Image.fromarray(image)
        for _ in range(self.options.repeats):
            with stage("unet"):
                picture = source.resize(size, kind)
        noise = np.random.default_rng(seed).integers(0, 2, size=(1, 1, 3))
        values = torch.from_numpy(np.clip(np.asarray(picture).astype(np.int16) + noise, 0, 255))
        result = values.float() / 255
        if observe is not None:
            observe("eps", result[:1])
        return result.numpy()

    def work(self, height: int, width: int, scale: int) -> WorkCounts:
        return WorkCounts(flops={"unet": 32 * height * width * scale**2})

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        return height * width * scale**2 * 12


class Killed(Bicubic):
    def break_down(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Starved(Bicubic):
    def break_down(self) -> None:
        raise MemoryError("no room for 9 GiB")


class Hanging(Bicubic):
    def break_down(self) -> None:
        time.sleep(600)


class Raising(Bicubic):
    def break_down(self) -> None:
        raise ZeroDivisionError("a bug\nof two lines")


class Refusing(Bicubic):
    def break_down(self) -> None:
        raise PipelineError("this size is not supported")


class KilledOnce(Bicubic):
    """Dies in the first worker that meets the width, not in the one that follows it."""

    def break_down(self) -> None:
        mark = Path(self.options.mark)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Slow(Bicubic):
    """Takes a tenth of a second, so that a test can interrupt it."""

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        time.sleep(0.1)
        return super().upscale(image, scale, seed=seed)


class HalfPrecisionOnly(Bicubic):
    precisions = (Precision.FP16,)
    tiers: ClassVar[dict[Precision, Tier]] = {Precision.FP16: Tier.REDUCED}


class Unloadable(Bicubic):
    def load(self, weights: Any, device: Any, precision: Precision) -> None:
        raise PipelineError("de_net.pth: weights of another model")


class Heavy(Bicubic):
    """Its weights do not fit, though they are the right ones."""

    def load(self, weights: Any, device: Any, precision: Precision) -> None:
        raise MemoryError("weights of 99 GiB")


class Forgetful(Bicubic):
    """Ignores the seed: every image has noise of its own."""

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        return super().upscale(image, scale, seed=time.monotonic_ns())


NOT_A_PIPELINE = 3


class EitherPrecision(Bicubic):
    """In fp16 its values are those of half precision."""

    precisions = (Precision.FP32, Precision.FP16)
    tiers: ClassVar[dict[Precision, Tier]] = {
        Precision.FP32: Tier.EXACT,
        Precision.FP16: Tier.REDUCED,
    }

    def load(self, weights: Any, device: Any, precision: Precision) -> None:
        super().load(weights, device, precision)
        self.precision = precision

    def upscale_float(
        self, image: np.ndarray, scale: int, *, seed: int, observe: Any = None
    ) -> np.ndarray:
        def rounded(name: str, tensor: Any) -> None:
            observe(name, tensor.half() if self.precision is Precision.FP16 else tensor)

        result = super().upscale_float(image, scale, seed=seed, observe=observe and rounded)
        half = self.precision is Precision.FP16
        return result.astype(np.float16).astype(np.float32) if half else result


class TooLargeInFp32(EitherPrecision):
    def break_down(self) -> None:
        if self.precision is Precision.FP32:
            raise MemoryError("no room for 30 GiB")


class Wavering(EitherPrecision):
    """Not deterministic: three kinds of pictures in turns, one corner darker or much darker."""

    calls = 0

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        picture = super().upscale(image, scale, seed=seed)
        picture[:8, :8] //= 1 + self.calls % 3
        self.calls += 1
        return picture


class TurnsTf32On(EitherPrecision):
    def load(self, weights: Any, device: Any, precision: Precision) -> None:
        import torch

        super().load(weights, device, precision)
        torch.backends.cuda.matmul.allow_tf32 = True


class Parent(Bicubic):
    """Starts a process of its own and leaves the number in the file `mark`."""

    name = "parent"

    def __init__(self, options: BicubicOptions) -> None:
        super().__init__(options)
        if options.mark:
            child = subprocess.Popen(["sleep", "600"])
            Path(options.mark).write_text(str(child.pid))
