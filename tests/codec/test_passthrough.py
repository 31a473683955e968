"""Sound and the rest through records and back, without a model: the frames go through as they are."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.stream import Disposition

from cvcodec.bitstream.copied import (
    ATTACHMENT,
    PACKETS,
    STREAMS,
    pack_packets,
    pack_streams,
    unpack_packets,
    unpack_streams,
)
from cvcodec.codec.passthrough import PassthroughPlayer, PassthroughRecorder
from cvcodec.errors import BitstreamError, OutputError
from cvcodec.video import VideoReader, VideoWriter
from tests.codec.clips import Pipe, Sink
from tests.codec.movies import ASS, CHAPTERS, FONT, Found, Track, film, jpeg, streams, times

CHUNK = "CHNK"


def record(source: Any, chunk: int = 16, notices: list[str] | None = None, **options: Any) -> tuple[list[Any], Any]:
    """Records and chunks (lists of frames) in the order of a file, and what the video is."""
    reading = {key: options.pop(key) for key in ("start", "end", "frames", "threads") if key in options}
    recorder = PassthroughRecorder(on_notice=None if notices is None else notices.append, **options)
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
    limits = {key: options[key] for key in ("begin", "end") if key in options}
    playing = {key: options.pop(key) for key in ("kinds", "metadata", "begin", "end", "salvage") if key in options}
    player = PassthroughPlayer(on_notice=None if notices is None else notices.append, **playing)
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
ALIKE = [
    *(("mp4", codec) for codec in ("aac", "mp3", "opus", "flac", "ac3", "eac3", "alac", "pcm_s16le")),
    *(("mkv", codec) for codec in SOUND if codec != "alac"),
    *(("mov", codec) for codec in ("aac", "mp3", "alac", "ac3", "pcm_s16le", "pcm_s24le", "pcm_s16be")),
]


@pytest.mark.parametrize(("container", "codec"), ALIKE)
def test_packets_and_their_times_come_back_as_they_were(container: str, codec: str, tmp_path: Path) -> None:
    source, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    film(str(source), SOUND[codec])
    assert through(source, target) == []
    before, after = streams(str(source), "audio")[0], streams(str(target), "audio")[0]
    assert len(before.packets) >= 4
    assert after.packets == before.packets  # times, durations, bytes, keyframes, priming and padding
    assert (after.codec, after.extradata, after.time_base) == (before.codec, before.extradata, before.time_base)
    assert after.duration == before.duration
    assert times(str(target)) == times(str(source))


@pytest.mark.parametrize("start", [12345, 1, 4096])
@pytest.mark.parametrize("video_start", [0, 38477])
def test_starts_of_sound_and_picture_are_kept_to_the_tick_in_mp4(start: int, video_start: int, tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    film(
        str(source),
        Track("aac", 44100, start=start),
        video_pts=[video_start + 512 * number for number in range(50)],
        container_options={"movie_timescale": "5644800"},  # of 12800 and 44100 a multiple: the source is exact
    )
    assert through(source, target) == []
    before, after = streams(str(source), "audio")[0], streams(str(target), "audio")[0]
    assert before.packets[0].time == Fraction(start - 1024, 44100)
    assert after.packets == before.packets
    assert times(str(target)) == times(str(source)) == [Fraction(video_start + 512 * n, 12800) for n in range(50)]


@pytest.mark.parametrize("codec", ["aac", "mp3", "opus", "flac", "ac3"])
def test_mp4_to_mkv_keeps_priming_and_moves_nothing_but_to_milliseconds(codec: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mkv"
    film(str(source), SOUND[codec])
    assert all("milliseconds" in notice for notice in through(source, target))
    before, after = streams(str(source), "audio")[0], streams(str(target), "audio")[0]
    assert data(after) == data(before)
    assert max(abs(a.time - b.time) for a, b in zip(after.packets, before.packets, strict=True)) <= Fraction(1, 2000)
    assert after.packets[0].skip[0] == before.packets[0].skip[0]  # samples before zero, which are not heard
    assert times(str(target)) == times(str(source))


@pytest.mark.parametrize("codec", ["aac", "mp3", "opus"])
def test_mkv_to_mp4_counts_in_samples_again(codec: str, tmp_path: Path) -> None:
    source, target, reference = tmp_path / "in.mkv", tmp_path / "out.mp4", tmp_path / "reference.mp4"
    film(str(source), SOUND[codec])
    film(str(reference), SOUND[codec])  # written by FFmpeg from the encoder: what the times were before rounding
    through(source, target)
    wanted, after = streams(str(reference), "audio")[0], streams(str(target), "audio")[0]
    assert data(after) == data(streams(str(source), "audio")[0])
    assert [packet.time for packet in after.packets] == [packet.time for packet in wanted.packets]
    assert after.packets[0].skip == wanted.packets[0].skip
    assert times(str(target)) == times(str(source))


def test_adts_headers_of_a_transport_stream_go_by_the_named_filter_and_nothing_else(tmp_path: Path) -> None:
    source, target = tmp_path / "in.ts", tmp_path / "out.mp4"
    film(str(source), Track("aac", 44100, start=4000), Track("mp2", 48000))
    notices = through(source, target)
    assert notices == ["audio stream 1: AAC loses its ADTS headers (bitstream filter aac_adtstoasc)"]
    (aac, mp2), (plain, same) = streams(str(source), "audio"), streams(str(target), "audio")
    assert all(item[:2] in (b"\xff\xf1", b"\xff\xf0") for item in data(aac))
    assert data(plain) == [item[7:] for item in data(aac)]  # ISO 13818-7: seven bytes without a checksum
    assert plain.extradata == bytes.fromhex("1210")  # low complexity, 44100 Hz, two channels
    assert data(same) == data(mp2)
    for before, after in ((aac, plain), (mp2, same)):
        rate = 44100 if after is plain else 48000
        offsets = [a.time - b.time for a, b in zip(after.packets, before.packets, strict=True)]
        assert max(map(abs, offsets)) <= Fraction(1, 2 * rate)
    assert times(str(target)) == times(str(source))


@pytest.mark.parametrize(("container", "subtitle"), [("mp4", "mov_text"), ("mkv", "ass"), ("mkv", "subrip")])
def test_two_tracks_subtitles_chapters_languages_and_dispositions_survive(
    container: str, subtitle: str, tmp_path: Path
) -> None:
    source, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    film(
        str(source),
        Track("aac", 44100, metadata={"language": "eng", "title": "Main"}, disposition=Disposition.default),
        Track("ac3", 48000, metadata={"language": "deu", "title": "Talk"}, disposition=Disposition.comment),
        subtitle=subtitle,
        chapters=True,
        metadata={"title": "Film", "artist": "A. Person", "date": "2001"},
        video_metadata={"language": "jpn", "title": "Picture"},
    )
    assert through(source, target) == []
    with av.open(str(source)) as before, av.open(str(target)) as after:
        kinds = [stream.type for stream in after.streams]
        assert kinds[:4] == ["video", "audio", "audio", "subtitle"]
        assert kinds == [stream.type for stream in before.streams]
        for old, new in zip(before.streams, after.streams, strict=True):
            assert new.disposition == old.disposition
            told = {key: value for key, value in old.metadata.items() if key not in ("DURATION", "encoder", "ENCODER")}
            assert told.items() <= new.metadata.items()
        assert [stream.metadata["language"] for stream in list(after.streams)[:4]] == ["jpn", "eng", "deu", "fra"]
        wanted = {k: v for k, v in before.metadata.items() if k.lower() not in ("encoder", "major_brand")}
        assert wanted.items() <= after.metadata.items()
        assert len(wanted) >= 3
        for chapters in (before.chapters(), after.chapters()):
            got = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in chapters]
            assert got == [(Fraction(c["start"], 1000), Fraction(c["end"], 1000), c["metadata"]) for c in CHAPTERS]
    for kind in ("audio", "subtitle"):
        for old, new in zip(streams(str(source), kind), streams(str(target), kind), strict=True):
            assert new.packets == old.packets
            assert new.codec == old.codec
    if subtitle == "ass":
        assert ASS.startswith(streams(str(target), "subtitle")[0].extradata.decode().rstrip().replace("\r\n", "\n"))


def test_fonts_and_cover_art_survive_in_matroska_and_the_cover_in_mp4(tmp_path: Path) -> None:
    source, target, other = tmp_path / "in.mkv", tmp_path / "out.mkv", tmp_path / "out.mp4"
    files = [("cover.jpg", "image/jpeg", jpeg()), ("a.ttf", "font/ttf", FONT), ("b.otf", "font/otf", FONT[::-1])]
    film(str(source), Track(), attachments=files)
    assert through(source, target) == []
    with av.open(str(target)) as after:
        fonts = [(s.metadata["filename"], s.metadata["mimetype"], s.data) for s in after.streams.attachments]
        assert fonts == files[1:]
        (picture,) = [s for s in after.streams.video if s.disposition & Disposition.attached_pic]
        assert picture.metadata["filename"] == "cover.jpg"
        assert bytes(next(p for p in after.demux(picture) if p.size)) == jpeg()
    notices = through(source, other)
    assert notices == [f"attachment '{name}' is left out: .mp4 cannot hold it; .mkv can" for name, *_ in files[1:]]
    with av.open(str(other)) as after:
        (picture,) = [s for s in after.streams.video if s.disposition & Disposition.attached_pic]
        assert bytes(next(p for p in after.demux(picture) if p.size)) == jpeg()
    again = tmp_path / "again.mkv"
    through(other, again)
    with av.open(str(again)) as after:
        (picture,) = [s for s in after.streams.video if s.disposition & Disposition.attached_pic]
        assert bytes(next(p for p in after.demux(picture) if p.size)) == jpeg()


def test_cues_of_webvtt_keep_their_settings(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    film(str(source), Track("libopus"), subtitle="webvtt")
    through(source, target)
    with av.open(str(target)) as after:
        packet = next(packet for packet in after.demux(after.streams.subtitles[0]) if packet.size)
        assert bytes(packet) == b"Hello"
        assert bytes(packet.get_sidedata("webvtt_settings")) == b"align:start"
        assert bytes(packet.get_sidedata("webvtt_identifier")) == b"first"


@pytest.mark.parametrize(
    ("source", "subtitle", "target", "codec", "filtered"),
    [
        ("in.mp4", "mov_text", "out.mkv", "subrip", "mov2textsub"),
        ("in.mkv", "subrip", "out.mp4", "mov_text", "text2movsub"),
    ],
)
def test_plain_subtitles_change_containers_by_a_named_filter(
    source: str, subtitle: str, target: str, codec: str, filtered: str, tmp_path: Path
) -> None:
    film(str(tmp_path / source), Track(), subtitle=subtitle)
    notices = through(tmp_path / source, tmp_path / target)
    assert any(f"{subtitle} becomes {codec} (bitstream filter {filtered})" in notice for notice in notices)
    (found,) = streams(str(tmp_path / target), "subtitle")
    texts = [(p.time, p.duration, p.data[2:] if codec == "mov_text" else p.data) for p in found.packets]
    assert found.codec == codec
    assert [item for item in texts if item[2]] == [
        (Fraction(200, 1000), Fraction(700, 1000), b"Hello"),
        (Fraction(1000, 1000), Fraction(500, 1000), b"Bye"),
    ]


@pytest.mark.parametrize(
    ("track", "subtitle", "target", "told"),
    [
        (Track("wavpack", 44100), None, "out.mp4", "audio stream 1 (wavpack)"),
        (Track("aac"), "ass", "out.mp4", "subtitle stream 2 (ass)"),
        (Track("aac"), None, "out.webm", "audio stream 1 (aac)"),
        (Track("libopus"), None, "out.mov", "audio stream 1 (opus)"),
    ],
)
def test_what_a_container_cannot_hold_is_named_with_a_way_out(
    track: Track, subtitle: str | None, target: str, told: str, tmp_path: Path
) -> None:
    film(str(tmp_path / "in.mkv"), track, subtitle=subtitle)
    items, info = record(tmp_path / "in.mkv")
    with pytest.raises(OutputError, match=r"use \.mkv, or --no-audio") as caught:
        play(items, info, tmp_path / target, preset=None)
    assert told in str(caught.value)
    assert Path(target).suffix in str(caught.value)
    play(items, info, tmp_path / target, kinds=(), preset=None)
    assert times(str(tmp_path / target)) == times(str(tmp_path / "in.mkv"))


def test_webm_takes_opus_and_webvtt(tmp_path: Path) -> None:
    film(str(tmp_path / "in.mkv"), Track("libopus"), subtitle="webvtt", frames=6)
    items, info = record(tmp_path / "in.mkv")
    play(items, info, tmp_path / "out.webm", preset=None)
    for kind in ("audio", "subtitle"):
        assert (
            streams(str(tmp_path / "out.webm"), kind)[0].packets == streams(str(tmp_path / "in.mkv"), kind)[0].packets
        )


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_variable_frame_rate_and_sound_longer_than_the_picture(container: str, tmp_path: Path) -> None:
    source, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    steps = [512 * (1 + number % 3 + 8 * (number == 20)) for number in range(30)]
    pts = [sum(steps[:number]) for number in range(30)]
    film(str(source), Track("aac", seconds=9.0), frames=30, video_pts=pts)
    through(source, target)
    assert streams(str(target), "audio")[0].packets == streams(str(source), "audio")[0].packets
    assert times(str(target)) == times(str(source))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sound_alone_in_front_of_the_picture_and_sound_that_comes_late(container: str, tmp_path: Path) -> None:
    source, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    film(
        str(source),
        Track("aac", 44100, seconds=1.0),
        Track("ac3", 48000, start=6 * 48000, seconds=1.0),
        Track("aac", 48000, start=7 * 48000, seconds=1.0),
        video_pts=[12800 * 4 + 512 * number for number in range(100)],
        frames=100,
        container_options={"movie_timescale": "28224000"} if container == "mp4" else {},
    )
    through(source, target)
    for old, new in zip(streams(str(source), "audio"), streams(str(target), "audio"), strict=True):
        assert new.packets == old.packets
    assert times(str(target)) == times(str(source))


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
    silent, info = record(source, kinds=(), metadata=False)
    assert [kind for kind, _ in silent] == [CHUNK] * 4
    untold, _ = record(source, metadata=False)
    told, _ = record(source)
    assert not any(b"Secret" in payload for kind, payload in untold if kind != CHUNK)
    for items, options in ((untold, {}), (told, {"metadata": False})):
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
    recorder = PassthroughRecorder()
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


def test_a_resumed_recorder_goes_on_where_the_file_ends(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    film(str(source), Track("aac"), Track("ac3"), chapters=True, frames=100, attachments=())
    whole, _ = record(source)
    places = [number for number, item in enumerate(whole) if item[0] == CHUNK]
    recorder = PassthroughRecorder()
    with VideoReader(source, on_packet=recorder.on_packet) as reader:
        recorder.begin(reader)
        frames = list(reader)
        recorder.resume(frames[32].pts)  # chunks 0 to 2 are in the file
        rest: list[Any] = []
        for first in range(48, len(frames), 16):
            rest += [*recorder.take([frame.pts for frame in frames[first : first + 16]]), (CHUNK, None)]
        rest += recorder.take(None)
    wanted = whole[places[2] + 1 :]
    assert [item[1] for item in rest if item[0] != CHUNK] == [item[1] for item in wanted if item[0] != CHUNK]
    assert [item[0] for item in rest] == [item[0] for item in wanted]


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


def test_a_negative_start_of_the_picture_shifts_everything_alike(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    film(str(source), Track("pcm_s16le"))
    items, info = record(source)
    early = [
        (kind, [replace(frame, pts=frame.pts - 200) for frame in content] if kind == CHUNK else content)
        for kind, content in items
    ]
    play(early, info, target)
    assert times(str(target))[0] == 0
    offset = streams(str(target), "audio")[0].packets[0].time
    assert offset == Fraction(200, 1000)


def test_file_objects_are_read_like_paths(tmp_path: Path) -> None:
    film(str(tmp_path / "in.mp4"), Track("aac", seconds=6), frames=150, gop=25)
    inner = io.BytesIO((tmp_path / "in.mp4").read_bytes())
    by_path, _ = record(tmp_path / "in.mp4", start=3)
    by_object, _ = record(inner, start=3)
    assert [item for item in by_object if item[0] != CHUNK] == [item for item in by_path if item[0] != CHUNK]
