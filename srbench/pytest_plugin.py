"""The gate inside a project's own tests: `srbench_gate` on top of pytest-benchmark's `benchmark`.

`pytest --srbench-gate` measures two callables in turns, judges them by the rules of `srbench gate`
and records them in both formats. Without the option the fixture is pytest-benchmark's own: the
candidate is benchmarked, nothing is judged. Nothing heavy is imported before a test asks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from srbench.errors import SrbenchError, did_you_mean

if TYPE_CHECKING:
    from srbench.gate import Judgement, Policy
    from srbench.in_process import Design, Measurement

_SESSION = "srbench-gate-session"
_MARKER = (
    "srbench(blocks=6, pairs=5, seed=0, tier='exact', min_speedup=None): how the fixture "
    "srbench_gate measures and judges this test"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; none has an effect without the first."""
    group = parser.getgroup("srbench", "srbench: paired measurements with a verdict")
    group.addoption(
        "--srbench-gate",
        metavar="POLICY",
        nargs="?",
        const="",
        help="Judge tests that use srbench_gate; --srbench-gate=FILE names a TOML file with a "
        "[gate] table [default: srbench.toml].",
    )
    group.addoption(
        "--srbench-against",
        metavar="NAME",
        help="Promoted baseline, results file or run id [default: each test's own baseline].",
    )
    group.addoption(
        "--srbench-results", metavar="DIR", default="results", help="Results folder [%(default)s]."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker, and with `--srbench-gate` the policy."""
    config.addinivalue_line("markers", _MARKER)
    policy = config.getoption("--srbench-gate")
    if policy is None:
        return
    if policy and Path(policy).suffix != ".toml":
        raise pytest.UsageError(
            f"--srbench-gate={policy}: a policy is a .toml file; to name tests behind the option, "
            "write them first or put another option between"
        )
    from srbench.gate.policy import load_policy
    from srbench.store import check_writable

    folder = Path(config.getoption("--srbench-results"))
    try:
        check_writable(folder)
        rules = load_policy(Path(policy) if policy else None)
    except SrbenchError as error:
        raise pytest.UsageError(f"srbench: {error}") from error
    session = GateSession(folder, rules, config.getoption("--srbench-against"))
    config.pluginmanager.register(session, _SESSION)


@pytest.fixture
def srbench_gate(request: pytest.FixtureRequest, benchmark: Any) -> SrbenchGate:
    """Measure `baseline` and `candidate` in turns and judge them: see `SrbenchGate`."""
    marker = request.node.get_closest_marker("srbench")
    session = request.config.pluginmanager.get_plugin(_SESSION)
    return SrbenchGate(session, benchmark, request.config, marker)


@dataclass(frozen=True, slots=True)
class SrbenchGate:
    """What the fixture `srbench_gate` gives a test."""

    session: GateSession | None
    benchmark: Any
    config: pytest.Config
    marker: pytest.Mark | None

    def __call__(
        self,
        *,
        baseline: Callable[[], Any],
        candidate: Callable[[], Any],
        case: str | None = None,
        **settings: Any,
    ) -> Judgement | None:
        """Measure and judge; the test fails, or is skipped when the data decides nothing.

        Where both return uint8 pictures these are compared as well. On CUDA the device is
        synchronised around each sample.

        Args:
            baseline: What the candidate is held against.
            candidate: What is judged.
            case: Name in every record; the test's own name without.
            settings: Fields of `srbench.in_process.Design`, over those of the marker.

        Returns:
            The judgement, None without `--srbench-gate`.
        """
        if self.session is None:
            self.benchmark(candidate)
            return None
        if self.benchmark.disabled:
            pytest.skip("srbench gate: benchmarks are disabled, nothing was measured")
        # The fixture of pytest-benchmark can be used once a test; this was it.
        self.benchmark._mode = "srbench_gate(...)"
        name = self.benchmark.name if case is None else case
        try:
            _require_name(name)
            design = _design(self.marker, settings)
            measurement = self.session.begin(name, design)
        except SrbenchError as error:
            raise pytest.fail.Exception(f"srbench gate: {error}", pytrace=False) from None
        with measurement:
            measurement.measure(baseline, candidate)
        self._to_pytest_benchmark(measurement)
        return self.session.decide(measurement)

    def _to_pytest_benchmark(self, measurement: Measurement) -> None:
        """One record an arm beside those of ordinary benchmarks: same table, same JSON."""
        from pytest_benchmark import stats

        make: Any = stats.Metadata
        session: Any = self.config.pluginmanager.get_plugin("pytest-benchmark")
        for arm in dict.fromkeys(cell.pipeline for cell in measurement.cells):
            fixture = copy.copy(self.benchmark)
            fixture.name = f"{self.benchmark.name}[{arm}]"
            fixture.fullname = f"{self.benchmark.fullname}[{arm}]"
            fixture.group = self.benchmark.group or measurement.case
            fixture.extra_info = {"srbench_case": measurement.case, **self.benchmark.extra_info}
            record = make(fixture, iterations=1, options={"timer": "perf_counter_ns"})
            for cell in measurement.cells:
                for sample in cell.samples if cell.pipeline == arm else ():
                    record.update(sample["latency_ms"] / 1000)
            session.benchmarks.append(record)


@dataclass(slots=True)
class GateSession:
    """All gated tests of one pytest session: their results file and the table at the end."""

    folder: Path
    policy: Policy
    against: str | None
    measured: list[Measurement] = field(default_factory=list)
    verdicts: dict[str, list[str]] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)

    def begin(self, case: str, design: Design) -> Measurement:
        """The empty measurement of a test."""
        from srbench.errors import UsageError
        from srbench.in_process import Measurement

        if any(each.case == case for each in self.measured):
            raise UsageError(f"case '{case}' was measured by another test; give each its name")
        measurement = Measurement(case, design)
        self.measured.append(measurement)
        return measurement

    def decide(self, measurement: Measurement) -> Judgement:
        """Judge one test and end it as its verdict says."""
        from srbench.gate import Verdict

        try:
            judgement = self._judge(measurement)
        except SrbenchError as error:
            self.verdicts[measurement.case] = ["–", "–", "NOT COMPARABLE"]
            raise pytest.fail.Exception(f"srbench gate: {error}", pytrace=False) from None
        self._note(measurement, judgement.word)
        if judgement.verdict is Verdict.INCONCLUSIVE:
            pytest.skip(judgement.line())
        if judgement.verdict is not Verdict.PASS:
            pytest.fail(judgement.line(), pytrace=False)
        return judgement

    def _judge(self, measurement: Measurement) -> Judgement:
        from srbench.baselines import resolve
        from srbench.gate import judge
        from srbench.in_process import run_of

        run = run_of(measurement)
        policy = self.policy
        if (required := measurement.design.min_speedup) is not None:
            policy = replace(policy, min_speedup=required)
        reference = resolve(self.against, run.head.profile, self.folder) if self.against else ()
        judgement = judge(run, policy, *reference)
        # What two callables cannot be asked (memory, energy, work; pictures of what makes none) is
        # no open question of theirs.
        asked = {"latency", "speedup", "outcome", "determinism"}
        pictured = reference[0].fidelity if reference else []
        if measurement.made_pictures or any(each.case == measurement.case for each in pictured):
            asked |= {"psnr", "worst_block_psnr", "lpips", "psnr_vs_promoted"}
        checks = [
            check
            for check in judgement.checks
            if check.reason_code != "not_measured" or check.metric in asked
        ]
        return replace(judgement, checks=checks)

    def _note(self, measurement: Measurement, word: str) -> None:
        from srbench.in_process import run_of
        from srbench.report.model import build_model
        from srbench.report.text import interval, ratio

        speedup = build_model(run_of(measurement)).comparisons[0].rows[0].speedup
        self.verdicts[measurement.case] = [ratio(speedup), interval(speedup), word]

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the results file; tests of other settings (see `Design`) get one of their own."""
        from srbench.in_process import alike, records_of
        from srbench.store import RunWriter

        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        for group in alike(self.measured):
            head, records = records_of(group, interrupted=interrupted)
            try:
                with RunWriter.create(self.folder, head) as writer:
                    writer.append(records)
            except SrbenchError as error:
                pytest.exit(f"srbench: {error}", returncode=error.exit_code)
            self.written.append(writer.path)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the verdict of every test and where the samples are."""
        from srbench.report.tables import plain_table

        if not self.measured:
            return
        terminalreporter.section("srbench gate")
        header = ["case", "speed-up", "95 %", "verdict"]
        rows = [
            [each.case, *self.verdicts.get(each.case, ["–", "–", each.outcome])]
            for each in self.measured
        ]
        terminalreporter.write_line(plain_table(header, rows))
        terminalreporter.write_line("blocks of one process: weaker evidence than `srbench run`")
        for path in self.written:
            terminalreporter.write_line(f"results: {path}")


def _require_name(case: Any) -> None:
    from srbench.errors import UsageError

    if not isinstance(case, str):
        raise UsageError(f"case {case!r}: must be text")
    if not case.strip() or not case.isprintable():
        raise UsageError(f"case {case!r}: must be printable and not empty")


def _design(marker: pytest.Mark | None, settings: dict[str, Any]) -> Design:
    from srbench.errors import UsageError
    from srbench.in_process import Design

    if marker is not None and marker.args:
        given = ", ".join(map(repr, marker.args))
        raise UsageError(f"@pytest.mark.srbench({given}): settings are given by name, as blocks=6")
    settings = {**(marker.kwargs if marker else {}), **settings}
    known = [each.name for each in fields(Design)]
    for key in settings:
        if key not in known:
            raise UsageError(f"unknown setting '{key}'.{did_you_mean(key, known)}")
    return Design(**settings)
