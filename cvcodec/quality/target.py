"""The quality that meets a target, found on short pieces of the video: `encode --target`.

Pieces of one window each, spread evenly, go through the encoder once; their latents are then quantised at one quality
after another, which costs next to nothing for a size or a bitrate, and one decode of the pieces for PSNR or LPIPS.

    size, bitrate   the highest quality whose predicted bytes stay within the target
    psnr, lpips     the lowest quality that reaches the target, in the mean over the pieces

`Sample` predicts the whole from them. Knows no command lines.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, EncodeResult, ReaderOptions, encode_stream
from cvcodec.codec.encode import refuse_coded
from cvcodec.codec.headers import open_reader
from cvcodec.codec.layers import follows_from_latents, requantise
from cvcodec.codec.runner import ModelRunner
from cvcodec.codec.session import Progress
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.model.base import VideoAutoencoder
from cvcodec.passthrough.recorder import copied_size
from cvcodec.passthrough.streams import Trim
from cvcodec.quality.compare import evaluate
from cvcodec.quality.lpips import Lpips
from cvcodec.video import VideoReader
from cvcodec.video.sizes import stream_bytes
from cvcodec.video.source import refuse_pipe

_LADDER = (50.0, 62.5, 75.0, 87.5, 100.0, 37.5, 25.0, 12.5, 0.0)
"""Qualities tried first: up from the middle or down from it."""

_FINE = {"psnr": 0.5, "lpips": 0.5, "size": 0.1, "bitrate": 0.1}
"""Qualities nearer than this are not told apart: 0.1 is about half a percent of the bytes."""

_GOOD = {"psnr": 0.05, "lpips": 0.01, "size": 0.005, "bitrate": 0.005}
"""A target met this closely ends the search: dB, and shares of the target."""


@dataclass(frozen=True)
class Target:
    """What is wanted. psnr: dB of RGB, mean over frames. lpips: mean over frames. size: bytes of the file. bitrate:
    bits per second of the video."""

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        if not (self.value > 0 and math.isfinite(self.value)):
            raise UsageError(f"target {self.kind} = {self.value} is not positive")

    @property
    def at_most(self) -> bool:
        """Whether quality is bounded from above (bytes) rather than from below."""
        return self.kind in ("size", "bitrate")

    def describe(self, value: float | None = None) -> str:
        """`PSNR 32.00 dB`, `2.0 MB`, ... of the target or of `value`."""
        value = self.value if value is None else value
        if self.kind == "size":
            return f"{value:,.0f} bytes"
        if self.kind == "bitrate":
            return f"{value / 1000:,.1f} kbit/s"
        return f"PSNR {value:.2f} dB" if self.kind == "psnr" else f"LPIPS {value:.4f}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """The end of a search."""

    quality: float
    predicted: float
    """What the pieces say of the whole: in the target's unit."""
    pieces: int
    frames: int
    """How many frames all pieces have together."""
    whole: bool
    """Whether the pieces are the whole video, so that the prediction is a measurement."""
    tried: tuple[tuple[float, float], ...]
    """(quality, value) in the order of the search."""


def find_quality(
    source: str | os.PathLike[str],
    target: Target,
    *,
    model: VideoAutoencoder,
    options: EncodeOptions | None = None,
    lpips: Lpips | None = None,
    on_notice: Notice | None = None,
) -> Found:
    """The quality at which `encode_file` with `options` meets `target`.

    source: a video that can be read more than once. lpips: the metric, loaded if a target asks for it.
    Raises UsageError where no quality meets the target, and what `encode_file` and `decode_file` raise.
    """
    with _sampled(source, target, model, options or EncodeOptions(), lpips, on_notice) as sample:
        return _search(target, sample)


@contextmanager
def _sampled(
    source: str | os.PathLike[str],
    target: Target,
    model: VideoAutoencoder,
    options: EncodeOptions,
    lpips: Lpips | None,
    on_notice: Notice | None,
) -> Iterator[Sample]:
    refuse_pipe(source, "--target")
    if options.latents != "quantised":
        raise UsageError(f"a target needs quantised latents; --latents {options.latents} has no quality to choose")
    if options.store_logvar and target.at_most:
        raise UsageError("a target of bytes and --store-logvar exclude each other: the log-variance has no quality")
    if target.kind == "lpips":
        lpips = lpips or Lpips.load()
    say = on_notice or (lambda text: None)
    with tempfile.TemporaryDirectory(prefix="cvcodec-") as folder:
        yield Sample(os.fspath(source), Path(folder), model, options, lpips, say)


