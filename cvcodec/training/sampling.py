"""Sample number i: a random clip of some size from the training files, augmented.

Owns: what is drawn and how (file, frame stride, crop, scale, flips, time reversal, colour; pan and zoom of photos).
Everything about sample i follows from (seed, i). Does not know: batches, processes, models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.errors import InputError
from cvcodec.training.clips import ClipCache, Pixels, resize
from cvcodec.training.config import BatchShape
from cvcodec.training.keys import numpy_generator
from cvcodec.training.sources import MediaFile

_ATTEMPTS = 64  # draws before a data set of nothing but unreadable files is given up
_FRAMES_OF_WEIGHT = 60  # a longer video is not drawn more often than one of this many frames
_LARGEST_SCALE = 2.5  # a crop covers at most this many times its side in the source
_PAN = 1.5  # deviation of a photo's synthetic motion, pixels per frame
_ZOOM = 0.03  # deviation of its synthetic zoom over a clip


class ClipSampler:
    """Draws clips; `sample` is a pure function of the index as long as the files stay the same."""

    def __init__(
        self,
        files: Sequence[MediaFile],
        cache: ClipCache,
        *,
        seed: int,
        strides: Sequence[int] = (1,),
        photo_share: float = 0.18,
        augment: bool = True,
        segment_frames: int = 160,
    ) -> None:
        if not files:
            raise InputError("nothing to sample from: no readable videos or images")
        self._files, self._cache, self._seed, self._augment = list(files), cache, seed, augment
        self._strides, self._segment_frames = tuple(strides), segment_frames
        self._videos = [file for file in files if not file.is_image]
        self._photos = [file for file in files if file.is_image]
        weights = np.array([min(file.frames, _FRAMES_OF_WEIGHT) for file in self._videos], dtype=np.float64)
        self._cumulative = np.cumsum(weights / weights.sum()) if len(weights) else weights
        self._photo_share = 0.0 if not self._photos else 1.0 if not self._videos else photo_share

    def sample(self, index: int, shape: BatchShape) -> Tensor:
        """(3, T, S, S) float32 in [-1, 1]. Raises InputError when nothing can be decoded."""
        for attempt in range(_ATTEMPTS):
            rng = numpy_generator(self._seed, "clip", index, attempt)
            file, segment = self._draw(rng)
            pixels = self._cache.get(file, segment)
            if pixels is None:
                continue
            clip = self._clip(rng, pixels, shape.frames, shape.size)
            return (clip / 127.5 - 1).permute(1, 0, 2, 3).contiguous()
        raise InputError(f"{_ATTEMPTS} files in a row could not be decoded; see the skipped files above")

    def _draw(self, rng: np.random.Generator) -> tuple[MediaFile, int]:
        if rng.random() < self._photo_share:
            return self._photos[rng.integers(len(self._photos))], 0
        file = self._videos[min(int(np.searchsorted(self._cumulative, rng.random())), len(self._videos) - 1)]
        return file, int(rng.integers(file.segments(self._segment_frames)))

    def _clip(self, rng: np.random.Generator, pixels: Pixels, frames: int, size: int) -> Tensor:
        stride = int(rng.choice(self._strides))
        while (frames - 1) * stride + 1 > len(pixels) and stride > 1:
            stride -= 1
        if (frames - 1) * stride + 1 > len(pixels):
            clip = self._moving_photo(rng, pixels[int(rng.integers(len(pixels)))], frames, size)
        else:
            span = (frames - 1) * stride + 1
            start = int(rng.integers(0, len(pixels) - span + 1))
            clip = self._crop(rng, pixels[start : start + span : stride], size)
        return self._jitter(rng, clip) if self._augment else clip

    def _crop(self, rng: np.random.Generator, pixels: Pixels, size: int) -> Tensor:
        height, width = pixels.shape[1:3]
        side = float(size)
        if self._augment and rng.random() < 0.4:
            side *= rng.uniform(1, max(1.0, min(_LARGEST_SCALE, min(height, width) / size)))
        crop = min(int(side), height, width)
        top, left = int(rng.integers(0, height - crop + 1)), int(rng.integers(0, width - crop + 1))
        return resize(_float_frames(pixels[:, top : top + crop, left : left + crop]), size, size)

    def _moving_photo(self, rng: np.random.Generator, picture: Pixels, frames: int, size: int) -> Tensor:
        """A window that drifts and zooms over a picture at sub-pixel steps: (T, 3, S, S) in [0, 255]."""
        zoom = rng.uniform(1.0, max(1.0, min(2.2, 0.9 * min(picture.shape[:2]) / size))) if self._augment else 1.0
        moving = frames > 1 and rng.random() < 0.7
        drift_y, drift_x = rng.normal(0, _PAN, 2) if moving else (0.0, 0.0)
        end_zoom = 1 + rng.normal(0, _ZOOM) if moving else 1.0
        height, width = (max(size, round(side / zoom)) for side in picture.shape[:2])
        scaled = resize(_float_frames(picture[None]), height, width)
        margin = size * max(1.0, end_zoom) / 2 + 1
        center_y = rng.uniform(margin, height - margin) if height > 2 * margin else height / 2
        center_x = rng.uniform(margin, width - margin) if width > 2 * margin else width / 2
        if not moving:
            top = round(min(max(0.0, center_y - size / 2), height - size))
            left = round(min(max(0.0, center_x - size / 2), width - size))
            return scaled[:, :, top : top + size, left : left + size].expand(frames, -1, -1, -1)
        offsets = torch.arange(size) - (size - 1) / 2
        grids = []
        for frame in range(frames):
            scale = 1 + (end_zoom - 1) * frame / frames
            rows = (center_y + drift_y * frame + offsets * scale + 0.5) / height * 2 - 1
            columns = (center_x + drift_x * frame + offsets * scale + 0.5) / width * 2 - 1
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            grids.append(torch.stack([x, y], -1))
        grid = torch.stack(grids).float()
        source = scaled.expand(frames, -1, -1, -1)
        return F.grid_sample(source, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 255)

    def _jitter(self, rng: np.random.Generator, clip: Tensor) -> Tensor:
        if rng.random() < 0.3:
            clip = clip.flip(0)  # time backwards
        if rng.random() < 0.5:
            clip = clip.flip(3)
        if rng.random() < 0.1:
            clip = clip.transpose(2, 3)
        if rng.random() < 0.3:
            gain = torch.from_numpy(rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, (1, 3, 1, 1))).float()
            clip = ((clip - 128) * gain + 128 + float(rng.uniform(-25, 25))).clamp(0, 255)
        return clip


def _float_frames(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()  # a copy: the cache is read-only
