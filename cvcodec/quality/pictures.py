"""Drawing: two frames side by side with a map of their difference, as one picture or as a video of all of them.

Owns: layout, captions, the colours of the error map, one gain for all frames of a video and sizes that every encoder
takes. Does not know: metrics, codecs, temporary names; writing a PNG is `video`'s business.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cvcodec.video import Color, Frame, VideoWriter

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

MARGIN = 4  # pixels between panels
TEXT_WIDTH = 240  # a glyph is 3x5 cells; a cell has one pixel for each of so many in the panel's width, at least 2
PANEL_MINIMUM = 192  # panels narrower than this are enlarged by a whole factor, so that captions fit
BACKGROUND = 24
FOREGROUND = 235
MAXIMUM_GAIN = 64.0
GAIN_PERCENTILE = 99.0  # the automatic gain keeps this share of the pixels below the brightest colour

ERROR_COLOURS = np.array([(0, 0, 0), (80, 20, 110), (190, 50, 80), (245, 140, 30), (255, 250, 200)], dtype=np.float64)
"""Black (no error) to near white (1 / gain of the range or more), equally spaced, RGB."""

GLYPHS = {
    **dict(zip("0123456789", (75557, 26227, 71747, 71717, 55711, 74717, 74757, 71222, 75757, 75717), strict=True)),
    **dict(zip("abcdefg", (25755, 65656, 34443, 65556, 74647, 74644, 34553), strict=True)),
    **dict(zip("hijklmn", (55755, 72227, 11152, 55655, 44447, 57755, 65555), strict=True)),
    **dict(zip("opqrstu", (25552, 65644, 25573, 65655, 34216, 72222, 55557), strict=True)),
    **dict(zip("vwxyz", (55552, 55775, 55255, 55222, 71247), strict=True)),
    **dict(zip(" .,:-+/()=%_", (0, 2, 24, 2020, 700, 2720, 11244, 12221, 42224, 7070, 51245, 7), strict=True)),
}
"""A 3x5 font: one digit a row from the top, its three bits the cells from the left. Capitals are drawn alike."""


def side_by_side(
    reference: Pixels,
    test: Pixels,
    *,
    whites: tuple[int, int] = (255, 255),
    captions: tuple[str, str] = ("reference", "reconstruction"),
    gain: float | None = None,
) -> NDArray[np.uint8]:
    """Reference, test and error map with captions: two (H, W, 3) code values -> (H', W', 3) uint8 RGB.

    `whites`: the code value of white on each side; what is brighter is clipped. The map shows the largest absolute
    difference of the three channels, times `gain`, black where there is none; without a gain, the power of two that
    makes the differences fill the range. ValueError when the shapes differ.
    """
    if reference.shape != test.shape or reference.ndim != 3 or reference.shape[2] != 3:
        raise ValueError(f"two pictures of one shape (H, W, 3) wanted, got {reference.shape} and {test.shape}")
    left = np.clip(reference / float(whites[0]), 0.0, 1.0)
    right = np.clip(test / float(whites[1]), 0.0, 1.0)
    difference = np.abs(left - right).max(axis=2)
    gain = automatic_gain(difference) if gain is None else gain
    panels = [
        (_to_uint8(left), captions[0]),
        (_to_uint8(right), captions[1]),
        (error_colours(difference * gain), f"error x{gain:g}"),
    ]
    return np.concatenate([panel(pixels, caption) for pixels, caption in panels], axis=1)[:, MARGIN:]


def automatic_gain(difference: NDArray[np.float64]) -> float:
    """The largest power of two from 1 to 64 that keeps the 99th percentile of differences in [0, 1] at 1 or below."""
    level = float(np.percentile(difference, GAIN_PERCENTILE))
    if level * MAXIMUM_GAIN <= 1.0:
        return MAXIMUM_GAIN
    return float(2.0 ** np.floor(np.log2(1.0 / level)))


def error_colours(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Levels (H, W), clipped to [0, 1] -> colours (H, W, 3)."""
    stops = np.linspace(0.0, 1.0, len(ERROR_COLOURS))
    channels = [np.interp(np.clip(levels, 0.0, 1.0), stops, ERROR_COLOURS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def text(line: str, scale: int = 2) -> NDArray[np.uint8]:
    """A caption of one line, (5 * scale, 4 * scale * len(line), 3); a character without a glyph is shown as a space."""
    cells = np.zeros((5, 4 * len(line)), dtype=bool)
    for position, character in enumerate(line.lower()):
        rows = f"{GLYPHS.get(character, 0):05d}"
        for row, digit in enumerate(rows):
            for column in range(3):
                cells[row, 4 * position + column] = int(digit) >> (2 - column) & 1
    cells = cells.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.where(cells[..., None], FOREGROUND, BACKGROUND).astype(np.uint8).repeat(3, axis=2)


def _to_uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(values * 255.0).astype(np.uint8)


def panel(pixels: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """A picture under its caption, with a margin on the left and around the text."""
    factor = -(-PANEL_MINIMUM // pixels.shape[1])
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    line = text(caption, max(2, pixels.shape[1] // TEXT_WIDTH))[:, : pixels.shape[1]]
    top = line.shape[0] + 2 * MARGIN
    panel = np.full((top + pixels.shape[0], MARGIN + pixels.shape[1], 3), BACKGROUND, dtype=np.uint8)
    panel[MARGIN : MARGIN + line.shape[0], MARGIN : MARGIN + line.shape[1]] = line
    panel[top:, MARGIN:] = pixels
    return panel


@dataclass(frozen=True)
class KeptFrame:
    """One compared pair, kept for a picture."""

    reference: Pixels
    test: Pixels
    whites: tuple[int, int]
    """Code value of white on each side."""
    index: int
    time_s: float
    psnr_db: float

    def picture(
        self, names: tuple[str, str] = ("reference", "reconstruction"), *, gain: float | None = None
    ) -> NDArray[np.uint8]:
        """Both sides and the error map, (H', W', 3) uint8; `gain` of the map as in `side_by_side`."""
        score = "identical" if math.isinf(self.psnr_db) else f"{self.psnr_db:.2f} dB"
        captions = (f"{names[0]} {self.time_s:.3f} s", f"{names[1]} {score}")
        return side_by_side(self.reference, self.test, whites=self.whites, captions=captions, gain=gain)


class ComparisonVideo:
    """Takes pairs as they are compared; `add` fits the `on_pair` of `evaluate`.

    path: where to write, nothing before the first pair. container: as for `VideoWriter`. names: of the two sides.
    The error map's gain is the first frame's, so that frames can be compared.
    """

    def __init__(
        self, path: str | os.PathLike[str], container: str, names: tuple[str, str] = ("reference", "reconstruction")
    ) -> None:
        self._path, self._container, self._names = path, container, names
        self._writer: VideoWriter | None = None
        self._gain = 1.0

    def add(self, pair: KeptFrame, pts: int, time_base: Fraction) -> None:
        """Append a pair that is shown at `pts` ticks. Raises OutputError."""
        if self._writer is None:
            sides = (pair.reference / float(pair.whites[0]), pair.test / float(pair.whites[1]))
            self._gain = automatic_gain(np.abs(sides[0] - sides[1]).max(axis=2))
        picture = pair.picture(self._names, gain=self._gain)
        height, width = picture.shape[:2]
        even = np.full((height + height % 2, width + width % 2, 3), BACKGROUND, np.uint8)
        even[:height, :width] = picture
        if self._writer is None:
            self._writer = VideoWriter(
                self._path,
                width=even.shape[1],
                height=even.shape[0],
                time_base=time_base,
                color=Color().for_rgb(),
                container=self._container,
            )
        self._writer.write(Frame(even, pts=pts))

    def close(self) -> None:
        """Write what the encoder still holds and the end of the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.abort()
