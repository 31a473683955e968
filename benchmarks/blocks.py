"""Blockiness at multiples of 8 pixels, where patches and the grid of latents meet: of decoded pictures over the source.

Owns: the measure. Of a set of pictures it is the mean absolute difference of neighbours across the lines of the grid
over that across all other lines, rows and columns alike; a picture without a grid has about 1, a source may have one of
its own, so that it is divided by the source's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = 8


class Blockiness:
    """Sums over pictures, of one side."""

    def __init__(self) -> None:
        self._sums = {True: 0.0, False: 0.0}
        self._counts = {True: 0, False: 0}

    def add(self, picture: NDArray[Any]) -> None:
        """(H, W, 3) integers."""
        values = picture.astype(np.int32)
        for axis in (0, 1):
            steps = np.abs(np.diff(values, axis=axis)).mean(axis=(1 - axis, 2))
            on_grid = np.arange(1, len(steps) + 1) % GRID == 0
            for side in (True, False):
                self._sums[side] += float(steps[on_grid == side].sum())
                self._counts[side] += int((on_grid == side).sum())

    @property
    def value(self) -> float | None:
        """None for pictures of 8 pixels or less, and for flat ones."""
        if not min(self._counts.values()) or not self._sums[False]:
            return None
        on_grid, elsewhere = (self._sums[side] / self._counts[side] for side in (True, False))
        return on_grid / elsewhere


def over_source(decoded: Blockiness, source: Blockiness) -> float | None:
    """1: no more of a grid than the source has."""
    if decoded.value is None or not source.value:
        return None
    return decoded.value / source.value
