"""What the gate tolerates: defaults, `srbench.toml` `[gate]`, strict keys."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from srbench.cases import Case
from srbench.config import Settings
from srbench.errors import UsageError, did_you_mean

OnInconclusive = Literal["exit-3", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class TierLimits:
    """Fidelity limits of one tier against the baseline; None is not judged.

    Attributes:
        psnr_db: Least PSNR of the 8-bit picture.
        worst_block_db: Least PSNR of its worst 64x64 block.
        lpips: Most LPIPS.
        eps_relative_l2: Most relative L2 error of the network's noise prediction; the one-step
            formula multiplies it by about 14.6. In `reduced` both arms round on their own: 2e-3
            against float32 for each are 2.8e-3 between them. Where both arms were held against a
            float32 reference, that one decides instead (`own_precision_eps`).
    """

    psnr_db: float
    worst_block_db: float
    lpips: float | None = None
    eps_relative_l2: float | None = None


DEFAULT_TIERS = {
    "exact": TierLimits(50.0, 40.0, None, 1e-5),
    "reduced": TierLimits(40.0, 30.0, 0.01, 2.8e-3),
    "approx": TierLimits(32.0, 22.0, 0.05, None),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """The gate's policy.

    Attributes:
        margin: Tolerated slow-down, as a fraction: of the ratio to the baseline against a promoted
            run, or of the candidate against another revision of the same pipeline.
        min_speedup: Least speed-up over the run's own baseline, a different pipeline, without
            `--against`.
        time_margin: Tolerated slow-down of the candidate's own median time against a promoted run
            of exactly the same environment; None asks only for the ratio to the baseline.
        memory_margin: Tolerated growth of an arm's peak memory, as a fraction.
        memory_floor_mib: On CUDA growth below this passes too (allocator granularity); peak
            tensor bytes are exact and get no floor.
        energy_margin: Tolerated growth of an arm's energy an image, as a fraction.
        psnr_drop_db: Tolerated loss of PSNR against a promoted run.
        own_precision_drop_db: How much farther from the float32 reference than the baseline the
            candidate may be.
        own_precision_eps: Most relative L2 error of the noise prediction against the float32
            reference, unless the baseline's own is larger.
        on_inconclusive: `exit-3`, `warn` (exit 0, a warning on stderr) or `fail` (exit 1).
        require_lpips: Whether a missing LPIPS leaves the verdict open.
        tiers: Fidelity limits by tier.
        cases: Case -> keys overridden there.
    """

    margin: float = 0.05
    min_speedup: float = 1.0
    time_margin: float | None = None
    memory_margin: float = 0.01
    memory_floor_mib: float = 32.0
    energy_margin: float = 0.05
    psnr_drop_db: float = 0.5
    own_precision_drop_db: float = 0.5
    own_precision_eps: float = 2e-3
    on_inconclusive: OnInconclusive = "exit-3"
    require_lpips: bool = False
    tiers: Mapping[str, TierLimits] = field(default_factory=lambda: dict(DEFAULT_TIERS))
    cases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def for_case(self, case: str) -> Policy:
        """The policy with this case's overrides."""
        return replace(self, **self.cases.get(case, {}))


_RANGES: dict[str, tuple[float, float]] = {
    "margin": (0.0, 1.0),
    "min_speedup": (0.01, 1000.0),
    "time_margin": (0.0, 1.0),
    "memory_margin": (0.0, 1.0),
    "memory_floor_mib": (0.0, 1e6),
    "energy_margin": (0.0, 1.0),
    "psnr_drop_db": (0.0, 100.0),
    "own_precision_drop_db": (0.0, 100.0),
    "own_precision_eps": (0.0, 1.0),
}
_ON_INCONCLUSIVE = ("exit-3", "warn", "fail")
_CASE_KEYS = (*_RANGES, "require_lpips")


def load_policy(file: Path | None = None) -> Policy:
    """Read the policy from `file`, or from the nearest configuration upward, or the defaults.

    Without `file`, every folder from the current one upward is asked for `srbench.toml` and then
    `pyproject.toml` with a `[tool.srbench]` table; the first found speaks.

    Args:
        file: A configuration file, or one with a `[gate]` table alone.

    Raises:
        UsageError: The file cannot be read, is not TOML, or holds a wrong key or value.
    """
    if file is not None:
        table = _read(file)
        gate = _gate_table(table, file)
        if gate is None:
            raise UsageError(f"{file}: no [gate] table; put the policy's keys under [gate]")
        return parse_policy(gate, str(file))
    for folder in (Path.cwd(), *Path.cwd().parents):
        for name in ("srbench.toml", "pyproject.toml"):
            path = folder / name
            if not path.is_file():
                continue
            table = _read(path)
            if name == "srbench.toml" or "srbench" in _tools(table, path):
                gate = _gate_table(table, path) or {}
                return parse_policy(gate, str(path))
    return Policy()


