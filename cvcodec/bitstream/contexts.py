"""What is expected at a position from what has been decoded before it: predictions, magnitudes, and the order.

Owns: the integer rules of payload mode 1 (specified in `format`): the decoding order, the predictors, the expected
magnitude of a residual and the classes it falls into. Encoder and decoder share every formula; the encoder applies them
to whole arrays at once, the decoder to one *front* at a time: all positions with the same c + 2t + y + x depend only on
earlier fronts, so that a chunk takes about h + w + 2t + C numpy steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cvcodec.errors import BitstreamError
from cvcodec.quantization import SYMBOL_LIMIT

Ints = NDArray[np.int32]
Shape = tuple[int, int, int, int]
"""(C, t, h, w)."""

NONE, TIME, SPACE, BOTH = range(4)
"""Predictors: zero; the latent before; the median edge detector of LOCO-I; the median of both and of SPACE applied to
the change in time. At the first latent of a chunk each channel has NONE or SPACE instead."""

MAGNITUDE_LIMIT = 255
"""Magnitudes are clipped here before they enter an expectation."""

ACTIVITY_LIMIT = 4096
"""A residual's share of the activity is clipped at 16 times its channel's scale (256 is one)."""

THRESHOLDS = np.array([(2 + half) << octave for octave in range(3, 17) for half in range(2)], np.int32)
"""Class k holds expectations in [THRESHOLDS[k-1], THRESHOLDS[k]); 1024 is a magnitude of one."""

CLASSES = len(THRESHOLDS) + 1

SCALES = np.array([(2 + (code & 1)) << (code >> 1) >> 1 for code in range(32)], np.int32)
"""Scale of a channel by its five-bit code: the mean magnitude of its residuals, in 1/256."""


class Channel(NamedTuple):
    """What a payload says about each channel, in one byte."""

    later: int
    """Predictor of all latents but the first; bits 6 and 7."""
    first: int
    """Predictor of the first latent, NONE or SPACE; bit 5."""
    code: int
    """Index into `SCALES`; bits 0 to 4."""

    def to_byte(self) -> int:
        """Predictors and scale in the bits that the fields name, as a payload stores them."""
        return self.later << 6 | (self.first == SPACE) << 5 | self.code

    @classmethod
    def from_byte(cls, byte: int) -> Channel:
        """Inverse of `to_byte`; every byte is one."""
        return cls(byte >> 6, SPACE if byte & 32 else NONE, byte & 31)


def zigzag(residuals: Ints) -> Ints:
    """0, -1, 1, -2, ... -> 0, 1, 2, 3, ..."""
    return (residuals << 1) ^ (residuals >> 31)


def unzigzag(values: Ints) -> Ints:
    """0, 1, 2, 3, ... -> 0, -1, 1, -2, ..."""
    return (values >> 1) ^ -(values & 1)


def median_edge(left: Ints, up: Ints, corner: Ints) -> Ints:
    """LOCO-I: left + up - corner, held between left and up (Weinberger et al. 2000, section III.B)."""
    low, high = np.minimum(left, up), np.maximum(left, up)
    held: Ints = np.minimum(np.maximum(left + up - corner, low), high)
    return held


def median_of(first: Ints, second: Ints, third: Ints) -> Ints:
    """The middle one of three."""
    middle: Ints = np.maximum(np.minimum(first, second), np.minimum(np.maximum(first, second), third))
    return middle


def expectation(left: Ints, up: Ints, corner: Ints, before: Ints, around: Ints, scale: Ints, activity: Ints) -> Ints:
    """Expected magnitude of a residual, in 1/1024. The first five are magnitudes of earlier residuals of the channel
    (`before`: same place, latent before; `around`: the sum of its four neighbours), `scale` the channel's, `activity`
    the mean over earlier channels of magnitude / scale at this place, in 1/256. The weights are a least-squares fit."""
    near = 10 * (left + up) + 8 * before + 3 * (corner + around)
    expected: Ints = 16 * near + (7 * scale >> 4) + (13 * (activity * scale >> 8) >> 4)
    return expected


def predictions(symbols: Ints) -> dict[int, Ints]:
    """Each predictor's value at every position of one channel, (t, h, w)."""
    padded = np.pad(symbols, ((1, 0), (1, 0), (1, 0)))
    here, before = padded[1:], padded[:-1]

    def edges(plane: Ints) -> Ints:
        return median_edge(plane[:, 1:, :-1], plane[:, :-1, 1:], plane[:, :-1, :-1])

    space = edges(here)
    time = before[:, 1:, 1:]
    both = median_of(time, space, time + edges(here - before))
    return {NONE: np.zeros_like(symbols), TIME: time, SPACE: space, BOTH: both}


