"""A sequence that is read once, in order, and of which only the part still needed is alive.

Owns: pulling pieces from a source, joining them into the clip of one window, keeping the overlap with the next.
Does not know: what the pieces are (frames or latents), windows, models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from cvcodec.tiling.padding import cat_all, pad_space, repeat_last
from cvcodec.tiling.timeline import padded_frame_count

TIME = 2  # the time axis of (B, C, T, H, W)


class Source(Protocol):
    """Where a `Sequence` gets its pieces: `pull` returns the next (B, C, T_i, H, W), or None at the end."""

    def pull(self, start: int, stop: int) -> Tensor | None:
        """The piece that begins at `start`; at least one sample, preferably up to `stop`."""


class FrameSource:
    """Pieces from an iterator of frames, padded in space; any piece length, whatever was asked for.

    A piece is (B, C, T_i, H, W), or a single frame (B, C, H, W) or (C, H, W).
    """

    def __init__(self, frames: Iterable[Tensor], spatial_factor: int) -> None:
        self._frames = iter(frames)
        self._factor = spatial_factor
        self._size: tuple[int, ...] | None = None

    def pull(self, start: int, stop: int) -> Tensor | None:
        for piece in self._frames:
            if piece.ndim == 3:
                piece = piece[None]
            if piece.ndim == 4:
                piece = piece.unsqueeze(TIME)
            if piece.ndim != 5:
                raise ValueError(f"frames come as (B, C, T, H, W), (B, C, H, W) or (C, H, W), got {tuple(piece.shape)}")
            size = (*piece.shape[:TIME], *piece.shape[TIME + 1 :])
            if self._size not in (None, size):
                raise ValueError(
                    f"all frames of a video must have one size: got {size} at frame {start}, had {self._size}"
                )
            self._size = size
            if piece.shape[TIME]:
                return pad_space(piece, self._factor) if self._factor > 1 else piece
        return None


class LatentSource:
    """Latents from `read(start, stop)`, called with ascending ranges that never overlap, so a pipe can serve it.

    With `total` None, the source ends where `read` returns fewer latents than asked for, or None.
    """

    def __init__(self, read: Callable[[int, int], Tensor | None], total: int | None) -> None:
        self._read = read
        self._total = total

    def pull(self, start: int, stop: int) -> Tensor | None:
        if self._total is not None:
            stop = min(stop, self._total)
        if stop <= start:
            return None
        piece = self._read(start, stop)
        got = 0 if piece is None else piece.shape[TIME] if piece.ndim == 5 else -1
        if not 0 <= got <= stop - start or (got < stop - start and self._total is not None):
            shape = None if piece is None else tuple(piece.shape)
            raise ValueError(
                f"latents [{start}, {stop}) were asked for, got shape {shape}; (B, C, {stop - start}, h, w) wanted"
            )
        if got < stop - start:
            self._total = start + got
        return piece if got else None


class Sequence:
    """The part of a source between what is no longer needed and what has been read.

    With `pad_factor` f, the end is padded by repeating the last sample to f·k+1 samples.
    """

    def __init__(self, source: Source, *, start: int = 0, pad_factor: int = 1) -> None:
        self._source = source
        self._pieces: list[Tensor] = []
        self._joined = False  # whether the first piece is our own copy, to be released when little of it is needed
        self._pad_factor = pad_factor
        self._ended = False
        self.start = start
        self.stop = start

    def fill(self, stop: int | None) -> int:
        """Reads on until position `stop` (None: the end), and returns the position reached: less only at the end."""
        while not self._ended and (stop is None or self.stop < stop):
            piece = self._source.pull(self.stop, self.stop + 64 if stop is None else stop)
            if piece is None:
                self._ended = True
                missing = padded_frame_count(self.stop, self._pad_factor) - self.stop
                if missing:
                    piece = repeat_last(self._pieces[-1][:, :, -1:], dim=TIME, missing=missing)[:, :, 1:]
            if piece is not None:
                self._pieces.append(piece)
                self.stop += piece.shape[TIME]
        return self.stop if stop is None else min(stop, self.stop)

    def drop_before(self, start: int) -> None:
        """Forgets what lies before position `start`."""
        while self._pieces and self.start + self._pieces[0].shape[TIME] <= start:
            self.start += self._pieces.pop(0).shape[TIME]
            self._joined = False
        if self._pieces and self.start < start:
            rest = self._pieces[0][:, :, start - self.start :]
            self._pieces[0] = rest.clone() if self._joined else rest
            self.start = start

    def take(self, start: int, stop: int) -> Tensor:
        """Samples [start, stop) as one tensor (B, C, stop-start, H, W), still kept; what lies before is forgotten."""
        self.drop_before(start)
        assert self.start == start < stop <= self.stop
        head: list[Tensor] = []
        missing = stop - start
        while missing:
            piece = self._pieces.pop(0)
            head.append(piece[:, :, :missing])
            if piece.shape[TIME] > missing:
                self._pieces.insert(0, piece[:, :, missing:])
            missing -= head[-1].shape[TIME]
        self._joined = self._joined or len(head) > 1
        clip = cat_all(head, dim=TIME)
        self._pieces.insert(0, clip)
        return clip
