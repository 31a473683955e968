"""Counting packets, against what was written."""

import os
from fractions import Fraction
from pathlib import Path

import av
import pytest

from cvcodec.errors import UsageError
from cvcodec.video import VideoReader
from cvcodec.video.sizes import stream_bytes
from cvcodec.video.source import refuse_pipe
from tests.codec.movies import FONT, Track, film
from tests.video.clips import pictures, write


def written(path: Path, kind: str) -> int:
    with av.open("file:" + str(path)) as container:
        chosen = [s for s in container.streams if s.type == kind]
        return sum(packet.size for packet in container.demux(chosen))


@pytest.mark.parametrize("suffix", ["mkv", "nut", "mp4", "flv", "ts"])
def test_frames_and_seconds_are_the_pictures_where_sound_lasts_longer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    film(path, Track(seconds=6.0, start=-2048 if suffix == "mkv" else 0), frames=50)
    held = stream_bytes(path)
    assert (held.frames, float(held.duration or 0)) == (50, pytest.approx(2.0, abs=0.002))
    assert held.others == written(path, "audio")
    assert held.video + held.user_data == pytest.approx(written(path, "video"), abs=60)  # parameter sets
    assert held.last is not None
    with VideoReader(path) as reader:
        *_, last = reader
        assert held.last == last.pts * reader.info.time_base


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_matroskas_tags_tell_the_length_of_the_picture_without_counting(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "silent.webm", pictures(48, 32, 30), codec="libvpx-vp9")
    path = tmp_path / f"a.{suffix}"
    with av.open(str(tmp_path / "silent.webm")) as source, av.open(str(path), "w") as output:
        picture, sound = output.add_stream_from_template(source.streams.video[0]), output.add_stream("libopus")
        samples = av.AudioFrame(format="s16", layout="stereo", samples=48000 * 3)
        samples.sample_rate, samples.pts, samples.time_base = 48000, 0, Fraction(1, 48000)
        resampler = av.AudioResampler(format=sound.format, layout="stereo", rate=48000, frame_size=960)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = picture
                output.mux(packet)
        for part in [*resampler.resample(samples), *resampler.resample(None)]:
            output.mux(sound.encode(part))
        output.mux(sound.encode(None))
    with VideoReader(path) as reader:
        assert float(reader.info.duration or 0) == pytest.approx(1.001, abs=0.01)
        assert reader.expected_frames == 30 == len(list(reader))
    assert stream_bytes(path).frames == 30


def test_the_stream_that_is_counted_can_be_chosen_and_files_are_none_of_its_packets(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    film(path, frames=10, attachments=[("a.ttf", "font/ttf", FONT)])
    assert stream_bytes(path)[1:3] == (0, 10)
    assert stream_bytes(path, stream=1)[:3] == (0, written(path, "video"), None)


def test_names_that_look_like_protocols_and_patterns_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    film("file:12:30.mp4", frames=5, container="mp4")
    assert stream_bytes("12:30.mp4").frames == 5
    write("100%_1:2_%03d.png", pictures(16, 8, 3))
    assert stream_bytes("100%_1:2_%03d.png")[:3] == (sum(os.path.getsize(f) for f in os.listdir() if "_" in f), 0, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_file_that_is_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mkv")
    ends = os.pipe()
    try:
        for name in (tmp_path / "pipe.mkv", f"/dev/fd/{ends[0]}"):
            with pytest.raises(UsageError, match=r"--target reads the video more than once, which a pipe .* cannot"):
                refuse_pipe(name, "--target")
    finally:
        os.close(ends[0])
        os.close(ends[1])
    refuse_pipe(tmp_path, "--target")
    refuse_pipe("absent.mkv", "--target")


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_reader_tells_the_bytes_of_the_packets_of_the_frames_it_gave(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    film(path, Track(seconds=2.0), frames=50)
    with VideoReader(path) as reader:
        frames = list(reader)
        assert reader.stream_bytes(frames[0].pts, frames[-1].pts) == written(path, "video")
    with VideoReader(path, start=0.8, end=1.2) as reader:
        frames = list(reader)
        given = reader.stream_bytes(frames[0].pts, frames[-1].pts)
    with av.open("file:" + str(path)) as container:
        video = container.streams.video[0]
        packets = [packet for packet in container.demux(video) if packet.size]
        wanted = [packet.size for packet in packets if 0.8 <= float(packet.pts * packet.time_base) < 1.2]
    assert len(frames) == len(wanted) == 10
    assert given == sum(wanted)
