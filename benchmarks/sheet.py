"""Pictures in rows and columns with captions, for docs.

Owns: layout, cutting out a part, writing the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvcodec.errors import OutputError, UsageError
from cvcodec.fileio import make_folder
from cvcodec.quality.pictures import BACKGROUND, MARGIN, text
from cvcodec.video.writer import IMAGE_CONTAINERS, container_for, write_image

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Cell:
    """One picture and what is written under it."""

    pixels: Picture
    """(H, W, 3)."""
    caption: str = ""


def sheet(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Picture:
    """Cells of one size under the columns' names: (H, W, 3) uint8. ValueError where rows or sizes do not fit."""
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"{len(columns)} columns, but rows of {[len(row) for row in rows]}")
    if len({cell.pixels.shape for row in rows for cell in row}) != 1:
        raise ValueError("all pictures must have one size")
    width = rows[0][0].pixels.shape[1]
    bands = [_beside([_label(name, width) for name in columns])]
    for row in rows:
        bands.append(_beside([cell.pixels for cell in row]))
        bands.append(_beside([_label(cell.caption, width) for cell in row]))
    return np.concatenate(bands)


def middle(pixels: Picture, width: int, height: int) -> Picture:
    """The middle of (..., H, W, 3) at most `width` x `height`, from even positions."""
    down, across = max(0, pixels.shape[-3] - height) // 4 * 2, max(0, pixels.shape[-2] - width) // 4 * 2
    return pixels[..., down : down + height, across : across + width, :]


def write_picture(path: Path, pixels: Picture) -> None:
    """As PNG, JPEG or WebP, by the name; whole or not at all, replacing what was there. Raises OutputError."""
    check_picture_name(path)
    make_folder(path.parent)
    write_image(path, pixels, overwrite=True)


def check_picture_name(path: Path) -> None:
    """UsageError, before any work is done, for a name that is no picture's."""
    try:
        kind = container_for(path)
    except OutputError:
        kind = ""
    if kind not in IMAGE_CONTAINERS:
        raise UsageError(f"{path} names no picture; wanted .png, .jpg or .webp")


def _label(line: str, width: int) -> Picture:
    scale = 2 if 8 * len(line) <= width else 1
    written = text(line, scale)[:, :width] if line else np.empty((0, 0, 3), np.uint8)
    band = np.full((10 + 2 * MARGIN, width, 3), BACKGROUND, np.uint8)
    top = (len(band) - written.shape[0]) // 2
    band[top : top + written.shape[0], : written.shape[1]] = written
    return band


def _beside(pictures: Sequence[Picture]) -> Picture:
    gap = np.full((len(pictures[0]), MARGIN, 3), BACKGROUND, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)
