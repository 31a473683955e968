"""Sample number i: a random clip of some size from the training files, augmented.

Owns: what is drawn (file, frame stride, crop, scale, flips, time reversal, colour; pan and zoom of photos), and making
it from decoded pixels on the CPU. Everything about sample i follows from (seed, i).
Does not know: batches, processes, models; `device_clips` makes the same clips on a device, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.dataset.keys import numpy_generator
from cvcodec.dataset.media import MediaFile, Pixels, resize
from cvcodec.errors import InputError

_ATTEMPTS = 64  # draws before a data set of nothing but unreadable files is given up
_FRAMES_OF_WEIGHT = 60  # a longer video is not drawn more often than one of this many frames
_LARGEST_SCALE = 2.5  # a crop covers at most this many times its side in the source
_PAN = 1.5  # deviation of a photo's synthetic motion, pixels per frame
_ZOOM = 0.03  # deviation of its synthetic zoom over a clip


class Piece(Protocol):
    """Decoded frames, wherever they lie: (T, H, W, 3) uint8."""

    @property
    def shape(self) -> tuple[int, ...]: ...


P = TypeVar("P", bound=Piece)
P_co = TypeVar("P_co", bound=Piece, covariant=True)


class Pieces(Protocol[P_co]):
    """What has decoded pieces of files: None for one that cannot be decoded."""

    def get(self, file: MediaFile, segment: int = 0) -> P_co | None: ...


@dataclass(frozen=True)
class Crop:
    """Frames `start`, `start + stride` ... of a video, a square of `side` pixels of each, scaled to the clip's size."""

    start: int
    stride: int
    top: int
    left: int
    side: int


@dataclass(frozen=True)
class Pan:
    """A window on frame `frame`, scaled to `height` x `width`; it drifts and zooms where `moving`."""

    frame: int
    height: int
    width: int
    center_y: float
    center_x: float
    drift_y: float = 0.0
    drift_x: float = 0.0
    end_zoom: float = 1.0
    moving: bool = False

    def corner(self, size: int) -> tuple[int, int]:
        """Top and left of a window that does not move: whole pixels inside the picture."""
        top = round(min(max(0.0, self.center_y - size / 2), self.height - size))
        left = round(min(max(0.0, self.center_x - size / 2), self.width - size))
        return top, left


