"""Which files a run learns from and which it is measured on.

Owns: folders, lists and manifests; the split by source; the first look at each file (a bad one is named once).
Does not know: pixels, tensors, caches.

A manifest is a table (see `cvcodec.tables`): column `path` (or `file`, where there is no `path`; relative to the
manifest) is required; `split` (`train`, `val`; rows with another word are left out) and `source` are optional. A .txt
list has one path a line.
Without a `split`, whole sources are held out by a hash of their name: clips of one film must not be on both sides. The
source of a file without a `source` column is its folder inside the given one, or the file itself at the top level.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from cvcodec.errors import CvcodecError, InputError
from cvcodec.fileio import refuse_address
from cvcodec.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from cvcodec.tables import TABLE_SUFFIXES, read_table, read_text
from cvcodec.video.reader import VideoReader


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
            raise InputError(f"no such data: {root}; wanted a folder, a .txt list or a .tsv or .csv manifest")
        elif root.suffix.lower() in TABLE_SUFFIXES:
            sources = _from_manifest(root, val_fraction)
        elif root.suffix.lower() == ".txt":
            sources = _from_list(root, val_fraction)
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
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file():
            inside = path.relative_to(root).parent
            group = str(path.relative_to(root) if inside == Path() else inside)
            yield Source(path, _split_of(group, val_fraction), group)


def _from_list(listing: Path, val_fraction: float) -> Iterator[Source]:
    for line in read_text(listing).splitlines():
        name = line.strip()
        if name and not name.startswith("#"):
            yield Source(listing.parent / name, _split_of(name, val_fraction), name)


def _from_manifest(manifest: Path, val_fraction: float) -> Iterator[Source]:
    for _, row in read_table(manifest, ("path", "file")):
        name = row["path" if "path" in row else "file"].strip()
        if not name:
            continue
        group = row.get("source", "").strip() or name
        split = row.get("split", "").strip().lower() or _split_of(group, val_fraction)
        yield Source(manifest.parent / name, split, group)


def _split_of(group: str, val_fraction: float) -> str:
    number = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
    return "val" if number < val_fraction * 2**64 else "train"
