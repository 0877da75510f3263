"""Speak srbench's worker protocol (PROTOCOL.md) from Python 3.8 or newer, by this one file alone.

class Mine(Engine):
defaults = {"steps": 4}
def upscale(self, image, scale, seed): ...  # returns uint8 [H, W, 3] or an Image

serve(Mine)
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import queue
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, NoReturn

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")


class Refused(ValueError):  # noqa: N818
    """What the engine does not take, an option, a size or a file, in one line for the user."""


class Weights(NamedTuple):
    """The weights of a run: where, `folder`, `mini` or `synthetic`, and their identity (hex)."""

    path: str
    kind: str
    digest: str
    synthetic: bool


class Image(NamedTuple):
    """A picture: RGB, rows first, a byte a value; or, if `floats`, float32 in [0, 1]."""

    height: int
    width: int
    data: bytes
    floats: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the values."""
        return hashlib.sha256(self.data).hexdigest()

    def save(self, path: str) -> str:
        """Write it as `.npy`; returns the path."""
        descr, shape = "<f4" if self.floats else "|u1", (self.height, self.width, 3)
        header = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
        header += b" " * (-(11 + len(header)) % 64) + b"\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        Path(path).write_bytes(start + self.data)
        return path

    def numpy(self) -> Any:
        """Its values as an array of its own, [height, width, 3]."""
        import numpy

        kind = numpy.float32 if self.floats else numpy.uint8
        return numpy.frombuffer(bytearray(self.data), kind).reshape(self.height, self.width, 3)


