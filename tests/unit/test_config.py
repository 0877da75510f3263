from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from srbench.config import _KEYS, Settings, load_settings
from srbench.errors import UsageError


def load(folder: Path, given: Any = None, **environment: Any) -> Settings:
    return load_settings(given or {}, folder=folder, environment=environment)


def test_every_setting_can_be_read() -> None:
    assert _KEYS.keys() == {field.name for field in fields(Settings)}


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    (tmp_path / "srbench.toml").write_text('seed = 1\npairs = 1\nblocks = 1\ngpu = "cpu"\n')
    settings = load(tmp_path, {"blocks": 3, "gpu": None}, SRBENCH_PAIRS="2", SRBENCH_BLOCKS="2")
    assert (settings.seed, settings.pairs, settings.blocks, settings.gpu) == (1, 2, 3, "cpu")
    assert settings.out == Path("results")


def test_the_nearest_file_upwards_counts(tmp_path: Path) -> None:
    (tmp_path / "srbench.toml").write_text("seed = 1\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nseed = 9\n")
    assert load(inner).seed == 1
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.srbench]\nseed = 2\n")
    assert load(inner).seed == 2


def test_lists_and_paths(tmp_path: Path) -> None:
    (tmp_path / "srbench.toml").write_text(
        'cases = ["smoke", "64x64x2"]\noptions = ["prompt=a, b"]\n[gate]\nmargin = 0.1\n'
    )
    settings = load(tmp_path, SRBENCH_PIPELINES="a, b", SRBENCH_INPUTS="~/x")
    assert settings.cases == ("smoke", "64x64x2")
    assert settings.options == ("prompt=a, b",)
    assert settings.pipelines == ("a", "b")
    assert settings.inputs == Path.home() / "x"
    assert settings.gate == {"margin": 0.1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed = 1", "unknown key 'sed'. Did you mean 'seed'"),
        ("seed = true", "seed: expected a whole number"),
        ("blocks = 0", "blocks: expected a whole number of at least 1"),
        ('precision = "bf16"', "expected fp32 or fp16"),
        ("cases = 3", "expected a list of names"),
        ("timeout = -1", "expected a number of seconds"),
        ("gate = 3", "expected a table"),
        ("seed = [", "no valid TOML"),
    ],
)
def test_mistakes_in_the_file_name_it(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "srbench.toml").write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        load(tmp_path)
    assert "srbench.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_mistakes_in_the_environment(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SRBENCH_SEED: expected a whole number"):
        load(tmp_path, SRBENCH_SEED="one")
    with pytest.raises(UsageError, match="Did you mean 'SRBENCH_WEIGHTS'"):
        load(tmp_path, SRBENCH_WIEGHTS="mini")
    load(tmp_path, SRBENCH_CACHE="x", SRBENCH_SOMETHING_ELSE="y", SRBENCH_SEED="")
