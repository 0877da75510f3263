"""What `PROTOCOL.md` says is what happens."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srbench import protocol
from srbench.wire import REPLIES, REQUESTS, decode
from srbench.worker_process import LONGEST_LINE

EXTERNAL = Path(__file__).parents[2] / "pipelines" / "external"
DOCUMENT = (EXTERNAL / "PROTOCOL.md").read_text("utf-8")
SPOKEN = {
    "describe": "described",
    "load": "loaded",
    "estimate": "estimated",
    "prepare": "prepared",
    "upscale": "timed",
    "paint": "painted",
    "repaint": "repainted",
}


def _block(language: str, mark: str) -> str:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    (found,) = (text for kind, text in blocks if kind == language and mark in text)
    return str(found)


@pytest.mark.parametrize("python", [sys.executable, "python3.8"])
def test_the_session_in_the_document_is_what_happens(tmp_path: Path, python: str) -> None:
    """The engine is the document's own, in an interpreter that knows nothing of srbench."""
    if subprocess.run(f"{python} -c ''", shell=True, capture_output=True, check=False).returncode:
        pytest.skip(f"no {python} here")
    shutil.copy(EXTERNAL / "srbench_engine.py", tmp_path)
    (tmp_path / "nearest.py").write_text(_block("python", "class Nearest"))
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.save(tmp_path / "in.npy", picture)
    made = (picture + 2).repeat(2, axis=0).repeat(2, axis=1)
    sha = hashlib.sha256(made.tobytes()).hexdigest()
    lines = _block("", "→").replace("FOLDER", str(tmp_path)).replace("SHA", sha).splitlines()
    engine = subprocess.Popen(
        [python, "-E", "-s", "-S", str(tmp_path / "nearest.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        for line in lines:
            arrow, message = line[0], line[2:]
            if arrow == "→":
                decode(message.encode(), REQUESTS)
                print(message, file=engine.stdin, flush=True)
            else:
                answer = engine.stdout.readline()
                decode(answer.encode(), REPLIES)
                _same(json.loads(answer), json.loads(message))
        assert engine.wait(10) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out-0-picture.npy"), made)


def _same(told: Any, written: Any) -> None:
    """Equal, but for times, which are as many."""
    if isinstance(written, float):
        assert isinstance(told, float)
        assert told >= 0
    elif isinstance(written, dict):
        assert list(told) == list(written)
        for key, value in written.items():
            _same(told[key], value)
    else:
        assert told == written


@pytest.mark.parametrize(("request_name", "answer"), SPOKEN.items())
def test_every_field_is_in_the_document(request_name: str, answer: str) -> None:
    for name, messages in ((request_name, REQUESTS), (answer, REPLIES)):
        (row,) = re.findall(rf"^\| `{name}` \| (.*)", DOCUMENT, re.MULTILINE)
        row = row.replace("as of `estimate`", "`width` `height` `scale`")
        row = row.replace("as of `paint`", "`image` `scale` `seed` `outputs`")
        for each in fields(messages[name]):
            assert f"`{each.name}`" in row, f"{name}.{each.name}"
            needed = each.default is MISSING and each.default_factory is MISSING
            if messages is REPLIES:
                assert (f"**`{each.name}`**" in row) is needed, f"{name}.{each.name}"


def test_the_helper_keeps_to_the_grammar_of_python_3_8() -> None:
    ast.parse((EXTERNAL / "srbench_engine.py").read_text("utf-8"), feature_version=(3, 8))


def test_numbers_of_the_document() -> None:
    assert f"**version {protocol.VERSION}**" in DOCUMENT
    assert f"at most {LONGEST_LINE >> 20} MiB" in DOCUMENT
