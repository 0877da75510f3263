"""The two-order degradation of Real-ESRGAN (Wang et al., 2021), as S3Diff trains with it.

`settings` and `plans` decide what happens to a picture and need no torch; `degrade` and
`blur_and_noise`, which do it on the device, are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.degradations.plans import Plan, plan
from pipelines.degradations.settings import Order, Settings

if TYPE_CHECKING:
    from pipelines.degradations.levels import blur_and_noise
    from pipelines.degradations.two_order import degrade, degrade_as_planned

__all__ = [
    "Order",
    "Plan",
    "Settings",
    "blur_and_noise",
    "degrade",
    "degrade_as_planned",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name == "blur_and_noise":
        from pipelines.degradations.levels import blur_and_noise

        return blur_and_noise
    if name in ("degrade", "degrade_as_planned"):
        from pipelines.degradations import two_order

        return getattr(two_order, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
