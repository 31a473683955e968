""".cvl files for random access by the thousand: mapped into memory, opened once, decoded chunks kept within a budget.

Owns: which files and chunks stay in memory, and putting slices together. Does not know: randomness, tensors, models.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import BitstreamReader, ChunkInfo, Header, Trailer
from cvcodec.codec.headers import open_reader
from cvcodec.codec.latent_file import latents_of
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import naming_damage

_KEPT_PTS = 4096  # chunks; half a kilobyte each

Floats = NDArray[np.floating[Any]]


class MappedFile(mmap.mmap):
    """A file in memory as the page cache holds it, readable like a file object; the descriptor is not kept."""

    # What mmap itself does only from Python 3.13 on:

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: Any = os.SEEK_SET) -> int:  # type: ignore[override]
        """Go there, and say where that is."""
        super().seek(offset, whence)
        return self.tell()


def map_file(path: Path) -> MappedFile:
    """The whole file, for reading. Raises InputError for what is missing, empty or no file."""
    try:
        with path.open("rb") as file:
            return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError:
        raise InputError(f"{path} is empty, so it is no .cvl file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


class ChunkCache:
    """Slices of latents from any number of files. For one process; not for several threads at once.

    open_files: how many files stay mapped. cache_bytes: how much of decoded chunks is kept, least recently used ones
    go first; 0 keeps none. Raises InputError or BitstreamError from every method.
    """

    def __init__(self, *, open_files: int = 64, cache_bytes: int = 256 << 20) -> None:
        self._limit, self._budget = max(1, open_files), cache_bytes
        self._files: OrderedDict[Path, BitstreamReader] = OrderedDict()
        self._chunks: OrderedDict[tuple[Path, str, int], Floats] = OrderedDict()
        self._held = 0
        self._pts: OrderedDict[tuple[Path, int], NDArray[np.int64]] = OrderedDict()

    def header(self, path: Path) -> Header:
        """What the file says of itself."""
        return self._reader(path).header

    def trailer(self, path: Path) -> Trailer:
        """Its totals and index."""
        trailer = self._reader(path).trailer
        assert trailer is not None
        return trailer

    def latents(self, path: Path, start: int, stop: int) -> NDArray[np.float32]:
        """Latents [start, stop), (C, t, h, w) float32, a copy."""
        reader = self._reader(path)

        def decode(number: int) -> Floats:
            chunk = reader.read_chunk(number, base_only=True)
            self._keep_pts(path, chunk)
            return latents_of(chunk, reader.header) if reader.header.steps else chunk.symbols

        return self._slice(path, "latents", decode, start, stop)

    def logvar(self, path: Path, start: int, stop: int) -> NDArray[np.float32]:
        """Log-variance of latents [start, stop), (C, t, h, w) float32, a copy. UsageError where the file keeps none."""
        reader = self._reader(path)
        if not reader.header.logvar:
            raise UsageError(f"{path} keeps no log-variance; encode with --store-logvar")
        return self._slice(path, "logvar", reader.read_logvar, start, stop)

    def pts(self, path: Path, start: int, stop: int) -> NDArray[np.int64]:
        """Time stamps of frames [start, stop), cut where the file ends."""
        trailer = self.trailer(path)
        parts = [np.zeros(0, np.int64)]
        position, stop = start, min(stop, trailer.frames)
        while position < stop:
            number = trailer.chunk_of_frame(position)
            first = trailer.index[number].first_frame
            known = self._pts.get((path, number))
            if known is None:
                known = self._keep_pts(path, self._reader(path).read_info(number))
            parts.append(known[position - first : stop - first])
            position += len(parts[-1])
        return np.concatenate(parts)

    def _keep_pts(self, path: Path, info: ChunkInfo) -> NDArray[np.int64]:
        """Remember the time stamps of a chunk, which cost as much to read as its latents."""
        self._pts[path, info.index] = info.pts
        while len(self._pts) > _KEPT_PTS:
            self._pts.popitem(last=False)
        return info.pts

    def _slice(
        self, path: Path, kind: str, decode: Callable[[int], Floats], start: int, stop: int
    ) -> NDArray[np.float32]:
        trailer = self.trailer(path)
        if not 0 <= start < stop <= trailer.latents:
            raise IndexError(f"latents {start}:{stop} are not in {path}, it has {trailer.latents}")
        parts = [
            self._chunk((path, kind, number), decode)[:, low:high]
            for number, low, high in _pieces(trailer, start, stop)
        ]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _chunk(self, key: tuple[Path, str, int], decode: Callable[[int], Floats]) -> Floats:
        known = self._chunks.get(key)
        if known is not None:
            self._chunks.move_to_end(key)
            return known
        with naming_damage(key[0]):
            values = decode(key[2])
        if values.nbytes <= self._budget:
            self._chunks[key] = values
            self._held += values.nbytes
            while self._held > self._budget:
                self._held -= self._chunks.popitem(last=False)[1].nbytes
        return values

    def _reader(self, path: Path) -> BitstreamReader:
        reader = self._files.get(path)
        if reader is not None:
            self._files.move_to_end(path)
            return reader
        with naming_damage(path):
            reader = open_reader(map_file(path))
        self._files[path] = reader
        while len(self._files) > self._limit:
            self._files.popitem(last=False)
        return reader


def _pieces(trailer: Trailer, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(chunk, first, one past the last latent in it) that [start, stop) consists of."""
    while start < stop:
        number = trailer.chunk_of_latent(start)
        entry = trailer.index[number]
        end = min(stop, entry.first_latent + entry.latent_count)
        yield number, start - entry.first_latent, end - entry.first_latent
        start = end
