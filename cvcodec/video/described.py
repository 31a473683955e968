"""What PyAV tells of an input container only in words: FFmpeg's own description of it, taken apart.

Owns: the form of that description. Does not know: what its facts are used for.
"""

import re
from typing import Any, NamedTuple

import av.logging

from cvcodec.video.libav import captured_log

UNKNOWN = "unknown"
"""Name of a codec that FFmpeg does not know."""


def codec_name(stream: Any) -> str:
    """FFmpeg's name of a stream's codec, also where it has no decoder for it; `UNKNOWN` where it has no name either."""
    found = re.match(r"\w+: (?!none\b)(\w+)", _description(stream))
    return found[1] if found else UNKNOWN


def cropping(stream: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) that the container asks for: Matroska's cropping, the clean aperture of MP4 and MOV.
    FFmpeg leaves it to the application."""
    found = re.search(r"^ +Frame [Cc]ropping: (\d+)/(\d+)/(\d+)/(\d+)$", _description(stream), re.MULTILINE)
    left, right, top, bottom = (int(value) for value in found.groups()) if found else (0, 0, 0, 0)
    return top, bottom, left, right


class TileGrid(NamedTuple):
    """A picture in tiles. rotation: degrees anticlockwise by which it is shown. streams: indices of the tiles, row by
    row. default: it is the file's main picture."""

    width: int
    height: int
    rotation: int
    streams: tuple[int, ...]
    default: bool


def tile_grids(container: Any) -> list[TileGrid]:
    """The grids of an input container."""
    with captured_log(av.logging.VERBOSE):
        text: str = container.dumps_format()
    found = []
    for group in re.split(r"^  (?=Stream )", text, flags=re.MULTILINE)[1:]:
        head = group.splitlines()[0]
        if size := re.match(r"Stream group #\S+: Tile Grid: .* (\d+)x(\d+)(?: |$)", head):
            turn = re.search(r"^      Display Matrix: rotation of (-?[\d.]+) degrees", group, re.MULTILINE)
            tiles = re.findall(r"^    Stream #\d+:(\d+)", group, re.MULTILINE)
            rotation = round(float(turn[1])) if turn else 0
            found.append(TileGrid(int(size[1]), int(size[2]), rotation, tuple(map(int, tiles)), "(default)" in head))
    return [grid for grid in found if grid.streams]


def _description(stream: Any) -> str:
    """Of one stream: `Audio: aac (LC), ...` and the lines of its tags and side data."""
    with captured_log(av.logging.INFO):
        text: str = stream.container.dumps_format()
    _, *parts = re.split(r"^  Stream #\d+:(\d+)[^ ]*: ", text, flags=re.MULTILINE)
    return dict(zip(map(int, parts[::2]), parts[1::2], strict=True)).get(stream.index, "")
