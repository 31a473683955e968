"""Bytes of the streams of a video file, from its packets. Knows no codecs."""

from __future__ import annotations

import os
from pathlib import Path

import av

from cvcodec.errors import InputError
from cvcodec.video.libav import reason
from cvcodec.video.source import is_sequence, sequence_files


def stream_bytes(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(bytes of the first real video stream, bytes of all other streams), packets only, container overhead left out.

    Still images are one packet, the whole file; a numbered sequence is all of its files. Raises InputError.
    """
    if is_sequence(os.fspath(path)):
        first, count = sequence_files(os.fspath(path))
        return sum(os.path.getsize(os.fspath(path) % number) for number in range(first, first + count)), 0
    video, others = 0, 0
    try:
        with av.open(os.fspath(path)) as container:
            pictures = av.stream.Disposition.attached_pic
            chosen = next((s for s in container.streams.video if not s.disposition & pictures), None)
            for packet in container.demux():
                if chosen is not None and packet.stream.index == chosen.index:
                    video += packet.size
                else:
                    others += packet.size
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"cannot read {Path(path).name!r}: {reason(error)}") from error
    return video, others
