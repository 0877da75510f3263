"""Ceilings: the real suite's small shapes on CPU, and their file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from srbench.errors import UsageError
from srbench.protocol import Ceilings, MeasureCeilings
from srbench.roofline.benchmarks import Pace, measure_ceilings
from srbench.roofline.ceilings import (
    Ceiling,
    CeilingsFile,
    ceilings_path,
    read_ceilings,
    write_ceilings,
)
from srbench.roofline.suite import Entry, attention, convolution, copy, product, suite, upsampling
from srbench.roofline.text import fold_lines
from srbench.workbench import Workbench

FAST = Pace(warmup_s=0.001, repetition_s=0.001, repetitions=3)


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Iterator[None]:
    """The worker sets them for its process."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = benchmark


def stored(*ceilings: Ceiling) -> CeilingsFile:
    return CeilingsFile(
        profile="cpu",
        device="cpu",
        precision="fp32",
        measured_at="2025-01-02T03:04:05+00:00",
        srbench_version="0",
        fingerprint={"cpu_model": "Some CPU"},
        ceilings=list(ceilings),
    )


COPY = Ceiling(name="copy", kind="copy", shape="[8]", flops=0, bytes=64, times_ms=[0.5, 0.25])
CONV = Ceiling(name="conv", kind="conv", shape="", flops=9, bytes=8, reason="does not fit")


def test_small_operations_are_timed() -> None:
    entries = [product(16), copy(64), convolution("vae", 1, 8, 4, 4), attention("unet", 2, 8, 4)]
    precision, found = measure_ceilings("cpu", entries, FAST)
    assert precision == "fp32"
    assert [each.name for each in found] == [entry.name for entry in entries]
    for each, entry in zip(found, entries, strict=True):
        assert len(each.times_ms) == 3
        assert min(each.times_ms) > 0
        assert each.reason is None
        assert each.bytes == 4 * entry.elements
    assert found[0].flops == 2 * 16**3


def test_inputs_are_fresh_and_never_zero() -> None:
    seen: list[torch.Tensor] = []
    entry = product(64)
    watched = Entry(
        name="watched", kind="linear", shape="", flops=1, elements=1 << 20,
        inputs=entry.inputs, call=lambda a, b: seen.extend((a, b)),
    )  # fmt: skip
    measure_ceilings("cpu", [watched], FAST)
    distinct = {tensor.data_ptr(): tensor for tensor in seen}.values()
    assert len(distinct) >= 8, "sets take turns so that none is still in the cache"
    assert all(tensor.std() > 0.5 for tensor in distinct)
    assert len({tensor.sum().item() for tensor in distinct}) == len(distinct)


def test_what_does_not_fit_is_said_and_the_rest_goes_on() -> None:
    def too_large(*_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    small = product(8)
    large = Entry(
        name="large", kind="linear", shape="", flops=1, elements=1, inputs=small.inputs,
        call=too_large,
    )  # fmt: skip
    _, (first, second) = measure_ceilings("cpu", [large, small], FAST)
    assert first.times_ms == []
    assert first.reason is not None
    assert "2 GiB" in first.reason
    assert second.times_ms


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_suite_says_what_it_computes(device: str) -> None:
    """FLOPs and shapes against the dispatcher's own count, on the meta device."""
    from pipelines.work import WorkCounter

    entries = suite(device)
    assert len({entry.name for entry in entries}) == len(entries)
    integers = [entry for entry in entries if entry.kind == "int8_linear"]
    assert len(integers) == (device == "cuda")
    assert {entry.kind for entry in entries} - {"int8_linear"} == {
        "linear", "conv", "attention", "copy", "norm", "fold",
    }  # fmt: skip
    for entry in entries:
        inputs = entry.inputs(lambda *shape: torch.empty(shape, device="meta"))
        with torch.inference_mode(), WorkCounter() as counter:
            entry.call(*inputs)
        counts = counter.counts()
        moved = sum(each.eager_bytes * each.count for each in counts.operators)
        if entry in integers:  # bytes are those of codes and sums, on every device
            assert moved == 2 * entry.elements
            continue
        assert counts.total_flops == entry.flops, entry.name
        assert 4 * entry.elements == pytest.approx(moved, rel=0.02), entry.name


def test_the_folded_convolution_is_the_same_function() -> None:
    """Or its time against the plain one's would mean nothing."""
    plain, folded = upsampling("vae", 1, 4, 5, 3)
    draw = lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(0))  # noqa: E731
    x, weight = plain.inputs(draw)
    _, wide = folded.inputs(draw)
    assert plain.call(x, weight).shape == folded.call(x, wide).shape == (1, 4, 10, 6)
    assert plain.flops == pytest.approx(folded.flops * 9 / 4)


def test_a_worker_measures_the_real_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    from srbench.roofline import benchmarks

    monkeypatch.setitem(benchmarks.PACES, "cpu", FAST)
    reply = Workbench().handle(MeasureCeilings(device="cpu"))
    assert isinstance(reply, Ceilings)
    assert reply.precision == "fp32"
    assert reply.states == []
    found = stored(*(Ceiling(**each) for each in reply.ceilings))
    assert all(each.times_ms for each in found.ceilings)
    for kind in ("linear", "conv", "attention"):
        assert (found.best_flops_per_s(kind) or 0) > 1e6
    assert len(fold_lines(found)) == 2


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_ceilings(tmp_path, "cpu") is None
    file = stored(COPY, CONV)
    path = write_ceilings(tmp_path, file)
    assert path == ceilings_path(tmp_path, "cpu")
    assert read_ceilings(tmp_path, "cpu") == file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "noise"}, "no record"),
        ({"schema_version": "1"}, "no schema_version"),
        ({"schema_version": 2}, "newer than 1"),
        ({"profile": "h100"}, "of profile 'h100'"),
        ({"precision": 16}, "precision is 16"),
        ({"ceilings": {}}, "no list"),
        ({"ceilings": [{"name": "copy"}]}, "kind"),
        ({"ceilings": [{"name": 1, "kind": "copy"}]}, "name is 1"),
    ],
)
def test_a_damaged_file_is_an_error_of_one_line(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = write_ceilings(tmp_path, stored(COPY))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match=words) as error:
        read_ceilings(tmp_path, "cpu")
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_time_of_zero_is_damage(tmp_path: Path) -> None:
    path = write_ceilings(tmp_path, stored(COPY))
    path.write_text(path.read_text().replace("0.25", "0.0"))
    with pytest.raises(UsageError, match="not above 0"):
        read_ceilings(tmp_path, "cpu")
    path.write_text("{")
    with pytest.raises(UsageError, match="no JSON"):
        read_ceilings(tmp_path, "cpu")


def test_an_unwritable_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "cpu").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_ceilings(tmp_path, stored(COPY))
