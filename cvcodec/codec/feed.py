"""Chunks in the order of a stream -> latents for the windows, and the times of the frames they stand for.

Owns: pulling chunks only when they are needed, forgetting them when they are not, checking that times make sense.
Does not know: models, containers, how chunks are found in a file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import FLAG_CONCEALED, UNKNOWN, Chunk, Header
from cvcodec.bitstream.format import MAX_SECONDS
from cvcodec.codec.latent_file import check_chunk_place, layers_of
from cvcodec.errors import BitstreamError


@dataclass(frozen=True)
class FrameTime:
    """When a frame is shown, in units of the header's time base; `concealed`: the source was damaged there."""

    number: int
    pts: int
    duration: int | None
    concealed: bool


class ChunkFeed:
    """What a decoder reads: `read` for the latents, `times` for the frames of all chunks read so far.

    chunks: intact chunks, consecutive, in order; the first one may be any chunk of the file.
    """

    def __init__(self, chunks: Iterator[Chunk], header: Header) -> None:
        self._chunks, self._header = chunks, header
        self._kept: deque[tuple[int, NDArray[np.float32]]] = deque()  # first latent, layers (C + E, t, h, w)
        self._last_pts: int | None = None
        self.times: deque[FrameTime] = deque()
        """Of frames not yet taken out, in order; the consumer takes them from the left."""

    def read(self, start: int, stop: int) -> Tensor | None:
        """Latents [start, stop), both layers, as (1, C + E, n, h, w) float32; fewer, or None, at the end. Ascending, no
        overlap."""
        while not self._kept or self._end < stop:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._take(chunk)
        while self._kept and self._kept[0][0] + self._kept[0][1].shape[1] <= start:
            self._kept.popleft()
        parts = [values[:, max(0, start - first) : stop - first] for first, values in self._kept if first < stop]
        if not parts:
            return None
        return torch.from_numpy(np.concatenate(parts, axis=1) if len(parts) > 1 else np.ascontiguousarray(parts[0]))[
            None
        ]

    def finish(self) -> None:
        """Read what is behind the last chunk, so that the end of the file is verified too."""
        for chunk in self._chunks:
            raise BitstreamError(f"chunk {chunk.index} lies behind the end of the video")

    @property
    def _end(self) -> int:
        first, values = self._kept[-1]
        return first + int(values.shape[1])

    def _take(self, chunk: Chunk) -> None:
        check_chunk_place(chunk.first_latent, chunk.first_frame, self._header.temporal_factor)
        self._kept.append((chunk.first_latent, layers_of(chunk, self._header)))
        for offset, (pts, duration, flags) in enumerate(
            zip(chunk.pts.tolist(), chunk.durations.tolist(), chunk.flags.tolist(), strict=True)
        ):
            if self._last_pts is not None and pts <= self._last_pts:
                raise BitstreamError(
                    f"time stamps do not increase: {pts} follows {self._last_pts} in chunk {chunk.index}"
                )
            if abs(pts) * self._header.time_base > MAX_SECONDS:
                raise BitstreamError(f"time stamp {pts} in chunk {chunk.index} lies beyond {MAX_SECONDS} s")
            self._last_pts = pts
            self.times.append(
                FrameTime(
                    chunk.first_frame + offset,
                    pts,
                    None if duration == UNKNOWN else duration,
                    bool(flags & FLAG_CONCEALED),
                )
            )
