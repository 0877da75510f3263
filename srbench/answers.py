"""Whether an answer of a worker can be believed: a foreign engine may be wrong or lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srbench.outcome import one_line
from srbench.protocol import (
    VERSION,
    Alone,
    Described,
    Estimated,
    Loaded,
    Paint,
    Painted,
    Prepared,
    Repainted,
    Timed,
)
from srbench.wire import Message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOLERANCE = 0.01
TOLERANCE_MS = 1.0
"""An engine's own time may be longer by this share and this much than the wall time between request
and answer: device clocks are off by some parts in a thousand."""

PRECISIONS = ("fp32", "fp16")
TIERS = ("exact", "reduced", "approx")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_TEXT = 300


def objection(
    request: Message | None,
    reply: Message,
    spent_ms: float | None = None,
    size: tuple[int, int] | None = None,
) -> str | None:
    """What is wrong with an answer whose fields are of their types, in words.

    Args:
        request: What was asked; None for `Describe`.
        reply: The answer.
        spent_ms: Wall time between the two; None where the device is simulated.
        size: Height and width that pictures must have; None for any.

    Returns:
        The first thing; None when there is nothing.
    """
    name = type(reply).__name__.lower()
    found = [wrong for kind, check in _CHECKS.items() if isinstance(reply, kind)
             for wrong in check(reply)]  # fmt: skip
    if spent_ms is not None:
        found += _too_long(reply, spent_ms)
    if isinstance(request, Paint) and isinstance(reply, Painted | Repainted) and not found:
        found += _pictures(request, reply, size)
    return f"'{name}': {found[0]}" if found else None


def _described(reply: Described) -> Iterator[str]:
    if reply.protocol != VERSION:
        yield f"it speaks version {reply.protocol} of the protocol, this srbench {VERSION}"
    if not reply.precisions or set(reply.precisions) - set(PRECISIONS):
        yield f"precisions are {reply.precisions}, expected some of {', '.join(PRECISIONS)}"
    for precision in reply.precisions:
        if reply.tiers.get(precision) not in TIERS:
            yield (
                f"the tier of {precision} is {reply.tiers.get(precision)!r}, expected one of "
                f"{', '.join(TIERS)}"
            )
    if not reply.version:
        yield "version is empty"
    texts = [reply.version, *reply.options]
    yield from _strange(texts, "version and names of options")


def _loaded(reply: Loaded) -> Iterator[str]:
    yield from _negative(load_ms=reply.load_ms)


def _estimated(reply: Estimated) -> Iterator[str]:
    yield from _negative(needed_bytes=reply.needed_bytes, free_bytes=reply.free_bytes)
    size = reply.output_size
    if size is not None and (len(size) != 2 or min(size) < 1):
        yield f"output_size is {size[:3]}, expected height and width"


def _prepared(reply: Prepared) -> Iterator[str]:
    yield from _negative(prepare_ms=reply.prepare_ms)
    yield from _strange([*reply.decisions, *reply.decisions.values()], "decisions")


def _timed(reply: Timed) -> Iterator[str]:
    if reply.latency_ms <= 0:
        yield f"latency_ms is {reply.latency_ms:g}"
    yield from _negative(gpu_ms=reply.gpu_ms, **reply.stages_ms)
    yield from _strange(reply.stages_ms, "stages_ms")
    if not _SHA256.fullmatch(reply.output_sha256):
        yield f"output_sha256 is {reply.output_sha256[:70]!r}, expected 64 hexadecimal digits"
    if set(reply.state) - {"before", "after"}:
        yield "state holds something else than 'before' and 'after'"
    for reading in reply.state.values():
        yield from _reading(reading)


def _painted(reply: Painted) -> Iterator[str]:
    yield from _negative(**reply.memory)


def _alone(reply: Alone) -> Iterator[str]:
    for reading in reply.states:
        yield from _reading(reading)
    if reply.distinct_pictures is not None and reply.distinct_pictures < 1:
        yield f"distinct_pictures is {reply.distinct_pictures}"
    if reply.energy_j is not None and reply.energy_j <= 0:
        yield f"energy_j is {reply.energy_j:g}"


_CHECKS: dict[type[Message], Callable[[Any], Iterable[str]]] = {
    Described: _described,
    Loaded: _loaded,
    Estimated: _estimated,
    Prepared: _prepared,
    Timed: _timed,
    Painted: _painted,
    Alone: _alone,
}


def _negative(**values: float | None) -> Iterator[str]:
    for name, value in values.items():
        if value is not None and value < 0:
            yield f"{one_line(name, 40)} is {value:g}"


def _strange(texts: Iterable[str], what: str) -> Iterator[str]:
    """Texts that go into tables: of one line, and not longer than one can read."""
    if any(not text.isprintable() or len(text) > _LONGEST_TEXT for text in texts):
        yield f"{what} must be printable and of at most {_LONGEST_TEXT} characters"


def _reading(reading: object) -> Iterator[str]:
    """What is wrong with a reading of the card, see `srbench.nvml.Monitor.state`."""
    if not isinstance(reading, Mapping):
        yield "a reading of the card is no object"
        return
    for name, value in reading.items():
        values = value if name == "compute_pids" and isinstance(value, list) else [value]
        if any(isinstance(v, bool) or not isinstance(v, int | float | None) for v in values):
            yield f"a reading of the card: {one_line(str(name), 40)} is no number"


def _too_long(reply: Message, spent_ms: float) -> Iterator[str]:
    """Times that end after the answer came."""
    times = {
        name: getattr(reply, name)
        for name in ("load_ms", "prepare_ms", "latency_ms", "gpu_ms")
        if getattr(reply, name, None) is not None
    }
    if isinstance(reply, Timed):
        times |= reply.stages_ms
    for name, value in times.items():
        if value > spent_ms * (1 + TOLERANCE) + TOLERANCE_MS:
            yield f"{name} is {value:.6g}, but its answer came after {spent_ms:.6g} ms"


def _pictures(
    request: Paint, reply: Painted | Repainted, size: tuple[int, int] | None
) -> Iterator[str]:
    """What is wrong with the files of an answer."""
    import numpy as np

    from srbench.fidelity.repeats import digest

    picture, wrong = _array(request, "picture", reply.picture, np.uint8, size)
    if wrong or picture is None:
        yield f"picture: {wrong}"
        return
    told = getattr(reply, "picture_sha256", None)
    if told is not None and told != digest(picture):
        yield f"picture_sha256 is {told[:70]!r}, which is not that of its file"
    same = picture.shape[0], picture.shape[1]
    for name, kind in (
        ("picture_float", np.float32),
        ("repeat", np.uint8),
        ("other_seed", np.uint8),
    ):
        file = getattr(reply, name, None)
        if file is not None and (found := _array(request, name, file, kind, same)[1]):
            yield f"{name}: {found}"


def _array(
    request: Paint, name: str, file: str, kind: type, size: tuple[int, int] | None
) -> tuple[NDArray[Any] | None, str]:
    """The array of a file, or what is wrong with it."""
    import numpy as np

    shown, path = one_line(Path(file).name, 80), Path(file)
    wanted = Path(request.outputs)
    if path.parent != wanted.parent or not path.name.startswith(wanted.name):
        return None, f"{one_line(file, 120)} does not begin with the prefix that was given"
    if not path.is_file():
        return None, f"{shown}: there is no such file"
    try:
        shape, dtype, size_told = _npy_header(path)
    except (ValueError, OSError, EOFError) as error:
        return None, f"{shown}: cannot be read ({one_line(str(error), 80)})"
    if dtype != kind or len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        return None, f"{shown} holds {dtype} {shape}, expected {kind.__name__} [H, W, 3]"
    if size is not None and shape[:2] != size:
        found, wanted_size = f"{shape[1]}x{shape[0]}", f"{size[1]}x{size[0]}"
        return None, f"{shown} is {found} pixels, expected {wanted_size}"
    if path.stat().st_size != size_told:
        return None, f"{shown} has {path.stat().st_size} bytes, its header tells of {size_told}"
    # Mapped: a large float picture is not read only to learn its size.
    return np.load(path, mmap_mode="r", allow_pickle=False), ""


def _npy_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type that a `.npy` file tells of, and the size it must then have in bytes.

    Raises:
        ValueError: It is none.
    """
    from numpy.lib import format as npy

    with path.open("rb") as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype, file.tell() + prod(shape) * dtype.itemsize