class Engine:
    """What is measured. Override what differs; only `upscale` must be.

    Attributes:
        version: Of what it computes.
        tiers: Each supported precision, `fp32` or `fp16`: `exact`, `reduced` or `approx`.
        defaults: Option: default. The default's type is the option's; None is a text or nothing.
        choices: Option: the values it takes, where they are few.
        out_of_memory: Exceptions that mean it, beside MemoryError and those of torch.
        tf32: Whether TF32 arithmetic is allowed.
        device: `cpu` or `cuda`, set before `load`.
    """

    version = "1"
    tiers: ClassVar[dict[str, str]] = {"fp32": "exact"}
    defaults: ClassVar[dict[str, Any]] = {}
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {}
    out_of_memory: ClassVar[tuple[type[BaseException], ...]] = ()
    tf32 = False
    device = "cpu"
    _spans: tuple[tuple[str, Any, Any], ...] = ()

    def __init__(self, options: dict[str, Any]) -> None:
        """Take the values of all options; no weight is touched yet."""
        self.options = options

    def load(self, weights: Weights, device: str, precision: str) -> None:
        """Put the weights on the device."""

    def prepare(self, height: int, width: int, scale: int) -> dict[str, str] | None:
        """Do once what an input size needs; tell what was chosen, by subject."""

    def upscale(self, image: Image, scale: int, seed: int) -> Any:
        """The timed span: uint8 [H, W, 3] or an Image, in host memory."""
        raise NotImplementedError

    def upscale_float(self, image: Image, scale: int, seed: int) -> Any:
        """The same before it is rounded, float32 in [0, 1]; None where that cannot be had."""

    def output_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Height and width of what becomes of an input size."""
        return height * scale, width * scale

    @property
    def _cuda(self) -> Any:
        torch = sys.modules.get("torch")
        return torch.cuda if torch is not None and self.device == "cuda" else None

    def synchronize(self) -> None:
        """Wait for the device. This and what follows is done for you where torch is used."""
        if self._cuda:
            self._cuda.synchronize()

    def mark(self) -> Any:
        """Now, in the device's time."""
        if not self._cuda:
            return time.perf_counter()
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """Milliseconds between two marks; asked when the device has finished."""
        return float(first.elapsed_time(last) if self._cuda else (last - first) * 1000)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Mark a stage of an image: `with self.stage("unet")`."""
        first = self.mark()
        yield
        self._spans = (*self._spans, (name, first, self.mark()))

    def reset_memory(self) -> None:
        """Begin to watch what `memory_bytes` tells."""
        if self._cuda:
            self._cuda.empty_cache()
            self._cuda.reset_peak_memory_stats()

    def memory_bytes(self) -> dict[str, int]:
        """Peaks of device memory: `allocator_peak_bytes`, `reserved_peak_bytes`."""
        if not self._cuda:
            return {}
        peaks = self._cuda.max_memory_allocated(), self._cuda.max_memory_reserved()
        return {"allocator_peak_bytes": peaks[0], "reserved_peak_bytes": peaks[1]}

    def memory_estimate(self, height: int, width: int, scale: int) -> int | None:
        """Bytes of device memory that an image needs beside the weights, if known."""

    def free_memory(self) -> int | None:
        """Bytes free on the device, if known."""
        return int(self._cuda.mem_get_info()[0]) if self._cuda else None


class _Session:
    """An engine that is asked: each public method answers the request of its name."""

    def __init__(self, kind: type[Engine]) -> None:
        self._kind = kind

    def describe(self, arm: str, assignments: dict[str, dict[str, str]], **_: Any) -> Any:
        known = self._kind.defaults
        for key in assignments.get(arm, {}):
            if key not in known:
                raise Refused(f"--set {arm}.{key}: no such option.{_hint(key, list(known))}")
        texts = {**assignments.get("", {}), **assignments.get(arm, {})}
        parsed = {key: self._parse(key, text) for key, text in texts.items() if key in known}
        engine = self.engine = self._kind({**known, **parsed})
        facts = {"options": engine.options, "version": engine.version, "tiers": engine.tiers}
        return {"type": "described", "protocol": 1, **facts, "precisions": list(engine.tiers)}

    def _parse(self, key: str, text: str) -> Any:
        kind = type(self._kind.defaults[key])
        try:
            value = _KINDS.get(kind, str)(text)
            json.dumps(value, allow_nan=False)
        except (ValueError, KeyError):
            raise Refused(f"--set {key}={text}: expected {kind.__name__}") from None
        choices = self._kind.choices.get(key, (value,))
        if value not in choices:
            raise Refused(f"--set {key}={text}: expected one of {', '.join(map(str, choices))}")
        return value

    def load(self, device: str, precision: str, **asked: Any) -> Any:
        self.engine.device = device
        weights = Weights(*(asked[key] for key in Weights._fields))
        load_ms = self._clocked(lambda: self.engine.load(weights, device, precision))[1]
        return {"type": "loaded", "load_ms": load_ms, "tf32": self.engine.tf32}

    def estimate(self, height: int, width: int, scale: int, **_: Any) -> Any:
        size = list(self.engine.output_size(height, width, scale))
        needed = self.engine.memory_estimate(height, width, scale)
        told = {"needed_bytes": needed, "free_bytes": self.engine.free_memory()}
        return {"type": "estimated", **told, "output_size": size}

    def prepare(self, height: int, width: int, scale: int, **_: Any) -> Any:
        done = self._clocked(lambda: self.engine.prepare(height, width, scale))
        return {"type": "prepared", "prepare_ms": done[1], "decisions": done[0] or {}}

    def upscale(self, image: str, scale: int, seed: int, **_: Any) -> Any:
        source = _read(image)
        made, ms, gpu_ms = self._clocked(lambda: self.engine.upscale(source, scale, seed))
        stages: dict[str, float] = {}
        for name, first, last in self.engine._spans:
            stages[name] = stages.get(name, 0.0) + self.engine.elapsed_ms(first, last)
        told = {"latency_ms": ms, "gpu_ms": gpu_ms, "stages_ms": stages}
        return {"type": "timed", **told, "output_sha256": self._plain(made, source, scale).digest}

    def paint(self, image: str, scale: int, seed: int, outputs: str, **_: Any) -> Any:
        self.engine.reset_memory()
        made = self._picture(image, scale, seed)
        memory, source = self.engine.memory_bytes(), _read(image)
        exact: Any = self.engine.upscale_float(source, scale, seed)
        if exact is not None:
            exact = self._plain(exact, source, scale, floats=True).save(f"{outputs}-float.npy")
        told = {"picture": made.save(f"{outputs}-picture.npy"), "picture_float": exact}
        return {"type": "painted", **told, "memory": memory}

    def repaint(self, image: str, scale: int, seed: int, outputs: str, **_: Any) -> Any:
        made = self._picture(image, scale, seed)
        told = {"picture": made.save(f"{outputs}-picture.npy"), "picture_sha256": made.digest}
        return {"type": "repainted", **told}

    def _picture(self, image: str, scale: int, seed: int) -> Image:
        source = _read(image)
        return self._plain(self.engine.upscale(source, scale, seed), source, scale)

    def _clocked(self, call: Callable[[], Any]) -> tuple[Any, float, float | None]:
        """What a call returns; its ms from an idle device to an idle device, and on the device."""
        engine = self.engine
        engine._spans = ()
        engine.synchronize()
        start, first = time.perf_counter(), engine.mark()
        result = call()
        last = engine.mark()
        engine.synchronize()
        spent_ms = (time.perf_counter() - start) * 1000
        gpu_ms = None if isinstance(first, float) else engine.elapsed_ms(first, last)
        return result, spent_ms, gpu_ms

    def _plain(self, made: Any, source: Image, scale: int, floats: bool = False) -> Image:
        """What the engine made as an Image of the size that it promised."""
        if not isinstance(made, Image):
            kind = "float32" if floats else "uint8"
            if str(made.dtype) != kind or len(made.shape) != 3:
                raise TypeError(f"the engine made {made.dtype} {tuple(made.shape)}, not {kind}")
            made = Image(made.shape[0], made.shape[1], made.tobytes(), floats)
        plain: Image = made
        height, width = self.engine.output_size(source.height, source.width, scale)
        size = height * width * (12 if floats else 3)
        if (plain.height, plain.width, len(plain.data)) != (height, width, size):
            told = f"{plain.width}x{plain.height} pixels in {len(plain.data)} bytes"
            raise TypeError(f"the engine made {told}, not {width}x{height} in {size}")
        return plain

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request; whatever it raises becomes one."""
        kind = request.pop("type")
        try:
            if kind not in _REQUESTS:
                raise Refused(f"a foreign engine does not answer '{kind}'")
            answer: dict[str, Any] = getattr(self, kind)(**request)
            return answer
        except Exception as error:  # noqa: BLE001  the boundary where errors become outcomes
            last = traceback.format_exception_only(type(error), error)[-1]
            return {"type": "failed", **self._failure(error, " ".join(last.split())[:300])}

    def _failure(self, error: Exception, last: str) -> dict[str, str]:
        if isinstance(error, Refused):
            return {"outcome": "unsupported", "reason": str(error)}
        traceback.print_exc()
        starved = isinstance(error, (MemoryError, *self._kind.out_of_memory))
        said = isinstance(error, RuntimeError) and any(m in last.lower() for m in _NO_MEMORY)
        return {"outcome": "oom" if starved or said else "crash", "reason": last}


