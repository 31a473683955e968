"""Short pieces of a video, encoded once, and what they say of the whole at any quality.

Owns: where the pieces lie, the prediction of the whole from them. Does not know: targets, the search for a quality.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, EncodeResult, ReaderOptions, encode_stream
from cvcodec.codec.headers import open_reader
from cvcodec.codec.requantise import requantise
from cvcodec.codec.runner import ModelRunner
from cvcodec.errors import InputError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.passthrough.recorder import copied_size
from cvcodec.passthrough.streams import Trim
from cvcodec.quality.compare import evaluate
from cvcodec.quality.lpips import Lpips
from cvcodec.video import VideoReader
from cvcodec.video.sizes import stream_bytes

Kind = Literal["psnr", "lpips", "size", "bitrate"]

Notice = Callable[[str], None]

PIECES = (3, 10)
"""Fewest and most pieces of a video that is longer than them."""

SECONDS_PER_PIECE = 60.0
"""A piece for each minute, within `PIECES`."""

_EXACT = 200.0
"""dB that stand for frames without any error."""


@dataclass(frozen=True)
class _Piece:
    file: Path
    """Its latents, fp32."""
    reader: ReaderOptions
    """What gives its frames."""
    frames: int
    latents: int


class Sample:
    """The pieces, encoded, and what they say at any quality."""

    def __init__(
        self,
        source: str,
        folder: Path,
        model: VideoAutoencoder,
        options: EncodeOptions,
        lpips: Lpips | None,
        say: Notice,
    ) -> None:
        self._source, self._model, self._options, self._lpips = source, model, options, lpips
        self._runner = ModelRunner(model, device=options.device, precision=options.precision, on_notice=say)
        factor = model.config.temporal_factor
        length = factor * (options.window or model.config.window_latents) - factor + 1
        self._places = places = _find_places(source, options.reader, length)
        self.total_frames, self.duration_s, self.whole = places.frames, places.duration_s, places.whole
        self.pieces = []
        for number, reading in enumerate(places.trims):
            file = folder / f"{number}.cvl"
            with file.open("wb") as sink:
                result = encode_stream(
                    source,
                    sink,
                    model=self._runner,
                    options=dataclasses.replace(
                        options,
                        latents="fp32",
                        layers="base" if options.layers == "base" else "all",
                        kinds=(),
                        tags=False,
                        reader=reading,
                    ),
                    on_notice=say,
                )
            with file.open("rb") as stored:
                reader = open_reader(stored)
                trailer, seconds = reader.trailer, reader.duration()
            assert trailer is not None
            self.pieces.append(_Piece(file, reading, result.frames, trailer.latents))
            if self.whole:
                self.total_frames, self.duration_s = result.frames, float(seconds) or self.duration_s
        self._scale = 1.0
        self.total_latents = (self.total_frames - 1 + factor - 1) // factor + 1

    def value(self, kind: Kind, quality: float) -> float:
        """What the whole video will have at `quality`, in the unit of `kind`."""
        if kind == "size":
            return self._bytes(quality) * self._scale + self.copied
        if kind == "bitrate":
            return 8 * self._bytes(quality) / self.duration_s
        total = math.fsum(piece.frames * self._score(kind, piece, quality) for piece in self.pieces)
        return total / sum(piece.frames for piece in self.pieces)

    def learn(self, result: EncodeResult, quality: float) -> None:
        """Predict from now on what an encode of the whole at `quality` has shown, and a little more."""
        ratio = (result.size_bytes - result.copied_bytes) / self._bytes(quality)
        self._scale, self.copied = ratio + 0.2 * abs(ratio - 1), result.copied_bytes

    @cached_property
    def copied(self) -> int:
        """Bytes of copied streams, which no quality makes fewer."""
        places, options = self._places, self._options
        return copied_size(
            self._source,
            stream=places.stream,
            kinds=options.kinds,
            tags=options.tags,
            trim=Trim(places.start, places.begin + Fraction(self.duration_s) if options.reader.frames else places.end),
        )

    def _quantised(self, piece: _Piece, quality: float) -> io.BytesIO:
        made = io.BytesIO()
        with piece.file.open("rb") as latents:
            options = self._options
            requantise(latents, made, model=self._model, quality=quality, rdo=options.rdo, layers=options.layers)
        made.seek(0)
        return made

    def _bytes(self, quality: float) -> float:
        """Header, trailer and the like once, chunks in proportion to the latents."""
        fixed, chunks, latents = 0.0, 0, 0
        for piece in self.pieces:
            made = self._quantised(piece, quality)
            trailer = BitstreamReader(made).trailer
            assert trailer is not None
            size = trailer.records["CHNK"].size
            chunks, latents = chunks + size, latents + piece.latents
            fixed = max(fixed, made.getbuffer().nbytes - size)
        return fixed + chunks * self.total_latents / latents

    def _score(self, kind: Kind, piece: _Piece, quality: float) -> float:
        options = self._options
        decoder = Decoder(
            self._quantised(piece, quality),
            model=self._model,
            options=DecodeOptions(device=options.device, precision=options.precision, threads=options.threads),
            on_notice=lambda text: None,
        )
        with VideoReader(self._source, **piece.reader.arguments()) as reference:
            info = reference.info
            report = evaluate(
                reference,
                decoder.frames(),
                reference_time_base=info.time_base,
                test_time_base=decoder.header.time_base,
                metrics=(kind,),
                matrix=info.color.matrix,
                whites=(info.color.white_code(info.bit_depth), decoder.info.color.white_code(info.bit_depth)),
                lpips=self._lpips,
                device=self._runner.device,
            )
        value = report.mean("psnr_db" if kind == "psnr" else "lpips")
        if value is None and kind == "lpips":
            raise UsageError(f"LPIPS cannot be measured on {info.width}x{info.height} pixels; use a target psnr")
        return _EXACT if value is None else value


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where the pieces lie, and what of the video they stand for."""

    trims: list[ReaderOptions]
    frames: int
    duration_s: float
    whole: bool
    """Whether there is one piece, the whole."""
    begin: Fraction
    """Of the pictures, in seconds on the source's clock."""
    start: Fraction | None
    end: Fraction | None
    """Of the trim, on the same clock; None where there is none."""
    stream: int
    """Index of the video."""