def looks_back(channels: list[Channel], latents: int) -> Ints:
    """(C, t), 1 or 0: whether the latent before says something about the magnitudes of this one. In the first latent
    they are those of a picture; where the second is predicted from it, those of a change."""
    sees = np.ones((len(channels), latents), np.int32)
    sees[[channel.later in (TIME, BOTH) for channel in channels], 1:2] = 0
    return sees


def scales_of(channels: list[Channel]) -> Ints:
    """(C,): the entry of `SCALES` that each channel names."""
    scales: Ints = SCALES[[channel.code for channel in channels]]
    return scales


def expectations(residuals: Ints, channels: list[Channel]) -> Ints:
    """`expectation` at every position of (C, t, h, w) residuals."""
    scales = scales_of(channels)
    magnitude = np.minimum(np.abs(residuals), MAGNITUDE_LIMIT)
    padded = np.pad(magnitude, ((0, 0), (1, 0), (1, 1), (1, 1)))
    here, before = padded[:, 1:], padded[:, :-1]
    sees = looks_back(channels, residuals.shape[1])[:, :, None, None]
    around = before[:, :, 1:-1, :-2] + before[:, :, 1:-1, 2:] + before[:, :, :-2, 1:-1] + before[:, :, 2:, 1:-1]
    column = scales[:, None, None, None]
    shares = np.minimum((magnitude << 16) // column, ACTIVITY_LIMIT)
    activity = np.cumsum(shares, axis=0, dtype=np.int32) - shares
    activity //= np.maximum(np.arange(len(scales), dtype=np.int32), 1)[:, None, None, None]
    activity[0] = 256
    return expectation(
        here[:, :, 1:-1, :-2],
        here[:, :, :-2, 1:-1],
        here[:, :, :-2, :-2],
        before[:, :, 1:-1, 1:-1] * sees,
        around * sees,
        column,
        activity,
    )


@lru_cache(maxsize=2)
def front_order(shape: Shape) -> tuple[Ints, NDArray[np.intp]]:
    """Decoding order of a (C, t, h, w) chunk: flat positions by c + 2t + y + x, then by position; and where each front
    starts (one more entry than fronts)."""
    channels, latents, height, width = shape
    fronts = (
        np.arange(channels, dtype=np.int32)[:, None, None, None]
        + 2 * np.arange(latents, dtype=np.int32)[:, None, None]
        + np.arange(height, dtype=np.int32)[:, None]
        + np.arange(width, dtype=np.int32)
    ).reshape(-1)
    if fronts.size and int(fronts[-1]) < 1 << 16:
        fronts = fronts.astype(np.uint16)  # numpy sorts 16-bit integers by radix
    order = np.argsort(fronts, kind="stable").astype(np.int32)  # kept between calls, so small
    sizes = np.bincount(fronts)
    starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
    for array in (order, starts):
        array.setflags(write=False)
    return order, starts


class Streams:
    """Zigzagged residuals by merged class, consumed from the front."""

    def __init__(self, streams: list[Ints], what: str) -> None:
        self.streams = [unzigzag(values) for values in streams]
        self.taken = [0] * len(streams)
        self.what = what

    def take(self, classes: NDArray[np.intp]) -> Ints:
        """The next residual of each position's class."""
        out = np.empty(len(classes), np.int32)
        for number, count in enumerate(np.bincount(classes).tolist()):
            if count:
                start = self.taken[number]
                piece = self.streams[number][start : start + count]
                if len(piece) < count:
                    raise BitstreamError(f"{self.what} is malformed: stream {number} ends early")
                out[classes == number] = piece
                self.taken[number] = start + count
        return out


class _Steps(NamedTuple):
    """Distances between neighbours in a flat array padded by one latent, one row and column on each side."""

    column: int
    row: int
    latent: int
    channel: int


def rebuild(shape: Shape, described: list[Channel], bounds: Ints, streams: Streams) -> Ints:
    """Symbols (C, t, h, w) from their residuals, front by front. `bounds`: the thresholds between merged classes."""

    def residuals(where: slice, expected: Ints, guess: Ints) -> Ints:
        return streams.take(np.searchsorted(bounds, expected, side="right"))

    return walk(shape, described, residuals, streams.what)


def walk(
    shape: Shape,
    described: list[Channel],
    residuals: Callable[[slice, Ints, Ints], Ints],
    what: str,
) -> Ints:
    """Symbols (C, t, h, w), front by front. `residuals` is told the front's place in `front_order`, the expectation and
    the prediction at each of its positions, and gives their residuals."""
    channels, latents, height, width = shape
    padded = (channels, latents + 1, height + 2, width + 2)
    step = _Steps(1, width + 2, (height + 2) * (width + 2), (latents + 1) * (height + 2) * (width + 2))
    symbols = np.zeros(channels * step.channel, np.int32)
    magnitude = np.zeros(channels * step.channel, np.uint8)
    shares = np.zeros((channels + 1) * step.channel, np.int32)  # sums over the channels before
    shares[: step.channel] = 256
    divisors = np.maximum(np.arange(channels, dtype=np.int32), 1)
    scales = scales_of(described)
    rules = np.array([[NONE, channel.first, *[channel.later] * (latents - 1)] for channel in described]).reshape(-1)
    sees = np.pad(looks_back(described, latents), ((0, 0), (1, 0))).reshape(-1)

    for where, at, channel in _padded_fronts(shape, padded):
        scale = scales[channel]
        around = at - step.latent
        plane = at // step.latent
        see = sees[plane]
        expected = expectation(
            _get(magnitude, at - step.column),
            _get(magnitude, at - step.row),
            _get(magnitude, at - step.row - step.column),
            _get(magnitude, around) * see,
            (
                _get(magnitude, around - step.column)
                + _get(magnitude, around + step.column)
                + _get(magnitude, around - step.row)
                + _get(magnitude, around + step.row)
            )
            * see,
            scale,
            shares[at] // divisors[channel],
        )
        guess = _predict(symbols, at, rules[plane], step)
        residual = residuals(where, expected, guess)
        size = np.minimum(np.abs(residual), MAGNITUDE_LIMIT)
        magnitude[at] = size
        below = np.where(channel > 0, shares[at], 0)
        shares[at + step.channel] = below + np.minimum((size << 16) // scale, ACTIVITY_LIMIT)
        value = residual + guess
        if value.min() < -SYMBOL_LIMIT or value.max() > SYMBOL_LIMIT:
            raise BitstreamError(f"{what} is malformed: a symbol is beyond {SYMBOL_LIMIT}")
        symbols[at] = value
    return symbols.reshape(padded)[:, 1:, 1:-1, 1:-1].copy()


def _get(magnitude: NDArray[np.uint8], at: NDArray[np.intp]) -> Ints:
    return magnitude[at].astype(np.int32)


def _predict(symbols: Ints, at: NDArray[np.intp], rule: NDArray[np.intp], step: _Steps) -> Ints:
    """The predictor `rule` at the flat positions `at`."""
    out = np.zeros(len(at), np.int32)
    timed = np.flatnonzero(rule == TIME)
    out[timed] = symbols[at[timed] - step.latent]
    edged = np.flatnonzero(rule >= SPACE)
    if len(edged):
        here = at[edged]
        left, up, corner = (symbols[here - offset] for offset in (step.column, step.row, step.row + step.column))
        out[edged] = median_edge(left, up, corner)
        pick = np.flatnonzero(rule[edged] == BOTH)
        if len(pick):
            then = here[pick] - step.latent
            time = symbols[then]
            change = median_edge(
                left[pick] - symbols[then - step.column],
                up[pick] - symbols[then - step.row],
                corner[pick] - symbols[then - step.row - step.column],
            )
            both = edged[pick]
            out[both] = median_of(time, out[both], time + change)
    return out


def _padded_fronts(shape: Shape, padded: Shape) -> Iterator[tuple[slice, NDArray[np.intp], NDArray[np.intp]]]:
    """(its place in the order, positions in the padded array, channel of each) of every front."""
    order, starts = front_order(shape)
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        channel, latent, row, column = np.unravel_index(order[start:stop], shape)
        at = ((channel * padded[1] + latent + 1) * padded[2] + row + 1) * padded[3] + column + 1
        yield slice(start, stop), at, channel
