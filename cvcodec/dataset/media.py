"""Videos and photos to learn from: which files, and their frames, decoded a piece at a time.

Owns: folders, lists and manifests of such files; the split by source; the first look at each file (a bad one is named
once); decoding a piece of a file to (T, H, W, 3) uint8 scaled to a bounded size, and the cache of such pieces, in
memory or as memory-mapped .npy files in a folder, where least recently used pieces go first.
Does not know: crops, augmentation, batches.

Manifests are those of a batch (`sources`); their columns `split` (`train`, `val`; rows with another word are left out)
and `source` are optional.
Without a `split`, whole sources are held out by a hash of their name: clips of one film must not be on both sides. The
source of a file without a `source` column is its folder inside the given one, or the file itself at the top level.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.dataset.sources import is_manifest, read_manifest, walk
from cvcodec.errors import CvcodecError, InputError
from cvcodec.fileio import IMAGE_SUFFIXES, VIDEO_SUFFIXES, refuse_address, replacing
from cvcodec.video.frame import Frame
from cvcodec.video.reader import VideoReader

Pixels: TypeAlias = npt.NDArray[np.uint8]

_CACHE_FORMAT = "1"  # part of every key: pieces decoded by another rule must not be taken


@dataclass(frozen=True)
class Source:
    """A file as named by the user."""

    path: Path
    split: str
    group: str


@dataclass(frozen=True)
class MediaFile:
    """A file that opened: what the sampler needs to know before decoding it."""

    path: Path
    group: str
    frames: int
    """Estimate from the container; 1 for images."""
    is_image: bool
    frame_seconds: Fraction = Fraction(0)
    """Mean time between frames; 0 where unknown: then only the first piece can be reached."""
    width: int = 0
    height: int = 0
    """Of a frame; 0 where nobody asked."""

    def segments(self, segment_frames: int) -> int:
        """Pieces that the file is decoded in."""
        return max(1, math.ceil(self.frames / segment_frames)) if self.frame_seconds else 1


class Reporter:
    """Passes on the first complaint about each file."""

    def __init__(self, report: Callable[[str], None] = lambda line: None) -> None:
        self._report = report
        self._named: set[Path] = set()

    def skip(self, path: Path, reason: str) -> None:
        """Say once that `path` is left out."""
        if path not in self._named:
            self._named.add(path)
            self._report(f"skipped {path}: {reason}")


def find_sources(entries: Sequence[str | Path], val_fraction: float) -> list[Source]:
    """All files that `entries` name, sorted, each once. Raises InputError when there is nothing there."""
    found: dict[Path, Source] = {}
    for entry in entries:
        root = Path(entry)
        if root.is_dir():
            sources = _from_folder(root, val_fraction)
        elif not root.is_file():
            refuse_address(str(entry))
            raise InputError(f"no such data: {root}; wanted a folder, a .txt list or a manifest (.tsv, .csv, .jsonl)")
        elif is_manifest(root):
            sources = _from_manifest(root, val_fraction)
        else:
            sources = iter([Source(root, "train", root.name)])
        for source in sources:
            found.setdefault(source.path, source)
    if not found:
        raise InputError(f"no videos or images in {', '.join(map(str, entries))}; give another folder")
    return sorted(found.values(), key=lambda source: str(source.path))


def probe(sources: Sequence[Source], split: str, reporter: Reporter) -> list[MediaFile]:
    """Open every file of `split`; those that do not open, or hold no video, are reported and left out."""
    files = []
    for source in sources:
        if source.split != split:
            continue
        is_image = source.path.suffix.lower() in IMAGE_SUFFIXES
        try:
            with VideoReader(source.path, threads=1) as reader:
                info = reader.info
        except CvcodecError as error:
            reporter.skip(source.path, str(error))
            continue
        frames = 1 if is_image else max(1, info.frames or 1)
        interval = 1 / info.average_rate if info.average_rate and not is_image else Fraction(0)
        files.append(MediaFile(source.path, source.group, frames, is_image, interval, info.width, info.height))
    return files


def training_files(sources: Sequence[Source], reporter: Reporter) -> list[MediaFile]:
    """The readable files to learn from. Raises InputError when none is left."""
    files = probe(sources, "train", reporter)
    if not files:
        named = sum(source.split == "train" for source in sources)
        if not named:
            raise InputError(
                f"nothing to train on: all {len(sources)} files are held out; lower --val-fraction, give more files, "
                "or name the split in a manifest"
            )
        raise InputError(f"nothing to train on: {named} of {len(sources)} files are for training and none can be read")
    return files


def _from_folder(root: Path, val_fraction: float) -> Iterator[Source]:
    for parent, names in walk(root):
        for name in names:
            path = parent / name
            if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not name.startswith("."):
                group = str(path.relative_to(root) if parent == root else parent.relative_to(root))
                yield Source(path, _split_of(group, val_fraction), group)


def _from_manifest(manifest: Path, val_fraction: float) -> Iterator[Source]:
    for row in read_manifest(manifest):
        columns = row.columns or {}
        group = columns.get("source", "").strip() or row.name
        split = columns.get("split", "").strip().lower() or _split_of(group, val_fraction)
        yield Source(manifest.parent / row.path, split, group)


def _split_of(group: str, val_fraction: float) -> str:
    number = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
    return "val" if number < val_fraction * 2**64 else "train"


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
