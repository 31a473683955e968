"""The clips of a bench: files as they are, or after the protocol of the CV-VAE paper (section 4.1).

    source   the file's own frames, or a stretch of them; nothing is resized
    cvvae    every third frame, 33 of them, short side scaled to 256, the middle 256x256: as in the paper's tables. The
             frames are kept as a lossless file, which everything then encodes

Owns: what a clip's frames are, and the digest that names them in the cache.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cvcodec.codec import ReaderOptions
from cvcodec.errors import InputError
from cvcodec.fileio import atomic_path, make_folder, open_input
from cvcodec.video import Color, Frame, VideoInfo, VideoReader, VideoWriter

SIDE, FRAMES, STRIDE = 256, 33, 3
"""Of protocol `cvvae`: pixels of the square, frames, and how far these are apart in the source."""

_READ = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames that every setting gets."""

    name: str
    path: Path
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    digest: str
    """Of the file's bytes, the protocol and the stretch: 24 hexadecimal digits."""
    width: int
    height: int
    frames: int
    color: Color
    """That encoders use: the source's, also where the frames are kept as RGB."""
    duration_s: float

    @property
    def pixels(self) -> int:
        """Width * height * frames."""
        return self.width * self.height * self.frames

    def open(self) -> VideoReader:
        """A reader of the frames."""
        return VideoReader(self.path, **self.reader.arguments())


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each file is called in tables: its stem, or as much of its path as tells it from others of that stem.

    A file that is given twice is there once.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        files.setdefault(path.absolute(), path)
    names = {}
    for file in files:
        others = [other for other in files if other is not file and other.stem == file.stem]
        name, parts = file.stem, 0
        while any("/".join(other.parts[-parts:]) == name for other in others) or (others and not parts):
            parts += 1
            name = "/".join(file.parts[-parts:])
        names[files[file]] = name
    return names


def open_clip(path: Path, name: str, *, protocol: str, reader: ReaderOptions, folder: Path) -> Clip:
    """What is measured of a file, under a name. `folder`: where frames are kept that are not the file's own.

    Raises InputError where it cannot be read, or is too short for the protocol.
    """
    digest = hashlib.sha256()
    with open_input(path) as file:
        while piece := file.read(_READ):
            digest.update(piece)
    digest.update(repr((protocol, sorted(reader.arguments().items()))).encode())
    identity = digest.hexdigest()[:24]
    with VideoReader(path, **reader.arguments()) as source:
        color = source.info.color
    if protocol == "cvvae":
        kept = folder / f"{identity}.mkv"
        if not kept.exists():
            make_folder(folder)
            _keep(path, reader, kept)
        kept_path, reader = kept, ReaderOptions()
    else:
        kept_path = path
    with VideoReader(kept_path, **reader.arguments()) as source:
        info, frames, begin, end = source.info, 0, 0, 0
        for frame in source:
            begin = frame.pts if not frames else begin
            end = frame.pts + (frame.duration or 0)
            frames += 1
    return Clip(
        name=name,
        path=kept_path,
        reader=reader,
        digest=identity,
        width=info.width,
        height=info.height,
        frames=frames,
        color=color,
        duration_s=float((end - begin) * info.time_base) or frames / float(info.average_rate or 25),
    )


def _keep(path: Path, reader: ReaderOptions, kept: Path) -> None:
    with VideoReader(path, **reader.arguments()) as source, atomic_path(kept, overwrite=True) as target:
        info = source.info
        with VideoWriter(
            target,
            width=SIDE,
            height=SIDE,
            time_base=info.time_base,
            color=info.color.for_rgb(),
            bit_depth=info.bit_depth,
            rate=None if info.average_rate is None else info.average_rate / STRIDE,
            codec="ffv1",
            container="matroska",
        ) as writer:
            for frame in protocol_frames(source, info):
                writer.write(frame)
            if writer.frames < FRAMES:
                raise InputError(
                    f"{path.name} has too few frames for --protocol cvvae: {FRAMES}, every {STRIDE}rd, take "
                    f"{(FRAMES - 1) * STRIDE + 1}; leave it out, or use --protocol source"
                )


def protocol_frames(frames: Iterator[Frame] | VideoReader, info: VideoInfo) -> Iterator[Frame]:
    """At most `FRAMES` of every `STRIDE`th frame, the middle `SIDE` x `SIDE` of each."""
    peak = 2**info.bit_depth - 1
    for index, frame in enumerate(frames):
        if index % STRIDE == 0:
            yield Frame(middle(frame.pixels, peak), pts=frame.pts, bit_depth=info.bit_depth)
        if index == (FRAMES - 1) * STRIDE:
            return


def middle(pixels: NDArray[Any], peak: int) -> NDArray[Any]:
    """(H, W, 3) code values -> (SIDE, SIDE, 3): short side scaled to `SIDE` (bicubic, antialiased), middle cut out."""
    height, width = pixels.shape[:2]
    scale = Fraction(SIDE, min(height, width))
    size = tuple(max(SIDE, math.floor(side * scale + Fraction(1, 2))) for side in (height, width))
    if size != (height, width):
        planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
        scaled = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True, align_corners=False)
        pixels = scaled[0].permute(1, 2, 0).round().clamp(0, peak).numpy().astype(pixels.dtype)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE])