def require_known_cases(policy: Policy, cases: Collection[str]) -> None:
    """Refuse overrides of names that no run has: their values would never be asked for.

    Args:
        policy: What is tolerated.
        cases: Those of the run; a test suite's bear any name.

    Raises:
        UsageError: A name is neither one of these nor WIDTHxHEIGHTxSCALE.
    """
    for name in policy.cases:
        if name in cases:
            continue
        where = f"[gate.cases] of the policy: {name!r} is no case"
        try:
            meant = Case.parse(name).name
        except (UsageError, ValueError):
            hint = did_you_mean(name, list(cases))
            raise UsageError(f"{where}: write WIDTHxHEIGHTxSCALE.{hint}") from None
        if meant != name:
            raise UsageError(f"{where}. Did you mean '{meant}'?")


def parse_policy(gate: Mapping[str, Any], source: str) -> Policy:
    """Build the policy from a `[gate]` table; `source` names the file in errors."""
    known = [f.name for f in fields(Policy)]
    values: dict[str, Any] = {}
    for key, value in gate.items():
        where = f"{source}: [gate] {key}"
        if key not in known:
            raise UsageError(f"{source}: [gate] unknown key '{key}'.{did_you_mean(key, known)}")
        if key == "tiers":
            values[key] = _tiers(value, f"{source}: [gate.tiers]")
        elif key == "cases":
            values[key] = _cases(value, f"{source}: [gate.cases]")
        else:
            values[key] = _scalar(key, value, where)
    return Policy(**values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error


def _tools(table: dict[str, Any], path: Path) -> dict[str, Any]:
    return _table(table.get("tool", {}), f"{path}: [tool]")


def _gate_table(table: dict[str, Any], path: Path) -> dict[str, Any] | None:
    root = table
    if path.name == "pyproject.toml":
        root = _table(_tools(table, path).get("srbench", {}), f"{path}: [tool.srbench]")
    known = [each.name for each in fields(Settings)]
    for key in root:
        if key not in known:
            raise UsageError(f"{path}: unknown key '{key}'.{did_you_mean(key, known)}")
    gate = root.get("gate")
    if gate is not None and not isinstance(gate, dict):
        raise UsageError(f"{path}: gate must be a table, [gate]")
    return cast("dict[str, Any] | None", gate)


def _scalar(key: str, value: Any, where: str) -> Any:
    if key == "on_inconclusive":
        if value not in _ON_INCONCLUSIVE:
            raise UsageError(f"{where} must be one of {', '.join(_ON_INCONCLUSIVE)}, not {value!r}")
        return value
    if key == "require_lpips":
        if not isinstance(value, bool):
            raise UsageError(f"{where} must be true or false, not {value!r}")
        return value
    return _number(value, *_RANGES[key], where)


def _number(value: Any, low: float, high: float, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{where} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


def _tiers(value: Any, where: str) -> dict[str, TierLimits]:
    limits = dict(DEFAULT_TIERS)
    known = [f.name for f in fields(TierLimits)]
    for tier, table in _table(value, where).items():
        if tier not in DEFAULT_TIERS:
            raise UsageError(f"{where} unknown tier '{tier}'.{did_you_mean(tier, list(limits))}")
        for key, limit in _table(table, f"{where} {tier}").items():
            if key not in known:
                raise UsageError(f"{where} {tier}: unknown key '{key}'.{did_you_mean(key, known)}")
            number = _number(limit, 0.0, 1000.0, f"{where} {tier}.{key}")
            limits[tier] = replace(limits[tier], **{key: number})
    return limits


def _cases(value: Any, where: str) -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {}
    for case, table in _table(value, where).items():
        cases[case] = {}
        for key, override in _table(table, f"{where} {case}").items():
            if key not in _CASE_KEYS:
                hint = did_you_mean(key, list(_CASE_KEYS))
                raise UsageError(f"{where} {case}: unknown key '{key}'.{hint}")
            cases[case][key] = _scalar(key, override, f"{where} {case}.{key}")
    return cases


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a table, not {value!r}")
    return value
