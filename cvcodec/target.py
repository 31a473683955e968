"""The quality that meets a target, found on short pieces of the video: `encode --target`.

Pieces of one window each, spread evenly, go through the encoder once; their latents are then quantised at one quality
after another, which costs next to nothing for a size or a bitrate, and one decode of the pieces for PSNR or LPIPS.

    size, bitrate   the highest quality whose predicted bytes stay within the target
    psnr, lpips     the lowest quality that reaches the target, in the mean over the pieces

Owns: where the pieces lie, the search, the prediction of the whole from them. Does not know: command lines.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, EncodeResult, encode_file, encode_stream
from cvcodec.codec.encode import Progress
from cvcodec.codec.requantise import requantise
from cvcodec.errors import InputError, UsageError
from cvcodec.evaluation.measure import evaluate
from cvcodec.fileio import is_standard_stream
from cvcodec.metrics.lpips import Lpips
from cvcodec.model.base import VideoAutoencoder
from cvcodec.runner import ModelRunner
from cvcodec.video import VideoReader
from cvcodec.video.sizes import stream_bytes

Kind = Literal["psnr", "lpips", "size", "bitrate"]

Notice = Callable[[str], None]

PIECES = (3, 10)
"""Fewest and most pieces of a video that is longer than them."""

SECONDS_PER_PIECE = 60.0
"""A piece for each minute, within `PIECES`."""

_LADDER = (50.0, 62.5, 75.0, 87.5, 100.0, 37.5, 25.0, 12.5, 0.0)
"""Qualities tried first: up from the middle or down from it."""

_FINE = {"psnr": 0.5, "lpips": 0.5, "size": 0.1, "bitrate": 0.1}
"""Qualities nearer than this are not told apart: 0.1 is about half a percent of the bytes."""

_GOOD = {"psnr": 0.05, "lpips": 0.01, "size": 0.005, "bitrate": 0.005}
"""A target met this closely ends the search: dB, and shares of the target."""


_EXACT = 200.0
"""dB that stand for frames without any error."""


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
    """Of all pieces."""
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
    options = options or EncodeOptions()
    if options.latents != "quantised":
        raise UsageError(f"a target needs quantised latents; --latents {options.latents} has no quality to choose")
    if options.store_logvar and target.at_most:
        raise UsageError("a target of bytes and --store-logvar exclude each other: the log-variance has no quality")
    if target.kind == "lpips":
        lpips = lpips or Lpips.load()
    say = on_notice or (lambda text: None)
    with tempfile.TemporaryDirectory(prefix="cvcodec-") as folder:
        sample = _Sample(Path(os.fspath(source)), Path(folder), model, options, lpips, say)
        return _search(target, sample)


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
    """`find_quality`, then `encode_file` at that quality. A file that comes out larger than a target size, because its
    pieces were cheaper than the rest, is encoded once more for a target that is smaller by as much."""
    options, say = options or EncodeOptions(), on_notice or (lambda text: None)
    goal = target
    for attempt in range(2):
        found = find_quality(source, goal, model=model, options=options, on_notice=on_notice)
        result = encode_file(
            source,
            destination,
            model=model,
            options=dataclasses.replace(options, quality=found.quality),
            overwrite=overwrite or attempt > 0,
            on_progress=on_progress,
            on_notice=on_notice,
        )
        excess = result.size_bytes - target.value
        if target.kind != "size" or excess <= 0:
            break
        again = not attempt and not is_standard_stream(destination)
        say(
            f"quality {found.quality:g} gave {target.describe(result.size_bytes)}, more than {target.describe()}"
            + ("; encoding once more with less" if again else "")
        )
        if not again:
            break
        goal = Target("size", max(target.value - 1.2 * excess, 1.0))
    return result, found


# ---------------------------------------------------------------------------------------------------- pieces


@dataclass(frozen=True)
class _Piece:
    file: Path
    """Its latents, fp32."""
    reader: dict[str, Any]
    """Arguments of `VideoReader` that give its frames."""
    frames: int
    latents: int


class _Sample:
    """The pieces, encoded, and what they say at any quality."""

    def __init__(
        self,
        source: Path,
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
        trims, self.total_frames, self.duration_s, self.whole = _places(source, options.reader, length)
        with VideoReader(source, stream=options.reader.get("stream")) as video:
            frames = video.info.frames
        self.pieces = []
        for number, trim in enumerate(trims):
            file = folder / f"{number}.cvl"
            with file.open("wb") as sink:
                result = encode_stream(
                    source,
                    sink,
                    model=self._runner,
                    options=dataclasses.replace(
                        options, latents="fp32", kinds=(), tags=False, reader={**options.reader, **trim}
                    ),
                    on_notice=say,
                )
            with file.open("rb") as stored:
                trailer = BitstreamReader(stored).trailer
            assert trailer is not None
            self.pieces.append(_Piece(file, {**options.reader, **trim}, result.frames, trailer.latents))
        if self.whole:
            self.total_frames = self.pieces[0].frames
        # Copied streams belong to the file; they are taken to be as dense everywhere.
        share = min(1.0, self.total_frames / (frames or self.total_frames))
        self._copied = share * stream_bytes(source)[1] if options.kinds else 0.0
        self.total_latents = (self.total_frames - 1 + factor - 1) // factor + 1

    def value(self, kind: Kind, quality: float) -> float:
        """What the whole video will have at `quality`, in the unit of `kind`."""
        if kind == "size":
            return self._bytes(quality) + self._copied
        if kind == "bitrate":
            return 8 * self._bytes(quality) / self.duration_s
        total = math.fsum(piece.frames * self._score(kind, piece, quality) for piece in self.pieces)
        return total / sum(piece.frames for piece in self.pieces)

    def _quantised(self, piece: _Piece, quality: float) -> io.BytesIO:
        made = io.BytesIO()
        with piece.file.open("rb") as latents:
            requantise(latents, made, model=self._model, quality=quality, rdo=self._options.rdo)
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
        with VideoReader(self._source, **piece.reader) as reference:
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


def _places(source: Path, reader: dict[str, Any], length: int) -> tuple[list[dict[str, Any]], int, float, bool]:
    """Trims of the pieces; frames and seconds of the whole; whether there is one piece, the whole."""
    with VideoReader(source, **reader) as video:
        info, expected = video.info, video.expected_frames
    rate = float(info.average_rate or 25)
    total = expected or 0
    if not total or info.duration is None or total <= PIECES[0] * length:
        frames = total or _count(source, reader)
        return [{}], frames, frames / rate, True
    offset = float(info.start_pts * info.time_base - info.start_time)
    begin = max(offset, float(reader.get("start") or 0.0))
    duration = total / rate
    count = max(PIECES[0], min(PIECES[1], math.ceil(duration / SECONDS_PER_PIECE)))
    spare = duration / count - length / rate
    trims = [
        {
            "start": begin + number * duration / count + max(spare, 0.0) / 2,
            "end": reader.get("end"),
            "duration": None,
            "frames": length,
        }
        for number in range(count)
    ]
    return trims, total, duration, False


def _count(source: Path, reader: dict[str, Any]) -> int:
    with VideoReader(source, **reader) as video:
        frames = sum(1 for _ in video)
    if not frames:
        raise InputError("the source has no frames in the range that was asked for")
    return frames


# ---------------------------------------------------------------------------------------------------- search


def _search(target: Target, sample: _Sample) -> Found:
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
            raise UsageError(_unreachable(target, tried))
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


def _unreachable(target: Target, tried: dict[float, float]) -> str:
    """What the end of the scale has, and the best that was seen where that is another quality (LPIPS may turn)."""
    best = (min if target.kind != "psnr" else max)(tried, key=tried.__getitem__)
    way_out = "trim the video, or scale it down" if target.at_most else "take a better model, or ask for less"
    return f"no quality reaches {target.describe()}: {best:g} has {target.describe(tried[best])}; {way_out}"
