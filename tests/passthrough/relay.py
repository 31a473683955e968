"""From a film to records and chunks and back to a film, without a model: the frames go through as they are."""

from __future__ import annotations

from typing import Any

from cvcodec.codec.session import Notices
from cvcodec.passthrough.player import Player
from cvcodec.passthrough.recorder import Recorder
from cvcodec.passthrough.streams import Trim
from cvcodec.video import VideoReader, VideoWriter
from tests.codec.movies import Found, Track

CHUNK = "CHNK"


def record(source: Any, chunk: int = 16, notices: list[str] | None = None, **options: Any) -> tuple[list[Any], Any]:
    """Records and chunks (lists of frames) in the order of a file, and what the video is."""
    reading = {key: options.pop(key) for key in ("start", "end", "frames", "threads") if key in options}
    recorder = Recorder(Notices(None if notices is None else notices.append), **options)
    items: list[Any] = []
    with VideoReader(source, on_packet=recorder.on_packet, **reading) as reader:
        recorder.begin(reader)
        waiting: list[Any] = []
        for frame in reader:
            waiting.append(frame)
            if len(waiting) == chunk:
                items += [*recorder.take([frame.pts for frame in waiting]), (CHUNK, waiting)]
                waiting = []
        if waiting:
            items += [*recorder.take([frame.pts for frame in waiting]), (CHUNK, waiting)]
        items += recorder.take(None)
        return items, reader.info


def play(items: list[Any], info: Any, target: Any, notices: list[str] | None = None, **options: Any) -> None:
    """A container of the records, and of those frames that `begin` and `end` (seconds) leave."""
    limits = {key: options.pop(key) for key in ("begin", "end") if key in options}
    playing = {key: options.pop(key) for key in ("kinds", "tags", "salvage") if key in options}
    player = Player(Notices(None if notices is None else notices.append), trim=Trim(**limits), **playing)
    writer: Any = None
    for kind, content in items:
        if kind != CHUNK:
            player.feed(kind, content)
            continue
        for frame in content:
            time = frame.pts * info.time_base
            if not limits.get("begin", time) <= time < limits.get("end", time + 1):
                continue
            if writer is None:
                arguments = player.writer_options(info.time_base) | {"preset": "ultrafast"} | options
                writer = VideoWriter.like(target, info, **arguments)
                try:
                    player.attach(writer, frame.pts, info.time_base)
                except BaseException:
                    writer.abort()
                    raise
            writer.write(frame)
    writer.close()


def through(source: Any, target: Any, **options: Any) -> list[str]:
    """Both; the notices."""
    notices: list[str] = []
    items, info = record(source, notices=notices)
    play(items, info, target, notices, **options)
    return notices


def data(found: Found) -> list[bytes]:
    return [packet.data for packet in found.packets]


SOUND = {
    "aac": Track("aac", 44100),
    "mp3": Track("libmp3lame", 44100),
    "opus": Track("libopus", 48000, "5.1"),
    "flac": Track("flac", 44100),
    "ac3": Track("ac3", 48000, "5.1"),
    "eac3": Track("eac3", 48000),
    "alac": Track("alac", 44100),
    "mp2": Track("mp2", 48000, "mono"),
    "pcm_s16le": Track("pcm_s16le", 48000),
    "pcm_s24le": Track("pcm_s24le", 48000, "5.1"),
    "pcm_s16be": Track("pcm_s16be", 44100),
    "wavpack": Track("wavpack", 44100),
}
