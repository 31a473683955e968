"""A folder of videos, .cvl files or pictures as a set of clips.

Owns: which files belong to it and which of two folders' belong together (by their path in the folder, without suffix),
clips in memory at 8 bits, captions (`a.txt` beside `a.mp4`).
Does not know: which model decodes a .cvl file, networks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import Header
from cvcodec.codec import DecodeOptions, Decoder
from cvcodec.errors import InputError
from cvcodec.fileio import IMAGE_SUFFIXES, VIDEO_SUFFIXES, naming_damage, open_input
from cvcodec.model.base import VideoAutoencoder
from cvcodec.video import Frame, VideoReader

CVL_SUFFIX = ".cvl"
SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES | {CVL_SUFFIX}


@dataclass(frozen=True)
class ClipFolder:
    """The clips of one side."""

    path: Path
    files: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path, files: Iterable[Path]) -> ClipFolder:
        """files: all that lie in it. InputError where none is a clip."""
        found = sorted(file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
        if not found:
            raise InputError(f"{path} has no videos, .cvl files or pictures; name a folder that has some")
        return cls(path, tuple(found))

    def key(self, file: Path) -> str:
        """What a file of the other folder that belongs to this one is called, too."""
        return file.relative_to(self.path).with_suffix("").as_posix()

    def by_key(self) -> dict[str, Path]:
        """InputError where two files have one name."""
        named: dict[str, Path] = {}
        for file in self.files:
            if (other := named.setdefault(self.key(file), file)) is not file:
                raise InputError(
                    f"{other} and {file} have one name but for the suffix; pairs go by names: rename or remove one"
                )
        return named

    def chosen(self, most: int | None, seed: int) -> list[Path]:
        """At most `most` of the files, in order."""
        if most is None or most >= len(self.files):
            return list(self.files)
        return sorted(random.Random(seed).sample(self.files, most))


@dataclass(frozen=True)
class ClipReader:
    """Files of any kind as tensors."""

    model: Callable[[Header], VideoAutoencoder]
    """For .cvl files."""
    options: DecodeOptions
    """How those are decoded; `frames` and `start` are set here."""

    def read(self, path: Path, frames: int) -> Tensor:
        """The first `frames` frames, or as many as there are: (T, 3, H, W) uint8. InputError where there is none."""
        pictures: list[NDArray[np.uint8]] = []
        with self._opened(path, frames) as stream:
            for frame in stream:
                pixels = frame.pixels
                if frame.bit_depth > 8:
                    pixels = np.rint(pixels * (255 / (2**frame.bit_depth - 1))).astype(np.uint8)
                if pictures and pixels.shape != pictures[0].shape:
                    raise InputError(f"{path} changes its size on the way; wanted pictures of one size")
                pictures.append(pixels)
        if not pictures:
            raise InputError(f"{path} has no frame")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    @contextmanager
    def _opened(self, path: Path, frames: int) -> Iterator[Iterable[Frame]]:
        if path.suffix.lower() == CVL_SUFFIX:
            with naming_damage(path), open_input(path) as source:
                options = replace(self.options, frames=frames)
                yield Decoder(source, model=self.model, options=options, on_notice=lambda text: None).frames()
        else:
            with VideoReader(path, frames=frames) as reader:
                yield reader


def caption_of(file: Path, others: Iterable[Path]) -> str:
    """The text beside a file, or else beside one of `others`. InputError where there is none."""
    for place in (file, *others):
        text = place.with_suffix(".txt")
        if not text.is_file():
            continue
        try:
            if found := text.read_text(encoding="utf-8").strip():
                return found
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{text} cannot be read as text: {error}") from error
    raise InputError(f"{file} has no caption, which clip wants beside it: {file.with_suffix('.txt').name}")
