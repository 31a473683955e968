"""Sound and subtitles that FFmpeg cannot decode, or that PyAV does not know a container to hold: copied where a muxer
takes them, else left out with a word; the picture never fails for them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from tests.codec.movies import Track, film, streams, times
from tests.passthrough.relay import through


def add_stream(source: Path, target: Path, codec: str, **options: Any) -> list[bytes]:
    """`source` with a stream of `codec` beside it, of three packets that are given back."""
    data = [bytes([number]) * 40 for number in range(3)]
    with av.open(str(source)) as film, av.open(str(target), "w") as output:
        film_output: Any = output
        (video,) = film.streams.video
        copy = film_output.add_stream_from_template(video, opaque=True)
        stream = film_output.add_mux_stream(codec, time_base=Fraction(1, 48000), **options)
        for packet in film.demux(video):
            if packet.size:
                packet.stream = copy
                output.mux(packet)
        for number, content in enumerate(data):
            made: Any = av.Packet(content)
            made.pts = made.dts = number * 1024
            made.duration, made.time_base, made.is_keyframe, made.stream = 1024, Fraction(1, 48000), True, stream
            output.mux(made)
    return data


def decoders(source: Path, kind: str) -> list[Any]:
    with av.open(str(source)) as container:
        return [stream.codec_context for stream in container.streams if stream.type == kind]


@pytest.mark.parametrize(
    ("kind", "codec", "tag", "options"),
    [("audio", "mpegh_3d_audio", b"mhm1", {"rate": 48000}), ("subtitle", "ttml", b"stpp", {})],
)
def test_streams_without_a_decoder_are_copied_where_the_container_takes_them(
    kind: str, codec: str, tag: bytes, options: dict[str, Any], tmp_path: Path
) -> None:
    plain, source, target = tmp_path / "plain.mp4", tmp_path / "in.mp4", tmp_path / "out.mp4"
    film(str(plain), frames=6)
    packets = add_stream(plain, source, codec, **options)
    assert decoders(source, kind) == [None]
    assert through(source, target) == []
    (before,), (after,) = streams(str(source), kind), streams(str(target), kind)
    assert [packet.data for packet in after.packets] == packets
    assert after.packets == before.packets
    assert tag in target.read_bytes()


def test_a_codec_that_ffmpeg_does_not_know_is_left_out_and_named(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    film(str(source), Track("alac", 44100))
    source.write_bytes(source.read_bytes().replace(b"alac", b"zzzz"))
    assert decoders(source, "audio") == [None]
    assert through(source, target) == ["audio stream 1 is not copied: FFmpeg does not know its codec"]
    assert streams(str(target), "audio") == []
    assert times(str(target)) == times(str(source))


def test_teletext_is_left_out_and_named(tmp_path: Path) -> None:
    plain, source, target = tmp_path / "plain.mp4", tmp_path / "in.ts", tmp_path / "out.mkv"
    film(str(plain), frames=6)
    add_stream(plain, source, "dvb_teletext")
    assert decoders(source, "subtitle") == [None]
    assert "subtitle stream 1 (dvb_teletext) is not copied: no container of ours can hold it" in through(source, target)
    assert len(times(str(target))) == 6


@pytest.mark.parametrize(
    ("track", "first"),
    [
        (Track("pcm_alaw", 8000, "mono"), "mov"),
        (Track("pcm_mulaw", 8000, "mono"), "avi"),
        (Track("wmav2", 44100, "mono", bit_rate=64000), "asf"),
    ],
)
def test_matroska_holds_what_its_muxer_takes_and_pyav_does_not_list(track: Track, first: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"in.{first}", tmp_path / "once.mkv", tmp_path / "twice.mkv"]
    film(str(paths[0]), track, container=first)
    for source, target in zip(paths, paths[1:], strict=False):
        through(source, target)
    found = [streams(str(path), "audio")[0] for path in paths]
    assert {item.codec for item in found} == {track.codec}
    assert len(found[0].packets) >= 2
    assert [[packet.data for packet in item.packets] for item in found[1:]] == [
        [packet.data for packet in found[0].packets]
    ] * 2
    with av.open(str(paths[2])) as container:  # decodes as the source does: block sizes are there too
        samples = sum(frame.samples for frame in container.decode(audio=0))
    with av.open(str(paths[0])) as container:
        assert samples == sum(frame.samples for frame in container.decode(audio=0))


def test_a_stream_that_no_output_holds_is_left_out_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "in.nut", tmp_path / "out.mp4"
    film(str(source), Track("pcm_u16be", 8000, "mono"), Track("aac"), container="nut")
    notices = through(source, target)
    assert "audio stream 1 (pcm_u16be) is left out: no container can hold it" in notices
    assert [found.codec for found in streams(str(target), "audio")] == ["aac"]
