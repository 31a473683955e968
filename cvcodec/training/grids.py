"""Grids of reconstructions as PNG files: one row a clip, original beside what the models make of it.

Owns: the layout and a minimal PNG writer (so that looking at a run needs no plotting library).
Does not know: models.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cvcodec.codec.runner import denormalise
from cvcodec.fileio import replacing

_GAP = 4  # pixels between pictures
_ERROR_GAIN = 4  # absolute errors are shown this much brighter


def grid(rows: Sequence[Sequence[Tensor]]) -> npt.NDArray[np.uint8]:
    """Pictures (3, H, W) float in [-1, 1], by row and column, on white: (H', W', 3) uint8. Sizes may differ by row."""
    bands = []
    for row in rows:
        pictures = [denormalise(picture.detach().cpu(), 8) for picture in row]
        height = max(picture.shape[1] for picture in pictures)
        band = torch.full((height + _GAP, sum(p.shape[2] + _GAP for p in pictures), 3), 255, dtype=torch.uint8)
        left = 0
        for picture in pictures:
            band[: picture.shape[1], left : left + picture.shape[2]] = picture.permute(1, 2, 0)
            left += picture.shape[2] + _GAP
        bands.append(band)
    width = max(band.shape[1] for band in bands)
    padded = [torch.nn.functional.pad(band, (0, 0, 0, width - band.shape[1]), value=255) for band in bands]
    return torch.cat(padded).numpy()


def error_picture(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|, four times brighter, black where they are equal: (3, H, W) in [-1, 1]."""
    return (x.float() - y.float()).abs() * _ERROR_GAIN - 1


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """(H, W, 3) uint8 as an 8-bit RGB PNG (W3C PNG specification, filter 0 on every line)."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    with replacing(path) as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
