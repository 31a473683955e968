"""Base layers of chunks -> the same with their enhancement layers: what the decoder leaves over of the source.

Owns: decoding while encoding, from the very values that the file will keep, and the frames that wait to be compared.
Does not know: what the layer's channels are (the model), how symbols become bytes.

What is compared is what a decode computes, with the same windows: whatever the decoder gets wrong is in what is left
over. A decode in another arithmetic differs by that arithmetic's rounding, no more.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.codec.layers import LatentPieces, read_back
from cvcodec.codec.output import ChunkLayers, CvlOutput
from cvcodec.codec.runner import ClipEncoder
from cvcodec.system.device import to_host
from cvcodec.windows.plan import Plan
from cvcodec.windows.space import ClipFunction
from cvcodec.windows.time import TIME, FrameSource, Sequence, frames_of_latents

_GROUPS_AT_ONCE = 4  # of what is compared: a window of floats is large, its copies are made a few groups at a time


class ClosedLoop:
    """The enhancement layer of one encode, for the chunks from `output.first_latent` on.

    begin: the first latent of the first chunk that the decoder looks at for them. Frames from `plan.first_frame(begin)`
    on go through `watched`.
    """

    def __init__(self, runner: ClipEncoder, plan: Plan, output: CvlOutput) -> None:
        self._runner, self._plan, self._output, self._header = runner, plan, output, output.header
        looked_at = plan.span(plan.index_of(output.first_latent, encoding=False), encoding=False).first
        self.begin = plan.span(plan.index_of(looked_at, encoding=True), encoding=True).keep
        self._frames: deque[Tensor] = deque()
        self._waiting: deque[ChunkLayers] = deque()

    def watched(self, clips: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pieces of frames, (1, 3, T_i, H, W) code values, on their way to the encoder; kept until compared."""
        for clip in clips:
            self._frames.append(clip)
            yield clip

    def completed(
        self,
        chunks: Iterator[ChunkLayers],
        timed: Callable[[ClipFunction], ClipFunction],
        say: Callable[[str], None],
    ) -> Iterator[ChunkLayers]:
        """Base layers of all chunks from `begin` on -> all layers of those that are wanted. timed: of the session."""
        plan, factor, start = self._plan, self._plan.temporal_factor, self._output.first_latent
        source = Sequence(
            FrameSource(self._watched_again(), plan.spatial_factor),
            start=plan.first_frame(self.begin),
            pad_factor=factor,
        )
        decode = timed(lambda latent: self._runner.decode(latent, self._header.quality))
        latents = LatentPieces(self._stored(chunks))
        latent, pixels = start, None
        for piece in plan.decode(decode, latents.read, (start, None), None, lambda plan, text: say(text)):
            pixels = piece if pixels is None else torch.cat([pixels, piece], TIME)
            del piece
            while self._waiting and pixels is not None:
                end = latent + self._waiting[0].base.shape[1]
                first, stop = frames_of_latents(latent, end, factor)
                if first + pixels.shape[TIME] < stop:
                    break
                layers = self._waiting.popleft()
                source.fill(stop)
                yield dataclasses.replace(layers, enhancement=self._left_over(source, pixels, first, stop))
                rest = pixels[:, :, stop - first :]
                latent, pixels = end, rest if rest.shape[TIME] else None

    def _stored(self, chunks: Iterator[ChunkLayers]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The base layer as a decoder will read it."""
        first = self.begin
        for layers in chunks:
            base = self._output.stored(layers.base)
            if first >= self._output.first_latent:
                self._waiting.append(dataclasses.replace(layers, base=base))
            yield first, read_back(base, self._header.quantizer)
            first += base.shape[1]

    def _watched_again(self) -> Iterator[Tensor]:
        while self._frames:
            yield self._frames.popleft()

    def _left_over(self, source: Sequence, pixels: Tensor, first: int, stop: int) -> NDArray[np.float32]:
        """(E, t, h, w) for frames [first, stop), the first of which were decoded to `pixels`."""
        parts, at = [], first
        while at < stop:
            end = min(stop, at + self._plan.temporal_factor * _GROUPS_AT_ONCE + (at == 0))
            clip, decoded = source.take(at, end), pixels[:, :, at - first : end - first]
            made = self._runner.enhancement(clip, self._header.bit_depth, decoded)
            parts.append(to_host(made[0]).numpy())
            at = end
        source.drop_before(stop)
        return np.concatenate(parts, 1)
