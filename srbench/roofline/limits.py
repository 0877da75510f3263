"""How fast a card could do counted work: a limit for every operator, summed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.contract import OperatorCount
from srbench.profiles import Profile
from srbench.roofline.ceilings import CeilingsFile
from srbench.roofline.operators import StageWork

DATASHEET, MEASURED = "datasheet", "measured"
COMPUTE_BOUND, MEMORY_BOUND = "compute", "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a card can do.

    Attributes:
        source: `datasheet` or `measured`.
        flops_per_s: Of matrix products.
        bytes_per_s: Of its memory.
        kinds: Kind of operator -> FLOP/s, where that is known apart from matrix products.
    """

    source: str
    flops_per_s: float
    bytes_per_s: float
    kinds: dict[str, float]

    @property
    def ridge(self) -> float:
        """FLOPs a byte at which arithmetic and memory take equally long."""
        return self.flops_per_s / self.bytes_per_s

    def rate(self, kind: str) -> float:
        """FLOP/s of a kind of operator."""
        return self.kinds.get(kind, self.flops_per_s)


def datasheet_limits(profile: Profile, precision: str) -> Limits | None:
    """Peaks of the datasheet; None where the profile has none, or none at this precision."""
    if profile.fp16_tflops is None or profile.bandwidth_gb_s is None or precision != "fp16":
        return None
    return Limits(
        source=DATASHEET,
        flops_per_s=profile.fp16_tflops * 1e12,
        bytes_per_s=profile.bandwidth_gb_s * 1e9,
        kinds=_low_precision(profile),
    )


def measured_limits(ceilings: CeilingsFile | None, precision: str) -> Limits | None:
    """The best rate of each kind that was measured; None without a matrix product and a copy."""
    if ceilings is None or ceilings.precision != precision:
        return None
    measured = ("linear", "conv", "attention", "int8_linear")
    flops = {kind: ceilings.best_flops_per_s(kind) for kind in measured}
    known = {kind: rate for kind, rate in flops.items() if rate is not None}
    bandwidth = ceilings.best_bytes_per_s("copy")
    if "linear" not in known or bandwidth is None:
        return None
    if "int8_linear" in known:
        known.setdefault("int8_conv", known["int8_linear"])
    return Limits(source=MEASURED, flops_per_s=known["linear"], bytes_per_s=bandwidth, kinds=known)


def _low_precision(profile: Profile) -> dict[str, float]:
    """Peaks of the products of quantized pipelines, those that the datasheet has."""
    peaks = {
        "int8_conv": profile.int8_tops,
        "int8_linear": profile.int8_tops,
        "fp8_linear": profile.fp8_tflops,
    }
    return {kind: peak * 1e12 for kind, peak in peaks.items() if peak is not None}


def limit_seconds(operators: Iterable[OperatorCount], limits: Limits) -> float:
    """Sum over operators of the longer of their arithmetic and their ideal traffic.

    Operators run one after another, so this is above the larger of the two sums.
    """
    return sum(
        each.count * max(each.flops / limits.rate(each.kind), each.ideal_bytes / limits.bytes_per_s)
        for each in operators
    )


def regime(work: StageWork, limits: Limits) -> str | None:
    """`compute` or `memory`: the larger of the two terms of the limit, each summed.

    Returns:
        None where they are unknown, or both are nothing.
    """
    if not work.ideal_bytes:
        return None
    arithmetic = sum(flops / limits.rate(kind) for kind, flops in work.kinds.items())
    return COMPUTE_BOUND if arithmetic >= work.ideal_bytes / limits.bytes_per_s else MEMORY_BOUND
