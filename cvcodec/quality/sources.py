"""What `cvcodec eval` compares: opens the two sides of a comparison and says what they are.

    two videos                    RECON's frames against REF's
    a .cvl and its reference      the model's own output against the reference
    a video                       encoded and decoded in a temporary file, the model's own output against the video
    nothing                       the same for the built-in clip: made from a seed, the same on every machine, and no
                                  stand-in for real video: its numbers compare installations and devices, not models

Owns: which frames stand against which, real bytes for the rates, the sentence that says so, the built-in clip.
Does not know: metrics' definitions, tables, options.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import Header
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, ReaderOptions, encode_file
from cvcodec.codec.headers import first_frame, info_from_header, open_reader, reader_options
from cvcodec.fileio import naming_damage, open_input
from cvcodec.model.base import VideoAutoencoder
from cvcodec.passthrough.records import copied_bytes
from cvcodec.quality.compare import evaluate
from cvcodec.quality.psnr import matrix_name
from cvcodec.quality.report import Rate, Report
from cvcodec.video import Color, Frame, VideoWriter, probe
from cvcodec.video.reader import ReaderAhead
from cvcodec.video.sizes import stream_bytes
from cvcodec.video.source import is_sequence, refuse_pipe

Model = VideoAutoencoder | Callable[[Header], VideoAutoencoder]

MODEL_OUTPUT = "the model's own output, before any output codec"
"""What a test side that is not a video file is."""

_AHEAD = {"most_bytes": 32 << 20, "most_frames": 16}  # of decoded frames of each video that may wait to be measured


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Options that all forms share."""

    measure: dict[str, Any]
    """Arguments of `evaluate`: metrics, lpips, device, align, keep, on_progress."""
    decode: DecodeOptions
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    """For the reference (and RECON)."""
    on_notice: Callable[[str], None] | None = None


def compare_videos(reference: Path, test: Path, options: Comparison) -> Report:
    """RECON, a video file, against REF, which is resized and gets another rate where that is asked for. Raises
    InputError or UsageError."""
    as_is = replace(options.reader, size=None, crop="center", fps=None)
    with (
        closing(ReaderAhead(reference, stored_luma=True, **options.reader.arguments())) as reference_ahead,
        closing(ReaderAhead(test, stored_luma=True, **as_is.arguments())) as test_ahead,
    ):
        left, right = reference_ahead.reader, test_ahead.reader
        report = evaluate(
            reference_ahead.frames(**_AHEAD),
            test_ahead.frames(**_AHEAD),
            reference_time_base=left.info.time_base,
            test_time_base=right.info.time_base,
            matrix=left.info.color.matrix,
            whites=(left.info.color.white_code(left.info.bit_depth), right.info.color.white_code(right.info.bit_depth)),
            stored_luma=_scale(left.info.color) == _scale(right.info.color),
            reference_name=reference.name,
            test_name=test.name,
            compared=f"frames of the video file {test.name}, as its codec stores them, against {reference.name}"
            + _how(options.reader.preparation),
            **options.measure,
        )
        if not (test.is_file() or is_sequence(str(test))):
            report.notes.append(f"{test} is read only once, so its bytes and its rate are not known")
        elif not options.reader.is_trimmed:
            # The bytes are those of the whole file, so a trim has no rate; its frames are known only now.
            held = stream_bytes(test)
            seconds = held.duration or right.info.duration
            report.rate = Rate(
                size_bytes=held.video,
                copied_bytes=held.others,
                user_data_bytes=held.user_data,
                pixels=_pixels(report.width, report.height, report.frames + report.unmatched_test),
                duration_s=float(seconds) if seconds else None,
            )
        return report


def compare_file(file: Path, reference: Path, model: Model, options: Comparison, *, name: str | None = None) -> Report:
    """A .cvl file's decoded frames against the video it was made from, read as it was then. Raises InputError,
    BitstreamError, ..."""
    with ExitStack() as stack:
        source = stack.enter_context(open_input(file))
        decoder = Decoder(source, model=model, options=options.decode, on_notice=options.on_notice)
        header = decoder.header
        reading = _reading(header, reference).arguments()
        if first_frame(header) is not None and not options.reader.is_trimmed:
            reading |= _place(file)
        ahead = stack.enter_context(closing(ReaderAhead(reference, **reading | options.reader.arguments())))
        left = ahead.reader
        return evaluate(
            ahead.frames(**_AHEAD),
            decoder.frames(),
            reference_time_base=left.info.time_base,
            test_time_base=header.time_base,
            matrix=left.info.color.matrix,
            whites=(
                left.info.color.white_code(left.info.bit_depth),
                decoder.info.color.white_code(header.bit_depth),
            ),
            rate=_rate(file),
            reference_name=reference.name,
            test_name=name or file.name,
            compared=f"{MODEL_OUTPUT} ({header.model}), against {reference.name}{_how(reading)}",
            **options.measure,
        )


def _how(reading: Mapping[str, Any]) -> str:
    """What a sentence says of a reference that is not read by defaults."""
    return " read with " + ", ".join(f"{name} {value}" for name, value in reading.items()) if reading else ""


