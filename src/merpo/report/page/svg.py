"""A small chart kit for the page: inline SVG whose colours are CSS variables, so that light and dark need no redrawing.

Panels are about as wide as a phone and flow in a grid: text in them keeps its size on every screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
PANEL = 340.0
"""Width of a panel in SVG units, close to CSS pixels on a phone."""


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within [low, high], about so many (steps of 1, 2, 2.5 or 5 times a power of ten)."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(x: float) -> str:
    """A figure as people read it: three significant digits, whole numbers from 100 on."""
    if not math.isfinite(x):
        return DASH
    size = abs(x)
    if size != 0 and (size < 1e-3 or size >= 1e6):
        mantissa, exponent = f"{x:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 4
    text = f"{x:.{digits}f}"
    return text.replace("-", MINUS)


def tick_label(x: float) -> str:
    """A tick without trailing zeros."""
    if x != 0 and (abs(x) < 1e-3 or abs(x) >= 1e5):
        mantissa, exponent = f"{x:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    return f"{x:.4f}".rstrip("0").rstrip(".").replace("-", MINUS)


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from values to SVG units."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, x: float) -> float:
        """Where a value lies."""
        low, high = (math.log10(v) if self.log else v for v in (self.low, self.high))
        at = math.log10(max(x, 1e-300)) if self.log else x
        share = (at - low) / ((high - low) or 1.0)
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def ticks(self, about: int = 4) -> list[float]:
        """Values worth a label."""
        if not self.log:
            return ticks(self.low, self.high, about)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        if last - first >= 1:
            stride = max(1, (last - first) // about)
            return [10.0**i for i in range(first, last + 1, stride)]
        return ticks(self.low, self.high, about)


def spanning(values: Sequence[np.ndarray | Sequence[float]], pad: float = 0.06) -> tuple[float, float]:
    """Lowest and highest finite value, a little widened; (0, 1) where there is none."""
    flat = np.concatenate([np.ravel(np.asarray(v, float)) for v in values]) if values else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return 0.0, 1.0
    low, high = float(flat.min()), float(flat.max())
    margin = pad * ((high - low) or max(abs(high), 1.0))
    return low - margin, high + margin


class Chart:
    """An SVG that is built up in drawing order; `done()` gives its text."""

    def __init__(self, about: str, height: float, width: float = PANEL):
        self.width, self.height = width, height
        self._parts: list[str] = []
        self._about = about

    def line(self, points: Sequence[tuple[float, float]], cls: str) -> None:
        """A polyline through SVG points."""
        if len(points) > 1:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            self._parts.append(f'<path class="{cls}" d="{path}"/>')

    def area(self, points: Sequence[tuple[float, float]], cls: str) -> None:
        """A filled polygon."""
        if len(points) > 2:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
            self._parts.append(f'<path class="{cls}" d="{path}"/>')

    def dot(self, x: float, y: float, cls: str, r: float = 3.5, about: str = "") -> None:
        """A dot, with a tooltip."""
        tip = f"<title>{escape(about)}</title>" if about else ""
        self._parts.append(f'<circle class="{cls}" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}">{tip}</circle>')

    def bar(self, x: float, y: float, width: float, height: float, cls: str, round_by: float = 2.0) -> None:
        """A rectangle."""
        self._parts.append(
            f'<rect class="{cls}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}"'
            f' rx="{round_by:g}"/>'
        )

    def text(self, x: float, y: float, content: str, cls: str = "t", anchor: str = "start") -> None:
        """A label; y is its baseline."""
        self._parts.append(
            f'<text class="{cls}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
        )

    def star(self, x: float, y: float, cls: str, r: float = 6.0) -> None:
        """A five-pointed star."""
        angles = [(-90 + 36 * i) * math.pi / 180 for i in range(10)]
        radii = [r if i % 2 == 0 else 0.42 * r for i in range(10)]
        points = [(x + q * math.cos(a), y + q * math.sin(a)) for a, q in zip(angles, radii, strict=True)]
        self.area(points, cls)

    def x_axis(self, axis: Axis, y: float, top: float, title: str = "", about: int = 4) -> None:
        """Vertical grid lines with labels below `y`, and the axis's name under them."""
        for value in axis.ticks(about):
            x = axis(value)
            self.line([(x, top), (x, y)], "grid")
            self.text(x, y + 13, tick_label(value), "tick", "middle")
        if title:
            self.text((axis.start + axis.end) / 2, y + 27, title, "tick", "middle")

    def y_axis(self, axis: Axis, left: float, right: float, about: int = 4) -> None:
        """Horizontal grid lines with labels to the left."""
        for value in axis.ticks(about):
            y = axis(value)
            self.line([(left, y), (right, y)], "grid")
            self.text(left - 5, y + 3.5, tick_label(value), "tick", "end")

    def done(self) -> str:
        """The SVG element."""
        size = f'viewBox="0 0 {self.width:g} {self.height:g}"'
        return f'<svg {size} role="img" aria-label="{escape(self._about, quote=True)}">{"".join(self._parts)}</svg>'


Line = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Series:
    """One line of a panel, with a band if it has one."""

    label: str
    cls: str
    """CSS class of its colour, e.g. `m-merpo`."""
    x: Line
    y: Line
    low: Line | None = None
    high: Line | None = None


def panel(
    title: str, series: Sequence[Series], x_title: str, height: float = 200.0, log: bool = False, width: float = PANEL
) -> str:
    """A line chart with bands; a note below the title is the caller's."""
    chart = Chart(title, height, width)
    left, right, top, bottom = 46.0, width - 8.0, 10.0, height - 34.0
    values = [np.asarray(v, float) for s in series for v in (s.y, s.low, s.high) if v is not None]
    low, high = spanning(values)
    positive = [v[np.isfinite(v)] for v in values]
    floor = min((float(v.min()) for v in positive if len(v)), default=0.0)
    log = log and floor > 0
    if log:
        top_value = max(float(v.max()) for v in positive if len(v))
        low, high = floor / 1.15, top_value * 1.15
    y = Axis(low, high, bottom, top, log)
    xs = np.concatenate([np.asarray(s.x, float) for s in series]) if series else np.asarray([0.0, 1.0])
    x = Axis(float(xs.min()), float(xs.max()), left, right)
    chart.y_axis(y, left, right)
    chart.x_axis(x, bottom, bottom, x_title)
    for s in series:
        if s.low is not None and s.high is not None:
            upper = [(x(a), y(b)) for a, b in zip(s.x, s.high, strict=True)]
            lower = [(x(a), y(b)) for a, b in zip(s.x, s.low, strict=True)]
            chart.area(upper + lower[::-1], f"band {s.cls}")
    for s in series:
        finite = [(x(a), y(b)) for a, b in zip(s.x, s.y, strict=True) if math.isfinite(b)]
        chart.line(finite, f"curve {s.cls}")
        if len(finite) == 1:
            chart.dot(*finite[0], f"dot {s.cls}")
    return chart.done()
