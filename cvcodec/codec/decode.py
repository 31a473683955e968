""".cvl -> video file: chunks -> symbols -> latents -> windows -> decoder -> frames, one clip in memory.

Owns: the order of the steps, the threads beside the model, the frames of a trim.
Does not know: command lines, names of models, what windows or the entropy coder do inside. Its mirror is `encode`.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from cvcodec import tiling
from cvcodec.bitstream import BitstreamReader, Chunk, Header
from cvcodec.bitstream.format import CHNK
from cvcodec.codec.encode import Progress, StrPath
from cvcodec.codec.feed import ChunkFeed
from cvcodec.codec.headers import info_from_header
from cvcodec.codec.latent_file import check_model
from cvcodec.codec.notices import Notices
from cvcodec.codec.passthrough import PassthroughPlayer
from cvcodec.copied import KINDS
from cvcodec.device import set_threads
from cvcodec.errors import BitstreamError, OutputError, UsageError
from cvcodec.fileio import atomic_output, atomic_path, check_output, is_standard_stream, open_input
from cvcodec.model.base import VideoAutoencoder
from cvcodec.pipeline import WriteBehind, in_thread
from cvcodec.plan import Plan
from cvcodec.runner import ModelRunner, denormalise, tensor_to_frames
from cvcodec.video import Frame, VideoInfo, VideoWriter
from cvcodec.video.source import SEQUENCE_PATTERN
from cvcodec.video.writer import IMAGE_CONTAINERS, container_for

_BEHIND_BYTES = 96 << 20  # decoded frames that may wait for the encoder of the output


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode; every field has a default that suits most files."""

    start: Fraction | float | None = None
    """Seconds on the source's timeline: frames with start <= time < end are decoded."""
    end: Fraction | float | None = None
    duration: Fraction | float | None = None
    """Stands for `end` = start + duration."""
    frames: int | None = None
    """At most so many frames."""
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """CPU threads of the model."""
    kinds: tuple[str, ...] = KINDS
    """Copied streams to restore, of `cvcodec.copied.KINDS`; none for a silent video."""
    tags: bool = True
    """Restore chapters and tags too; otherwise only languages, dispositions and the names of attachments."""
    writer: dict[str, Any] = field(default_factory=dict)
    """Further arguments for `VideoWriter`: codec, crf, preset, chroma, container, ..."""


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """What a decode did."""

    frames: int
    width: int
    height: int
    seconds: float
    """Wall time of the whole command."""
    model_seconds: float
    """Of which inside the model's calls."""
    precision: str
    device: str
    notices: tuple[str, ...]

    @property
    def megapixels_per_s(self) -> float:
        """Speed of the whole command."""
        return self.width * self.height * self.frames / 1e6 / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys."""
        return {
            "frames": self.frames,
            "width": self.width,
            "height": self.height,
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "mpixel_per_s": self.megapixels_per_s,
            "precision": self.precision,
            "device": self.device,
            "notices": list(self.notices),
        }


def decode_file(
    source: StrPath,
    destination: StrPath,
    *,
    model: VideoAutoencoder | Callable[[Header], VideoAutoencoder],
    options: DecodeOptions | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> DecodeResult:
    """Decode a .cvl file to a video file, which appears only when it is complete.

    source, destination: paths or `-`; a numbered sequence of images (`frames/%05d.png`) appears picture by picture.
    model: as `load_model` gives it, or a function from the header to it.
    Raises InputError, BitstreamError, ModelMismatchError, OutputError, UsageError, DeviceError or NumericalError; and
    BrokenPipeError when nobody reads standard output any more.
    """
    options = options or DecodeOptions()
    sequence = is_image_sequence(destination, options.writer.get("container"))
    if sequence:
        check_sequence(destination, overwrite=overwrite)
    else:
        check_output(destination, overwrite=overwrite, inputs=[source])
    with ExitStack() as stack:
        file = stack.enter_context(open_input(source))
        decoder = Decoder(file, model=model, options=options, on_notice=on_notice)  # refuses before anything is created
        if is_standard_stream(destination):
            target: Any = stack.enter_context(atomic_output(destination))
        elif sequence:
            target = destination  # the writer completes each picture, and removes all of them when it is aborted
        else:
            target = stack.enter_context(atomic_path(destination, overwrite=overwrite, inputs=[source]))
        try:
            return decoder.write(target, on_progress=on_progress)
        except OutputError as error:
            if isinstance(error.__cause__, BrokenPipeError):  # `| head`: not an error worth words, but not a success
                raise error.__cause__ from None
            raise


class Decoder:
    """A .cvl stream about to be decoded: header read, model checked, nothing computed yet."""

    def __init__(
        self,
        source: BinaryIO,
        *,
        model: VideoAutoencoder | Callable[[Header], VideoAutoencoder],
        options: DecodeOptions | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options or DecodeOptions()
        self.notices = Notices(on_notice)
        self._started = time.perf_counter()
        set_threads(self.options.threads)
        self._reader = BitstreamReader(source)
        self.header = self._reader.header
        self.info: VideoInfo = info_from_header(self.header)
        loaded = model if isinstance(model, VideoAutoencoder) else model(self.header)
        check_model(loaded, self.header, self.notices)
        self._runner = ModelRunner(
            loaded, device=self.options.device, precision=self.options.precision, on_notice=self.notices
        )
        self._plan = Plan.from_header(self.header, family=loaded.config.family)
        self._bounds = self._pts_bounds()
        self._player: PassthroughPlayer | None = None
        self._chunks: Iterator[Chunk] | None = None
        self.model_seconds = 0.0

    @property
    def expected_frames(self) -> int | None:
        """Frames that will come, where the index tells; of a trim, those of the chunks it meets."""
        trailer = self._reader.trailer
        if trailer is None:
            return None
        first, last = self._frame_range()
        return last - first if self.options.frames is None else min(self.options.frames, last - first)

    def write(self, target: Any, *, on_progress: Progress | None = None) -> DecodeResult:
        """Decode everything into a video at `target`: a path or a binary file object."""
        frame_bytes = self.header.width * self.header.height * (3 if self.header.bit_depth == 8 else 6)
        expected = self.expected_frames
        with ExitStack() as stack:
            player = self._open_player()
            options = player.writer_options(self.header.time_base) | self.options.writer
            writer = VideoWriter.like(target, self.info, **options)
            behind: WriteBehind[Frame] | None = None
            stack.callback(lambda: None if behind is not None and behind.stuck else writer.abort())  # unless closed

            def write(frame: Frame) -> None:
                if not writer.frames:
                    player.attach(writer, frame.pts, self.header.time_base)
                writer.write(frame)
                if on_progress is not None:
                    on_progress(writer.frames, 0, expected)

            behind = stack.enter_context(
                WriteBehind(write, limit=min(256, max(4, _BEHIND_BYTES // frame_bytes)), name="video-writer")
            )
            try:
                for frame in self.frames():
                    behind.put(frame)
            except BitstreamError:  # a pipe was cut: what was verified before still flows
                behind.finish()
                raise
            behind.finish()
            if not writer.frames:
                raise UsageError("no frames lie in the range that was asked for")
            in_thread(writer.close, name="video-closer")
            self.notices.extend(writer.notices)
            frames = writer.frames
        return DecodeResult(
            frames=frames,
            width=self.header.width,
            height=self.header.height,
            seconds=time.perf_counter() - self._started,
            model_seconds=self.model_seconds,
            precision=self._runner.precision,
            device=str(self._runner.device),
            notices=tuple(self.notices.said),
        )

    def frames(self) -> Iterator[Frame]:
        """The decoded frames of the trim, in order, rounded to the source's bit depth; once only."""
        depth = self.header.bit_depth
        feed, latents, total = self._feed()
        first_pts, end_pts = self._bounds
        left = math.inf if self.options.frames is None else self.options.frames
        number = tiling.frames_of_latents(latents[0], latents[0], self.header.temporal_factor)[0]
        pieces = self._plan.decode(self._decode, feed.read, latents, total, lambda plan, text: self.notices(text))
        for piece in pieces:
            pictures = tensor_to_frames(
                denormalise(tiling.crop_space(piece, self.header.height, self.header.width), depth), depth
            )
            while feed.times and feed.times[0].number < number:  # of context in front of the trim
                feed.times.popleft()
            for picture in pictures:
                if not feed.times:  # the repeated last frames of a padded end
                    break
                number += 1
                shown = feed.times.popleft()
                if shown.pts >= end_pts:
                    return
                if shown.pts >= first_pts:
                    left -= 1
                    yield Frame(
                        pixels=picture,
                        pts=shown.pts,
                        duration=shown.duration,
                        bit_depth=depth,
                        corrupt=shown.concealed,
                    )
                    if not left:
                        self._stop_player(feed.times[0].pts if feed.times else shown.pts + (shown.duration or 0))
                        return
        feed.finish()

    def _open_player(self) -> PassthroughPlayer:
        """What puts the copied streams beside the frames, fed with all that precedes the first chunk."""
        begin, end = (None if math.isinf(pts) else int(pts) * self.header.time_base for pts in self._bounds)
        player = PassthroughPlayer(
            kinds=self.options.kinds, metadata=self.options.tags, begin=begin, end=end, on_notice=self.notices
        )
        self._player = player
        if self._in_order:
            chunks = self._feed_player(player)
            first = next(chunks, None)
            self._chunks = chunks if first is None else itertools.chain([first], chunks)
            return player
        assert self._reader.trailer is not None
        for record in self._reader.side_records(0, 1):
            player.feed(record.type, record.payload)
        chunk = self._reader.trailer.chunk_of_frame(self._frame_range()[0]) if self.expected_frames else 0
        for record in self._reader.side_records(1 if player.looks_back else max(1, chunk)):
            player.feed(record.type, record.payload)
            if player.passed:
                break
        return player

    def _feed_player(self, player: PassthroughPlayer) -> Iterator[Chunk]:
        for record in self._reader.records():
            if record.type == CHNK:
                yield self._reader.decode(record)
            else:
                player.feed(record.type, record.payload)

    def _stop_player(self, pts: int) -> None:
        if self._player is not None:
            self._player.stop(pts * self.header.time_base)

    def _decode(self, latent: Tensor) -> Tensor:
        begun = time.perf_counter()
        pixels = self._runner.decode(latent)
        self.model_seconds += time.perf_counter() - begun
        return pixels

    def _feed(self) -> tuple[ChunkFeed, tuple[int, int | None], int | None]:
        """The chunks that are needed, the latents to decode, and how many the video has where that is known."""
        trailer = self._reader.trailer
        if trailer is None or self._in_order:
            # In order, so that every record is verified and the trailer compared with what was read.
            total = trailer.latents if trailer is not None else None
            return ChunkFeed(self._chunks or self._reader.chunks(), self.header), (0, total), total
        factor = self.header.temporal_factor
        first, last = self._frame_range()
        latents = tiling.latents_of_frames(first, last, factor)
        latents = latents[0], min(latents[1], trailer.latents)
        start, stop = self._plan.latents_to_read(latents, trailer.latents)
        numbers = (
            range(trailer.chunk_of_latent(start), trailer.chunk_of_latent(stop - 1) + 1) if start < stop else range(0)
        )
        chunks: Iterator[Chunk] = (self._reader.read_chunk(number) for number in numbers)
        return ChunkFeed(chunks, self.header), latents, trailer.latents

    @property
    def _in_order(self) -> bool:
        """Whether the whole file is read, from its beginning."""
        options = self.options
        trims = options.start, options.end, options.duration, options.frames
        return self._reader.trailer is None or trims == (None,) * 4

    def _frame_range(self) -> tuple[int, int]:
        """Frames [first, last) of the chunks that the trim meets."""
        trailer = self._reader.trailer
        assert trailer is not None
        low, high = self._bounds
        met = [entry for entry in trailer.index if entry.first_pts < high and entry.last_pts >= low]
        if not met:
            return 0, 0
        return met[0].first_frame, met[-1].first_frame + met[-1].frame_count

    def _pts_bounds(self) -> tuple[float, float]:
        """The trim in time stamps: [first, end)."""
        start, end, duration = self.options.start, self.options.end, self.options.duration
        if self.options.frames is not None and self.options.frames < 1:
            raise UsageError(f"frames = {self.options.frames} is not positive")
        if duration is not None:
            if end is not None:
                raise UsageError("end and duration exclude each other")
            end, start = Fraction(start or 0) + Fraction(duration), start or 0
        if start is not None and end is not None and end <= start:
            raise UsageError(f"the trim is empty: it ends at {float(end):g} s and begins at {float(start):g} s")

        def ticks(seconds: Fraction | float | None, otherwise: float) -> float:
            if seconds is None:
                return otherwise
            exact = self.info.start_time + Fraction(seconds) - Fraction(1, 1_000_000)  # floats are no short decimals
            return math.ceil(exact / self.header.time_base)

        return ticks(start, -math.inf), ticks(end, math.inf)


def is_image_sequence(destination: StrPath, container: str | None = None) -> bool:
    """Whether `destination` is the pattern of a numbered sequence of images."""
    if is_standard_stream(destination) or not SEQUENCE_PATTERN.search(Path(destination).name):
        return False
    return (container or container_for(destination)) in IMAGE_CONTAINERS


def check_sequence(pattern: StrPath, *, overwrite: bool = False) -> None:
    """OutputError unless the folder is there and, without `overwrite`, none of the images."""
    path = Path(pattern)
    if not path.parent.is_dir():
        raise OutputError(f"{pattern} cannot be written: the folder {path.parent} does not exist; create it first")
    found = SEQUENCE_PATTERN.search(path.name)
    assert found is not None
    name = re.compile(re.escape(path.name[: found.start()]) + r"\d+" + re.escape(path.name[found.end() :]))
    there = next((entry for entry in sorted(path.parent.iterdir()) if name.fullmatch(entry.name)), None)
    if there is not None and not overwrite:
        raise OutputError(f"{there} exists; use -y to overwrite images of that name")
