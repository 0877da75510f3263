"""What quantization costs: PSNR against full precision, where noise, latents and pictures are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Self

import torch

from pipelines.passionsr.calibration.model import OneStepModel
from pipelines.passionsr.calibration.store import Store


@dataclass(frozen=True, slots=True)
class Fidelity:
    """PSNR in dB of all pictures together; the peak is the range of full precision over them.

    Attributes:
        eps_db: Noise predicted from full precision's latents: the UNet alone.
        x0_db: Clean latents from the picture: encoder and UNet.
        image_db: Pictures: everything. Clamped to [-1, 1].
    """

    eps_db: float
    x0_db: float
    image_db: float


@dataclass(frozen=True, slots=True)
class Row:
    """Of the table.

    Attributes:
        name: What was done to the layers.
        fidelity: By set of pictures.
    """

    name: str
    fidelity: dict[str, Fidelity]

    def __str__(self) -> str:
        parts = (f"{n} {f.eps_db:.2f} {f.x0_db:.2f} {f.image_db:.2f}" for n, f in self._items())
        return f"{self.name}: PSNR of eps, x0, picture in dB: {'; '.join(parts)}"

    def _items(self) -> Iterable[tuple[str, Fidelity]]:
        return self.fidelity.items()

    def to_json(self) -> list[Any]:
        """As plain values."""
        return [self.name, {name: list(astuple(one)) for name, one in self._items()}]

    @classmethod
    def from_json(cls, content: list[Any]) -> Self:
        """Inverse of `to_json`."""
        name, fidelity = content
        return cls(name, {part: Fidelity(*values) for part, values in fidelity.items()})


@torch.no_grad()
def measure(model: OneStepModel, targets: Store, pictures: int) -> Fidelity:
    """Run every picture through the model as it is now.

    Args:
        model: Quantized.
        targets: Outputs of full precision.
        pictures: How many there are.
    """
    errors = {name: _Error() for name in ("eps", "x0", "image")}
    for number in range(pictures):
        target = targets.get(number)
        condition = model.condition(target["lr"].numpy())
        errors["eps"].add(model.eps(condition, target["latent"]), target["eps"])
        latent = model.encode(condition, target.get("noise"))
        x0 = model.x0(latent, model.eps(condition, latent))
        errors["x0"].add(x0, target["x0"])
        errors["image"].add(model.decode(x0).clamp(-1, 1), target["image"].clamp(-1, 1))
    return Fidelity(*(error.psnr_db() for error in errors.values()))


class _Error:
    """Sums over pictures."""

    def __init__(self) -> None:
        self._squares, self._count = 0.0, 0
        self._low, self._high = math.inf, -math.inf

    def add(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        self._squares += float((found - wanted).double().square().sum())
        self._count += wanted.numel()
        self._low = min(self._low, float(wanted.amin()))
        self._high = max(self._high, float(wanted.amax()))

    def psnr_db(self) -> float:
        mean = max(self._squares / self._count, 1e-20)
        return 10 * math.log10(max((self._high - self._low) ** 2, 1e-20) / mean)


def table(rows: Sequence[Row]) -> str:
    """For people: a line a row, a group of columns a set."""
    sets = list(rows[0].fidelity)
    titles = [f.name.removesuffix("_db") for f in fields(Fidelity)]
    width = max(len(row.name) for row in rows)
    head = "".join(f"  {name:^{8 * len(titles) - 2}}" for name in sets)
    lines = [f"{'PSNR, dB':<{width}}{head}"]
    lines.append(f"{'':<{width}}" + "".join(f"{title:>8}" for _ in sets for title in titles))
    for row in rows:
        values: Iterable[float] = (v for name in sets for v in astuple(row.fidelity[name]))
        lines.append(f"{row.name:<{width}}" + "".join(f"{value:8.2f}" for value in values))
    return "\n".join(lines)
