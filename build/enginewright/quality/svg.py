"""Small charts as inline SVG: no library, no external resource; colours are the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Line", "Point", "bar_chart", "line_chart", "scatter_chart"]

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 38
_LABEL = 13  # pixels between two labels, one above the other


@dataclass(frozen=True, slots=True)
class Line:
    """points: (x, y) in data units."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """label: below it, every few bars when there are many."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Point:
    """low, high: the interval of y."""

    label: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """Data units to pixels; `log`: in tenth powers."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [10.0**power for power in powers if self.low <= 10.0**power <= self.high]
        span = self.high - self.low or 1.0
        step = 10.0 ** math.floor(math.log10(span / 4))
        step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
        first = math.ceil(self.low / step)
        return [round(index * step, 10) for index in range(first, math.floor(self.high / step) + 1)]


def line_chart(lines: Sequence[Line], *, x: str, y: str) -> str:
    """Lines over a linear x and a logarithmic y; values that are not positive sit on the floor."""
    values = [value for line in lines for _, value in line.points if value > 0] or [1.0]
    top = max(values)
    horizontal = _horizontal([place for line in lines for place, _ in line.points])
    vertical = _vertical(max(min(values), top * 1e-4), top * 1.2, log=True)
    body = [_frame(horizontal, vertical, x, y)]
    for number, line in enumerate(lines, start=1):
        path = " ".join(f"{horizontal(place)},{vertical(value)}" for place, value in line.points)
        body.append(f'<polyline class="line c{number}" points="{path}"/>')
        body.append(_text(_LEFT + 12, _TOP + 16 * number, line.label, f"key c{number}"))
    return _svg(f"{y} over {x}", body)


def bar_chart(bars: Sequence[Bar], *, x: str, y: str) -> str:
    """One bar a value, from zero."""
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(bars))
    horizontal = _Axis(0.0, float(len(bars)), _LEFT, _WIDTH - _RIGHT)
    vertical = _vertical(0.0, max((bar.value for bar in bars), default=1.0) * 1.1 or 1.0)
    body = [_frame(None, vertical, x, y)]
    every = max(1, math.ceil(len(bars) / 20))
    for index, bar in enumerate(bars):
        left, top = horizontal(index) + 0.1 * width, vertical(bar.value)
        height = round(_HEIGHT - _BOTTOM - top, 1)
        tip = f"<title>{escape(bar.label)}: {bar.value:.3g}</title>"
        place = f'x="{left:.1f}" y="{top}" width="{0.8 * width:.1f}" height="{height}"'
        body.append(f'<rect class="bar" {place}>{tip}</rect>')
        if index % every == 0:
            body.append(_text(left + 0.4 * width, _HEIGHT - _BOTTOM + 14, bar.label, "tick middle"))
    return _svg(f"{y} by {x}", body)


def scatter_chart(points: Sequence[Point], *, x: str, y: str) -> str:
    """Labelled points with intervals of y, over a linear x from zero and a logarithmic y."""
    horizontal = _Axis(0.0, 1.25 * max(point.x for point in points), _LEFT, _WIDTH - _RIGHT)
    top = max(point.high for point in points) or 1.0
    bottom = min([point.low for point in points if point.low > 0] or [top])
    vertical = _vertical(max(bottom / 2, top * 1e-4), top * 2, log=True)
    body, labels = [_frame(horizontal, vertical, x, y)], list[tuple[float, float]]()
    # From the lowest up: a label that finds another in its place moves up.
    for number, point in sorted(enumerate(points), key=lambda item: item[1].y):
        left, colour = horizontal(point.x), f"c{number % 6 + 1}"
        body.append(
            f'<line class="line {colour}" x1="{left}" x2="{left}" y1="{vertical(point.low)}" '
            f'y2="{vertical(point.high)}"/>'
            f'<circle class="dot {colour}" cx="{left}" cy="{vertical(point.y)}" r="5"/>'
        )
        place = vertical(point.y) + 4
        while any(abs(place - high) < _LABEL and abs(left - wide) < _WIDTH / 3 for wide, high in labels):
            place -= _LABEL
        labels.append((left, place))
        body.append(_text(left + 9, place, point.label, f"key {colour}"))
    return _svg(f"{y} against {x}", body)


def _horizontal(values: Iterable[float]) -> _Axis:
    found = list(values) or [0.0, 1.0]
    return _Axis(min(found), max(found), _LEFT, _WIDTH - _RIGHT)


def _vertical(low: float, high: float, *, log: bool = False) -> _Axis:
    return _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, log)


def _frame(horizontal: _Axis | None, vertical: _Axis, x: str, y: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
    for value in horizontal.ticks if horizontal else ():
        parts.append(_text(horizontal(value) if horizontal else 0, bottom + 14, f"{value:g}", "tick middle"))
    for value in vertical.ticks:
        place = vertical(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{place}" y2="{place}"/>')
        parts.append(_text(_LEFT - 6, place + 4, f"{value:g}", "tick end"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 6, x, "name middle"))
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text class="name middle" transform="translate(14 {middle}) rotate(-90)">{escape(y)}</text>'
    )
    return "".join(parts)


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(body)}</svg>"
    )
