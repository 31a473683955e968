"""`cvcodec.open`: a .cvl file as an array of latents, and of frames when a model is at hand.

Owns: slicing by latent and by frame, keeping the chunks that are in use, joining them into clips.
Does not know: containers, encoders, progress.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import BitstreamReader, Chunk, Header
from cvcodec.checkpoints.registry import load_model, load_named_model
from cvcodec.codec.headers import check_model, open_reader, plan_of
from cvcodec.codec.layers import check_chunk_place, enhancement_of, latents_of, layers_of
from cvcodec.codec.runner import ModelRunner, denormalise, tensor_to_frames
from cvcodec.codec.session import Notices, memory_errors
from cvcodec.errors import UsageError
from cvcodec.fileio import naming_damage, open_input
from cvcodec.model.base import VideoAutoencoder
from cvcodec.windows.space import crop_space
from cvcodec.windows.time import frames_of_latents, latents_of_frames, trim_frames

Values = NDArray[np.float32]

_KEPT_CHUNKS = 4  # decoded chunks remembered: neighbouring slices and the context of a window hit the same ones


def open_latents(
    path: str | os.PathLike[str],
    *,
    model: VideoAutoencoder | str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> LatentFile:
    """`cvcodec.open`: a `LatentFile` whose model is given, named, or None for the one that the file names."""
    if isinstance(model, VideoAutoencoder):
        return LatentFile(path, model=model, device=device, precision=precision)
    file = LatentFile(
        path,
        model=lambda: load_named_model(file.header.model) if model is None else load_model(model),
        device=device,
        precision=precision,
    )
    return file


class LatentFile:
    """A .cvl file opened for reading; made by `cvcodec.open`. Not for use by several threads at once.

    header: what the file says of itself. latents, enhancement, logvar, frames: to be sliced, see `LatentView` and
    `FrameView`. `latents` are the base layer, whatever else the file holds; enhancement: the second layer, only where
    the file has one; logvar only where the file keeps it (`--store-logvar`). `frames` are decoded from both layers.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: VideoAutoencoder | Callable[[], VideoAutoencoder] | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        """model: for `frames`; a function that loads it is called when frames are first asked for.

        Raises InputError, BitstreamError.
        """
        self._stack = ExitStack()
        try:
            self._file: BinaryIO = self._stack.enter_context(open_input(path))
            with naming_damage(path):
                self._reader = open_reader(self._file)
            if not self._reader.seekable:
                raise UsageError(
                    f"{os.fspath(path)} cannot be sought, so it cannot be sliced; decode it as a stream instead"
                )
            with naming_damage(path):
                for entry in self._reader.index:
                    check_chunk_place(entry.first_latent, entry.first_frame, self._reader.header.temporal_factor)
        except BaseException:
            self._stack.close()
            raise
        assert self._reader.trailer is not None  # the index was found at the end
        self.header, self._trailer = self._reader.header, self._reader.trailer
        self._chunks: OrderedDict[tuple[int, bool], Chunk] = OrderedDict()
        self._model, self._device, self._precision = model, device, precision
        self._runner: ModelRunner | None = None
        channels = self.header.latent_channels
        self.latents = LatentView(self, self.read_latents, channels)
        self.enhancement = LatentView(self, self.read_enhancement, self.header.enhancement_channels)
        self.logvar = LatentView(self, self.read_logvar, channels)
        self.frames = FrameView(self)

    @property
    def latent_count(self) -> int:
        """t, the number of latents."""
        return self._trailer.latents

    @property
    def frame_count(self) -> int:
        """T, the number of frames."""
        return self._trailer.frames

    @property
    def reader(self) -> BitstreamReader:
        """The bitstream itself: index, trailer, records of other types."""
        return self._reader

    def chunk(self, number: int, *, base_only: bool = False) -> Chunk:
        """Chunk `number`, verified and decoded to symbols, on demand without its enhancement layer; the last few are
        remembered."""
        key = (number, base_only and self.header.enhancement is not None)
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        chunk = self._reader.read_chunk(number, base_only=base_only)
        self._chunks[key] = chunk
        while len(self._chunks) > _KEPT_CHUNKS:
            self._chunks.popitem(last=False)
        return chunk

    def read_latents(self, start: int, stop: int) -> NDArray[np.float32]:
        """Latents [start, stop), (C, t, h, w) float32: the base layer. Touches only the chunks they are in."""
        base = self._layer(latents_of, base_only=True)
        return self._read(start, stop, base, self.header.latent_channels)

    def read_enhancement(self, start: int, stop: int) -> NDArray[np.float32]:
        """The enhancement layer of latents [start, stop), (E, t, h, w) float32. UsageError where the file has none."""
        if self.header.enhancement is None:
            raise UsageError("the file has no enhancement layer; encode with --layers all, by a model that has two")
        return self._read(start, stop, self._layer(enhancement_of), self.header.enhancement_channels)

    def read_layers(self, start: int, stop: int) -> NDArray[np.float32]:
        """Both layers of latents [start, stop), (C + E, t, h, w) float32: what a decoder reads."""
        channels = self.header.latent_channels + self.header.enhancement_channels
        return self._read(start, stop, self._layer(layers_of), channels)

    def read_logvar(self, start: int, stop: int) -> NDArray[np.float32]:
        """Log-variance of latents [start, stop), (C, t, h, w) float32. UsageError where the file keeps none."""
        if not self.header.logvar:
            raise UsageError("the file keeps no log-variance; encode with --store-logvar")
        return self._read(start, stop, self._reader.read_logvar, self.header.latent_channels)

    def _layer(
        self, values_of: Callable[[Chunk, Header], Values], *, base_only: bool = False
    ) -> Callable[[int], Values]:
        return lambda number: values_of(self.chunk(number, base_only=base_only), self.header)

    def _read(self, start: int, stop: int, values_of: Callable[[int], Values], channels: int) -> Values:
        """Latents [start, stop) of what `values_of` gives for the number of a chunk."""
        chunks = list(self._trailer.latents_in_chunks(start, stop))
        out = np.empty((channels, stop - start, *self.header.latent_size), np.float32)
        position = 0
        for number, wanted in chunks:
            values = values_of(number)[:, wanted]
            out[:, position : position + values.shape[1]] = values
            position += values.shape[1]
        return out

    def pts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Time stamps of frames [start, stop), in units of `header.time_base`."""
        wanted = self._trailer.frames_in_chunks(start, stop)
        parts = [self._reader.read_info(number).pts[frames] for number, frames in wanted]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def runner(self) -> ModelRunner:
        """The model on its device. Raises UsageError without one, ModelMismatchError for the wrong one."""
        if self._runner is None:
            if self._model is None:
                raise UsageError("this file was opened without a model, so it has latents but no frames")
            model = self._model if isinstance(self._model, VideoAutoencoder) else self._model()
            check_model(model, self.header, Notices())
            self._runner = ModelRunner(model, device=self._device, precision=self._precision)
        return self._runner

    def iter_pixels(self, start: int, stop: int) -> Iterator[Tensor]:
        """Pixels of frames [start, stop) as the model gives them, (1, 3, T_i, H, W) float32, cropped, unclamped."""
        header, runner = self.header, self.runner()
        plan = plan_of(header)
        first, last = latents_of_frames(start, stop, header.temporal_factor)
        pieces = plan.decode(
            lambda latent: runner.decode(latent, header.quality),
            lambda t0, t1: torch.from_numpy(self.read_layers(t0, t1))[None],
            (first, last),
            self.latent_count,
        )
        begin = frames_of_latents(first, last, header.temporal_factor)[0]
        for piece in trim_frames(memory_errors(pieces), begin, start, stop):
            yield crop_space(piece, header.height, header.width)

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LatentView:
    """`file.latents[t0:t1]`: (C, t1-t0, h, w) float32; `file.latents[t]`: (C, h, w). Negative indices as in lists."""

    def __init__(self, file: LatentFile, read: Callable[[int, int], NDArray[np.float32]], channels: int) -> None:
        self._file, self._read, self._channels = file, read, channels

    def __len__(self) -> int:
        return self._file.latent_count

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, t, h, w) of the whole file."""
        return self._channels, len(self), *self._file.header.latent_size

    def __getitem__(self, key: int | slice) -> NDArray[np.float32]:
        start, stop, step = _range(key, len(self), "latent")
        values = self._read(start, stop)
        return values[:, ::step] if isinstance(key, slice) else values[:, 0]


