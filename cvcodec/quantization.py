"""Latent <-> symbols: the one lossy step between the encoder network and the file.

    step[c]   = unit_step[c] * 2 ** ((50 - quality) / 10 + octaves[c](quality))
                                                                ten points of quality double the precision
    symbol    = rint((latent - offset[c]) / step[c])             int32, |symbol| <= SYMBOL_LIMIT
    latent'   = float32(float32(symbol) * step[c]) + offset[c]   two float32 roundings, in this order

Owns: the quality scale, the range checks, and the exact arithmetic of both directions. Dequantising gives the same
bits on every machine: |symbol| < 2**24 converts to float32 exactly, and the multiplication and the addition are two
separate IEEE-754 float32 operations (never fused, since numpy runs them as two passes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SYMBOL_LIMIT = 2**20
"""Largest magnitude of a symbol. Far beyond use (at quality 100 it is 32768 standard deviations), far below the 2**24
where float32 stops telling integers apart."""

STEP_RANGE = (2.0**-64, 2.0**64)
"""Limits of a step; no product is then infinite or subnormal."""

QUALITY_RANGE = (0.0, 100.0)
"""Limits of the quality knob. 50: one `unit_step` per step; 100: a 32nd of it; 0: 32 of them."""


STEP_QUALITIES = tuple(range(0, 101, 10))
"""Where a model may bend the steps of single channels."""

STEP_OCTAVES_LIMIT = 8.0
"""How far, either way."""


ENHANCEMENT_STEP = 2.8
"""Unit step of every channel of an enhancement layer. Its coefficients stand on an orthonormal basis of the pixels in
[-1, 1] of a patch, so that equal steps lose equally much; this one trades error for bits as base layers do at 50."""

ENHANCEMENT_OCTAVES = 0.012
"""And by how much less than a base layer's its steps shrink with each point of quality, as its bits pay for longer."""


