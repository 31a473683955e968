""".cvl -> video file: chunks -> symbols -> latents -> windows -> decoder -> frames, one clip in memory.

Owns: the order of the steps, the threads beside the model, the frames of a trim.
Does not know: command lines, names of models, what windows or the entropy coder do inside. Its mirror is `encode`.
"""

from __future__ import annotations

import dataclasses
import math
import os
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
from cvcodec.bitstream import Header
from cvcodec.codec.chunks import FileChunks
from cvcodec.codec.encode import Progress, StrPath
from cvcodec.codec.feed import ChunkFeed
from cvcodec.codec.headers import info_from_header
from cvcodec.codec.latent_file import check_model
from cvcodec.codec.notices import Notices
from cvcodec.codec.passthrough import PassthroughPlayer
from cvcodec.codec.salvage import LostFrames, SalvagedChunks
from cvcodec.copied import KINDS
from cvcodec.device import set_threads
from cvcodec.errors import BitstreamError, OutputError, UsageError
from cvcodec.fileio import atomic_output, atomic_path, check_output, is_standard_stream, naming_damage, open_input
from cvcodec.model.base import VideoAutoencoder
from cvcodec.pipeline import WriteBehind, in_thread
from cvcodec.plan import Plan
from cvcodec.registry import load_model
from cvcodec.runner import ModelRunner, denormalise, tensor_to_frames
from cvcodec.video import Frame, VideoInfo, VideoWriter
from cvcodec.video.source import SEQUENCE_PATTERN, number_in
from cvcodec.video.writer import IMAGE_CONTAINERS, container_for