_REQUESTS = ("describe", "load", "estimate", "prepare", "upscale", "paint", "repaint")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True}
_TRUTH.update({"false": False, "no": False, "off": False, "0": False})
_KINDS: dict[type, Callable[[str], Any]] = {
    bool: lambda text: _TRUTH[text.lower()],
    int: int,
    float: float,
    type(None): lambda text: None if text.lower() == "none" else text,
}


def _hint(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(sorted(known))}."


def _read(path: str) -> Image:
    """An input: `.npy` of uint8 [H, W, 3]."""
    with Path(path).open("rb") as file:
        size = "<H" if file.read(8)[6] == 1 else "<I"
        length = struct.unpack(size, file.read(struct.calcsize(size)))[0]
        header = ast.literal_eval(file.read(length).decode("latin-1"))
        height, width, _ = header["shape"]
        return Image(height, width, file.read())


def serve(kind: type[Engine]) -> NoReturn:
    """Answer srbench on what was stdout until it says goodbye or is gone.

    Nothing may have been printed before: import what prints in the engine's own methods.
    """
    answers, requests = os.fdopen(os.dup(1), "wb", 0), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # no print, and no C library, can write into the protocol
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # and no child of the engine read from it
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, lines), daemon=True).start()
    session = _Session(kind)
    while True:
        request = json.loads(lines.get())
        if request["type"] == "exit":
            _leave()
        answers.write(json.dumps(session.answer(request)).encode() + b"\n")


def _listen(requests: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Pass requests on; when srbench is gone, leave even in the middle of an image."""
    for line in requests:
        lines.put(line)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    _leave()


def _leave() -> NoReturn:
    sys.stderr.flush()
    os._exit(0)