ENHANCEMENT_DEAD_ZONE = 0.15
"""Of an enhancement layer's quantiser, in steps: what is left over is zero nearly everywhere, and zero costs least."""


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel numbers of a model's latents, measured over a data set; each tuple has C entries."""

    mean: tuple[float, ...]
    """Mean of each channel: the quantiser's offset."""
    std: tuple[float, ...]
    """Standard deviation of each channel, positive."""
    unit_step: tuple[float, ...] = ()
    """Step of each channel at quality 50, positive. Left out: `std`."""
    step_octaves: tuple[tuple[float, ...], ...] = ()
    """What is added to the binary logarithm of each channel's step, a row of C entries for each of `STEP_QUALITIES`, as
    training found it; linear in between. Left out: nothing."""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "unit_step"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        object.__setattr__(self, "step_octaves", tuple(tuple(map(float, row)) for row in self.step_octaves))
        if not self.unit_step:
            object.__setattr__(self, "unit_step", self.std)
        if self.step_octaves and {len(row) for row in self.step_octaves} != {len(self.mean)}:
            raise ValueError(f"one entry per channel wanted in each row: {len(self.mean) = }, step_octaves differ")
        if len(self.step_octaves) not in (0, len(STEP_QUALITIES)):
            raise ValueError(f"step_octaves have {len(self.step_octaves)} rows, wanted {len(STEP_QUALITIES)} or none")
        if any(not abs(value) <= STEP_OCTAVES_LIMIT for row in self.step_octaves for value in row):
            raise ValueError(f"step_octaves must be within {STEP_OCTAVES_LIMIT:g} of zero")
        if not self.mean or not len(self.mean) == len(self.std) == len(self.unit_step):
            raise ValueError(
                f"one entry per channel wanted: {len(self.mean) = }, {len(self.std) = }, {len(self.unit_step) = }"
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std, *self.unit_step)):
            raise ValueError("statistics hold a value that is not finite")
        if min(self.std) <= 0 or min(self.unit_step) <= 0:
            raise ValueError(f"std and unit_step must be positive: {min(self.std) = }, {min(self.unit_step) = }")

    @property
    def channels(self) -> int:
        """C, the number of latent channels."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` inverts it exactly (JSON floats keep all 64 bits)."""
        values: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std), "unit_step": list(self.unit_step)}
        return values | ({"step_octaves": [list(row) for row in self.step_octaves]} if self.step_octaves else {})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LatentStatistics:
        """Inverse of `to_dict`. Raises ValueError on missing or unknown keys and on impossible values."""
        unknown = sorted(set(values) - {"mean", "std", "unit_step", "step_octaves"})
        if unknown or not {"mean", "std"} <= set(values):
            raise ValueError(f"statistics want the keys mean, std, unit_step, got: {', '.join(sorted(values))}")
        rows = tuple(tuple(row) for row in values.get("step_octaves", ()))
        return cls(tuple(values["mean"]), tuple(values["std"]), tuple(values.get("unit_step", ())), rows)

    def base(self, channels: int) -> LatentStatistics:
        """Of the first `channels` channels."""
        rows = tuple(row[:channels] for row in self.step_octaves)
        return LatentStatistics(self.mean[:channels], self.std[:channels], self.unit_step[:channels], rows)

    def with_enhancement(self, std: tuple[float, ...]) -> LatentStatistics:
        """And behind them the channels, of these deviations, of an enhancement layer."""
        own = self.step_octaves or ((0.0,) * self.channels,) * len(STEP_QUALITIES)
        bent = [ENHANCEMENT_OCTAVES * (quality - 50) for quality in STEP_QUALITIES]
        rows = tuple((*row, *(octaves,) * len(std)) for row, octaves in zip(own, bent, strict=True))
        mean, unit_step = (0.0,) * len(std), (ENHANCEMENT_STEP,) * len(std)
        return LatentStatistics((*self.mean, *mean), (*self.std, *std), (*self.unit_step, *unit_step), rows)

    def octaves(self, quality: float) -> NDArray[np.float64]:
        """(C,): `step_octaves` at `quality`."""
        if not self.step_octaves:
            return np.zeros(self.channels)
        columns = np.array(self.step_octaves).T
        return np.array([np.interp(quality, STEP_QUALITIES, column) for column in columns])


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Per-channel uniform quantiser. `steps` and `offsets`: (C,) float32, steps positive, all finite."""

    steps: NDArray[np.float32]
    offsets: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("steps", "offsets"):
            with np.errstate(over="ignore"):  # infinity is refused below
                array = np.array(getattr(self, name), dtype=np.float32)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.steps.ndim != 1 or self.steps.shape != self.offsets.shape or not len(self.steps):
            raise ValueError(f"one step and offset per channel wanted: {self.steps.shape = }, {self.offsets.shape = }")
        if not (np.isfinite(self.steps).all() and np.isfinite(self.offsets).all()):
            raise ValueError("quantiser steps and offsets must be finite float32 values")
        if self.steps.min() < STEP_RANGE[0] or max(self.steps.max(), np.abs(self.offsets).max()) > STEP_RANGE[1]:
            raise ValueError(
                f"quantiser steps must lie in 2**-64 to 2**64 and offsets below: steps {self.steps.min():g} to "
                f"{self.steps.max():g}, offsets {self.offsets.min():g} to {self.offsets.max():g}"
            )

    @classmethod
    def from_statistics(cls, statistics: LatentStatistics, quality: float) -> Quantizer:
        """The steps of `quality` in [0, 100]; offsets are the channel means. Raises ValueError outside the range."""
        low, high = QUALITY_RANGE
        if not low <= quality <= high:  # also refuses NaN
            raise ValueError(f"quality is {quality}, wanted a number from {low:g} to {high:g}")
        scale = 2.0 ** ((50.0 - quality) / 10.0)
        with np.errstate(over="ignore"):
            steps = (np.array(statistics.unit_step) * scale * np.exp2(statistics.octaves(quality))).astype(np.float32)
            return cls(steps, np.array(statistics.mean).astype(np.float32))

    @property
    def channels(self) -> int:
        """C, the number of latent channels."""
        return len(self.steps)

    def split(self, channels: int) -> tuple[Quantizer, Quantizer | None]:
        """That of the first `channels`, and that of the others where there are any."""
        first = Quantizer(self.steps[:channels], self.offsets[:channels])
        rest = self.channels > channels
        return first, Quantizer(self.steps[channels:], self.offsets[channels:]) if rest else None

    def quantize(self, latent: NDArray[np.float32], *, dead_zone: float = 0.0) -> NDArray[np.int32]:
        """(C, t, h, w) float32 -> (C, t, h, w) int32. Ties go to the even symbol.

        dead_zone: so much of a step, below half, is taken from every magnitude first, and zero becomes more frequent.
        Raises ValueError for a wrong shape, for NaN or infinity, and for a symbol beyond `SYMBOL_LIMIT`: nothing is
        clipped.
        """
        self._columns(latent)
        if not np.isfinite(latent).all():
            raise ValueError("latent holds NaN or infinity; nothing sensible to quantise")
        symbols = np.empty(latent.shape, np.int32)
        for channel, values in enumerate(latent):  # one by one, since it is in float64: then the division is exact
            # enough that the error stays within half a step up to SYMBOL_LIMIT.
            relative = (values.astype(np.float64) - float(self.offsets[channel])) / float(self.steps[channel])
            if dead_zone:
                relative = np.copysign(np.maximum(np.abs(relative) - dead_zone, 0.0), relative)
            largest = float(np.abs(np.rint(relative, out=relative)).max(initial=0.0))
            if largest > SYMBOL_LIMIT:
                raise ValueError(
                    f"a latent is {largest:g} steps from its offset, at most {SYMBOL_LIMIT} fit; lower the quality"
                )
            symbols[channel] = relative
        return symbols

    def dequantize(self, symbols: NDArray[np.int32]) -> NDArray[np.float32]:
        """(C, t, h, w) int32 -> (C, t, h, w) float32, bit for bit the same everywhere.

        Raises ValueError for a wrong shape, a type that is not an integer, or a symbol beyond `SYMBOL_LIMIT`.
        """
        steps, offsets = self._columns(symbols)
        if not np.issubdtype(symbols.dtype, np.integer):
            raise ValueError(f"symbols are integers, got {symbols.dtype}")
        if symbols.size and (int(symbols.min()) < -SYMBOL_LIMIT or int(symbols.max()) > SYMBOL_LIMIT):
            raise ValueError(f"symbols reach from {symbols.min()} to {symbols.max()}, at most {SYMBOL_LIMIT} is legal")
        product: NDArray[np.float32] = symbols.astype(np.float32) * steps
        return product + offsets

    def _columns(self, array: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Steps and offsets as (C, 1, 1, 1), after checking that `array` is (C, t, h, w)."""
        if array.ndim != 4 or array.shape[0] != self.channels:
            raise ValueError(f"wanted ({self.channels}, t, h, w), got {array.shape}")
        return self.steps[:, None, None, None], self.offsets[:, None, None, None]
