"""Another rate by time, against FFmpeg's filter `fps` and against what nearest means."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest

from cvcodec.errors import UsageError
from cvcodec.video import VideoReader
from cvcodec.video.filters import Timed
from cvcodec.video.rate import FrameGrid, parse_fps
from tests.codec.clips import noise, write_rgb
from tests.video.clips import read

TICK = Fraction(1, 600)
SLIDES = [0, 600, 640, 1900, 1940, 3000]  # seconds apart, then quick ones
JITTER = [0, 25, 49, 76, 99, 125, 151, 174, 200, 226]


def ours(times: Sequence[int], rate: Fraction, last: int, base: Fraction = TICK) -> list[tuple[Fraction, int]]:
    """(time, number of the source's frame) of each frame; the last one lasts `last` ticks."""
    frames: list[Any] = [av.VideoFrame(16, 16, "gray") for _ in times]
    items = [Timed(frame, time, None) for frame, time in zip(frames, times, strict=True)]
    items[-1].duration = last
    grid = FrameGrid(times[0] * base, rate)
    return [(item.pts * grid.time_base, frames.index(item.frame)) for item in grid.frames(items, base)]


def ffmpegs(times: Sequence[int], rate: Fraction, last: int, rounding: str = "near") -> list[tuple[Fraction, int]]:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", f"video_size=16x16:pix_fmt=gray:time_base={TICK}"),
        graph.add("fps", f"fps={rate}:round={rounding}"),
        graph.add("buffersink"),
    ).configure()
    for number, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16), number, np.uint8), "gray")
        frame.pts, frame.time_base = time, TICK
        following = times[number + 1] if number + 1 < len(times) else time + last
        frame.duration = following - time
        graph.push(frame)
    graph.push(None)
    found = []
    while True:
        try:
            frame = graph.vpull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return found
        assert frame.pts is not None
        found.append((frame.pts * Fraction(frame.time_base), int(frame.to_ndarray()[0, 0])))


@pytest.mark.parametrize("rate", [24, 48, 60, 30])
def test_frames_are_repeated_as_ffmpeg_repeats_them(rate: int) -> None:
    times = [25 * number for number in range(24)]  # 24 a second
    assert ours(times, Fraction(rate), 25) == ffmpegs(times, Fraction(rate), 25)


@pytest.mark.parametrize("rate", [12, 8, 6, 4])
def test_every_nth_frame_is_kept_as_ffmpeg_keeps_what_is_on_screen(rate: int) -> None:
    times = [25 * number for number in range(48)]
    assert ours(times, Fraction(rate), 25) == ffmpegs(times, Fraction(rate), 25, "up")


@pytest.mark.parametrize("rate", [1, 2, 5, 15])
def test_what_stands_for_long_stays_until_the_next_is_due_as_in_ffmpeg(rate: int) -> None:
    times = [time for time in SLIDES if time not in (640, 1940)]  # no two within a period
    assert ours(times, Fraction(rate), 600) == ffmpegs(times, Fraction(rate), 600)


@pytest.mark.parametrize("rate", [Fraction(7), Fraction(10), Fraction(15), Fraction(24000, 1001)])
@pytest.mark.parametrize("times", [JITTER, [20 * n for n in range(40)], [16 * n for n in range(70)]])
def test_each_moment_has_the_nearest_frame(times: list[int], rate: Fraction) -> None:
    for moment, number in ours(times, rate, 20):
        nearest = min(abs(time * TICK - moment) for time in times)
        assert abs(times[number] * TICK - moment) <= nearest + Fraction(1, 49) / rate


def test_times_that_milliseconds_have_rounded_make_no_difference() -> None:
    exact = [20 * number for number in range(60)]  # 30 a second
    rounded = [round(1000 * time * TICK) for time in exact]
    for rate in (10, 15, 6, 60):
        made = ours(rounded, Fraction(rate), 33, Fraction(1, 1000))
        assert [number for _, number in made] == [number for _, number in ours(exact, Fraction(rate), 20)]


def test_times_are_exact_multiples_of_the_period_from_the_first_frame_on() -> None:
    times = [840 + 25 * number for number in range(24)]
    assert [moment for moment, _ in ours(times, Fraction(30000, 1001), 25)] == [
        Fraction(7, 5) + Fraction(1001 * number, 30000) for number in range(30)
    ]


@pytest.mark.parametrize("times", [[0], [5], [0, 1], [0, 1, 2]])
def test_what_is_shorter_than_a_period_is_one_frame(times: list[int]) -> None:
    assert len(ours(times, Fraction(2), 1)) == 1


@pytest.mark.parametrize("container", ["matroska", "nut"])
def test_a_clip_has_the_frames_that_the_whole_has(tmp_path: Path, container: str) -> None:
    source = str(tmp_path / "a.mkv")
    write_rgb(source, noise(80, 16, 16), container=container)
    whole = read(source, fps=10)
    assert [frame.pts for frame in whole] == list(range(32))
    assert {frame.duration for frame in whole} == {1}
    for first in (1, 17, 30):
        with VideoReader(source, fps=10, start=Fraction(first, 10), frames=2) as reader:
            clip = list(reader)
        assert [frame.pts for frame in clip] == [first, first + 1]
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(clip, whole[first : first + 2], strict=True))
        assert reader.info.time_base == Fraction(1, 10)
    with VideoReader(source, fps=10) as reader:
        assert reader.expected_frames == 32
        assert any("10 moments a second" in notice for notice in reader.notices)


@pytest.mark.parametrize("value", ["0", "-8", "8/0", "1e9", "1e999999999", "nan", "eight", "2000", ""])
def test_what_is_no_rate_is_refused(value: str) -> None:
    with pytest.raises(UsageError):
        parse_fps(value)
