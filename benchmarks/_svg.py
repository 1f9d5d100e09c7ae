"""Plots of points and lines as SVG; each series has its name beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 76, 170, 56, 62
OURS = ("#0b3d91", "#2a7fd4", "#3aa6b9")
OTHERS = ("#c2410c", "#e08a3c", "#6b7280", "#15803d", "#9333ea", "#a16207", "#be185d", "#0f766e")
_LABEL_PX, _CHARACTER_PX = 14, 6.6


@dataclass(frozen=True)
class Series:
    """Points of one server, joined by a line if there are several.

    Attributes:
        name: Written beside its last point.
        points: x and y.
        is_ours: Gets one of our colours, the first of these the darkest.
    """

    name: str
    points: Sequence[tuple[float, float]]
    is_ours: bool


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: With the unit.
        is_log: Its scale.
        low: Where it begins, if it is not logarithmic.
    """

    title: str
    is_log: bool
    low: float = 0.0


@dataclass(frozen=True)
class _Scale:
    axis: Axis
    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        transform = math.log10 if self.axis.is_log else float
        part = (transform(value) - transform(self.low)) / (
            transform(self.high) - transform(self.low)
        )
        return self.begin + part * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if self.axis.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [m * 10.0**power for power in powers for m in (1, 2, 5)]
        else:
            step = 10.0 ** math.floor(math.log10(self.high - self.low))
            step = step if (self.high - self.low) / step >= 4 else step / 2
            first = math.ceil(self.low / step)
            values = [step * n for n in range(first, math.floor(self.high / step) + 1)]
        return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]


def plot(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    limit: tuple[float, str] | None = None,
) -> str:
    """The SVG.

    Args:
        title: Above it.
        series: At least one, of at least one point each.
        x: To the right.
        y: Upwards.
        limit: An x that nothing passes, and what it is.
    """
    xs = [point[0] for one in series for point in one.points] + ([limit[0]] if limit else [])
    ys = [point[1] for one in series for point in one.points]
    across = _scale(x, xs, LEFT, WIDTH - RIGHT)
    up = _scale(y, ys, HEIGHT - BOTTOM, TOP)
    parts = [*_frame(title, across, up)]
    if limit:
        at = across(limit[0])
        parts.append(
            f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#111827"'
            ' stroke-dasharray="5 4"/>' + _text(at, TOP - 6, limit[1], anchor="middle")
        )
    ours, others = iter(OURS), iter(OTHERS)
    labels, dots = [], list[tuple[float, float]]()
    for one in series:
        color = next(ours if one.is_ours else others, "#374151")
        places = [(across(px), up(py)) for px, py in one.points]
        if len(places) > 1:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
            width = 2.5 if one.is_ours else 1.8
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'
            )
        size = 5 if one.is_ours else 4
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{size}" fill="{color}"/>' for px, py in places
        ]
        dots += places
        labels.append((*places[-1], one.name, color))
    return "\n".join([*parts, *_labels(labels, dots), "</svg>", ""])


def _scale(axis: Axis, values: Sequence[float], begin: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    if axis.is_log:
        return _Scale(axis, low / 1.3, high * 1.3, begin, end)
    return _Scale(axis, axis.low, high + (high - axis.low) / 20, begin, end)


def _frame(title: str, x: _Scale, y: _Scale) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600" fill="#111827">'
        f"{escape(title)}</text>",
    ]
    for value in x.ticks():
        at = x(value)
        parts.append(
            f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}" stroke="#e5e7eb"/>'
            + _text(at, bottom + 18, f"{value:,g}", anchor="middle")
        )
    for value in y.ticks():
        at = y(value)
        parts.append(
            f'<line x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#e5e7eb"/>'
            + _text(LEFT - 8, at + 4, f"{value:,g}", anchor="end")
        )
    parts.append(
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#6b7280"/>'
        + _text((LEFT + right) / 2, HEIGHT - 16, x.axis.title, anchor="middle")
        + f'<text transform="translate(18 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle"'
        f' fill="#374151">{escape(y.axis.title)}</text>'
    )
    return parts


def _labels(
    labels: list[tuple[float, float, str, str]], dots: list[tuple[float, float]]
) -> list[str]:
    """Each beside its series' last point, as near as it lies on no other and on no point."""
    parts, taken = [], [(x - 5, x + 5, y + 4) for x, y in dots]
    for x, y, name, color in sorted(labels, key=lambda label: label[1]):
        width = _CHARACTER_PX * len(name)
        places = [
            (begin, begin + width, y + 4 + sign * down)
            for down in range(0, 60, 7)
            for begin in (x + 9, x - 9 - width)
            for sign in (1, -1)
        ]
        free = (place for place in places if not any(_overlap(place, other) for other in taken))
        begin, end, at = next(free, places[0])
        taken.append((begin, end, at))
        parts.append(_text(begin, at, name, color=color))
    return parts


def _overlap(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and abs(one[2] - other[2]) < _LABEL_PX


def _text(x: float, y: float, text: str, *, anchor: str = "start", color: str = "#374151") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" stroke="#ffffff"'
        f' stroke-width="3" stroke-linejoin="round" paint-order="stroke">{escape(text)}</text>'
    )
