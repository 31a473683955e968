""".cvl files for random access by the thousand: mapped into memory, opened once, decoded chunks kept within a budget.

Owns: which files and chunks stay in memory, the arithmetic of slices on the 4n+1 grid, drawing one and putting it
together. Does not know: tensors, models.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import BitstreamReader, Header, Trailer
from cvcodec.codec.headers import open_reader
from cvcodec.codec.layers import latents_of
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import naming_damage
from cvcodec.remote import fetched

_KEPT_PTS = 4096  # chunks; half a kilobyte each

Floats = NDArray[np.floating[Any]]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Slice:
    """Latents [start, stop) and the frames, first and one past the last, that they decode to.

    As a clip of its own, whose first latent then stands for one frame, the last of the f that it stood for (f being the
    temporal factor): n latents from t on are frames ft to f(t + n - 1) of the video, whatever t is.
    """

    start: int
    stop: int
    first_frame: int
    end_frame: int


def slice_at(start: int, length: int, factor: int = 4) -> Slice:
    """The slice of `length` latents from `start` on. ValueError for an empty or a negative one."""
    if start < 0 or length < 1:
        raise ValueError(f"a slice begins at 0 or later and holds something: {start = }, {length = }")
    return Slice(start, start + length, factor * start, factor * (start + length - 1) + 1)


def draw_slice(generator: np.random.Generator, latents: int, length: int | None, factor: int = 4) -> Slice:
    """A slice of `length` of `latents` latents, every start as likely; None for all of them. ValueError if too long."""
    if length is None:
        return slice_at(0, latents, factor)
    if length > latents:
        raise ValueError(f"a slice of {length} latents does not fit a clip of {latents}")
    return slice_at(int(generator.integers(latents - length + 1)), length, factor)


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
        with fetched(path).open("rb") as file:
            return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError:
        raise InputError(f"{path} is empty, so it is no .cvl file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


class _Recent(Generic[K, V]):
    """Values by key, as long as their sizes are no more than `limit` in all; the least recently used go first."""

    def __init__(self, limit: int, size: Callable[[V], int] = lambda value: 1) -> None:
        self._limit, self._size = limit, size
        self.values: OrderedDict[K, V] = OrderedDict()
        self.held = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value that is kept, or a new one."""
        if key in self.values:
            self.values.move_to_end(key)
            return self.values[key]
        return self.keep(key, make())

    def keep(self, key: K, value: V) -> V:
        """Keep it, unless it alone is too large."""
        if key not in self.values and self._size(value) <= self._limit:
            self.values[key] = value
            self.held += self._size(value)
            while self.held > self._limit:
                self.held -= self._size(self.values.popitem(last=False)[1])
        return value


class ChunkCache:
    """Slices of latents from any number of files. Not for several threads at once.

    open_files: how many files stay mapped. cache_bytes: how much of decoded chunks is kept, least recently used ones
    go first; 0 keeps none. Raises InputError or BitstreamError from every method.
    """

    def __init__(self, *, open_files: int = 64, cache_bytes: int = 256 << 20) -> None:
        self._settings = {"open_files": open_files, "cache_bytes": cache_bytes}
        self._files: _Recent[Path, BitstreamReader] = _Recent(max(1, open_files))
        self._chunks: _Recent[tuple[Path, str, int], Floats] = _Recent(cache_bytes, lambda values: values.nbytes)
        self._pts: _Recent[tuple[Path, int], NDArray[np.int64]] = _Recent(_KEPT_PTS)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(ChunkCache, **self._settings), ()  # neither maps nor chunks are worth sending

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
            self._pts.keep((path, number), chunk.pts)  # they cost as much to read as the latents
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
        for number, frames in trailer.frames_in_chunks(min(start, trailer.frames), min(stop, trailer.frames)):
            pts = self._pts.get((path, number), functools.partial(self._read_pts, path, number))
            parts.append(pts[frames])
        return np.concatenate(parts)

    def _read_pts(self, path: Path, number: int) -> NDArray[np.int64]:
        return self._reader(path).read_info(number).pts

    def _slice(
        self, path: Path, kind: str, decode: Callable[[int], Floats], start: int, stop: int
    ) -> NDArray[np.float32]:
        trailer = self.trailer(path)
        if not 0 <= start < stop <= trailer.latents:
            raise IndexError(f"latents {start}:{stop} are not in {path}, it has {trailer.latents}")

        def chunk(number: int) -> Floats:
            with naming_damage(path):
                return decode(number)

        parts = []
        for number, latents in trailer.latents_in_chunks(start, stop):
            values = self._chunks.get((path, kind, number), functools.partial(chunk, number))
            parts.append(values[:, latents])
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _reader(self, path: Path) -> BitstreamReader:
        def opened() -> BitstreamReader:
            with naming_damage(path):
                return open_reader(map_file(path))

        return self._files.get(path, opened)
