"""Video file -> .cvl: frames -> windows -> encoder -> latents -> output, one clip in memory.

Owns: the order of the steps, and what runs beside the model: a thread reads and decodes (`ReaderAhead`), one joins
frames to clips, one turns latents into symbols and bytes (`CvlOutput`).
Its mirror is `decode`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial

from torch import Tensor

from cvcodec.bitstream import Header
from cvcodec.bitstream.format import MAGIC, MAX_CHUNK_VALUES
from cvcodec.bitstream.wire import Writable
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec.closed_loop import ClosedLoop
from cvcodec.codec.headers import choose_plan, plan_of
from cvcodec.codec.options import DEFAULT_MODEL, EncodeOptions, EncodeResult, LatentsKind, options_with
from cvcodec.codec.output import ChunkLayers, CvlOutput, FrameSource, PartialSink
from cvcodec.codec.runner import ClipEncoder, frames_to_tensor
from cvcodec.codec.session import Notices, Progress, Session, memory_errors
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import atomic_output, is_standard_stream, open_input, partial_path
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.passthrough.recorder import Recorder
from cvcodec.remote import is_remote, path_of
from cvcodec.system.device import available_memory
from cvcodec.system.threads import ReadAhead
from cvcodec.video import Frame, VideoInfo
from cvcodec.video.reader import ReaderAhead
from cvcodec.video.source import VideoSource
from cvcodec.windows.plan import Plan

StrPath = str | os.PathLike[str]

_PIECE_FRAMES = 8  # frames handed on at once: fewer calls, little memory
_AHEAD_BYTES = 96 << 20  # decoded frames that may wait for the model
_AHEAD_FRAMES = 128  # and no more than that, or small pictures would fill memory with objects


def encode_file(
    source: VideoSource,
    destination: StrPath,
    *,
    model: VideoAutoencoder | StrPath = DEFAULT_MODEL,
    options: EncodeOptions | None = None,
    latents: LatentsKind | None = None,
    quality: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> EncodeResult:
    """Encode a video to a .cvl file, which appears only when it is complete.

    source: what `VideoReader` takes: a path, or a binary file object. destination: a path or `-`.
    model: as `load_model` gives it, or what that takes. options: how to encode; latents (`quantised`, `fp16`, `fp32`)
        and quality (0 to 100): the fields of them that are chosen most often. on_progress: is given frames and bytes
        done, and the number of frames expected, None where unknown. on_notice: is told, once each, what a person should
        know.
    resume: go on with the partial file (`fileio.partial_path`) of an encode that was interrupted, if there is one, to
        the bytes of an uninterrupted run; and leave it there when this one is interrupted. Without, only a killed
        process leaves one, and it is refused unless `overwrite`.
    Raises InputError, OutputError, UsageError, DeviceError or NumericalError.
    """
    options = options_with(options, latents=latents, quality=quality)
    inputs = [source] if isinstance(source, (str, os.PathLike)) else []
    for path in inputs:
        refuse_coded(path)
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model)
    kept = {"keep_partial": True, "resume": True} if resume else {"named_partial": True}
    if resume and (is_standard_stream(destination) or is_remote(destination)):
        what = "an upload" if is_remote(destination) else "standard output"
        raise UsageError(f"--resume needs an output file on this machine: {what} cannot be continued")
    with atomic_output(destination, overwrite=overwrite, inputs=inputs, **kept) as sink:
        begun = PartialSink(sink, os.fspath(partial_path(destination))) if resume and sink.seekable() else sink
        return encode_stream(source, begun, model=model, options=options, on_progress=on_progress, on_notice=on_notice)


def refuse_coded(path: StrPath) -> None:
    """InputError for a .cvl file, of which FFmpeg would only say that it knows no such format."""
    if path_of(path).is_file():
        with open_input(path) as file:
            if file.read(len(MAGIC)) == MAGIC:
                raise InputError(f"{os.fspath(path)} is a .cvl file already; `cvcodec decode` makes a video of it")


def encode_stream(
    source: VideoSource,
    sink: Writable,
    *,
    model: VideoAutoencoder | ClipEncoder,
    options: EncodeOptions | None = None,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> EncodeResult:
    """`encode_file` into a binary file object, written front to back without seeking; or into a `PartialSink`.

    model: a model, or one already on its device, whose own device and precision then count.
    """
    options = options or EncodeOptions()
    session = Session(options, on_notice)
    recorder = Recorder(session.notices, kinds=options.kinds, tags=options.tags)
    with closing(ReaderAhead(source, on_packet=recorder.on_packet, **options.reader.arguments())) as ahead:
        recorder.begin(ahead.reader)
        # Begins to read while the model is prepared.
        frames = ahead.frames(most_bytes=_AHEAD_BYTES, most_frames=_AHEAD_FRAMES, least_frames=2 * _PIECE_FRAMES)
        return encode_frames(frames, ahead.reader, sink, model, options, session, recorder, on_progress)


def encode_frames(
    frames: Iterable[Frame],
    reader: FrameSource,
    sink: Writable,
    model: VideoAutoencoder | ClipEncoder,
    options: EncodeOptions,
    session: Session,
    recorder: Recorder,
    on_progress: Progress | None,
) -> EncodeResult:
    """The frames of a source to a file, with what its recorder copies of it."""
    info, notices = reader.info, session.notices
    notices.extend(reader.notices)
    runner = session.runner(model) if isinstance(model, VideoAutoencoder) else model
    plan = _choose_plan(runner, info, options, sink, notices)
    if options.drop_last_frames:
        frames = _whole_latents(frames, runner.model.config.temporal_factor, notices)
    with CvlOutput(sink, reader, runner.model, plan, options, recorder, notices, on_progress) as output:
        encode = session.timed(partial(_encode_kept, runner, output.header))
        loop = ClosedLoop(runner, plan, output) if output.header.enhancement is not None else None
        begin = output.first_latent if loop is None else loop.begin
        # Joined in a thread of their own, while the model runs: afterwards the entropy coder would be in the way.
        with ReadAhead(_clips(output.needed(frames, begin)), limit=_most_clips(info), name="frame-joiner") as clips:
            latents = plan.encode(encode, clips if loop is None else loop.watched(clips), output.shrink, start=begin)
            kept = (ChunkLayers.of(values, output.header.latent_channels) for values in latents)
            for layers in memory_errors(kept if loop is None else loop.completed(kept, session.timed, notices)):
                output.put(layers)
        output.finish()
    notices.extend(reader.notices)
    return output.result(session.facts(runner))


def _encode_kept(runner: ClipEncoder, header: Header, clip: Tensor) -> Tensor:
    """Clip (1, 3, T, H, W) of code values -> what a file keeps of its moments, (1, C [+ C], t, h, w)."""
    moments = runner.encode(clip, header.bit_depth)
    return moments if header.logvar else moments[:, : header.latent_channels]


def _choose_plan(
    runner: ClipEncoder, info: VideoInfo, options: EncodeOptions, sink: Writable, notices: Notices
) -> Plan:
    """The windows that were asked for, or that memory allows; those of a partial file that is continued."""
    config = runner.model.config
    most = _most_latents(config, info.height, info.width)
    choose = partial(
        choose_plan,
        config,
        height=info.height,
        width=info.width,
        mode=options.windows,
        window=options.window or (most if most < config.window_latents else None),
        tile=options.tile,
    )
    if isinstance(sink, PartialSink) and sink.header is not None:
        return choose().as_asked(plan_of(sink.header), window=options.window, tile=options.tile)
    itemsize = 2 if runner.precision != "fp32" else 4
    return choose(available_memory=available_memory(runner.device), itemsize=itemsize, on_notice=notices)


def _whole_latents(frames: Iterable[Frame], factor: int, notices: Notices) -> Iterator[Frame]:
    """The frames that fill latents: the first, and then groups of `factor`."""
    rest = iter(frames)
    yield from itertools.islice(rest, 1)
    while len(group := list(itertools.islice(rest, factor))) == factor:
        yield from group
    if group:
        notices(f"{len(group)} frames at the end are left out: they do not fill a latent")


def _most_latents(config: ModelConfig, height: int, width: int) -> int:
    """How many latents of pictures of this size, both layers, a chunk can hold; at least one."""
    factor = config.spatial_factor
    return max(1, MAX_CHUNK_VALUES // (config.coded_channels * -(-height // factor) * -(-width // factor)))


def _clips(frames: Iterator[Frame]) -> Iterator[Tensor]:
    """Code values (1, 3, T, H, W), a few frames at a time."""
    while piece := list(itertools.islice(frames, _PIECE_FRAMES)):
        yield frames_to_tensor([frame.pixels for frame in piece])


def _most_clips(info: VideoInfo) -> int:
    """How many clips of a few frames may wait: a window's at small sizes."""
    values = info.width * info.height * 3 * (1 if info.bit_depth == 8 else 4)
    return max(1, min(8, _AHEAD_BYTES // 2 // (_PIECE_FRAMES * values)))
