"""Frames in memory -> .cvl -> frames in memory.

Owns: which shapes, types and values pictures may have, and their even times. Does not know: how frames are encoded
(`encode`), or decoded (`latent_file`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.checkpoints.registry import load_model
from cvcodec.codec.encode import encode_frames
from cvcodec.codec.latent_file import open_latents
from cvcodec.codec.options import (
    DEFAULT_MODEL,
    EncodeOptions,
    EncodeResult,
    LatentsKind,
    ReaderOptions,
    options_with,
)
from cvcodec.codec.session import Progress, Session
from cvcodec.errors import UsageError
from cvcodec.fileio import atomic_output
from cvcodec.model.base import VideoAutoencoder
from cvcodec.passthrough.recorder import Recorder
from cvcodec.video import Color, Frame, VideoInfo

StrPath = str | os.PathLike[str]

Pictures = NDArray[Any] | Tensor | Iterable[NDArray[Any]] | Iterable[Tensor]

_WIDE_DEPTH = 10  # of integers wider than 8 bits, unless another is given
_MOST_DENOMINATOR = 1_001_000  # of a rate that is given as a float: 30000/1001 is found again


def encode_array(
    frames: Pictures,
    destination: StrPath,
    *,
    fps: Fraction | float | str,
    bit_depth: int | None = None,
    model: VideoAutoencoder | StrPath = DEFAULT_MODEL,
    options: EncodeOptions | None = None,
    latents: LatentsKind | None = None,
    quality: float | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> EncodeResult:
    """Encode frames in memory to a .cvl file, which appears only when it is complete: as `encode_file` does a video.

    frames: RGB code values, a NumPy array or a tensor on any device, (T, H, W, 3): uint8 in [0, 255], or wider integers
        in [0, 2**bit_depth - 1]; or an iterable of such pictures (H, W, 3), of which a window at a time is in memory.
    fps: frames per second; `Fraction(30000, 1001)` and "30000/1001" are exact. bit_depth: 8 to 16; None: 8 for uint8,
        10 for wider integers. The rest is as in `encode_file`.
    Raises UsageError for other shapes, types and values, and what `encode_file` raises.
    """
    chosen = options_with(options, latents=latents, quality=quality)
    if chosen.reader != ReaderOptions():
        raise UsageError("options.reader says how a file is read; slice the array instead")
    reader = ArrayReader(frames, fps=fps, bit_depth=bit_depth)
    loaded = model if isinstance(model, VideoAutoencoder) else load_model(model)
    session = Session(chosen, on_notice)
    with atomic_output(destination, overwrite=overwrite) as sink:
        recorder = Recorder(session.notices, kinds=())
        return encode_frames(iter(reader), reader, sink, loaded, chosen, session, recorder, on_progress)


def decode_array(
    source: StrPath,
    start: int = 0,
    stop: int | None = None,
    *,
    model: VideoAutoencoder | StrPath | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> NDArray[Any]:
    """Decode a .cvl file, or the frames [start, stop) of it: (T, H, W, 3) RGB code values, uint8, or uint16 above 8
    bits (`header.bit_depth` of `cvcodec.open`), where 10 bits are 0 to 1023.

    start, stop: as in a slice, negative ones count from the end; only the chunks that they need are read, but all
        frames asked for are in memory at once. model: a loaded model, a name or a weights file; None for the model
        that the file names. Raises InputError, BitstreamError, ModelMismatchError, DeviceError or NumericalError.
    """
    with open_latents(source, model=model, device=device, precision=precision) as file:
        return file.frames[start:stop]


class ArrayReader:
    """Pictures in memory as the frames of a video, once. See `encode_array` for the arguments."""

    notices: tuple[str, ...] = ()
    decode_errors = 0
    corrupt_frames = 0

    def __init__(self, frames: Pictures, *, fps: Fraction | float | str, bit_depth: int | None = None) -> None:
        shape = getattr(frames, "shape", None)
        if shape is not None and (len(shape) != 4 or not shape[0]):
            raise UsageError(f"frames are {tuple(shape)}, wanted (T, H, W, 3) with at least one of them")
        pictures = iter(frames)
        first = next(pictures, None)
        if first is None:
            raise UsageError("there are no frames to encode")
        self.expected_frames = None if shape is None else int(shape[0])
        self._pictures: Iterator[Any] = itertools.chain([first], pictures)
        array = _array(first)
        self._depth = (8 if array.dtype == np.uint8 else _WIDE_DEPTH) if bit_depth is None else bit_depth
        if not 8 <= self._depth <= 16:
            raise UsageError(f"bit_depth = {bit_depth} is outside 8 to 16")
        self._shape = array.shape
        _checked(array, self._shape, self._depth, 0)
        rate = _rate(fps)
        self.info = VideoInfo(
            width=array.shape[1],
            height=array.shape[0],
            time_base=1 / rate,
            average_rate=rate,
            color=Color("rgb", "full"),
            bit_depth=self._depth,
            frames=self.expected_frames,
        )

    @property
    def source_info(self) -> VideoInfo:
        """Of what the pictures were before they were prepared, which they are not."""
        return self.info

    def stream_bytes(self, first: int, last: int) -> None:
        """There are no packets."""

    def __iter__(self) -> Iterator[Frame]:
        for number, picture in enumerate(self._pictures):
            pixels = _checked(_array(picture), self._shape, self._depth, number)
            yield Frame(pixels=pixels, pts=number, duration=1, bit_depth=self._depth)


def _array(picture: Any) -> NDArray[Any]:
    return picture.detach().cpu().numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)


def _checked(picture: NDArray[Any], shape: tuple[int, ...], depth: int, number: int) -> NDArray[Any]:
    """As `Frame` has it. UsageError for other shapes than the first picture's, other types and values out of range."""
    what = f"frame {number} is {picture.shape} {picture.dtype}"
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise UsageError(f"{what}, wanted (H, W, 3) RGB; permute a tensor of channels first: .permute(0, 2, 3, 1)")
    if picture.shape != shape:
        raise UsageError(f"{what}, the first is {shape}: frames of one video have one size")
    if picture.dtype.kind not in "iu":
        raise UsageError(
            f"{what}, wanted integers; floats in [0, 1] become them by (frames * 255).round().astype('uint8')"
        )
    if picture.dtype == np.uint8 and depth == 8:
        return np.ascontiguousarray(picture)
    low, high = int(picture.min()), int(picture.max())
    if low < 0 or high >= 2**depth:
        raise UsageError(f"{what} from {low} to {high}, at {depth} bits wanted 0 to {2**depth - 1}; give bit_depth")
    return np.ascontiguousarray(picture, np.uint8 if depth == 8 else np.uint16)


def _rate(fps: Fraction | float | str) -> Fraction:
    try:
        rate = Fraction(str(fps)).limit_denominator(_MOST_DENOMINATOR)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(f"fps = {fps!r} is no frame rate; wanted a number up to 1000, such as 24 or '30000/1001'")
    return rate