def encode_to_target(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    target: Target,
    *,
    model: VideoAutoencoder,
    options: EncodeOptions | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> tuple[EncodeResult, Found]:
    """`find_quality`, then `encode_file` at that quality. What comes out larger than a target size, because its pieces
    were cheaper than the rest, is encoded once more with what that has shown; nothing larger is ever published.
    Raises UsageError where that is too large as well."""
    options, say = options or EncodeOptions(), on_notice or (lambda text: None)
    refuse_coded(source)
    with ExitStack() as stack:
        output = stack.enter_context(
            atomic_output(destination, overwrite=overwrite, inputs=[source], named_partial=True)
        )
        sample = stack.enter_context(_sampled(source, target, model, options, None, on_notice))
        limited = target.kind == "size"
        # What a pipe was given cannot be taken back.
        sink: Any = output if output.seekable() or not limited else stack.enter_context(tempfile.TemporaryFile())
        for attempt in range(2):
            found = _search(target, sample)
            result = encode_stream(
                source,
                sink,
                model=model,
                options=dataclasses.replace(options, quality=found.quality),
                on_progress=on_progress,
                on_notice=on_notice,
            )
            if not limited or result.size_bytes <= target.value:
                break
            gave = f"quality {found.quality:g} gave {target.describe(result.size_bytes)}, more than {target.describe()}"
            if attempt:
                raise UsageError(f"{gave}, again; nothing was written: ask for a little less, or give --quality")
            say(f"{gave}; encoding once more with less")
            sample.learn(result, found.quality)
            sink.seek(0)
            sink.truncate()
        if sink is not output:
            sink.seek(0)
            shutil.copyfileobj(sink, output)
    return result, found


def _search(target: Target, sample: Sample) -> Found:
    """Rungs of the ladder until the target lies between two, then interpolation between them."""
    tried: dict[float, float] = {}

    def margin(quality: float) -> float:
        """Above zero where there is more quality than the target asks for; in dB, or as a logarithm."""
        if quality not in tried:
            tried[quality] = sample.value(target.kind, quality)
        value = tried[quality]
        if target.kind == "psnr":
            return value - target.value
        return math.log(max(value, 1e-12) / target.value) * (1.0 if target.at_most else -1.0)

    def met(quality: float) -> bool:
        return margin(quality) <= 0 if target.at_most else margin(quality) >= 0

    def enough(quality: float) -> bool:
        return met(quality) and abs(margin(quality)) <= _GOOD[target.kind]

    previous = _LADDER[0]
    rising = margin(previous) < 0
    low: float | None = None
    high: float | None = None
    for quality in _LADDER[1:5] if rising else _LADDER[5:]:
        if (margin(quality) >= 0) == rising:
            low, high = sorted((previous, quality))
            break
        previous = quality
    if low is None or high is None:
        if rising != target.at_most:
            raise UsageError(_unreachable(target, tried, sample.copied if target.kind == "size" else 0))
        low = high = previous  # the end of the scale is still on the right side of the target
    while high - low > _FINE[target.kind] and not (enough(low) or enough(high)):
        share = margin(low) / (margin(low) - margin(high))
        quality = round(low + (high - low) * min(max(share, 0.1), 0.9), 2)
        low, high = (quality, high) if margin(quality) < 0 else (low, quality)
    quality = next(end for end in ((high, low) if target.at_most else (low, high)) if met(end))
    return Found(
        quality=quality,
        predicted=tried[quality],
        pieces=len(sample.pieces),
        frames=sum(piece.frames for piece in sample.pieces),
        whole=sample.whole,
        tried=tuple(tried.items()),
    )


def _unreachable(target: Target, tried: dict[float, float], copied: int) -> str:
    """What the end of the scale has, and the best that was seen where that is another quality (LPIPS may turn)."""
    best = (min if target.kind != "psnr" else max)(tried, key=tried.__getitem__)
    way_out = "trim the video, or scale it down" if target.at_most else "take a better model, or ask for less"
    if 2 * copied > target.value:
        way_out = f"{target.describe(copied)} of these are sound and other copied streams, which --no-audio leaves out"
    return f"no quality reaches {target.describe()}: {best:g} has {target.describe(tried[best])}; {way_out}"


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
                        layers="base",
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
        self._sizes: dict[float, float] = {}
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
        made, options = io.BytesIO(), self._options
        if follows_from_latents(self._model, quality, options.layers):
            with piece.file.open("rb") as latents:
                requantise(latents, made, model=self._model, quality=quality, rdo=options.rdo)
        else:
            chosen = dataclasses.replace(options, quality=quality, kinds=(), tags=False, reader=piece.reader)
            encode_stream(self._source, made, model=self._runner, options=chosen)
        made.seek(0)
        return made

    def _bytes(self, quality: float) -> float:
        """Header, trailer and the like once, chunks in proportion to the latents. Known of a quality once it was asked
        for: where there is an enhancement layer, it takes an encode of the pieces."""
        if quality not in self._sizes:
            self._sizes[quality] = self._measured_bytes(quality)
        return self._sizes[quality]

    def _measured_bytes(self, quality: float) -> float:
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
    if reader.fps is not None and seconds and info.average_rate:
        count = round(seconds * info.average_rate)
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
