"""Display matrices: what a stream asks for, and the exact turn and mirror that fulfil it. Pure arithmetic on arrays.

A display matrix is FFmpeg's nine integers (a, b, u, c, d, v, x, y, w): a source point (x, y) is shown at
(a x + c y, b x + d y), up to a shift. Only the eight matrices that keep pixels on the grid can be applied exactly.
"""

import struct
from typing import Any

import numpy as np

from cvcodec.video.frame import Pixels

IDENTITY = (1, 0, 0, 1)
"""The turn that leaves a picture alone, as (a, b, c, d)."""

Turn = tuple[int, int, int, int]
"""(a, b, c, d) of a display matrix reduced to signs."""


def matrix_from_bytes(data: bytes) -> tuple[int, ...] | None:
    """The nine integers of display matrix side data; None where it has another size."""
    return struct.unpack("9i", data) if len(data) == 36 else None


def turn_of(matrix: tuple[int, ...]) -> Turn | None:
    """The signs of a matrix that only turns by quarters and mirrors; None for any other (or a degenerate) matrix."""
    a, b, c, d = (matrix[i] for i in (0, 1, 3, 4))
    scale = max(abs(a), abs(b), abs(c), abs(d))
    if scale == 0:
        return None
    signs = tuple(round(value / scale) for value in (a, b, c, d))
    straight = abs(signs[0]) == abs(signs[3]) == 1 and signs[1] == signs[2] == 0
    crossed = abs(signs[1]) == abs(signs[2]) == 1 and signs[0] == signs[3] == 0
    off_grid = any(abs(value / scale - sign) > 1e-3 for value, sign in zip((a, b, c, d), signs, strict=True))
    return None if off_grid or not (straight or crossed) else (signs[0], signs[1], signs[2], signs[3])


def turn_from_rotation(counter_clockwise: int) -> Turn | None:
    """The turn of PyAV's `VideoFrame.rotation`; None where it is not a multiple of 90 degrees."""
    return {0: IDENTITY, 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}.get(counter_clockwise % 360)


def clockwise_degrees(turn: Turn) -> int:
    """Degrees clockwise by which a turn rotates, its mirroring (after the rotation, left to right) left out."""
    a, b, c, d = turn
    if a * d - b * c < 0:
        a, c = -a, -c  # undo the mirror
    return {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[a, b]


def swaps_sides(turn: Turn) -> bool:
    """Whether width and height change places."""
    return turn[0] == 0


def apply_turn(pixels: Pixels, turn: Turn) -> Pixels:
    """The picture as it is to be shown: (H, W, ...) -> (H, W, ...) or (W, H, ...), C-contiguous."""
    a, b, c, d = turn
    turned: Any = pixels
    if swaps_sides(turn):
        turned = turned.swapaxes(0, 1)
        down, across = b, c
    else:
        down, across = d, a
    if down < 0:
        turned = turned[::-1]
    if across < 0:
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