class FrameView:
    """`file.frames[t0:t1]`: (T, H, W, 3) uint8, or uint16 above 8 bits; `file.frames[t]`: (H, W, 3)."""

    def __init__(self, file: LatentFile) -> None:
        self._file = file

    def __len__(self) -> int:
        return self._file.frame_count

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3) of the whole file."""
        return len(self), self._file.header.height, self._file.header.width, 3

    def __getitem__(self, key: int | slice) -> NDArray[Any]:
        start, stop, step = _range(key, len(self), "frame")
        depth = self._file.header.bit_depth
        parts = [tensor_to_frames(denormalise(piece, depth), depth) for piece in self._file.iter_pixels(start, stop)]
        if not parts:
            return np.zeros((0, *self.shape[1:]), np.uint8 if depth == 8 else np.uint16)
        frames = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return frames[::step] if isinstance(key, slice) else frames[0]


def _range(key: int | slice, length: int, what: str) -> tuple[int, int, int]:
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        if step < 1:
            raise ValueError(f"a step of {step} goes backwards; slice forwards and reverse the result")
        return start, max(start, stop), step
    if not isinstance(key, int | np.integer):
        raise TypeError(f"{what}s are taken by a number or a slice, not by {type(key).__name__}: {key!r}")
    index = key + length if key < 0 else key
    if not 0 <= index < length:
        raise IndexError(f"{what} {key} is not in the file, it has {length}")
    return index, index + 1, 1
