"""Frames and latents in time: which stand for which, and a stream of either of which only what is needed is alive.

Owns: the arithmetic between frames and latents (docs/cv-vae.md, section 1.5), the time axis of a clip, pulling pieces
from a source and joining them into the clip of one window.

Latent 0 is frame 0 alone; latent j >= 1 stands for frames f(j-1)+1 ... fj, f being the temporal factor (4). With f = 1
(image models) latents and frames are the same thing, so every formula here also serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from cvcodec.windows.space import cat_all, check_clip, pad_space, repeat_last

TIME = 2  # the time axis of (B, C, T, H, W)

_MOST_PULLED = 64  # samples asked for at once


def latent_count(frames: int, factor: int = 4) -> int:
    """Latents that hold `frames` frames once the last is repeated up to f·k+1: ceil((frames-1)/f) + 1; 0 for 0."""
    _check(factor, frames=frames)
    return (frames + factor - 2) // factor + 1 if frames else 0


def frame_count(latents: int, factor: int = 4) -> int:
    """Frames that `latents` latents decode to: f·(latents-1) + 1; 0 for 0."""
    _check(factor, latents=latents)
    return factor * (latents - 1) + 1 if latents else 0


def padded_frame_count(frames: int, factor: int = 4) -> int:
    """`frames` rounded up to the next f·k+1; 0 for 0."""
    return frame_count(latent_count(frames, factor), factor)


def frames_of_latents(start: int, stop: int, factor: int = 4) -> tuple[int, int]:
    """The frames, first and one past the last, that latents [start, stop) stand for, repeated last frames included."""
    _check(factor, start=start, stop=stop)
    first = factor * (start - 1) + 1 if start else 0
    return first, max(first, frame_count(stop, factor))


def latents_of_frames(start: int, stop: int, factor: int = 4) -> tuple[int, int]:
    """The smallest latent range [a, b) whose frames include frames [start, stop); empty for an empty range."""
    _check(factor, start=start, stop=stop)
    first = -(-start // factor)
    return first, (-(-(stop - 1) // factor) + 1 if stop > start else first)


def _check(factor: int, **counts: int) -> None:
    if factor < 1:
        raise ValueError(f"temporal factor must be at least 1, got {factor}")
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def pad_time(pixels: Tensor, factor: int = 4) -> Tensor:
    """(B, C, T, H, W) with its last frame repeated until T = f·k+1. The input itself when nothing is missing."""
    check_clip(pixels)
    return repeat_last(pixels, dim=TIME, missing=padded_frame_count(pixels.shape[TIME], factor) - pixels.shape[TIME])


def trim_frames(pieces: Iterable[Tensor], first: int, start: int, stop: int) -> Iterator[Tensor]:
    """Frames [start, stop) of a stream of pieces (B, 3, T_i, H, W) whose first frame is number `first`.

    What `Plan.decode` yields for whole latents becomes what was asked for in frames; also cuts the repeated frames at
    the end of a video. Stops reading as soon as it has everything.
    """
    if stop <= start:
        return
    for piece in pieces:
        last = first + piece.shape[TIME]
        if last > start:
            yield piece[:, :, max(0, start - first) : stop - first]
        if last >= stop:
            return
        first = last


class FrameSource:
    """Pieces from an iterator of frames, padded in space; any piece length, whatever was asked for.

    A piece is (B, C, T_i, H, W), or a single frame (B, C, H, W) or (C, H, W).
    """

    def __init__(self, frames: Iterable[Tensor], spatial_factor: int) -> None:
        self._frames = iter(frames)
        self._factor = spatial_factor
        self._size: tuple[int, ...] | None = None

    def pull(self, start: int, stop: int) -> Tensor | None:
        """The next piece, which begins at frame `start`; None at the end."""
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
        """Latents [start, stop), fewer at the end, None behind it."""
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

    def __init__(self, source: FrameSource | LatentSource, *, start: int = 0, pad_factor: int = 1) -> None:
        self._source = source
        self._pieces: list[Tensor] = []
        self._joined = False  # whether the first piece is our own copy, to be released when little of it is needed
        self._pad_factor = pad_factor
        self._ended = False
        self.start = start
        self.stop = start

    def fill(self, stop: int) -> int:
        """Reads on until position `stop`, and returns the position reached: less only at the end."""
        while not self._ended and self.stop < stop:
            piece = self._source.pull(self.stop, min(stop, self.stop + _MOST_PULLED))
            if piece is None:
                self._ended = True
                missing = padded_frame_count(self.stop, self._pad_factor) - self.stop
                if missing:
                    piece = repeat_last(self._pieces[-1][:, :, -1:], dim=TIME, missing=missing)[:, :, 1:]
            if piece is not None:
                self._pieces.append(piece)
                self.stop += piece.shape[TIME]
        return min(stop, self.stop)

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
