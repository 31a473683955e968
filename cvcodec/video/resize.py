"""Sizes that a person asks for -> the geometry of a picture, and pictures resized to it.

Owns: the syntax of `--size`, how a picture is scaled and cut so that it has that size, and the resampling: Lanczos with
three lobes, widened where a picture becomes smaller (antialiased), in floats, on the code values of RGB. That is what
PIL's LANCZOS computes, to half a code value, at any bit depth.
Does not know: colours, containers, frames' times.

A picture is resized after it has become RGB, upright and cropped as its container asks. What pixels that are not square
look like is what is resized: the outcome has square ones.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from cvcodec.errors import UsageError
from cvcodec.video.frame import Pixels

CROPS = ("center", "none")

MULTIPLE = 8
"""Sides that follow the source's shape become multiples of this where pictures may be cut: a latent is 8 pixels."""

BUCKET_MULTIPLE = 16
"""Of the sides of buckets that are made: diffusion transformers join 2 x 2 latents."""
BUCKET_SHAPES = (1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2.0, 21 / 9)

MOST_SIDE = 1 << 15

_LOBES = 3
_BLOCK = 32  # rows of the outcome that are made together: their weights lie side by side


@dataclass(frozen=True)
class Size:
    """`WxH`, `short=256` (the shorter side) or `area=262144` (pixels in all; `area=512x512` is the same); or several
    `WxH` with commas, buckets, of which a picture takes the one of the nearest shape."""

    kind: str
    """`exact`, `short`, `area` or `buckets`."""
    width: int = 0
    """Of `exact`; else the number."""
    height: int = 0
    buckets: tuple[Size, ...] = ()
    """All `exact`."""

    @classmethod
    def parse(cls, text: str) -> Size:
        """Raises UsageError."""
        if "," in text:
            several = tuple(cls.parse(part) for part in text.split(","))
            if any(size.kind != "exact" for size in several):
                raise UsageError(f"{text!r} are no buckets; wanted sizes such as 256x256,320x192")
            return cls("buckets", buckets=tuple(dict.fromkeys(several)))
        match = re.fullmatch(r"(?:(short|area)=)?(\d{1,10})(?:x(\d{1,5}))?", text.strip().lower())
        kind, first, second = match.groups() if match else (None, None, None)
        if first is None or (kind is None) != (second is not None and kind != "area") or (kind == "short" and second):
            raise UsageError(f"{text!r} is no size; wanted 512x320, short=256 or area=262144")
        width, height = int(first), int(second or 0)
        if kind == "area":
            width, height = width * (height or 1), 0
        most = MOST_SIDE**2 if kind == "area" else MOST_SIDE
        if not (1 <= width <= most and (kind is not None or 1 <= height <= MOST_SIDE)):
            raise UsageError(f"{text!r} is out of range; wanted sides from 1 to {MOST_SIDE}")
        return cls(kind or "exact", width, height)

    def __str__(self) -> str:
        if self.kind == "buckets":
            return ",".join(map(str, self.buckets))
        return f"{self.width}x{self.height}" if self.kind == "exact" else f"{self.kind}={self.width}"

    def fitting(self, width: int, height: int, pixel_ratio: Fraction = Fraction(1)) -> Size:
        """Of buckets, the one for pictures of width x height pixels that are `pixel_ratio` as wide as high: that of the
        nearest shape, of several such the largest that they fill, or else the smallest; any other size is itself."""
        if self.kind != "buckets":
            return self
        shown = width * pixel_ratio / height

        def distance(bucket: Size) -> tuple[float, float]:
            shape = Fraction(bucket.width, bucket.height)
            area, own = bucket.width * bucket.height, width * pixel_ratio * height
            return round(abs(math.log(shape / shown)), 9), float(own - area if area <= own else own + area)

        return min(self.buckets, key=distance)


def bucket_sizes(area: int) -> Size:
    """Buckets of about so many pixels: the shapes of photographs and films, lying and standing, their sides multiples
    of `BUCKET_MULTIPLE`."""
    sizes = []
    for shape in BUCKET_SHAPES:
        sides = (math.sqrt(area * ratio) / BUCKET_MULTIPLE for ratio in (shape, 1 / shape))
        long, short = (max(1, round(side)) * BUCKET_MULTIPLE for side in sides)
        sizes += [Size("exact", long, short), Size("exact", short, long)]
    return Size("buckets", buckets=tuple(dict.fromkeys(sizes)))


