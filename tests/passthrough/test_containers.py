"""What surrounds the picture comes back as it was, in containers alike and in others."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from cvcodec.errors import OutputError
from tests.codec.movies import ASS, CHAPTERS, FONT, Track, film, jpeg, streams, times
from tests.passthrough.relay import CHUNK, SOUND, data, play, record, through

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


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_sound_whose_times_do_not_increase_is_kept_and_said(container: str, tmp_path: Path) -> None:
    plain, source, target = tmp_path / "plain.mkv", tmp_path / "in.mkv", tmp_path / f"out.{container}"
    film(str(plain), SOUND["aac"])
    with av.open(str(plain)) as old, av.open(str(source), "w") as new:
        kept = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        last, sounds = 0, 0
        for packet in old.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":
                sounds += 1
                if sounds in (9, 10):  # three packets of one time
                    packet.pts = packet.dts = last
                last = packet.dts
            packet.stream = kept[packet.stream.index]
            new.mux(packet)
    notices = through(source, target)
    before, after = streams(str(source), "audio")[0], streams(str(target), "audio")[0]
    assert data(after) == data(before)
    strict = container != "mkv"
    told = [notice for notice in notices if "did not increase" in notice]
    assert len(told) == strict
    found = [packet.time for packet in after.packets]
    assert found == sorted(found)
    assert not strict or len(set(found)) == len(found)


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


PHONE = {
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.location.ISO6709": "+52.5200+013.4050+034.000/",
    "com.android.version": "14",
    "location": "+52.5200+013.4050/",
    "title": "Berlin",
}


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("target", ["a.mp4", "a.mov", "a.mkv"])
def test_tags_of_phones_come_back_in_every_container(container: str, target: str, tmp_path: Path) -> None:
    source, out = tmp_path / f"in.{container}", tmp_path / target
    flags = {} if container == "mkv" else {"movflags": "use_metadata_tags"}
    film(str(source), Track(), frames=6, metadata=PHONE, container_options=flags)
    through(source, out)
    with av.open(str(out)) as found:
        tags = {name.lower(): value for name, value in found.metadata.items()}
    assert {name: tags.get(name.lower()) for name in PHONE} == PHONE


def test_ordinary_tags_stay_in_the_boxes_that_every_player_reads(tmp_path: Path) -> None:
    film(str(tmp_path / "in.mp4"), frames=6, metadata={"title": "Berlin"})
    through(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert b"\xa9nam" in (tmp_path / "out.mp4").read_bytes()
    assert b"mdta" not in (tmp_path / "out.mp4").read_bytes()


def test_tags_of_a_stream_that_the_container_cannot_hold_are_named(tmp_path: Path) -> None:
    sound = Track(metadata={"title": "Voices", "SCENE": "4", "BPS": "64000"})
    film(str(tmp_path / "in.mkv"), sound, frames=6, video_metadata={"TAKE": "2"})
    notices = through(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert [notice for notice in notices if "tags" in notice] == [
        ".mp4 cannot hold these tags of the video: TAKE",
        ".mp4 cannot hold these tags of audio stream 1: SCENE",
    ]
    assert not any("tags" in notice for notice in through(tmp_path / "in.mkv", tmp_path / "out.mkv"))
