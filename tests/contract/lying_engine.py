"""The toy, but what it answers goes through a fault first: rubbish, lies, silence."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines" / "external"))
from srbench_engine import _Session
from toy_engine import Toy

Answer = dict[str, Any]
MIB = 1 << 20


def line(answer: Any) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def told(**changes: Any) -> Callable[[Answer], bytes]:
    """An answer with other values, or without those that are `...`."""

    def change(answer: Answer) -> bytes:
        answer = {**answer, **changes}
        return line({key: value for key, value in answer.items() if value is not ...})

    return change


def on_file(spoil: Callable[[Path], object]) -> Callable[[Answer], bytes]:
    """An answer whose picture is another than it was."""

    def change(answer: Answer) -> bytes:
        spoil(Path(answer["picture"]))
        return line(answer)

    return change


def header(descr: str, shape: tuple[int, ...], size: int) -> bytes:
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(11 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(size)


def flood(answer: Answer) -> bytes:
    while True:
        os.write(OUT, b"x" * MIB)


def dribble(answer: Answer) -> bytes:
    while True:
        os.write(OUT, b"x")
        time.sleep(0.05)


def close(answer: Answer) -> bytes:
    os.close(OUT)
    time.sleep(600)
    return b""


def leave_a_child(answer: Answer) -> bytes:
    """The process is gone, but somebody holds its output."""
    if os.fork() == 0:
        time.sleep(600)
    os._exit(4)


def die(answer: Answer) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


UPSCALE: dict[str, Callable[[Answer], bytes]] = {
    "words": lambda answer: b"hello, world\n",
    "binary": lambda answer: b"\xff\xfe\x00\n",
    "list": lambda answer: line([answer]),
    "deep": lambda answer: b"[" * 200_000 + b"\n",
    "flood": flood,
    "nan": told(latency_ms=float("nan")),
    "infinite": lambda answer: line(answer).replace(b'"latency_ms": ', b'"latency_ms": 1e999'),
    "endless": told(latency_ms=10**400),
    "negative": told(latency_ms=-1.0),
    "zero": told(latency_ms=0),
    "slower": told(latency_ms=1e6),
    "faster-stage": told(stages_ms={"unet": 1e6}),
    "negative-stage": told(stages_ms={"unet": -1}),
    "text": told(latency_ms="fast"),
    "truth": told(latency_ms=True),
    "missing": told(latency_ms=...),
    "unknown": told(latency=1.0),
    "half-a-character": told(output_sha256="\ud800"),
    "short-hash": told(output_sha256="ab"),
    "reading": told(state={"after": {"sm_clock_mhz": "high"}}),
    "no-reading": told(state={"after": 5}),
    "another-type": lambda answer: line({"type": "loaded", "load_ms": 1.0, "tf32": False}),
    "request": lambda answer: line({"type": "exit"}),
    "melted": lambda answer: line({"type": "failed", "outcome": "melted", "reason": "hot"}),
    "fine": lambda answer: line({"type": "failed", "outcome": "ok", "reason": ""}),
    "twice": lambda answer: 2 * line(answer),
    "dead": die,
    "closed": close,
    "orphan": leave_a_child,
}
PAINT: dict[str, Callable[[Answer], bytes]] = {
    "no-file": on_file(Path.unlink),
    "letters": on_file(lambda path: path.write_text("hello, world")),
    "truncated": on_file(lambda path: os.truncate(path, 1000)),
    "header-only": on_file(lambda path: path.write_bytes(header("|u1", (32, 32, 3), 0))),
    "pickle": on_file(lambda path: path.write_bytes(header("|O", (1,), 8))),
    "floats": on_file(lambda path: path.write_bytes(header("<f4", (32, 32, 3), 12288))),
    "grey": on_file(lambda path: path.write_bytes(header("|u1", (32, 32), 1024))),
    "small": on_file(lambda path: path.write_bytes(header("|u1", (16, 16, 3), 768))),
    "vast": on_file(lambda path: path.write_bytes(header("|u1", (1 << 40, 1 << 40, 3), 64))),
    "elsewhere": told(picture="/etc/passwd"),
    "no-float": told(picture_float="/etc/passwd"),
    "memory": told(memory={"allocator_peak_bytes": -1}),
}
REPAINT = {"hash": told(picture_sha256="0" * 64)}
LOAD = {"load-time": told(load_ms=1e6), "load-null": told(tf32=None)}
ESTIMATE = {"no-size": told(output_size=[0, 3]), "need": told(needed_bytes=-1)}
PREPARE = {"decisions": told(decisions={"a": "line\nbreak"}), "number": told(decisions={"a": 1})}
DESCRIBE = {
    "protocol": told(protocol=2),
    "tier": told(tiers={"fp32": "superb"}),
    "no-tier": told(tiers={}),
    "precision": told(precisions=["fp64"]),
    "no-version": told(version=""),
    "nan-option": told(options={"a": float("nan")}),
    "mute": lambda answer: time.sleep(600) or b"",
    "dribble": dribble,
}
BY_REQUEST: dict[str, dict[str, Any]] = {
    "upscale": UPSCALE,
    "paint": PAINT,
    "repaint": REPAINT,
    "load": LOAD,
    "estimate": ESTIMATE,
    "prepare": PREPARE,
    "describe": DESCRIBE,
}
OUT = 1


class Liar(Toy):
    """Has the fault as its option."""

    defaults: ClassVar[dict[str, Any]] = {"fault": "", **Toy.defaults}

    def load(self, *_: Any) -> None:
        pass


def main() -> None:
    session = _Session(Liar)
    if "early" in sys.argv:
        os.write(OUT, b"ready\n")
    for text in sys.stdin.buffer:
        request = json.loads(text)
        kind = request["type"]
        if kind == "exit":
            return
        answer = session.answer(request)
        fault = session.engine.options["fault"]
        os.write(OUT, BY_REQUEST.get(kind, {}).get(fault, line)(answer))


if __name__ == "__main__":
    main()