_BEHIND_BYTES = 96 << 20  # decoded frames that may wait for the encoder of the output
_PIECE_FRAMES = 8  # converted to pictures at once


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
    salvage: bool = False
    """Decode what is intact of a damaged file, at its own times, instead of refusing it."""
    writer: dict[str, Any] = field(default_factory=dict)
    """Further arguments for `VideoWriter`: codec, crf, preset, chroma, container, ..."""


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """What a decode did."""

    frames: int
    concealed_frames: int
    """Of which the source was damaged where they were encoded."""
    lost: tuple[LostFrames, ...]
    """Frames of a salvaged file that could not be decoded, as far as it was read."""
    damaged_bytes: int
    """Bytes of a salvaged file that belong to no intact record."""
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

    @property
    def lost_frames(self) -> int | None:
        """How many frames are lost; None where that is not known, because the end of the file is lost."""
        counts = [lost.frame_count for lost in self.lost]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def damage(self) -> str | None:
        """What a person should know of a damaged file, in a sentence; None for an intact one."""
        if not self.lost and not self.damaged_bytes:
            return None
        if not self.lost:
            return f"the file is damaged ({self.damaged_bytes} bytes), but no frame is lost"
        frames = ", ".join(lost.describe() for lost in self.lost)
        return f"the file is damaged: frames {frames} are lost, {self.frames} were decoded"

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys."""
        return {
            "frames": self.frames,
            "concealed_frames": self.concealed_frames,
            "lost_frames": self.lost_frames,
            "lost": [dataclasses.asdict(lost) for lost in self.lost],
            "damaged_bytes": self.damaged_bytes,
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
    model: VideoAutoencoder | Callable[[Header], VideoAutoencoder] | StrPath | None = None,
    options: DecodeOptions | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> DecodeResult:
    """Decode a .cvl file to a video file, which appears only when it is complete.

    source, destination: paths or `-`; a numbered sequence of images (`frames/%05d.png`) appears picture by picture.
    model: as `load_model` gives it, what it takes, or a function from the header to it; None for the model that the
        file names.
    Raises InputError, BitstreamError, ModelMismatchError, OutputError, UsageError, DeviceError or NumericalError; and
    BrokenPipeError when nobody reads standard output any more.
    """
    options = options or DecodeOptions()
    sequence = is_image_sequence(destination, options.writer.get("container"))
    if sequence:
        check_sequence(destination, overwrite=overwrite)
    else:
        check_output(destination, overwrite=overwrite, inputs=[source])
        if not is_standard_stream(destination) and options.writer.get("container") is None:
            container_for(destination)  # refuses a name that means no format, before anything is decoded
    with ExitStack() as stack:
        stack.enter_context(naming_damage(source))
        file = stack.enter_context(open_input(source))
        # Refuses before anything is created.
        decoder = Decoder(file, model=_model_for(model), options=options, on_notice=on_notice)
        if is_standard_stream(destination):
            target: Any = stack.enter_context(atomic_output(destination))
        elif sequence:
            target = destination  # the writer completes each picture, and removes all of them when it is aborted
        else:
            target = stack.enter_context(atomic_path(destination, overwrite=overwrite, inputs=[source]))
        try:
            return decoder.write(target, label=os.fspath(destination), on_progress=on_progress)
        except OutputError as error:
            if isinstance(error.__cause__, BrokenPipeError):  # `| head`: not an error worth words, but not a success
                raise error.__cause__ from None
            raise


def _model_for(
    model: VideoAutoencoder | Callable[[Header], VideoAutoencoder] | StrPath | None,
) -> VideoAutoencoder | Callable[[Header], VideoAutoencoder]:
    if model is None:
        return lambda header: load_model(header.model)
    if isinstance(model, (str, os.PathLike)):
        return load_model(model)
    return model


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
        self._chunks = SalvagedChunks(source) if self.options.salvage else FileChunks(source)
        self.header = self._chunks.header
        self.info: VideoInfo = info_from_header(self.header)
        loaded = model if isinstance(model, VideoAutoencoder) else model(self.header)
        check_model(loaded, self.header, self.notices)
        self._runner = ModelRunner(
            loaded, device=self.options.device, precision=self.options.precision, on_notice=self.notices
        )
        self._plan = Plan.from_header(self.header, family=loaded.config.family)
        self._bounds = self._pts_bounds()
        self._chunks.select(self._plan, self._bounds, self.options.frames)
        self._player: PassthroughPlayer | None = None
        self.model_seconds = 0.0

    @property
    def expected_frames(self) -> int | None:
        """Frames that will come, where the index tells; of a trim, those of the chunks it meets."""
        return self._chunks.expected_frames

    def write(self, target: Any, *, label: str | None = None, on_progress: Progress | None = None) -> DecodeResult:
        """Decode everything into a video at `target`: a path or a binary file object, which messages call `label`."""
        frame_bytes = self.header.width * self.header.height * (3 if self.header.bit_depth == 8 else 6)
        expected = self.expected_frames
        with ExitStack() as stack:
            player = self._open_player()
            concealed = 0
            options = player.writer_options(self.header.time_base) | self.options.writer
            writer = VideoWriter.like(target, self.info, label=label, **options)
            behind: WriteBehind[Frame] | None = None
            closing = False
            stack.callback(lambda: None if closing or (behind is not None and behind.stuck) else writer.abort())

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
                    concealed += frame.corrupt
                    behind.put(frame)
            except BitstreamError:  # a pipe was cut: what was verified before still flows
                behind.finish()
                raise
            behind.finish()
            if self._chunks.lost and self._chunks.lost[-1].frame_count is None:
                player.tell_cut()
            if not writer.frames:
                if self._chunks.lost:
                    raise BitstreamError("no chunk of the range that was asked for is intact: nothing can be salvaged")
                raise UsageError("no frames lie in the range that was asked for")
            closing = True  # it aborts itself where it fails
            in_thread(writer.close, name="video-closer")
            self.notices.extend(writer.notices)
            frames = writer.frames
        return DecodeResult(
            frames=frames,
            concealed_frames=concealed,
            lost=tuple(self._chunks.lost),
            damaged_bytes=self._chunks.damaged_bytes,
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
        left = math.inf if self.options.frames is None else self.options.frames
        for feed, latents, total in self._chunks.feeds():
            for frame in self._frames_of(feed, latents, total):
                if frame.pts >= self._bounds[1]:
                    return
                left -= 1
                yield frame
                if not left:
                    self._stop_player(feed.times[0].pts if feed.times else frame.pts + (frame.duration or 0))
                    return
            feed.finish()

    def _frames_of(self, feed: ChunkFeed, latents: tuple[int, int | None], total: int | None) -> Iterator[Frame]:
        """The frames from the trim's beginning on that consecutive chunks hold."""
        depth = self.header.bit_depth
        number = tiling.frames_of_latents(latents[0], latents[0], self.header.temporal_factor)[0]
        pieces = self._plan.decode(self._decode, feed.read, latents, total, lambda plan, text: self.notices(text))
        for piece in pieces:
            # A window of floats is large: its copies are made a few frames at a time, and it is gone before the next.
            for part in piece.split(_PIECE_FRAMES, dim=2):
                pictures = tensor_to_frames(
                    denormalise(tiling.crop_space(part, self.header.height, self.header.width), depth), depth
                )
                while feed.times and feed.times[0].number < number:  # of context in front of the trim
                    feed.times.popleft()
                for picture in pictures:
                    if not feed.times:  # the repeated last frames of a padded end
                        break
                    number += 1
                    shown = feed.times.popleft()
                    if shown.pts >= self._bounds[0]:
                        yield Frame(
                            pixels=picture,
                            pts=shown.pts,
                            duration=shown.duration,
                            bit_depth=depth,
                            corrupt=shown.concealed,
                        )
            del piece, part

    def _open_player(self) -> PassthroughPlayer:
        """What puts the copied streams beside the frames, fed with all that precedes the first chunk."""
        begin, end = (None if math.isinf(pts) else int(pts) * self.header.time_base for pts in self._bounds)
        self._player = PassthroughPlayer(
            kinds=self.options.kinds,
            metadata=self.options.tags,
            begin=begin,
            end=end,
            salvage=self.options.salvage,
            on_notice=self.notices,
        )
        self._chunks.feed_player(self._player)
        return self._player

    def _stop_player(self, pts: int) -> None:
        if self._player is not None:
            self._player.stop(pts * self.header.time_base)

    def _decode(self, latent: Tensor) -> Tensor:
        begun = time.perf_counter()
        pixels = self._runner.decode(latent)
        self.model_seconds += time.perf_counter() - begun
        return pixels

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
    """OutputError unless the folder is there and, without `overwrite`, none of the images; UsageError for a name with
    several numbers."""
    path = Path(pattern)
    if not path.parent.is_dir():
        raise OutputError(f"{pattern} cannot be written: the folder {path.parent} does not exist; create it first")
    found = number_in(path.name)
    name = re.compile(re.escape(path.name[: found.start()]) + r"\d+" + re.escape(path.name[found.end() :]))
    there = next((entry for entry in sorted(path.parent.iterdir()) if name.fullmatch(entry.name)), None)
    if there is not None and not overwrite:
        raise OutputError(f"{there} exists; use -y to overwrite images of that name")