def _scale(color: Color) -> tuple[str, str | None]:
    """Range and matrix: luma of two videos can be compared as stored where both agree."""
    return color.range, matrix_name(color.matrix)


def _place(file: Path) -> dict[str, Any]:
    """Arguments for reading of its source what a clip has."""
    with open_input(file) as source, naming_damage(file):
        reader = open_reader(source)
        assert reader.trailer is not None
        zero = info_from_header(reader.header).start_time
        begin = reader.trailer.index[0].first_pts * reader.header.time_base - zero
        return {"start": begin, "frames": reader.trailer.frames}


def _reading(header: Header, reference: Path) -> ReaderOptions:
    """How a file's source was read."""
    reading = reader_options(header)
    if reading.stream and reference.is_file() and probe(reference).stream_count == 1:
        reading = replace(reading, stream=None)  # somebody took the stream out of the source
    return reading


def round_trip(video: Path, model: VideoAutoencoder, encode: EncodeOptions, options: Comparison) -> Report:
    """A video against itself, encoded and decoded through a temporary file. Raises UsageError for a pipe."""
    refuse_pipe(video, "eval without a reconstruction")
    with tempfile.TemporaryDirectory(prefix="cvcodec-") as folder:
        file = Path(folder) / "round-trip.cvl"
        encode_file(video, file, model=model, options=encode, on_notice=options.on_notice)
        name = f"{getattr(model, 'name', model.config.family)} at quality {encode.quality:g}"
        return compare_file(file, video, model, options, name=name if encode.latents == "quantised" else encode.latents)


@contextmanager
def selfcheck_clip() -> Iterator[Path]:
    """The built-in clip as a lossless temporary video file."""
    with tempfile.TemporaryDirectory(prefix="cvcodec-") as folder:
        path = Path(folder) / "built-in-clip.mkv"
        with VideoWriter(
            path,
            width=WIDTH,
            height=HEIGHT,
            time_base=TIME_BASE,
            rate=1 / TIME_BASE,
            color=Color().for_rgb(),
            codec="ffv1",
        ) as writer:
            for frame in selfcheck_frames():
                writer.write(frame)
        yield path


def _rate(file: Path) -> Rate:
    with open_input(file) as source, naming_damage(file):
        reader = open_reader(source)
        trailer, header = reader.trailer, reader.header
        assert trailer is not None
        copied = copied_bytes(trailer)
        return Rate(
            size_bytes=os.path.getsize(file) - copied,
            copied_bytes=copied,
            pixels=_pixels(header.width, header.height, trailer.frames),
            duration_s=float(reader.duration()) or None,
        )


def _pixels(width: int, height: int, frames: int) -> int:
    return width * height * frames


FRAMES, HEIGHT, WIDTH = 33, 256, 256
TIME_BASE = Fraction(1, 25)

_SEED = 20405279


def selfcheck_frames() -> Iterator[Frame]:
    """33 frames of 256x256 at 25 a second: a panning landscape of 1/f noise, a turning wheel, a moving disc, a fade."""
    rng = np.random.default_rng(_SEED)
    canvas = np.stack([_pink(rng, 2 * HEIGHT, 2 * WIDTH) for _ in range(3)], axis=-1)
    shared = _pink(rng, 2 * HEIGHT, 2 * WIDTH)[..., None]
    canvas = 0.75 * shared + 0.25 * canvas  # colours go along with brightness, as in photographs
    canvas = 128.0 + 42.0 * canvas / canvas.std()
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    for number in range(FRAMES):
        top, left = 20 + round(1.5 * number), 40 + 2 * number
        picture = canvas[top : top + HEIGHT, left : left + WIDTH].copy()
        _wheel(picture, y, x, angle=number * np.pi / 24)
        _disc(picture, y, x, centre=(60.0 + 3.1 * number, 70.0 + 40.0 * np.sin(number / 6)))
        picture *= 0.85 + 0.15 * np.cos(number / 8)
        yield Frame(pixels=np.clip(np.rint(picture), 0, 255).astype(np.uint8), pts=number, duration=1)


def _pink(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Noise whose spectrum falls as 1/f, like that of natural images (Field 1987); mean 0."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
    return np.fft.irfft2(spectrum, s=(height, width))


def _wheel(picture: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64], angle: float) -> None:
    """A wheel of twelve spokes, in place; edges are softened over one pixel."""
    dy, dx = y - 180.0, x - 180.0
    radius = np.hypot(dy, dx)
    inside = np.clip(48.0 - radius, 0.0, 1.0)[..., None]
    spokes = np.clip(radius * np.sin(6.0 * (np.arctan2(dy, dx) - angle)) / 3.0 + 0.5, 0.0, 1.0)[..., None]
    colour = 40.0 + 190.0 * spokes * np.array([1.0, 0.85, 0.6])
    picture += inside * (colour - picture)


def _disc(
    picture: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64], centre: tuple[float, float]
) -> None:
    """A shaded red disc, in place."""
    radius = np.hypot(y - centre[1], x - centre[0])
    inside = np.clip(26.0 - radius, 0.0, 1.0)[..., None]
    shade = np.clip(1.0 - radius / 60.0, 0.0, 1.0)[..., None]
    picture += inside * (shade * np.array([225.0, 60.0, 50.0]) - picture)
