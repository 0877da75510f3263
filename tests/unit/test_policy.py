from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from srbench.errors import UsageError
from srbench.gate import Policy, blemishes, judge, load_policy, require_judgeable
from srbench.gate.policy import DEFAULT_TIERS, TierLimits, require_known_cases
from tests.factories import change_head, make_run


def _file(folder: Path, text: str, name: str = "srbench.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_example_is_the_default(project_root: Path) -> None:
    assert load_policy(project_root / "srbench.toml") == Policy()


def test_every_key_is_documented_in_the_shipped_example(project_root: Path) -> None:
    text = (project_root / "srbench.toml").read_text()
    for key in (field.name for field in fields(Policy)):
        assert f"{key} =" in text or f"[gate.{key}." in text


def test_found_upward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(tmp_path, "[gate]\nmargin = 0.02\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load_policy().margin == 0.02


def test_pyproject_speaks_only_with_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _file(tmp_path, "[gate]\nmargin = 0.02\n")
    below = tmp_path / "project"
    below.mkdir()
    monkeypatch.chdir(below)
    _file(below, "[project]\nname = 'x'\n", "pyproject.toml")
    assert load_policy().margin == 0.02
    _file(below, "[tool.srbench.gate]\nmargin = 0.03\n", "pyproject.toml")
    assert load_policy().margin == 0.03


def test_overrides(tmp_path: Path) -> None:
    text = """
    [gate]
    memory_floor_mib = 8
    on_inconclusive = "warn"
    [gate.tiers.reduced]
    lpips = 0.02
    [gate.cases.128x128x4]
    margin = 0.08
    time_margin = 0.2
    """
    policy = load_policy(_file(tmp_path, text))
    assert policy.memory_floor_mib == 8.0
    assert policy.tiers["reduced"] == TierLimits(40.0, 30.0, 0.02, 2.8e-3)
    assert policy.tiers["exact"] == DEFAULT_TIERS["exact"]
    assert policy.for_case("128x128x4").margin == 0.08
    assert policy.for_case("128x128x4").time_margin == 0.2
    assert policy.time_margin is None
    assert policy.for_case("512x512x2").margin == 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gate]\nmargn = 0.1", "unknown key 'margn'. Did you mean 'margin'?"),
        ("[gate]\nmargin = -0.1", "margin must be a number from 0 to 1, not -0.1"),
        ("[gate]\nmargin = 5", "margin must be a number from 0 to 1, not 5"),
        ("[gate]\nmargin = true", "margin must be a number"),
        ("[gate]\nmargin = nan", "margin must be a number"),
        ("[gate]\nmargin = '5 %'", "margin must be a number"),
        (
            "[gate]\nenergy_marign = 0.1",
            "unknown key 'energy_marign'. Did you mean 'energy_margin'?",
        ),
        ("[gate]\ntime_margin = false", "time_margin must be a number from 0 to 1, not False"),
        ("[gate]\nown_precision_eps = 2", "own_precision_eps must be a number from 0 to 1, not 2"),
        ("[gate]\nmin_speedup = 0", "min_speedup must be a number from 0.01"),
        ("[gate]\non_inconclusive = 'maybe'", "must be one of exit-3, warn, fail"),
        ("[gate]\nrequire_lpips = 1", "require_lpips must be true or false"),
        ("[gate]\ncases = 3", "[gate.cases] must be a table"),
        ("[gate.cases.48x32x4]\nmargim = 1", "48x32x4: unknown key 'margim'. Did you mean"),
        ("[gate.tiers.exakt]\npsnr_db = 1", "unknown tier 'exakt'. Did you mean 'exact'?"),
        ("[gate.tiers.exact]\npsnr = 1", "exact: unknown key 'psnr'. Did you mean 'psnr_db'?"),
        ("[gate.tiers.exact]\npsnr_db = 'x'", "exact.psnr_db must be a number"),
        ("gate = 3", "gate must be a table"),
        ("blocks = 3", "no [gate] table"),
        ("[gate]\nmargin = 0.1\n[run]\nblocks = 3", "unknown key 'run'. Known: address, blocks"),
        ("[gates]\nmargin = 0.1", "unknown key 'gates'. Did you mean 'gate'?"),
        ("[gate", "not a TOML file"),
    ],
)
def test_wrong_policy_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load_policy(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_policy_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing.toml: cannot be read: No such file"):
        load_policy(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tool = 3", "[tool] must be a table"),
        ("[tool]\nsrbench = 3", "[tool.srbench] must be a table"),
        ("[tool.srbench]\ngat = 3", "unknown key 'gat'. Did you mean 'gate'?"),
    ],
)
def test_wrong_project_table_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    path = _file(tmp_path, text, "pyproject.toml")
    monkeypatch.chdir(tmp_path)
    for file in (path, None):
        with pytest.raises(UsageError) as error:
            load_policy(file)
        assert message in str(error.value)


def test_a_policy_may_be_a_whole_configuration(tmp_path: Path) -> None:
    whole = _file(tmp_path, "blocks = 10\ngpu = 'cpu'\n[gate]\nmargin = 0.02\n", "ci.toml")
    assert load_policy(whole).margin == 0.02


def test_cases_bear_any_name_until_a_run_is_judged(tmp_path: Path) -> None:
    policy = load_policy(_file(tmp_path, "[gate.cases.test_scene]\nmargin = 0.2\n"))
    assert policy.for_case("test_scene").margin == 0.2
    require_known_cases(policy, ["test_scene"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bogus", "'bogus' is no case: write WIDTHxHEIGHTxSCALE. Known: 48x32x4"),
        ("48x32x", "'48x32x' is no case: write WIDTHxHEIGHTxSCALE. Did you mean '48x32x4'?"),
        ("9x9x4", "'9x9x4' is no case: write WIDTH"),
        ("99x99x4 ", "'99x99x4 ' is no case. Did you mean '99x99x4'?"),
        ("32X32X4", "'32X32X4' is no case. Did you mean '32x32x4'?"),
        ("032x32x4", "'032x32x4' is no case. Did you mean '32x32x4'?"),
        (f"{'9' * 5000}x32x4", "is no case: write WIDTH"),
    ],
)
def test_an_override_that_no_run_has_is_one_line(name: str, message: str) -> None:
    run = make_run(cases=["48x32x4"])
    policy = Policy(cases={name: {"margin": 0.2}})
    for asked in (judge, require_judgeable, blemishes):
        with pytest.raises(UsageError) as error:
            asked(run, policy)
        assert f"[gate.cases] of the policy: {name!r}" in str(error.value)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_a_test_suite_has_overrides_of_its_other_tests() -> None:
    policy = Policy(cases={"test_a": {"margin": 0.2}, "test_b": {"margin": 0.2}})
    weights = {"kind": "none", "digest": "", "synthetic": False, "label": "none: callables"}
    run = change_head(make_run(cases=["48x32x4"]), weights=weights)
    assert judge(run, policy).exit_code == 0
    require_judgeable(run, policy)
    assert blemishes(run, policy) == []
    with pytest.raises(UsageError, match="'test_a' is no case"):
        require_judgeable(change_head(run, purpose="work"), policy)
