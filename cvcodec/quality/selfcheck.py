"""The built-in clip of `cvcodec eval` without a file: made from a seed, the same on every machine.

It is no stand-in for real video: numbers taken on it compare installations and devices, not models.
Owns: its pictures. Does not know: models, files.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cvcodec.video import Frame

FRAMES, HEIGHT, WIDTH = 33, 256, 256
TIME_BASE = Fraction(1, 25)

_SEED = 20405279


def selfcheck_frames() -> Iterator[Frame]:
    """33 frames of 256x256 at 25 a second: a panning landscape of 1/f noise, a turning wheel, a moving disc, a fade."""
    rng = np.random.default_rng(_SEED)
    canvas = np.stack([_pink(rng, 2 * HEIGHT, 2 * WIDTH) for _ in range(3)], axis=-1)
    shared = _pink(rng, 2 * HEIGHT, 2 * WIDTH)[..., None]
    canvas = 0.75 * shared + 0.25 * canvas  # colours go along with brightness, as in photographs
    canvas = 128.0 + 42.0 * canvas / canvas.std()
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    for number in range(FRAMES):
        top, left = 20 + round(1.5 * number), 40 + 2 * number
        picture = canvas[top : top + HEIGHT, left : left + WIDTH].copy()
        _wheel(picture, y, x, angle=number * np.pi / 24)
        _disc(picture, y, x, centre=(60.0 + 3.1 * number, 70.0 + 40.0 * np.sin(number / 6)))
        picture *= 0.85 + 0.15 * np.cos(number / 8)
        yield Frame(pixels=np.clip(np.rint(picture), 0, 255).astype(np.uint8), pts=number, duration=1)


def _pink(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Noise whose spectrum falls as 1/f, like that of natural images (Field 1987); mean 0."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
    return np.fft.irfft2(spectrum, s=(height, width))


def _wheel(picture: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64], angle: float) -> None:
    """A wheel of twelve spokes, in place; edges are softened over one pixel."""
    dy, dx = y - 180.0, x - 180.0
    radius = np.hypot(dy, dx)
    inside = np.clip(48.0 - radius, 0.0, 1.0)[..., None]
    spokes = np.clip(radius * np.sin(6.0 * (np.arctan2(dy, dx) - angle)) / 3.0 + 0.5, 0.0, 1.0)[..., None]
    colour = 40.0 + 190.0 * spokes * np.array([1.0, 0.85, 0.6])
    picture += inside * (colour - picture)


def _disc(
    picture: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64], centre: tuple[float, float]
) -> None:
    """A shaded red disc, in place."""
    radius = np.hypot(y - centre[1], x - centre[0])
    inside = np.clip(26.0 - radius, 0.0, 1.0)[..., None]
    shade = np.clip(1.0 - radius / 60.0, 0.0, 1.0)[..., None]
    picture += inside * (shade * np.array([225.0, 60.0, 50.0]) - picture)
