"""Short clips, the way this project reports quality: short side 256, the first 33 frames or all if there are fewer.

Owns: which files of a data set are taken, scaling, the lossless file that real encodes start from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cvcodec.cli import report
from cvcodec.dataset.media import decode_clip, find_sources, resize
from cvcodec.errors import CvcodecError, InputError, UsageError
from cvcodec.fileio import IMAGE_SUFFIXES
from cvcodec.video import Frame, VideoWriter

SIDE, FRAMES = 256, 33

_RATE = 25  # of the lossless file; nothing here depends on it


@dataclass(frozen=True)
class Short:
    """Frames as they are measured: the beginning of a clip, scaled; in memory."""

    name: str
    pixels: NDArray[np.uint8]
    """(T, H, W, 3), RGB."""

    @property
    def mpixel(self) -> float:
        """Width x height x frames / 10^6."""
        return self.pixels[..., 0].size / 1e6

    def write(self, path: Path) -> None:
        """As a video file that holds the pixels exactly."""
        height, width = self.pixels.shape[1:3]
        with VideoWriter(
            path, width=width, height=height, time_base=Fraction(1, _RATE), rate=Fraction(_RATE), codec="ffv1"
        ) as writer:
            for index, picture in enumerate(self.pixels):
                writer.write(Frame(pixels=picture, pts=index, duration=1))


def add_clip_arguments(parser: argparse.ArgumentParser) -> None:
    """The clips of a measurement, and what is done to them before it; `chosen` reads them."""
    add = parser.add_argument
    add("data", nargs="+", metavar="DATA", help="clips; or folders, lists and manifests, of which --split is taken")
    add("--split", default="val", choices=("train", "val", "all"), help="of folders, lists and manifests")
    add("--every", type=int, default=1, metavar="N", help="only every Nth clip")
    add("--side", type=int, default=SIDE, metavar="PIXELS", help="short side that clips are scaled to")
    add("--frames", type=int, default=FRAMES, metavar="N", help="first frames of each clip")
    add("--start", type=Fraction, default=Fraction(0), metavar="SECONDS", help="where in a clip its first frame is")


def chosen(options: argparse.Namespace) -> Iterator[Short]:
    """The clips that the arguments of `add_clip_arguments` name.

    UsageError and InputError come at once, not with the first clip.
    """
    if min(options.frames, options.every) < 1 or options.side < 8 or options.start < 0:
        raise UsageError("--frames and --every must be at least 1, --side at least 8, --start at least 0")
    paths = video_paths(options.data, options.split)[:: options.every]
    return read_shorts(paths, side=options.side, frames=options.frames, start=options.start)


def video_paths(entries: Sequence[str | Path], split: str = "val") -> list[Path]:
    """The videos that `entries` name: files themselves, and those of a split of folders, lists and manifests.

    split: train, val or all. InputError when there is none.
    """
    paths = []
    for entry in entries:
        path = Path(entry)
        single = path.is_file() and path.suffix.lower() not in (".tsv", ".csv", ".txt")
        for source in find_sources([path], 0.1):
            wanted = single or split in ("all", source.split)
            if wanted and source.path.suffix.lower() not in IMAGE_SUFFIXES:
                paths.append(source.path)
    if not paths:
        raise InputError(
            f"no videos of split {split} in {', '.join(map(str, entries))}; name clips, or another --split"
        )
    return list(dict.fromkeys(paths))


def read_short(path: Path, *, side: int = SIDE, frames: int = FRAMES, start: Fraction = Fraction(0)) -> Short:
    """A video's frames from `start` seconds on, the short side scaled to `side`. InputError when it cannot be read."""
    pixels = decode_clip(path, start=start, count=frames, short_side=side)
    height, width = pixels.shape[1:3]
    if min(height, width) < side:  # decode_clip never enlarges
        factor = side / min(height, width)
        clip = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        larger = resize(clip, round(height * factor), round(width * factor)).round().to(torch.uint8)
        pixels = larger.permute(0, 2, 3, 1).contiguous().numpy()
    return Short(path.stem, pixels)


def read_shorts(
    paths: Sequence[Path], *, side: int = SIDE, frames: int = FRAMES, start: Fraction = Fraction(0)
) -> Iterator[Short]:
    """One clip in memory at a time; files that cannot be read are named on standard error and left out."""
    for path in paths:
        try:
            short = read_short(path, side=side, frames=frames, start=start)
        except CvcodecError as error:
            report.say(f"left out {path}: {error}")
            continue
        yield short
