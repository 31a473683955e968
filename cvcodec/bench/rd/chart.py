"""Curves -> an SVG picture, as text: log-rate across, a metric up. No dependencies, readable inside a page.

Colours come from CSS variables of the page (`--ink`, `--grid`) where it has them. Owns: axes, marks, names.
Does not know: what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 28, 40

COLORS = ("#d1495b", "#00798c", "#30638e", "#8a6d1a", "#6a4c93", "#2e7d32", "#c75b12", "#5f6b6d")
"""Told apart by people who do not tell red from green, on white and on black."""


@dataclass(frozen=True)
class Line:
    """One curve. `points`: (rate, value, words for the pointer), by ascending rate."""

    name: str
    color: str
    dashed: bool
    points: Sequence[tuple[float, float, str]]


def chart(title: str, label: str, lines: Sequence[Line], *, falling: bool = False) -> str:
    """An <svg> element. `label`: of the metric; `falling`: small values are good, so the axis is turned over."""
    lines = [line for line in lines if line.points]
    rates = [rate for line in lines for rate, _, _ in line.points]
    values = [value for line in lines for _, value, _ in line.points]
    if not rates:
        return ""
    low, high = math.log10(min(rates)), math.log10(max(rates))
    low, high = low - 0.04 * (high - low or 1), high + 0.04 * (high - low or 1)
    ticks = _ticks(min(values), max(values))
    bottom, top = min(ticks[0], min(values)), max(ticks[-1], max(values))

    def x(rate: float) -> float:
        return _LEFT + (math.log10(rate) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (value - bottom) / (top - bottom)
        return _TOP + (share if falling else 1 - share) * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="11" fill="var(--ink, #222)">',
        f'<text x="{_LEFT}" y="16" font-size="13" font-weight="600">{escape(title)}</text>',
    ]
    grid = 'stroke="var(--grid, #ddd)" stroke-width="1"'
    for value in ticks:
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" {grid}/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for rate in rate_ticks(10**low, 10**high):
        parts.append(f'<line x1="{x(rate):.1f}" x2="{x(rate):.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" {grid}/>')
        parts.append(f'<text x="{x(rate):.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{rate:g}</text>')
    middle, centre = (_TOP + HEIGHT - _BOTTOM) / 2, (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{centre}" y="{HEIGHT - 8}" text-anchor="middle">bits per pixel</text>')
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(label)}</text>')
    for line in lines:
        path = " ".join(f"{x(rate):.1f},{y(value):.1f}" for rate, value, _ in line.points)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.color}" stroke-width="1.8"{dash}/>')
        for rate, value, words in line.points:
            parts.append(
                f'<circle cx="{x(rate):.1f}" cy="{y(value):.1f}" r="3.2" fill="{line.color}">'
                f"<title>{escape(f'{line.name} {words}: {rate:.4f} bpp, {value:.4g}')}</title></circle>"
            )
    return "\n".join([*parts, "</svg>"])


def legend(lines: Sequence[Line]) -> str:
    """An <svg> element with the names of the curves, one under the other."""
    height = 18 * len(lines) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="legend" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="var(--ink, #222)">'
    ]
    for index, line in enumerate(lines):
        at = 18 * index + 12
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<line x1="4" x2="40" y1="{at}" y2="{at}" stroke="{line.color}" stroke-width="2"{dash}/>')
        parts.append(f'<circle cx="22" cy="{at}" r="3.2" fill="{line.color}"/>')
        parts.append(f'<text x="50" y="{at + 4}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers that enclose the range."""
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span))
    step = next(step * share for share in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (step * share) <= 6)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def rate_ticks(low: float, high: float) -> list[float]:
    """Ones, twos and fives of each decade within the range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rates = [round(digit * 10.0**decade, 12) for decade in decades for digit in (1, 2, 5)]
    return [rate for rate in rates if low <= rate <= high]
