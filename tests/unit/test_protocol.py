import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.contract import PipelineError
from srbench.errors import UsageError
from srbench.outcome import Failure, classify, of_exit
from srbench.protocol import Counted, CountWork, Describe, Load, Solo, Timed
from srbench.wire import REPLIES, REQUESTS, Exit, Failed, Message, RubbishError, decode
from srbench.workbench import Workbench
from srbench.worker_process import Launch, WorkerProcess
from tests.fixtures_pipelines import Bicubic, BicubicOptions

LOAD = Load(path="w", kind="mini", digest="0", synthetic=True, device="cpu", precision="fp32")
TIMED = Timed(
    latency_ms=0.1 + 0.2, gpu_ms=None, stages_ms={"unet": 1 / 3}, state={}, output_sha256="ab"
)


def test_messages_survive_the_wire() -> None:
    assert decode(LOAD.encode(), REQUESTS) == LOAD
    assert decode(Exit().encode(), REQUESTS) == Exit()
    assert decode(TIMED.encode(), REPLIES) == TIMED
    solo = Solo(image="i", scale=2, seed=2**63 - 1, outputs="o", other_seed=2**63)
    assert decode(solo.encode(), REQUESTS) == solo
    assert TIMED.encode().count(b"\n") == 1
    assert json.loads(LOAD.encode())["type"] == "load"


def test_line_breaks_inside_a_value_stay_inside() -> None:
    message = Failed(outcome="crash", reason="a\nb")
    assert message.encode().count(b"\n") == 1
    assert decode(message.encode(), REPLIES) == message


@pytest.mark.parametrize(
    "line", [b"hello\n", b"[]\n", b'{"type": "nothing"}\n', b'{"type": "exit"}']
)
def test_what_is_not_of_the_protocol_is_refused(line: bytes) -> None:
    with pytest.raises(RubbishError, match="is no"):
        decode(line, REPLIES)


@pytest.mark.parametrize(
    ("error", "outcome", "words"),
    [
        (MemoryError(), "oom", "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "oom", "2 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "oom", "9 bytes"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "oom", "tried"),
        (RuntimeError("shape mismatch"), "crash", "RuntimeError: shape mismatch"),
        (PipelineError("no such size"), "unsupported", "no such size"),
        (UsageError("no such option"), "unsupported", "no such option"),
        (KeyError("x"), "crash", "KeyError: 'x'"),
        (ValueError("a\nb " + "c" * 999), "crash", "ValueError: a b c"),
    ],
)
def test_errors_become_outcomes_of_one_line(error: Exception, outcome: str, words: str) -> None:
    failure = classify(error)
    assert failure.outcome == outcome
    assert words in failure.reason
    assert "\n" not in failure.reason
    assert len(failure.reason) <= 300


def test_ends_of_a_process_are_named() -> None:
    assert "SIGSEGV" in of_exit(-11).reason
    assert "memory runs out" in of_exit(-9).reason
    assert "exit code 3" in of_exit(3).reason
    assert "signal 99" in of_exit(-99).reason


def test_all_counters_of_a_pipeline_cross_the_protocol() -> None:
    bench = Workbench()
    name = "tests.fixtures_pipelines:Bicubic"
    bench.handle(Describe(arm=name, pipeline=name, assignments={"": {}, name: {}}))
    counted = bench.handle(CountWork(width=32, height=16, scale=2))
    assert isinstance(counted, Counted)
    expected = asdict(Bicubic(BicubicOptions()).work(16, 32, 2))
    del expected["operators"]
    assert asdict(counted) == expected
    assert decode(counted.encode(), REPLIES) == counted


def test_a_worker_starts_to_listen_without_torch() -> None:
    check = "import sys, srbench.worker, srbench.workbench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_an_outcome_of_another_srbench_is_no_traceback(tmp_path: Path) -> None:
    answer = json.dumps({"type": "failed", "outcome": "melted", "reason": "hot"})
    worker = WorkerProcess(tmp_path / "log", Launch(command=("echo", answer)))
    try:
        failure = worker.receive(Message, 10)
        assert isinstance(failure, Failure)
        assert failure.reason == "answered rubbish: 'failed': no such outcome: 'melted'"
    finally:
        worker.kill()