@dataclass(frozen=True)
class Jitter:
    """What is done to a clip afterwards, in this order."""

    reverse: bool = False
    mirror: bool = False
    transpose: bool = False
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of each colour, about the middle grey."""
    offset: float = 0.0


@dataclass(frozen=True)
class Drawn(Generic[P]):
    """Everything about a sample but its pixels."""

    piece: P
    view: Crop | Pan
    jitter: Jitter


class ClipSampler(Generic[P]):
    """Draws clips; `draw` is a pure function of the index as long as the files stay the same."""

    def __init__(
        self,
        files: Sequence[MediaFile],
        pieces: Pieces[P],
        *,
        seed: int,
        strides: Sequence[int] = (1,),
        photo_share: float = 0.18,
        augment: bool = True,
        segment_frames: int = 160,
    ) -> None:
        if not files:
            raise InputError("nothing to sample from: no readable videos or images")
        self._files, self._pieces, self._seed, self._augment = list(files), pieces, seed, augment
        self._strides, self._segment_frames = tuple(strides), segment_frames
        self._videos = [file for file in files if not file.is_image]
        self._photos = [file for file in files if file.is_image]
        weights = np.array([min(file.frames, _FRAMES_OF_WEIGHT) for file in self._videos], dtype=np.float64)
        self._cumulative = np.cumsum(weights / weights.sum()) if len(weights) else weights
        self._photo_share = 0.0 if not self._photos else 1.0 if not self._videos else photo_share

    def draw(self, index: int, frames: int, size: int) -> Drawn[P]:
        """What sample `index` of `frames` frames and `size` x `size` pixels is.

        Raises InputError when nothing can be decoded.
        """
        for attempt in range(_ATTEMPTS):
            rng = numpy_generator(self._seed, "clip", index, attempt)
            file, segment = self._draw_file(rng)
            piece = self._pieces.get(file, segment)
            if piece is not None:
                view = self._draw_view(rng, piece, frames, size)
                return Drawn(piece, view, self._draw_jitter(rng) if self._augment else Jitter())
        raise InputError(f"{_ATTEMPTS} files in a row could not be decoded; see the skipped files above")

    def sample(self: ClipSampler[Pixels], index: int, frames: int, size: int) -> Tensor:
        """(3, T, S, S) float32 in [-1, 1], of pieces in memory. Raises InputError when nothing can be decoded."""
        drawn = self.draw(index, frames, size)
        if isinstance(drawn.view, Crop):
            clip = _crop(drawn.piece, drawn.view, frames, size)
        else:
            clip = _pan(drawn.piece, drawn.view, frames, size)
        return (_jitter(clip, drawn.jitter) / 127.5 - 1).permute(1, 0, 2, 3).contiguous()

    def _draw_file(self, rng: np.random.Generator) -> tuple[MediaFile, int]:
        if rng.random() < self._photo_share:
            return self._photos[rng.integers(len(self._photos))], 0
        file = self._videos[min(int(np.searchsorted(self._cumulative, rng.random())), len(self._videos) - 1)]
        return file, int(rng.integers(file.segments(self._segment_frames)))

    def _draw_view(self, rng: np.random.Generator, piece: P, frames: int, size: int) -> Crop | Pan:
        count = piece.shape[0]
        stride = int(rng.choice(self._strides))
        while (frames - 1) * stride + 1 > count and stride > 1:
            stride -= 1
        span = (frames - 1) * stride + 1
        if span > count:
            return self._draw_pan(rng, int(rng.integers(count)), piece, frames, size)
        start = int(rng.integers(0, count - span + 1))
        height, width = piece.shape[1:3]
        side = float(size)
        if self._augment and rng.random() < 0.4:
            side *= rng.uniform(1, max(1.0, min(_LARGEST_SCALE, min(height, width) / size)))
        crop = min(int(side), height, width)
        top, left = int(rng.integers(0, height - crop + 1)), int(rng.integers(0, width - crop + 1))
        return Crop(start, stride, top, left, crop)

    def _draw_pan(self, rng: np.random.Generator, frame: int, piece: P, frames: int, size: int) -> Pan:
        sides = piece.shape[1:3]
        zoom = rng.uniform(1.0, max(1.0, min(2.2, 0.9 * min(sides) / size))) if self._augment else 1.0
        moving = frames > 1 and rng.random() < 0.7
        drift_y, drift_x = rng.normal(0, _PAN, 2) if moving else (0.0, 0.0)
        end_zoom = 1 + rng.normal(0, _ZOOM) if moving else 1.0
        height, width = (max(size, round(side / zoom)) for side in sides)
        margin = size * max(1.0, end_zoom) / 2 + 1
        center_y = rng.uniform(margin, height - margin) if height > 2 * margin else height / 2
        center_x = rng.uniform(margin, width - margin) if width > 2 * margin else width / 2
        return Pan(frame, height, width, center_y, center_x, drift_y, drift_x, end_zoom, moving)

    def _draw_jitter(self, rng: np.random.Generator) -> Jitter:
        reverse, mirror, transpose = (bool(rng.random() < share) for share in (0.3, 0.5, 0.1))
        if rng.random() >= 0.3:
            return Jitter(reverse, mirror, transpose)
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
        red, green, blue = gain.tolist()
        return Jitter(reverse, mirror, transpose, (red, green, blue), float(rng.uniform(-25, 25)))


def _crop(pixels: Pixels, view: Crop, frames: int, size: int) -> Tensor:
    """(T, 3, S, S) in [0, 255]."""
    rows, columns = slice(view.top, view.top + view.side), slice(view.left, view.left + view.side)
    stop = view.start + (frames - 1) * view.stride + 1
    return resize(_float_frames(pixels[view.start : stop : view.stride, rows, columns]), size, size)


def _pan(pixels: Pixels, view: Pan, frames: int, size: int) -> Tensor:
    """A window that drifts and zooms over a picture at sub-pixel steps: (T, 3, S, S) in [0, 255]."""
    scaled = resize(_float_frames(pixels[view.frame][None]), view.height, view.width)
    if not view.moving:
        top, left = view.corner(size)
        return scaled[:, :, top : top + size, left : left + size].expand(frames, -1, -1, -1)
    offsets = torch.arange(size) - (size - 1) / 2
    grids = []
    for frame in range(frames):
        scale = 1 + (view.end_zoom - 1) * frame / frames
        rows = (view.center_y + view.drift_y * frame + offsets * scale + 0.5) / view.height * 2 - 1
        columns = (view.center_x + view.drift_x * frame + offsets * scale + 0.5) / view.width * 2 - 1
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        grids.append(torch.stack([x, y], -1))
    grid = torch.stack(grids).float()
    source = scaled.expand(frames, -1, -1, -1)
    return F.grid_sample(source, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 255)


def _jitter(clip: Tensor, jitter: Jitter) -> Tensor:
    if jitter.reverse:
        clip = clip.flip(0)
    if jitter.mirror:
        clip = clip.flip(3)
    if jitter.transpose:
        clip = clip.transpose(2, 3)
    if jitter != Jitter(jitter.reverse, jitter.mirror, jitter.transpose):
        gain = torch.tensor(jitter.gain).view(1, 3, 1, 1)
        clip = ((clip - 128) * gain + 128 + jitter.offset).clamp(0, 255)
    return clip


def _float_frames(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()  # a copy: the cache is read-only
