"""Records: when they are written, what of a source they hold, and what is done about damage."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from cvcodec.errors import BitstreamError
from cvcodec.passthrough.recorder import Recorder
from cvcodec.passthrough.records import (
    ATTACHMENT,
    PACKETS,
    STREAMS,
    pack_packets,
    pack_streams,
    unpack_packets,
    unpack_streams,
)
from cvcodec.video import VideoReader
from tests.codec.clips import Pipe, Sink
from tests.codec.movies import FONT, Track, film, streams, times
from tests.passthrough.relay import CHUNK, SOUND, data, play, record


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("trim", [{"start": 3, "end": 5}, {"end": 1.5}, {"start": 4.02}, {"frames": 40}, {"start": 6}])
def test_a_trimmed_encode_keeps_exactly_the_sound_inside(container: str, trim: dict[str, Any], tmp_path: Path) -> None:
    source, target = tmp_path / f"in.{container}", tmp_path / "out.mkv"
    film(str(source), Track("mp2", 48000, seconds=8), frames=200, chapters=container != "ts", gop=25)
    before = streams(str(source), "audio")[0].packets
    shown = times(str(source))
    items, info = record(source, **trim)
    zero = info.start_time
    begin = zero + Fraction(str(trim["start"])) if "start" in trim else None
    end = zero + Fraction(str(trim["end"])) if "end" in trim else shown[40] if "frames" in trim else None
    wanted = [
        packet.data
        for packet in before
        if (begin is None or packet.time >= begin) and (end is None or packet.time + packet.duration <= end)
    ]
    kept = [packet.data for kind, payload in items if kind == PACKETS for packet in unpack_packets(payload)]
    assert kept == wanted
    assert 10 < len(wanted) < len(before)
    play(items, info, target)
    after = streams(str(target), "audio")[0].packets
    assert [packet.data for packet in after] == wanted
    assert abs(after[0].time - next(p.time for p in before if p.data == wanted[0])) <= Fraction(1, 1000)
    if container != "ts" and "start" in trim:
        assert unpack_streams(items[0][1]).chapters == ()  # both end before


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_trimmed_decode_keeps_exactly_the_sound_inside(container: str, tmp_path: Path) -> None:
    source, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    film(
        str(source),
        Track("aac", 48000, seconds=4),
        frames=100,
        subtitle="mov_text" if container == "mp4" else "ass",
        chapters=True,
    )
    items, info = record(source)
    begin, end = Fraction(6, 10), Fraction(1, 1)
    play(items, info, target, begin=begin, end=end)
    before = streams(str(source), "audio")[0].packets
    inside = [packet for packet in before if packet.time >= begin and packet.time + packet.duration <= end]
    assert streams(str(target), "audio")[0].packets == inside
    assert times(str(target)) == [time for time in times(str(source)) if begin <= time < end]
    texts = [packet.data for packet in streams(str(target), "subtitle")[0].packets]
    assert any(b"Hello" in text for text in texts)  # shown from 0.2 to 0.9 s
    assert not any(b"Bye" in text for text in texts)
    with av.open(str(target)) as after:
        cut = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in after.chapters()]
    first = Fraction(0) if container == "mp4" else begin  # MP4's chapters leave no gap at the beginning
    assert cut == [(first, Fraction(9, 10)), (Fraction(9, 10), Fraction(1))]


def test_without_sound_and_without_metadata(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    film(
        str(source),
        Track(metadata={"language": "deu", "title": "Secret"}),
        chapters=True,
        metadata={"title": "Secret"},
        attachments=[("a.ttf", "font/ttf", FONT)],
    )
    silent, info = record(source, kinds=(), tags=False)
    assert [kind for kind, _ in silent] == [CHUNK] * 4
    untold, _ = record(source, tags=False)
    told, _ = record(source)
    assert not any(b"Secret" in payload for kind, payload in untold if kind != CHUNK)
    for items, options in ((untold, {}), (told, {"tags": False})):
        play(items, info, target, **options)
        with av.open(str(target)) as after:
            assert after.chapters() == []
            assert "title" not in after.metadata
            sound, font = after.streams.audio[0], after.streams.attachments[0]
            assert "title" not in sound.metadata
            assert sound.metadata["language"] == "deu"
            assert font.name == "a.ttf"
    play(told, info, target, kinds=("audio",))
    with av.open(str(target)) as after:
        assert [stream.type for stream in after.streams] == ["video", "audio"]


@pytest.mark.parametrize(("container", "codec"), [("matroska", "aac"), ("mp4", "aac"), ("mp4", "ac3"), ("mp4", "opus")])
def test_pipes_in_and_out(container: str, codec: str, tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    film(str(source), SOUND[codec], chapters=True)
    items, info = record(Pipe(source.read_bytes()))
    sink = Sink()
    play(items, info, sink, container=container)
    before, after = streams(str(source), "audio")[0], streams(bytes(sink.data), "audio")[0]
    assert data(after) == data(before)
    assert max(abs(a.time - b.time) for a, b in zip(after.packets, before.packets, strict=True)) <= Fraction(1, 1000)
    assert times(bytes(sink.data)) == times(str(source))


def test_outputs_that_hold_only_the_picture_say_so(tmp_path: Path) -> None:
    film(str(tmp_path / "in.mkv"), Track())
    items, info = record(tmp_path / "in.mkv")
    notices: list[str] = []
    play(items, info, tmp_path / "out.y4m", notices, preset=None)
    assert notices == ["y4m holds only the picture: sound and other streams are left out"]


def test_bytes_do_not_depend_on_how_far_the_reader_is_ahead(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    film(str(source), Track("aac"), Track("ac3"), subtitle="mov_text", frames=100)
    step_by_step, _ = record(source)
    recorder = Recorder()
    with VideoReader(source, on_packet=recorder.on_packet) as reader:
        recorder.begin(reader)
        frames: list[Any] = []
        thread = threading.Thread(target=lambda: frames.extend(reader))  # everything is read before the first chunk
        thread.start()
        thread.join()
        ahead: list[Any] = []
        for first in range(0, len(frames), 16):
            chunk = frames[first : first + 16]
            ahead += [*recorder.take([frame.pts for frame in chunk]), (CHUNK, chunk)]
        ahead += recorder.take(None)
    assert [item for item in ahead if item[0] != CHUNK] == [item for item in step_by_step if item[0] != CHUNK]
    assert [kind for kind, _ in ahead] == [kind for kind, _ in step_by_step]


def test_bytes_of_a_trim_do_not_depend_on_how_far_the_reader_is_ahead(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    film(str(source), Track("aac", seconds=4), Track("ac3", seconds=4), subtitle="ass", frames=100, chapters=True)
    for trim in ({"frames": 40}, {"end": 1.613}, {"start": 0.4, "frames": 33}):
        recorder = Recorder()
        with VideoReader(source, on_packet=recorder.on_packet, **trim) as reader:  # type: ignore[arg-type]
            recorder.begin(reader)
            iterator = iter(reader)
            first = [next(iterator) for _ in range(16)]
            early = [*recorder.take([frame.pts for frame in first])]
        recorder = Recorder()
        with VideoReader(source, on_packet=recorder.on_packet, **trim) as reader:  # type: ignore[arg-type]
            recorder.begin(reader)
            frames = list(reader)
            assert early == [*recorder.take([frame.pts for frame in frames[:16]])]
            assert reader.stopped is not None
            assert reader.stopped[0] == frames[-1].pts


def test_records_are_written_as_they_come_and_precede_the_chunks_of_their_time(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    film(str(source), Track("pcm_s16le", seconds=6), Track("aac", seconds=6), frames=150)
    items, info = record(source, chunk=50)
    assert items[0][0] == STREAMS
    ends: list[Fraction] = []
    for kind, content in items[1:]:
        if kind == CHUNK:
            assert all(end <= content[0].pts * info.time_base for end in ends)
            ends = []
        else:
            assert len(content) < (128 << 10) + (16 << 10)
            packets = unpack_packets(content)
            ends.append(max(packet.pts for packet in packets if packet.pts is not None) * Fraction(1, 1000))
    assert [kind for kind, _ in items].count(PACKETS) > 10


def test_damage_is_refused_and_salvage_plays_what_is_left(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    film(str(source), Track("aac", seconds=4), frames=100)
    items, info = record(source)
    places = [number for number, item in enumerate(items) if item[0] == PACKETS]
    packets = unpack_packets(items[places[1]][1])
    cut = (PACKETS, items[places[1]][1][:-1])
    stranger = (PACKETS, pack_packets([packet._replace(stream=7) for packet in packets]))
    for wrong in (cut, stranger, (ATTACHMENT, b"\x00data"), items[0]):
        damaged = [*items[: places[1]], wrong, *items[places[1] + 1 :]]
        with pytest.raises(BitstreamError):
            play(damaged, info, tmp_path / "no.mkv")
        notices: list[str] = []
        play(damaged, info, target, notices, salvage=True)
        assert any("left out" in notice for notice in notices)
        wanted = [p.data for n in places if n != places[1] for p in unpack_packets(items[n][1])]
        assert data(streams(str(target), "audio")[0]) == wanted
        assert times(str(target)) == times(str(source))
    with pytest.raises(BitstreamError, match="without a STRM record"):
        play(items[1:], info, tmp_path / "no.mkv")
    play(items[1:], info, target, salvage=True)
    assert times(str(target)) == times(str(source))


def test_parameters_that_are_not_what_they_claim_are_refused(tmp_path: Path) -> None:
    film(str(tmp_path / "in.mkv"), Track("aac"), Track("ac3"))
    items, info = record(tmp_path / "in.mkv")
    container = unpack_streams(items[0][1])
    first, second = container.streams
    for wrong in (
        replace(first, parameters=first.parameters[: len(first.parameters) // 3]),
        replace(first, parameters=b"\x1aE\xdf\xa3" + bytes(200)),
        replace(first, parameters=b""),
        replace(first, parameters=second.parameters),
        replace(first, carrier="concat", parameters=b"ffconcat version 1.0\nfile /etc/passwd\n"),
        replace(first, facts={"layout": "no such layout"}),
    ):
        changed = replace(container, streams=(wrong, second))
        with pytest.raises(BitstreamError):
            play([(STREAMS, pack_streams(changed)), *items[1:]], info, tmp_path / "no.mkv")


def test_file_objects_are_read_like_paths(tmp_path: Path) -> None:
    film(str(tmp_path / "in.mp4"), Track("aac", seconds=6), frames=150, gop=25)
    inner = io.BytesIO((tmp_path / "in.mp4").read_bytes())
    by_path, _ = record(tmp_path / "in.mp4", start=3)
    by_object, _ = record(inner, start=3)
    assert [item for item in by_object if item[0] != CHUNK] == [item for item in by_path if item[0] != CHUNK]
