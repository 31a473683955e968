"""The whole comparison as a video: reference, reconstruction and error map side by side, frame by frame.

Owns: one gain for all frames, sizes that every encoder takes, times. Does not know: metrics, temporary names.
"""

from __future__ import annotations

import os
from fractions import Fraction
from types import TracebackType
from typing import Self

import numpy as np

from cvcodec.quality.pictures import BACKGROUND, automatic_gain
from cvcodec.quality.report import KeptFrame
from cvcodec.video import Color, Frame, VideoWriter


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.abort()
