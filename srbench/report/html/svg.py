"""Inline SVG: elements with escaped text, coordinates to a tenth of a unit, colours by class."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10
from xml.etree import ElementTree

Attribute = str | float


class Drawing:
    """An SVG image that scales with the page."""

    def __init__(self, width: float, height: float, label: str, kind: str = "chart") -> None:
        """Start an empty drawing; `label` is what a screen reader says of it."""
        box = f"0 0 {_number(width)} {_number(height)}"
        self._root = ElementTree.Element("svg", {"viewBox": box, "role": "img", "class": kind})
        self._root.set("aria-label", label)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line, styled by its class."""
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def circle(self, x: float, y: float, radius: float, kind: str, tip: str) -> None:
        """A point with a tooltip."""
        self._tip(self._add("circle", kind, cx=x, cy=y, r=radius), tip)

    def diamond(self, x: float, y: float, radius: float, kind: str, tip: str) -> None:
        """A point of another kind with a tooltip."""
        corners = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
        points = " ".join(f"{_number(a)},{_number(b)}" for a, b in corners)
        self._tip(self._add("polygon", kind, points=points), tip)

    def bar(
        self, x: float, y: float, width: float, height: float, kind: str, fill: str, tip: str = ""
    ) -> None:
        """A filled rectangle; `fill` is a colour that the class may override in the dark."""
        element = self._add("rect", kind, x=x, y=y, width=width, height=height, fill=fill)
        if tip:
            self._tip(element, tip)

    def text(self, x: float, y: float, text: str, kind: str = "label") -> None:
        """A word whose vertical middle is at `y`."""
        self._add("text", kind, x=x, y=y, dy="0.35em").text = text

    def markup(self) -> str:
        """The drawing as an HTML fragment; all text in it is escaped."""
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, kind: str, **attributes: Attribute) -> ElementTree.Element:
        element = ElementTree.SubElement(self._root, tag, {"class": kind})
        for name, value in attributes.items():
            element.set(name, value if isinstance(value, str) else _number(value))
        return element

    @staticmethod
    def _tip(element: ElementTree.Element, text: str) -> None:
        ElementTree.SubElement(element, "title").text = text


class Scale:
    """A linear axis: values to coordinates, and where its ticks are."""

    def __init__(self, values: Sequence[float], start: float, end: float, ticks: int = 5) -> None:
        """Span all values with a little air, from coordinate `start` to `end`."""
        low, high = min(values), max(values)
        air = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        self._low, self._high = low - air, high + air
        self._start, self._end = start, end
        self._ticks = ticks

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values inside the axis and their labels."""
        rough = (self._high - self._low) / self._ticks
        power = 10.0 ** floor(log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        decimals = max(0, -floor(log10(step)))
        first = floor(self._low / step) + 1
        count = floor(self._high / step) - first + 1
        return [
            ((first + index) * step, f"{(first + index) * step:.{decimals}f}")
            for index in range(count)
        ]


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
