"""Decoded clips, cached within a limit.

Owns: decoding a piece of a file to (T, H, W, 3) uint8 scaled to a bounded size, and the cache of such pieces, in memory
or as memory-mapped .npy files in a folder; least recently used pieces go first.
Does not know: crops, augmentation, tensors of a batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.errors import CvcodecError, InputError
from cvcodec.fileio import replacing
from cvcodec.training.sources import MediaFile, Reporter
from cvcodec.video.frame import Frame
from cvcodec.video.reader import VideoReader

Pixels: TypeAlias = npt.NDArray[np.uint8]

_CACHE_FORMAT = "1"  # part of every key: pieces decoded by another rule must not be taken


def decode_clip(path: Path, *, start: Fraction = Fraction(0), count: int, short_side: int) -> Pixels:
    """`count` frames, or as many as there are, from `start` seconds on: (T, H, W, 3) uint8.

    The short side is at most `short_side`; nothing is enlarged. Raises InputError when the file cannot be read, has no
    frame there, or holds damaged ones: a model must not learn what a decoder conceals.
    """
    with VideoReader(path, start=start or None, frames=count, threads=1) as reader:
        frames: list[Pixels] = []
        for frame in reader:
            if frame.corrupt:
                raise InputError(f"frame {len(frames)} is damaged")
            frames.append(_small(frame, short_side))
        if reader.decode_errors:
            raise InputError(f"{reader.decode_errors} packets could not be decoded")
    if not frames:
        raise InputError(f"it has no frame at {float(start):g} s")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise InputError("its size changes on the way")
    return np.stack(frames)


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """(T, 3, H, W) float in [0, 255] to another size, antialiased."""
    if clip.shape[-2:] == (height, width):
        return clip
    return F.interpolate(clip, (height, width), mode="bilinear", antialias=True, align_corners=False).clamp(0, 255)


class ClipCache:
    """`get(file, segment)` decodes once, then answers from memory or from `folder` until `limit` bytes are exceeded.

    Safe to call from several threads; two processes may share a folder (files appear complete or not at all).
    """

    def __init__(
        self, *, limit: int, short_side: int, segment_frames: int, folder: Path | None, reporter: Reporter
    ) -> None:
        self._limit, self._short_side, self._segment_frames = limit, short_side, segment_frames
        self._folder, self._reporter = folder, reporter
        self._pieces: OrderedDict[tuple[Path, int], Pixels] = OrderedDict()
        self._bytes = 0
        self._earlier: OrderedDict[Path, int] = OrderedDict()  # files of earlier runs in the folder, oldest first
        self._bad: set[tuple[Path, int]] = set()
        self._lock = threading.Lock()
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot make the cache folder {folder}: {error.strerror or error}") from error
            for stored in sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime):
                self._earlier[stored] = stored.stat().st_size
            self._bytes = sum(self._earlier.values())

    @property
    def bytes_held(self) -> int:
        """Bytes of decoded pixels that this cache holds now."""
        return self._bytes

    def get(self, file: MediaFile, segment: int = 0) -> Pixels | None:
        """(T, H, W, 3) uint8, read-only; None when it cannot be decoded, which is reported once a file."""
        key = (file.path, segment)
        with self._lock:
            if key in self._bad:
                return None
            if key in self._pieces:
                self._pieces.move_to_end(key)
                return self._pieces[key]
        try:
            piece = self._load(file, segment)
        except CvcodecError as error:
            self._reporter.skip(file.path, str(error))
            with self._lock:
                self._bad.add(key)
            return None
        with self._lock:
            if key not in self._pieces:
                self._pieces[key] = piece
                self._bytes += piece.nbytes
                if self._earlier:
                    self._bytes -= self._earlier.pop(self._stored_at(*key), 0)
            self._evict()
        return piece

    def _evict(self) -> None:
        while self._bytes > self._limit and (self._earlier or len(self._pieces) > 1):
            if self._earlier:
                stored, size = self._earlier.popitem(last=False)
            else:
                key, piece = self._pieces.popitem(last=False)
                size = piece.nbytes
                if self._folder is None:
                    self._bytes -= size
                    continue
                stored = self._stored_at(*key)
            self._bytes -= size
            with contextlib.suppress(OSError):  # another process may have been quicker
                stored.unlink()

    def _load(self, file: MediaFile, segment: int) -> Pixels:
        if self._folder is None:
            return self._decode(file, segment)
        try:
            stored = self._stored_at(file.path, segment)
        except OSError as error:
            raise InputError(f"{file.path}: {error.strerror or error}") from error
        with contextlib.suppress(OSError, ValueError):  # absent, or cut short by a full disk: decode it again
            return np.load(stored, mmap_mode="r")  # type: ignore[no-any-return]
        piece = self._decode(file, segment)
        try:
            with replacing(stored) as output:
                np.save(output, piece)
            return np.load(stored, mmap_mode="r")  # type: ignore[no-any-return]
        except OSError as error:
            raise InputError(f"cannot write to the cache folder {self._folder}: {error.strerror or error}") from error

    def _decode(self, file: MediaFile, segment: int) -> Pixels:
        start = segment * self._segment_frames * file.frame_seconds
        return decode_clip(file.path, start=start, count=self._segment_frames, short_side=self._short_side)

    def _stored_at(self, path: Path, segment: int) -> Path:
        assert self._folder is not None
        status = path.stat()
        content = (path.resolve(), status.st_size, status.st_mtime_ns)
        parts = (_CACHE_FORMAT, *content, self._short_side, self._segment_frames, segment)
        digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]
        return self._folder / f"{digest}.npy"


def _small(frame: Frame, short_side: int) -> Pixels:
    pixels = frame.pixels
    if frame.bit_depth > 8:  # rounded to 8 bits of the same full range
        scale = 255 / ((1 << frame.bit_depth) - 1)
        pixels = np.rint(pixels.astype(np.float32) * scale).astype(np.uint8)
    height, width = pixels.shape[:2]
    if min(height, width) <= short_side:
        return np.ascontiguousarray(pixels)
    factor = short_side / min(height, width)
    picture = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    small = resize(picture, round(height * factor), round(width * factor))[0]
    return small.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
