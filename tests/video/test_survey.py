"""When frames are shown, against what a reader gives; small pictures."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvcodec.errors import InputError
from cvcodec.video import VideoReader
from cvcodec.video.survey import SmallPicture, look_through

UNEVEN = [0, 25, 50, 90, 91, 300, 325, 350, 375, 700]


@pytest.mark.parametrize("fps", [None, 4, 8, Fraction(30000, 1001)])
@pytest.mark.parametrize(
    ("name", "codec", "pts"),
    [
        ("a.mp4", "libx264", None),
        ("a.mkv", "libx264", UNEVEN),
        ("a.ts", "libx264", None),
        ("a.avi", "mpeg4", None),
        ("a.webm", "libvpx-vp9", None),
    ],
)
def test_times_are_those_of_a_reader(make: Any, tmp_path: Path, name: str, codec: str, pts: Any, fps: Any) -> None:
    base = Fraction(1, 600) if pts else Fraction(1, 25)
    make.encode(str(tmp_path / name), make.moving(64, 48, 10), codec=codec, pts=pts, time_base=base)
    for on_picture in (None, lambda number, picture: None):
        times = look_through(tmp_path / name, on_picture=on_picture)
        with VideoReader(tmp_path / name, fps=fps) as reader:
            wanted = [frame.pts * reader.info.time_base for frame in reader]
        assert [time for time, _ in times.at(fps)] == wanted


def test_each_frame_gives_a_small_picture_in_its_order(make: Any, tmp_path: Path) -> None:
    make.encode(str(tmp_path / "a.mp4"), make.moving(640, 480, 5))
    seen: list[tuple[int, SmallPicture]] = []
    look_through(tmp_path / "a.mp4", on_picture=lambda number, picture: seen.append((number, picture)))
    assert [number for number, _ in seen] == list(range(5))
    assert {picture.shape for _, picture in seen} == {(192, 256, 3)}
    with VideoReader(tmp_path / "a.mp4") as reader:
        means = [frame.pixels.mean() for frame in reader]
    assert np.allclose([picture.mean() for _, picture in seen], means, atol=1.5)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(InputError):
        look_through(tmp_path / "a.mp4")
