import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import pytest

from srbench.built_in import BUILT_IN
from srbench.errors import UsageError
from srbench.registry import (
    assignments_for,
    check_shared,
    find_pipeline,
    light_options,
    load_pipeline,
    parse_options,
    pipeline_names,
    split_assignments,
)

FIXTURE = "tests.fixtures_pipelines:Bicubic"


class Mode(StrEnum):
    FAST = "fast"
    GOOD = "good"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    tile: int = 96
    guidance: float = 1.07
    cache: bool = True
    prompt: str = "a, b"
    mode: Mode = Mode.FAST
    size: Literal[1, 2, "auto"] = "auto"
    limit: int | None = None


def test_names() -> None:
    assert {"s3diff-baseline", "s3diff-optimized"} <= set(pipeline_names())
    assert find_pipeline(FIXTURE).target == FIXTURE
    with pytest.raises(UsageError, match="Did you mean 's3diff-baseline'"):
        find_pipeline("s3dif-baseline")


def test_classes_are_loaded_by_name() -> None:
    assert load_pipeline(FIXTURE).name == "bicubic"
    with pytest.raises(UsageError, match="no module named 'nowhere'"):
        load_pipeline("nowhere:Thing")
    with pytest.raises(UsageError, match="lacks name, version"):
        load_pipeline("tests.fixtures_pipelines:NOT_A_PIPELINE")


def test_options_of_built_in_pipelines_need_no_torch() -> None:
    names = {name: light_options(name) for name in BUILT_IN}
    assert all(names.values())
    assert light_options(FIXTURE) is None
    assert parse_options(names["s3diff-baseline"], {"color_fix": "adain"}).color_fix == "adain"
    import subprocess

    script = (
        "import sys; from srbench.built_in import BUILT_IN;"
        "from srbench.registry import light_options; [light_options(name) for name in BUILT_IN];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("tile", "64", 64),
        ("guidance", "2", 2.0),
        ("cache", "False", False),
        ("cache", "on", True),
        ("prompt", "x = y, z", "x = y, z"),
        ("prompt", "", ""),
        ("mode", "good", Mode.GOOD),
        ("size", "2", 2),
        ("size", "auto", "auto"),
        ("limit", "none", None),
        ("limit", "3", 3),
    ],
)
def test_values_by_type(key: str, text: str, value: Any) -> None:
    parsed = getattr(parse_options(Options, {key: text}), key)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("tile", "6.5", "a whole number"),
        ("guidance", "high", "a number"),
        ("cache", "maybe", "true or false"),
        ("mode", "best", "one of fast, good"),
        ("size", "3", "one of 1, 2, auto"),
        ("tyle", "3", "Did you mean 'tile'"),
    ],
)
def test_bad_values_name_option_value_and_what_is_accepted(key: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        parse_options(Options, {key: text})
    assert key in str(error.value)


def test_assignments_are_sorted_by_arm() -> None:
    arms = ("s3diff-baseline", FIXTURE)
    texts = ["tile=64", "s3diff-baseline.prompt=a=b, c", f"{FIXTURE}.filter=lanczos", "tile=32"]
    values = split_assignments(texts, arms)
    assert values == {
        "": {"tile": "32"},
        "s3diff-baseline": {"prompt": "a=b, c"},
        FIXTURE: {"filter": "lanczos"},
    }
    assert assignments_for("s3diff-baseline", ["tile", "prompt"], values) == {
        "tile": "32",
        "prompt": "a=b, c",
    }
    assert assignments_for(FIXTURE, ["filter"], values) == {"filter": "lanczos"}


def test_unknown_keys_are_refused() -> None:
    values = split_assignments(["tyle=1", "a.tipe=2"], ("a", "b"))
    with pytest.raises(UsageError, match="Did you mean 'tile'"):
        check_shared(values, ["tile", "mode"])
    with pytest.raises(UsageError, match=r"a\.tipe: no such option\. Did you mean 'tile'"):
        assignments_for("a", ["tile"], values)
    for text in ("tile", "=3"):
        with pytest.raises(UsageError, match="expected key=value"):
            split_assignments([text], ("a",))
