"""The distance between two rate-distortion curves after Bjøntegaard (VCEG-M33, 2001; VCEG-AI11, 2008).

Curves go through their points by monotone piecewise cubics (Fritsch and Carlson 1980, with the slopes of Fritsch and
Butland 1984, which is what `scipy.interpolate.PchipInterpolator` and most tools for video coding use): a cubic through
four points, as in 2001, swings between points that lie far apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Curve:
    """y over x through the given points, within their range: monotone wherever the points are."""

    def __init__(self, x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> None:
        """At least two points with ascending, distinct x. ValueError otherwise."""
        self.x, self.y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if self.x.ndim != 1 or self.x.shape != self.y.shape or len(self.x) < 2:
            raise ValueError(f"a curve takes two points or more: {self.x.shape = }, {self.y.shape = }")
        if not (np.all(np.diff(self.x) > 0) and np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise ValueError("a curve takes finite points with ascending x")
        self._slopes = _slopes(self.x, self.y)

    def __call__(self, at: float | Floats) -> Floats:
        """Values; NaN outside the range of the points."""
        at = np.asarray(at, np.float64)
        piece = np.clip(np.searchsorted(self.x, at, side="right") - 1, 0, len(self.x) - 2)
        inside = (at >= self.x[0]) & (at <= self.x[-1])
        width = np.diff(self.x)[piece]
        s = (at - self.x[piece]) / width
        left, right = self.y[piece], self.y[piece + 1]
        value = (
            (1 + 2 * s) * (1 - s) ** 2 * left
            + s**2 * (3 - 2 * s) * right
            + width * s * (1 - s) * ((1 - s) * self._slopes[piece] - s * self._slopes[piece + 1])
        )
        return np.where(inside, value, np.nan)

    def integral(self, low: float, high: float) -> float:
        """Over [low, high], within the range of the points."""
        knots = np.concatenate([[low], self.x[(self.x > low) & (self.x < high)], [high]])
        # Between knots it is a cubic, for which Simpson's rule is exact.
        ends, middle = self(knots), self((knots[1:] + knots[:-1]) / 2)
        return float((np.diff(knots) * (ends[:-1] + 4 * middle + ends[1:])).sum() / 6)


def _slopes(x: Floats, y: Floats) -> Floats:
    """Derivatives at the points: harmonic means inside, three-point formulas at the ends, held monotone."""
    width = np.diff(x)
    rise = np.diff(y) / width
    if len(rise) == 1:
        return np.repeat(rise, 2)
    slopes = np.zeros(len(x))
    for i in range(1, len(x) - 1):
        if rise[i - 1] * rise[i] > 0:
            first, second = 2 * width[i] + width[i - 1], width[i] + 2 * width[i - 1]
            slopes[i] = (first + second) / (first / rise[i - 1] + second / rise[i])
    slopes[0] = _end(width[0], width[1], rise[0], rise[1])
    slopes[-1] = _end(width[-1], width[-2], rise[-1], rise[-2])
    return slopes


def _end(width: float, next_width: float, rise: float, next_rise: float) -> float:
    slope = ((2 * width + next_width) * rise - width * next_rise) / (width + next_width)
    if slope * rise <= 0:
        return 0.0
    return 3 * rise if rise * next_rise <= 0 and abs(slope) > 3 * abs(rise) else float(slope)


def bd_rate(anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]]) -> float | None:
    """How much more rate `test` takes than `anchor` for the same quality, as log(ratio): 0.1 is about 10 % more.

    Both: (rate, quality) points, rates positive, quality the larger the better. The mean over the qualities both curves
    reach; None where there are none.
    """
    curves = [_by_quality(points) for points in (anchor, test)]
    return _difference(*curves)


def percent(log_ratio: float) -> float:
    """`bd_rate` as the usual percentage."""
    return 100.0 * float(np.expm1(log_ratio))


def interpolate(points: Sequence[tuple[float, float]], rate: float) -> float | None:
    """The quality of a curve at `rate`; None outside it."""
    curve = _by_rate(points)
    value = float(curve(np.log(rate))) if curve is not None else float("nan")
    return None if np.isnan(value) else value


def _by_rate(points: Sequence[tuple[float, float]]) -> Curve | None:
    """The curve of quality over the logarithm of the rate; None for a single point."""
    ordered = dict(sorted((float(np.log(rate)), quality) for rate, quality in points))
    return Curve(list(ordered), list(ordered.values())) if len(ordered) > 1 else None


def _by_quality(points: Sequence[tuple[float, float]]) -> Curve | None:
    """Log-rate over quality, of the points that nothing cheaper reaches: a curve that bends back has two rates for a
    quality, of which the lower one counts."""
    best: list[tuple[float, float]] = []
    for rate, quality in sorted(points):
        if not best or quality > best[-1][0]:
            best.append((quality, float(np.log(rate))))
    return Curve(*zip(*best, strict=True)) if len(best) > 1 else None


def _difference(anchor: Curve | None, test: Curve | None) -> float | None:
    """Mean of test less anchor over the range of both."""
    if anchor is None or test is None:
        return None
    low, high = max(anchor.x[0], test.x[0]), min(anchor.x[-1], test.x[-1])
    if high <= low:
        return None
    return float((test.integral(low, high) - anchor.integral(low, high)) / (high - low))
