"""Commands as arms, and built-in pipelines that are programs of their own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from srbench.armspec import ArmSpec, parse_arm
from srbench.built_in import BUILT_IN, Entry
from srbench.commands import command_name, command_words, split_arms
from srbench.config import load_settings
from srbench.engines import launched
from srbench.errors import UsageError
from srbench.protocol import Described
from srbench.registry import is_foreign, load_pipeline
from srbench.wire import Exit
from srbench.worker_process import Launch, WorkerProcess, _environment


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedOptions:
    python: str = ""
    checkout: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedyOptions:
    python: str


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    entry = Entry(
        "engine-x",
        "external/engine_x.py",
        f"{__name__}:NamedOptions",
        script="external/engine_x.py",
        note="not run here",
    )
    monkeypatch.setitem(BUILT_IN, entry.name, entry)
    return entry.name


@pytest.mark.parametrize(
    ("text", "arms"),
    [
        ("a,b", ["a", "b"]),
        (" a , ,b,", ["a", "b"]),
        ("a,x=cmd:/p/python -m adapter,b", ["a", "x=cmd:/p/python -m adapter", "b"]),
        ('x=cmd:"/p -m adapter --l a,b",y', ['x=cmd:"/p -m adapter --l a,b"', "y"]),
        ("x=cmd:/p --l 'a,b' --m c\\,d,y", ["x=cmd:/p --l 'a,b' --m c\\,d", "y"]),
        ("""x=cmd:/p "it's, so",y""", ["""x=cmd:/p "it's, so\"""", "y"]),
    ],
)
def test_commas_separate_arms_but_not_words_in_quotation_marks(text: str, arms: list[str]) -> None:
    assert split_arms(text, "--pipelines") == arms
    assert load_settings({"pipelines": text}).pipelines == tuple(arms)


def test_several_options_are_one_list() -> None:
    texts = ["a,b", 'x=cmd:/p --l "1,2"']
    assert load_settings({"pipelines": texts}).pipelines == ("a", "b", 'x=cmd:/p --l "1,2"')
    with pytest.raises(UsageError, match="--pipelines 'x=cmd:\"/p': a quotation mark"):
        load_settings({"pipelines": 'x=cmd:"/p'})


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("cmd:/p/python -m pkg.adapter", "adapter", ("/p/python", "-m", "pkg.adapter")),
        ('x=cmd:"/p/python -m adapter"', "x", ("/p/python", "-m", "adapter")),
        ("cmd:python my.engine.py --x=1@2", "my-engine", ("python", "my.engine.py", "--x=1@2")),
        ("cmd:env A=b /opt/engine", "env", ("env", "A=b", "/opt/engine")),
        ("cmd:/opt/engine --name 'a b'", "engine", ("/opt/engine", "--name", "a b")),
    ],
)  # fmt: skip
def test_a_command_has_words_and_a_name(text: str, name: str, words: tuple[str, ...]) -> None:
    arm = parse_arm(text)
    assert (arm.name, arm.revision) == (name, None)
    assert command_words(arm.pipeline) == words
    assert arm.to_record() == {"pipeline": text[text.index("cmd:") :], "revision": None,
                               "commit": None}  # fmt: skip


def test_the_path_of_a_program_may_hold_spaces(tmp_path: Path) -> None:
    program = tmp_path / "my engine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert command_words(f'cmd:"{program}"') == (str(program),)
    assert command_name((str(program),)) == "my-engine"
    assert launched(parse_arm(f'cmd:"{program}" -v'), {"": {}}).launch.command[1] == "-v"


def test_a_command_is_launched_in_its_own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/this/interpreter")
    monkeypatch.setenv("PYTHONHOME", "/of/this/interpreter")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    arm = launched(parse_arm("x=cmd:sh -c true"), {"": {}, "x": {}})
    assert arm.launch.command[1:] == ("-c", "true")
    assert Path(arm.launch.command[0]).is_absolute()
    assert arm.launch.foreign
    environment = _environment(arm.launch)
    assert "PYTHONPATH" not in environment
    assert "PYTHONHOME" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert _environment(Launch())["PYTHONPATH"].endswith("/of/this/interpreter")


def test_a_pipeline_of_ours_is_left_as_it_is() -> None:
    arm = parse_arm("a=s3diff-optimized")
    assert launched(arm, {"": {}, "a": {}}) is arm


def test_a_named_engine_runs_in_the_interpreter_that_its_option_names(named: str) -> None:
    arm = launched(parse_arm(f"x={named}"), {"": {"python": "none"}, "x": {"python": "sh"}})
    program, script = arm.launch.command
    assert Path(program).name == "sh"
    assert script.endswith("pipelines/external/engine_x.py")
    assert arm.launch.foreign
    assert arm.to_record()["pipeline"] == named
    assert is_foreign(named)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, "--set x.python=PATH is missing: the interpreter of the environment"),
        ({"python": "/no/such"}, "--set x.python=/no/such: no such program"),
        ({"python": "/etc/passwd"}, "cannot be executed"),
        ({"pyhton": "sh"}, "Did you mean 'python'"),
    ],
)  # fmt: skip
def test_an_interpreter_that_is_none_is_refused(
    named: str, own: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        launched(parse_arm(f"x={named}"), {"": {}, "x": own})


def test_a_named_engine_has_no_revisions(named: str) -> None:
    with pytest.raises(UsageError, match="no revisions here"):
        launched(parse_arm(f"{named}@main"), {"": {}, f"{named}@main": {"python": sys.executable}})


def test_an_option_without_a_default_is_asked_for(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = Entry(named, "x.py", f"{__name__}:NeedyOptions", script="x.py")
    monkeypatch.setitem(BUILT_IN, named, needy)
    with pytest.raises(UsageError, match=r"--set python=…: is missing"):
        launched(ArmSpec(name="x", pipeline=named), {"": {}, "x": {}})


@pytest.mark.parametrize("name", ["engine-x", "cmd:python x.py"])
def test_a_program_has_no_class(named: str, name: str) -> None:
    assert named == "engine-x"
    with pytest.raises(UsageError, match="a program of its own"):
        load_pipeline(name)


def test_a_terminal_obeys_nothing_in_the_log_of_an_engine(tmp_path: Path) -> None:
    command = ("sh", "-c", r"printf 'a\033[2Jb\007\n%0900d' 0 >&2")
    worker = WorkerProcess(tmp_path / "log", Launch(command=command, python_path=()))
    worker.ask(Described, Exit(), 60)
    assert worker.log_tail() == "a [2Jb \n" + 500 * "0"