@dataclass(frozen=True)
class Geometry:
    """Scale a picture to `scaled`, then keep `size` of it from `left`, `top` on. All (width, height) in pixels."""

    scaled: tuple[int, int]
    size: tuple[int, int]

    @property
    def left(self) -> int:
        """Columns that are cut off there."""
        return (self.scaled[0] - self.size[0]) // 2

    @property
    def top(self) -> int:
        """Rows that are cut off there."""
        return (self.scaled[1] - self.size[1]) // 2

    @classmethod
    def of(cls, size: Size, crop: str, width: int, height: int, pixel_ratio: Fraction = Fraction(1)) -> Geometry:
        """For pictures of width x height pixels that are `pixel_ratio` as wide as high.

        crop `center`: the picture covers the size, and what overhangs is cut off; of `short` and `area` the sides are
        the multiples of `MULTIPLE` next to the source's shape. `none`: the whole picture, within WxH.
        """
        size = size.fitting(width, height, pixel_ratio)
        shown = width * pixel_ratio, Fraction(height)
        if size.kind == "exact":
            wanted = Fraction(size.width), Fraction(size.height)
        else:
            short = size.kind == "short"
            factor = size.width / min(shown) if short else Fraction(math.sqrt(size.width / (shown[0] * shown[1])))
            wanted = shown[0] * factor, shown[1] * factor
            if crop == "center":
                wanted = _multiple(wanted[0]), _multiple(wanted[1])
        factors = wanted[0] / shown[0], wanted[1] / shown[1]
        factor = max(factors) if crop == "center" else min(factors)
        scaled = _side(shown[0] * factor), _side(shown[1] * factor)
        return cls(scaled, (int(wanted[0]), int(wanted[1])) if crop == "center" else scaled)


def _multiple(side: Fraction) -> Fraction:
    return Fraction(max(1, math.floor(side / MULTIPLE + Fraction(1, 2))) * MULTIPLE)


def _side(length: Fraction) -> int:
    return max(1, math.floor(length + Fraction(1, 2)))


def resized(picture: Pixels, geometry: Geometry, bit_depth: int) -> Pixels:
    """(H, W, ...) code values -> the same at the geometry's size, C-contiguous."""
    (scaled_width, scaled_height), (width, height) = geometry.scaled, geometry.size
    if (scaled_height, scaled_width) != picture.shape[:2]:
        rows, columns = picture.shape[:2]
        down = _bands(rows, scaled_height, geometry.top, height)
        across = _bands(columns, scaled_width, geometry.left, width)
        values = _weighted(picture.reshape(rows, -1), down).reshape(height, columns, -1)
        turned = np.ascontiguousarray(values.swapaxes(0, 1)).reshape(columns, -1)
        values = _weighted(turned, across).reshape(width, height, -1).swapaxes(0, 1)
        np.rint(values, out=values)
        np.clip(values, 0, (1 << bit_depth) - 1, out=values)
        return np.ascontiguousarray(values.astype(picture.dtype)).reshape(height, width, *picture.shape[2:])
    cut = picture[geometry.top : geometry.top + height, geometry.left : geometry.left + width]
    return np.ascontiguousarray(cut)


_Weights = npt.NDArray[np.float32]


@functools.lru_cache(maxsize=64)
def _bands(source: int, target: int, first: int, count: int) -> tuple[tuple[int, _Weights], ...]:
    """Of each block of rows [first, first + count) of `target`: the first source row, and a matrix of weights."""
    scale = source / target
    support = _LOBES * max(1.0, scale)
    centres = (np.arange(first, first + count) + 0.5) * scale
    begins = np.maximum(0, (centres - support + 0.5).astype(int))
    ends = np.minimum(source, (centres + support + 0.5).astype(int))
    bands = []
    for block in range(0, count, _BLOCK):
        rows = slice(block, block + _BLOCK)
        begin, end = int(begins[rows][0]), int(ends[rows][-1])
        places = np.arange(begin, end)
        distance = (places + 0.5 - centres[rows, None]) / max(1.0, scale)
        weights = np.where(abs(distance) < _LOBES, np.sinc(distance) * np.sinc(distance / _LOBES), 0.0)
        weights *= (places >= begins[rows, None]) & (places < ends[rows, None])
        bands.append((begin, (weights / weights.sum(1, keepdims=True)).astype(np.float32)))
    return tuple(bands)


def _weighted(rows: npt.NDArray[np.generic], bands: tuple[tuple[int, _Weights], ...]) -> npt.NDArray[np.float32]:
    """Weighted sums of rows, (N, M) -> (count, M)."""
    parts = [weights @ rows[begin : begin + weights.shape[1]].astype(np.float32) for begin, weights in bands]
    return np.concatenate(parts)
