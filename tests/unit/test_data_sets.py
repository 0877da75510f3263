"""Actors for data sets: how a cluster is divided, what is begun, and what was begun too often."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.contract import Precision
from pipelines.external.bicubic.options import BicubicOptions
from srbench.errors import NotComparableError, UsageError
from srbench.executors.cluster import Node
from srbench.executors.crew import Crew, choose_crew, choose_device
from srbench.executors.data_set import CutOff, in_sequences
from srbench.executors.hand import End
from srbench.executors.ledger import MAX_ATTEMPTS, Ledger, Word
from srbench.executors.upscaling import Painting
from srbench.painting import Painter
from srbench.systems import resolve_weights
from srbench.upscaling import Request


def machine(cpus: float, gpus: float = 0) -> Node:
    return Node(f"{cpus}-{gpus}", "10.0.0.1", cpus, gpus, ())


@pytest.mark.parametrize(
    ("machines", "device", "asked", "crew", "told"),
    [
        ([machine(8)], "cpu", None, Crew(1, 8, 0), ""),
        ([machine(8), machine(4)], "cpu", None, Crew(2, 4, 0), ""),
        ([machine(8), machine(4)], "cpu", 3, Crew(3, 4, 0), ""),
        ([machine(8), machine(3)], "cpu", 4, Crew(4, 2, 0), ""),
        ([machine(2)], "cpu", 5, Crew(2, 1, 0), "--actors 5: the cluster has 2 cores; 2 actors"),
        ([machine(0), machine(8, 4)], "cuda", None, Crew(4, 1, 1), ""),
        ([machine(8, 4), machine(1, 2)], "cuda", None, Crew(5, 1, 1), ""),
        ([machine(8, 1)], "cuda", 2, Crew(1, 1, 1), "--actors 2: the cluster has 1 cards"),
    ],
)
def test_a_cluster_is_divided_among_actors(
    machines: list[Node], device: str, asked: int | None, crew: Crew, told: str
) -> None:
    notes: list[str] = []
    assert choose_crew(machines, device, asked, notes.append) == crew
    assert len(notes) == bool(told)
    assert all(note.startswith(told) for note in notes)


def test_a_cluster_without_what_is_asked_for_is_refused() -> None:
    assert choose_device("auto", [machine(2)]) == "cpu"
    assert choose_device("auto", [machine(2), machine(1, 1)]) == "cuda"
    assert choose_device("cpu", [machine(1, 1)]) == "cpu"
    with pytest.raises(UsageError, match="no machine of the cluster has a card"):
        choose_device("cuda", [machine(2)])
    with pytest.raises(UsageError, match="expected cpu, cuda or auto"):
        choose_device("tpu", [machine(2)])
    with pytest.raises(UsageError, match="no cores to give away"):
        choose_crew([machine(0)], "cpu", None, print)


def test_a_work_is_begun_a_few_times_and_nothing_after_a_stop() -> None:
    ledger = Ledger()
    assert [ledger.begin(7) for _ in range(MAX_ATTEMPTS + 1)] == [
        *[Word.GO] * MAX_ATTEMPTS, Word.GIVE_UP,
    ]  # fmt: skip
    assert ledger.begin(8) is Word.GO
    assert ledger.stop() == {7, 8}
    assert ledger.stopped()
    assert ledger.begin(9) is Word.STOP
    assert ledger.stop() == {7, 8}


def test_actors_of_lost_machines_are_found() -> None:
    ledger = Ledger()
    ledger.arrive("one", "a", 1)
    ledger.arrive("two", "b", 2)
    assert ledger.away_from({"a"}) == {"two": 2}
    assert ledger.present({"a"}) == 1
    ledger.arrive("two", "a", 2)  # restarted there
    assert ledger.away_from({"a"}) == {}
    ledger.dismiss("one")
    assert ledger.present({"a", "b"}) == 1


def test_replies_are_taken_work_by_work() -> None:
    cut = CutOff()

    def sent() -> Iterator[tuple[int, Any]]:
        yield from ((0, "a"), (0, "b"), (0, End.DONE), (1, "c"), (1, cut), (1, "c"), (1, End.DONE))

    taken = [(number, list(replies)) for number, replies in in_sequences(sent())]
    assert taken == [(0, ["a", "b", End.DONE]), (1, ["c", cut]), (1, ["c", End.DONE])]
    # Whoever takes only the first of each loses none of the next.
    first = [(number, next(replies)) for number, replies in in_sequences(sent())]
    assert first == [(0, "a"), (1, "c"), (1, "c")]


def test_a_command_ends_when_the_head_of_the_cluster_is_gone() -> None:
    waiting = """
import socket, sys, time
from types import SimpleNamespace
from srbench.cli import crews
from srbench.executors import cluster
cluster._PATIENCE_S, cluster._SILENCE_S = 0.1, 0.2
head = socket.create_server(("127.0.0.1", 0))
address = SimpleNamespace(gcs_address="127.0.0.1:%d" % head.getsockname()[1])
with crews._guarded(SimpleNamespace(get_runtime_context=lambda: address)):
    time.sleep(1.3)
    print("alive", flush=True)
    head.close()
    time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", waiting], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout) == (4, "alive\n")
    assert done.stderr.startswith("srbench: the head of the cluster, 127.0.0.1:")
    assert done.stderr.endswith("what is stored is stored, the same command goes on\n")


def test_an_actor_with_another_pipeline_or_other_weights_is_refused() -> None:
    request = Request("bicubic", BicubicOptions(), [], 2, 0, "cpu", Precision.FP32)
    weights = resolve_weights(["bicubic"], None, "cpu")
    digest, version = weights.digest, Painter(request, weights, print).version
    with pytest.raises(NotComparableError, match="is version 1, here it is 2"):
        Painting(request, None, digest, "2", 1).open(print)
    with pytest.raises(NotComparableError, match="every machine needs the same"):
        Painting(request, None, "0" * 64, version, 1).open(print)
    Painting(request, None, digest, version, 1).open(print)