def _find_places(source: str, reader: ReaderOptions, length: int) -> _Places:
    """Raises InputError where the trim leaves no frames."""
    held = stream_bytes(source, stream=reader.stream)
    with VideoReader(source, **reader.arguments()) as video:
        info, (start, end), expected = video.info, video.time_range, video.expected_frames
    seconds, count = held.duration or info.duration, held.frames or info.frames
    first = info.start_pts * info.time_base
    begin = first if start is None else max(first, start)
    total, duration = expected or 0, None
    if seconds and count:
        duration = max(Fraction(0), (first + seconds if end is None else min(first + seconds, end)) - begin)
        total = round(count * duration / seconds)
        if reader.frames is not None and reader.frames < total:
            total = reader.frames
            duration = total * seconds / count
    trims = [reader]
    if total > PIECES[0] * length and duration:
        pieces = max(PIECES[0], min(PIECES[1], math.ceil(duration / SECONDS_PER_PIECE)))
        apart = duration / pieces
        spare = max(apart - length * duration / total, Fraction(0)) / 2
        last = held.last if held.last is not None else begin + duration  # a last frame may stand for long
        trims = [
            dataclasses.replace(
                reader,
                start=min(begin + number * apart + spare, last) - info.start_time,
                end=None if end is None else end - info.start_time,
                duration=None,
                frames=length,
            )
            for number in range(pieces)
        ]
    total = total or _count(source, reader)
    return _Places(
        trims=trims,
        frames=total,
        duration_s=float(duration or total / (info.average_rate or 25)),
        whole=len(trims) == 1,
        begin=begin,
        start=start,
        end=end,
        stream=info.stream,
    )


def _count(source: str, reader: ReaderOptions) -> int:
    with VideoReader(source, **reader.arguments()) as video:
        frames = sum(1 for _ in video)
    if not frames:
        raise InputError("the source has no frames in the range that was asked for")
    return frames
