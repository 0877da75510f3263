"""What an A/A run shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from srbench.errors import ExitCode

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AaRow:
    """What one case, or the geometric mean over cases, says. Ratios are time of B / time of A.

    Attributes:
        case: Case name or `geomean`.
        blocks: Blocks behind it.
        ratio: The estimate.
        interval: 95 % interval of the ratio; None with one block.
        simultaneous: Interval of the ratio at the family's confidence; None with one block.
        sign_flip_p: Two-sided; None with fewer than 8 blocks.
        sd: Standard deviation of d over blocks, in log units; None with one block.
        mde: Blocks -> minimum detectable slow-down as a fraction, this run's own number among
            them; empty with one block.
        blocks_for_margin: Fewest blocks that show a slow-down of the default margin; None with one
            block, or where a thousand are not enough.
        order: Time of the second image of a pair / time of the first; None when all pairs were
            opened by the same arm.
        order_interval: 95 % interval of that.
    """

    case: str
    blocks: int
    ratio: float
    interval: Interval | None
    simultaneous: Interval | None
    sign_flip_p: float | None
    sd: float | None
    mde: dict[int, float]
    blocks_for_margin: int | None
    order: float | None
    order_interval: Interval | None

    @property
    def covers(self) -> bool | None:
        """Whether the simultaneous interval covers 1.0; None without one."""
        if self.simultaneous is None:
            return None
        return self.simultaneous[0] <= 1.0 <= self.simultaneous[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """The gate's sequential rule on these data under other signs: each block's d made -d or not.

    Attributes:
        failed: Sign patterns under which the rule says FAIL.
        patterns: Patterns tried.
        exhaustive: Whether these are all; otherwise a seeded sample.
        margin: Of the rule, as a fraction.
    """

    failed: int
    patterns: int
    exhaustive: bool
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A slow-down multiplied into the recorded times of arm B.

    Attributes:
        slowdown: As a fraction.
        margin: At which the rule looked for it, as a fraction.
        verdict: `found` (FAIL), `not found` (PASS) or `inconclusive`.
        cases: Where it was found.
    """

    slowdown: float
    margin: float
    verdict: Literal["found", "not found", "inconclusive"]
    cases: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AaResult:
    """All of an A/A run.

    Attributes:
        run_id: The run.
        profile: Its profile.
        pipeline: In both arms.
        blocks: Most blocks of any case.
        pairs: Pairs of a case in a block.
        confidence: Of the simultaneous intervals, for the whole family.
        margin: The gate's default, as a fraction, which `blocks_for_margin` is about.
        rows: Cases in table order, then `geomean`.
        missing: Cases without a timed pair of both arms.
        false_alarms: None with one block.
        planted: Empty with one block.
    """

    run_id: str
    profile: str
    pipeline: str
    blocks: int
    pairs: int
    confidence: float
    margin: float
    rows: list[AaRow]
    missing: list[str]
    false_alarms: FalseAlarms | None
    planted: list[Planted]

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive"]:
        """`pass` when every simultaneous interval covers 1.0, `fail` when one does not."""
        answers = [row.covers for row in self.rows]
        if False in answers:
            return "fail"
        return "inconclusive" if self.missing or None in answers or not answers else "pass"

    @property
    def exit_code(self) -> ExitCode:
        """0, 1 or 3."""
        return {
            "pass": ExitCode.OK,
            "fail": ExitCode.REGRESSION,
            "inconclusive": ExitCode.INCONCLUSIVE,
        }[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """JSON values, unrounded; numbers of blocks become keys of text."""
        content = asdict(self)
        for row, line in zip(self.rows, content["rows"], strict=True):
            line["covers"] = row.covers
            line["mde"] = {str(blocks): value for blocks, value in row.mde.items()}
        return {"verdict": self.verdict, "exit_code": int(self.exit_code), **content}

    def line(self) -> str:
        """The one line of a non-zero exit; empty for a pass."""
        if self.verdict == "pass":
            return ""
        if self.verdict == "fail":
            off = [
                f"{row.case} {row.ratio:.4f} ({row.simultaneous[0]:.4f}..{row.simultaneous[1]:.4f})"
                for row in self.rows
                if row.simultaneous is not None and row.covers is False
            ]
            what = f"{self.pipeline} differs from itself: time ratio {', '.join(off)}"
            return f"A/A FAIL: {what}; the machine or the harness favours an arm"
        if self.missing:
            why = f"no timed pair of both arms in {', '.join(self.missing)}"
        else:
            why = "one block has no interval, use --blocks 6"
        return f"A/A INCONCLUSIVE: {why}"
