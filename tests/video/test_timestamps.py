"""Times that files have wrong: joined recordings, strays, B-frames in AVI. Every right time is known."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cvcodec.video import VideoReader
from cvcodec.video.sizes import stream_bytes
from cvcodec.video.timestamps import FrameClock
from tests.codec.movies import Track, film

SOUND = Track("mp2", seconds=2.0)


def times(path: Path, **options: Any) -> tuple[list[Fraction], dict[int, list[Fraction]], list[str]]:
    """Of the frames and of the packets of other streams, in seconds; and the notices."""
    others: dict[int, list[Fraction]] = {}

    def note(packet: Any) -> None:
        if packet is None:
            others.clear()
        elif packet.stream.type != "video":
            others.setdefault(packet.stream_index, []).append(packet.pts * packet.time_base)

    with VideoReader(path, on_packet=note, **options) as reader:
        base = reader.info.time_base
        return [frame.pts * base for frame in reader], others, reader.notices


def steps(moments: list[Fraction]) -> set[Fraction]:
    return {b - a for a, b in zip(moments, moments[1:], strict=False)}


def rewritten(source: Path, target: Path, change: Callable[[int, Any], None]) -> Path:
    """The packets of `source` with other times; `change` is given their number in their stream."""
    counts: dict[int, int] = {}
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        copies: dict[int, Any] = {s.index: output.add_stream_from_template(s) for s in container.streams}
        for packet in container.demux():
            if packet.size:
                index = packet.stream_index
                change(counts.setdefault(index, 0), packet)
                counts[index] += 1
                packet.stream = copies[index]
                output.mux(packet)
    return target


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    """Two recordings of 2 s with B-frames and sound, one behind the other; both begin at the same time."""
    film(str(tmp_path / "part.ts"), SOUND, container="mpegts")
    (tmp_path / "joined.ts").write_bytes((tmp_path / "part.ts").read_bytes() * 2)
    return tmp_path / "joined.ts"


def test_joined_recordings_go_on_where_the_first_ends_and_so_does_their_sound(joined: Path) -> None:
    alone, _, _ = times(joined.with_name("part.ts"))
    frames, others, notices = times(joined)
    assert len(frames) == 2 * len(alone) == 100
    assert steps(frames) == {Fraction(1, 25)}
    (sound,) = others.values()
    frame = Fraction(1152, 48000)
    assert sound[-1] - sound[0] == pytest.approx(2 + 83 * frame, abs=0.03)
    assert all(0 < step < 2 * frame for step in steps(sound))
    assert sum("joined" in notice for notice in notices) == 1


@pytest.mark.parametrize("start", [1.2, 1.9, 2.2, 3.0])
def test_a_trim_of_joined_recordings_is_a_slice_of_the_whole(joined: Path, start: float) -> None:
    whole, _, _ = times(joined)
    with VideoReader(joined) as reader:
        zero = reader.info.start_time
    assert times(joined, start=start)[0] == [time for time in whole if time - zero >= start]


def test_the_length_of_joined_recordings_is_that_of_both(joined: Path) -> None:
    assert stream_bytes(joined).duration == 4
    assert stream_bytes(joined.with_name("part.ts")).duration == 2


def stray(number: int, *, dts: bool) -> Callable[[int, Any], None]:
    """One packet of the video, an hour ahead."""

    def change(index: int, packet: Any) -> None:
        if index == number and packet.stream.type == "video":
            hour = round(3600 / packet.time_base)
            packet.pts += hour
            packet.dts += hour if dts else 0

    return change


@pytest.mark.parametrize("number", [0, 1, 7, 20])
def test_a_packet_stamped_an_hour_ahead_is_shown_between_its_neighbours(tmp_path: Path, number: int) -> None:
    film(str(tmp_path / "a.mp4"), Track(), frames=30)
    right, sound, _ = times(tmp_path / "a.mp4")
    source = rewritten(tmp_path / "a.mp4", tmp_path / "b.mp4", stray(number, dts=False))
    got, others, notices = times(source)
    assert len(got) == len(right)
    assert steps(got) == {Fraction(1, 25)}
    assert others == sound
    assert any("far from their neighbours'" in notice for notice in notices)


def test_a_packet_whose_both_times_are_an_hour_ahead_is_no_jump(tmp_path: Path) -> None:
    film(str(tmp_path / "a.ts"), SOUND, container="mpegts", frames=30)
    right, sound, _ = times(tmp_path / "a.ts")
    (tmp_path / "b.ts").write_bytes(an_hour_ahead(tmp_path / "a.ts", "video", 9))
    got, others, notices = times(tmp_path / "b.ts")
    assert got == right
    assert others == sound
    assert any("far from their neighbours'" in notice for notice in notices)


def an_hour_ahead(path: Path, kind: str, number: int) -> bytes:
    """An MPEG-TS with other times in one packet (ISO/IEC 13818-1, 2.4.3.7)."""
    with av.open(str(path)) as container:
        (stream,) = (s for s in container.streams if s.type == kind)
        packet = [p for p in container.demux(stream) if p.size][number]
    data = bytearray(path.read_bytes())
    stamps = [(packet.pts, 0x21)] if packet.pts == packet.dts else [(packet.pts, 0x31), (packet.dts, 0x11)]
    for ticks, mark in stamps:
        where = data.find(_stamp(ticks, mark), packet.pos)
        data[where : where + 5] = _stamp(ticks + 3600 * 90000, mark)
    return bytes(data)


def _stamp(ticks: int, mark: int) -> bytes:
    low, middle = ticks << 1 & 0xFE | 1, ticks >> 14 & 0xFE | 1
    return bytes((mark | (ticks >> 29 & 0xE), ticks >> 22 & 0xFF, middle, ticks >> 7 & 0xFF, low))


def test_sound_stamped_an_hour_ahead_does_not_take_the_rest_along(tmp_path: Path) -> None:
    film(str(tmp_path / "a.ts"), SOUND, container="mpegts")
    _, right, _ = times(tmp_path / "a.ts")
    (tmp_path / "b.ts").write_bytes(an_hour_ahead(tmp_path / "a.ts", "audio", 28))
    _, got, notices = times(tmp_path / "b.ts")
    (sound,), (wanted,) = got.values(), right.values()
    assert sound == pytest.approx(wanted, abs=0.002)
    assert any("far from their neighbours'" in notice for notice in notices)


@pytest.mark.parametrize("bframes", ["0", "2", "5"])
def test_frames_of_an_avi_with_b_frames_are_equally_long(make: Any, tmp_path: Path, bframes: str) -> None:
    make.encode(str(tmp_path / "a.avi"), make.moving(64, 48, 40), options={"bf": bframes, "b-adapt": "0"})
    with VideoReader(tmp_path / "a.avi") as reader:
        frames = list(reader)
    assert len(frames) == 40
    assert [frame.pts - frames[0].pts for frame in frames] == list(range(40))


def test_times_that_can_be_meant_stay_however_far_apart(make: Any, tmp_path: Path) -> None:
    pts = [0, 1, 2, 3, 4, 50_000, 50_001, 50_002, 50_003, 90_000]
    make.encode(str(tmp_path / "a.mp4"), make.moving(64, 48, 10), pts=pts, options={"bf": "2"})
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert [round(frame.pts * reader.info.time_base * 25) for frame in reader] == pts
        assert not [notice for notice in reader.notices if "guessed" not in notice]


class _Frame:
    def __init__(self, pts: int | None, dts: int | None) -> None:
        self.pts, self.dts = pts, dts


def clocked(*stamps: tuple[int | None, int | None], container: str = "matroska,webm") -> list[int]:
    clock = FrameClock(container, 10, lambda _: None)
    return [time for _, time in clock.times(_Frame(*stamp) for stamp in stamps)]


def test_the_times_of_decoding_are_taken_where_those_of_showing_go_back_more_often() -> None:
    """As libavcodec's `guess_correct_pts` gives them (but 50 for the last, which has no dts)."""
    stamps: list[tuple[int | None, int | None]] = [(100, 100), (90, 110), (80, 120), (70, 130), (60, 140), (50, None)]
    assert clocked(*stamps) == [100, 110, 120, 130, 140, 150]


def test_frames_without_times_follow_their_predecessors() -> None:
    assert clocked((None, None), (None, None), (40, None), (None, None)) == [0, 10, 40, 50]
    assert clocked((None, 5), (None, 25), (None, 45)) == [5, 25, 45]


def test_repeated_times_are_moved_by_one_tick() -> None:
    assert clocked((0, None), (10, None), (10, None), (20, None)) == [0, 10, 11, 20]


def test_random_times_increase_whatever_they_are() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        stamps = [
            tuple(None if rng.random() < 0.2 else int(value) for value in rng.integers(-50, 50, 2)) for _ in range(20)
        ]
        got = clocked(*stamps, container=str(rng.choice(["avi", "mpegts"])))  # type: ignore[arg-type]
        assert len(got) == 20
        assert all(b > a for a, b in zip(got, got[1:], strict=False))
