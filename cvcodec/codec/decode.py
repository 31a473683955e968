""".cvl -> video file: chunks -> symbols -> latents -> windows -> decoder -> frames, one clip in memory.

Owns: the order of the steps, and what runs beside the model: a thread reads and decodes chunks (`CvlInput`), one turns
floats into pictures and one writes them (`VideoOutput`).
Its mirror is `encode`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from cvcodec.bitstream import Header
from cvcodec.checkpoints.registry import load_model, load_named_model
from cvcodec.codec.encode import StrPath
from cvcodec.codec.headers import check_model
from cvcodec.codec.input import CvlInput, FileInput, Part, SalvagedInput
from cvcodec.codec.options import DecodeOptions, DecodeResult
from cvcodec.codec.session import Progress, Session
from cvcodec.codec.video_output import VideoOutput, pictures
from cvcodec.errors import OutputError
from cvcodec.fileio import atomic_output, atomic_path, check_output, is_standard_stream, naming_damage, open_input
from cvcodec.model.base import VideoAutoencoder
from cvcodec.passthrough.player import Player
from cvcodec.remote import is_remote
from cvcodec.system.device import available_memory
from cvcodec.video import Frame
from cvcodec.video.source import SEQUENCE_PATTERN, number_in
from cvcodec.video.writer import IMAGE_CONTAINERS, VideoTarget, container_for


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
    if sequence and is_remote(destination):
        raise OutputError(f"{destination}: a sequence of images is written on this machine; name a folder here")
    if sequence:
        check_sequence(destination, overwrite=overwrite)
    else:
        check_output(destination, overwrite=overwrite, inputs=[source])
        if not is_standard_stream(destination) and options.writer.container is None:
            container_for(destination)  # refuses a name that means no format, before anything is decoded
    with ExitStack() as stack:
        stack.enter_context(naming_damage(source))
        file = stack.enter_context(open_input(source))
        target: VideoTarget = destination  # images: the writer completes each, and removes all when it is aborted
        if is_standard_stream(destination):
            target = stack.enter_context(atomic_output(destination))
        elif not sequence:
            target = stack.enter_context(atomic_path(destination, overwrite=overwrite, inputs=[source]))
        try:
            return decode_stream(
                file,
                target,
                model=_model_for(model),
                options=options,
                label=os.fspath(destination),
                on_progress=on_progress,
                on_notice=on_notice,
            )
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
    """A .cvl stream about to be decoded: header read, model checked, nothing computed yet.

    input: what is read of it, header and trim included. notices: what a person should know, each once.
    """

    def __init__(
        self,
        source: BinaryIO,
        *,
        model: VideoAutoencoder | Callable[[Header], VideoAutoencoder],
        options: DecodeOptions | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options or DecodeOptions()
        self.session = Session(self.options, on_notice)
        self.input: CvlInput = (SalvagedInput if self.options.salvage else FileInput)(source, self.options)
        self.header, self.info, self.notices = self.input.header, self.input.info, self.session.notices
        loaded = model if isinstance(model, VideoAutoencoder) else model(self.header)
        check_model(loaded, self.header, self.notices)
        self.runner = self.session.runner(loaded)
        self.input.check_memory(available_memory(self.runner.device))

    def parts(self) -> Iterator[Part]:
        """The frames of the trim as the model gives them, a few at a time; once only."""

        def decode(latent: Tensor) -> Tensor:
            return self.runner.decode(latent, self.header.quality)

        return self.input.parts(self.session.timed(decode), self.notices)

    def frames(self) -> Iterator[Frame]:
        """The frames of the trim, rounded to the source's bit depth; once only."""
        for part in self.parts():
            yield from pictures(part, self.header)
            del part  # the window it is part of is gone before the next


def decode_stream(
    source: BinaryIO,
    target: VideoTarget,
    *,
    model: VideoAutoencoder | Callable[[Header], VideoAutoencoder],
    options: DecodeOptions | None = None,
    label: str | None = None,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> DecodeResult:
    """`decode_file` from a binary file object, read front to back where it cannot seek, into a path or another one,
    which messages call `label`."""
    decoder = Decoder(source, model=model, options=options, on_notice=on_notice)
    options, chunks, notices = decoder.options, decoder.input, decoder.notices
    player = Player(notices, kinds=options.kinds, tags=options.tags, trim=chunks.trim, salvage=options.salvage)
    chunks.feed_player(player)
    with VideoOutput(target, chunks, player, options.writer, notices, label, on_progress) as output:
        for part in decoder.parts():
            output.put(part)
            del part  # the window it is part of is gone before the next
        frames = output.finish()
    return DecodeResult(
        frames=frames,
        concealed_frames=output.concealed,
        lost=tuple(chunks.lost),
        damaged_bytes=chunks.damaged_bytes,
        width=decoder.header.width,
        height=decoder.header.height,
        notices=tuple(notices.said),
        **decoder.session.facts(decoder.runner),
    )


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
