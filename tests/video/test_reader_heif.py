"""HEIF and AVIF: grids of tiles are one picture, sequences are videos."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cvcodec.errors import InputError
from cvcodec.video import VideoReader, probe
from tests.passthrough.relay import through
from tests.video.clips import read
from tests.video.conftest import plane_views
from tests.video.heif import grid, still

COLOURS = [(60, 90, 160), (90, 160, 90), (120, 110, 180), (150, 140, 60), (180, 60, 128), (210, 128, 128)]


def plain(color: tuple[int, int, int]) -> av.VideoFrame:
    frame = av.VideoFrame(64, 64, "yuv420p")
    for plane, value in zip(plane_views(frame), color, strict=True):
        plane[...] = value
    return frame


@pytest.mark.parametrize(("columns", "width", "height"), [(3, 180, 120), (1, 64, 380), (2, 127, 141)])
def test_a_grid_of_tiles_is_one_picture(columns: int, width: int, height: int) -> None:
    data = io.BytesIO(grid([plain(color) for color in COLOURS], columns, width, height))
    (frame,) = read(data)
    assert frame.pixels.shape == (height, width, 3)
    for number, color in enumerate(COLOURS):
        (alone,) = read(io.BytesIO(still(plain(color))))
        top, left = number // columns * 64, number % columns * 64
        inside = frame.pixels[top + 4 : min(top + 60, height), left + 4 : min(left + 60, width)]
        assert np.array_equal(inside, alone.pixels[4 : 4 + inside.shape[0], 4 : 4 + inside.shape[1]])
        assert inside.size


def test_a_grid_is_turned_as_the_file_asks() -> None:
    tiles = [plain(color) for color in COLOURS]
    (upright,), (turned,) = (read(io.BytesIO(grid(tiles, 3, 180, 120, turn=turn))) for turn in (0, 1))
    assert np.array_equal(turned.pixels, np.rot90(upright.pixels))


def test_tiles_are_no_streams_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.avif").write_bytes(grid([plain(color) for color in COLOURS], 3, 180, 120))
    assert not [notice for notice in through(tmp_path / "a.avif", tmp_path / "a.mkv") if "stream" in notice]
    assert probe(tmp_path / "a.avif").stream_count == 1
    with pytest.raises(InputError, match="has video streams 0 to 0"):
        VideoReader(tmp_path / "a.avif", stream=1)


def test_a_grid_with_too_few_tiles_is_refused() -> None:
    with pytest.raises(InputError, match="wants 4x2 tiles of 64x64, the file has 6"):
        VideoReader(io.BytesIO(grid([plain(color) for color in COLOURS], 3, 200, 120)))


def test_an_animated_avif_is_its_sequence_and_not_its_cover(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avif"), "w", format="avif") as output:
        stream = output.add_stream("libsvtav1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number, color in enumerate(COLOURS):
            frame = plain(color)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with VideoReader(tmp_path / "a.avif") as reader:
        frames = list(reader)
    assert [frame.pts * reader.info.time_base for frame in frames] == [Fraction(number, 10) for number in range(6)]
    assert len(read(tmp_path / "a.avif", stream=0)) == 1  # the cover, where it is asked for
