""".cvl -> video file: chunks -> symbols -> latents -> windows -> decoder -> frames, one clip in memory.

Owns: the order of the steps, the threads beside the model, the frames of a trim.
Does not know: command lines, names of models, what windows or the entropy coder do inside. Its mirror is `encode`.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from cvcodec.bitstream import Header
from cvcodec.checkpoints.registry import load_model, load_named_model
from cvcodec.codec.chunks import FileChunks
from cvcodec.codec.decode_options import DecodeOptions, DecodeResult
from cvcodec.codec.encode import StrPath
from cvcodec.codec.feed import ChunkFeed, FrameTime
from cvcodec.codec.headers import info_from_header, rounding_of
from cvcodec.codec.latent_file import check_model
from cvcodec.codec.notices import Notices
from cvcodec.codec.output import Progress
from cvcodec.codec.plans import memory_errors, plan_of
from cvcodec.codec.runner import ModelRunner, denormalise, tensor_to_frames
from cvcodec.codec.salvage import SalvagedChunks
from cvcodec.errors import BitstreamError, DeviceError, OutputError, UsageError
from cvcodec.fileio import atomic_output, atomic_path, check_output, is_standard_stream, naming_damage, open_input
from cvcodec.model.base import VideoAutoencoder
from cvcodec.passthrough.player import Player
from cvcodec.passthrough.streams import Trim
from cvcodec.system.device import available_memory, set_threads
from cvcodec.system.threads import WriteBehind, in_thread
from cvcodec.video import Frame, VideoInfo, VideoWriter
from cvcodec.video.source import SEQUENCE_PATTERN, number_in
from cvcodec.video.writer import IMAGE_CONTAINERS, container_for
from cvcodec.windows.space import crop_space
from cvcodec.windows.time import frames_of_latents

_BEHIND_BYTES = 96 << 20  # decoded frames that may wait for the encoder of the output
_PIXEL_BYTES = 12  # of a decoded pixel, in floats
_PIECE_FRAMES = 8  # converted to pictures at once
_SMALL_WINDOW_BYTES = 64 << 20  # of floats, which may wait beside the next window
_WAITING_PARTS = 8  # of frames to be converted, about a small window

_Part = tuple[Tensor, list[FrameTime]]
"""A few frames as the model gave them, (1, 3, T, H, W), and when they are shown."""


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
    sequence = is_image_sequence(destination, options.writer.container)
    if sequence:
        check_sequence(destination, overwrite=overwrite)
    else:
        check_output(destination, overwrite=overwrite, inputs=[source])
        if not is_standard_stream(destination) and options.writer.container is None:
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
        return lambda header: load_named_model(header.model)
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
        base_only = self.options.layers == "base"
        kind = SalvagedChunks if self.options.salvage else FileChunks
        self._chunks: SalvagedChunks | FileChunks = kind(source, base_only=base_only)
        self.header = self._chunks.header
        self.info: VideoInfo = info_from_header(self.header)
        loaded = model if isinstance(model, VideoAutoencoder) else model(self.header)
        check_model(loaded, self.header, self.notices)
        self._runner = ModelRunner(
            loaded, device=self.options.device, precision=self.options.precision, on_notice=self.notices
        )
        self._plan = plan_of(self.header)
        self._bounds = self._pts_bounds()
        self._chunks.select(self._plan, self._bounds, self.options.frames)
        self._player: Player | None = None
        self.model_seconds = 0.0
        self._check_memory()

    def _check_memory(self) -> None:
        """DeviceError where not even the pixels of a window fit: a few bytes may stand for frames of any size."""
        frames, available = self.expected_frames, available_memory(self._runner.device)
        if frames is None or available is None:
            return
        width, height = self.header.padded_size
        at_once = self._plan.frames_at_once(frames)
        needed = _PIXEL_BYTES * width * height * at_once
        if needed > available:
            raise DeviceError(
                f"{at_once} frames of {width}x{height} are decoded at once and take {needed / 2**30:.1f} GiB, "
                f"{available / 2**30:.1f} GiB of memory are free; decode on a machine with more"
            )

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
            options = player.writer_options(self.header.time_base) | self.options.writer.arguments()
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
            concealed = self._write_parts(
                behind, max(2, min(_WAITING_PARTS, _BEHIND_BYTES // (4 * _PIECE_FRAMES * frame_bytes)))
            )
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

    def _write_parts(self, behind: WriteBehind[Frame], most: int) -> int:
        """Put the decoded frames of the trim into `behind`, while at most so many parts wait, and finish it.

        Returns how many of the frames are concealed.
        """

        def convert(frames: Iterable[Frame]) -> None:
            for frame in frames:
                behind.put(frame)

        concealed = 0
        # Where a window of floats is small, the model goes on with the next one while it is converted to pictures.
        with WriteBehind(convert, limit=most, name="pixel-converter") as converter:
            try:
                for part in self._parts():
                    concealed += sum(time.concealed for time in part[1])
                    frames = self._pictures(part)
                    small = part[0].untyped_storage().nbytes() <= _SMALL_WINDOW_BYTES
                    converter.put(frames if small else list(frames))
                    del frames, part
            except BitstreamError:  # a pipe was cut: what was verified before still flows
                converter.finish()
                behind.finish()
                raise
            converter.finish()
            behind.finish()
        return concealed

    def frames(self) -> Iterator[Frame]:
        """The decoded frames of the trim, in order, rounded to the source's bit depth; once only."""
        for part in self._parts():
            yield from self._pictures(part)
            del part  # the window it is part of is gone before the next

    def _parts(self) -> Iterator[_Part]:
        """The trim a few frames at a time, as the model gives them."""
        left = self.options.frames
        for feed, latents, total in self._chunks.feeds():
            for pixels, times in self._parts_of(feed, latents, total):
                begin = sum(time.pts < self._bounds[0] for time in times)
                end = len(times) - sum(time.pts >= self._bounds[1] for time in times)
                if left is not None:
                    end = min(end, begin + left)
                    left -= max(0, end - begin)
                if begin < end:
                    yield pixels[:, :, begin:end], times[begin:end]
                if left == 0:
                    last = times[end - 1]
                    after = times[end] if end < len(times) else feed.times[0] if feed.times else None
                    self._stop_player(last.pts + (last.duration or 0) if after is None else after.pts)
                    return
                if times and times[-1].pts >= self._bounds[1]:
                    return
                del pixels
            feed.finish()

    def _parts_of(self, feed: ChunkFeed, latents: tuple[int, int | None], total: int | None) -> Iterator[_Part]:
        """What consecutive chunks hold from `latents` on."""
        number = frames_of_latents(latents[0], latents[0], self.header.temporal_factor)[0]
        pieces = self._plan.decode(self._decode, feed.read, latents, total, lambda plan, text: self.notices(text))
        for piece in memory_errors(pieces):
            # A window of floats is large: its copies are made a few frames at a time, and it is gone before the next.
            for part in piece.split(_PIECE_FRAMES, dim=2):
                while feed.times and feed.times[0].number < number:  # of context in front of the trim
                    feed.times.popleft()
                # Fewer times than frames at the end, where the last frames are repeated.
                times = [feed.times.popleft() for _ in range(min(part.shape[2], len(feed.times)))]
                number += len(times)
                yield part[:, :, : len(times)], times
            del piece, part

    def _pictures(self, part: _Part) -> Iterator[Frame]:
        """Frames of what the model gave, cropped and rounded."""
        depth = self.header.bit_depth
        pixels = crop_space(part[0], self.header.height, self.header.width)
        for picture, shown in zip(tensor_to_frames(denormalise(pixels, depth), depth), part[1], strict=True):
            yield Frame(
                pixels=picture, pts=shown.pts, duration=shown.duration, bit_depth=depth, corrupt=shown.concealed
            )

    def _open_player(self) -> Player:
        """What puts the copied streams beside the frames, fed with all that precedes the first chunk."""
        begin, end = (None if math.isinf(pts) else int(pts) * self.header.time_base for pts in self._bounds)
        self._player = Player(
            self.notices,
            kinds=self.options.kinds,
            tags=self.options.tags,
            trim=Trim(begin, end),
            salvage=self.options.salvage,
        )
        self._chunks.feed_player(self._player)
        return self._player

    def _stop_player(self, pts: int) -> None:
        if self._player is not None:
            self._player.stop(pts * self.header.time_base)

    def _decode(self, latent: Tensor) -> Tensor:
        begun = time.perf_counter()
        pixels = self._runner.decode(latent, rounding_of(self.header))
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
