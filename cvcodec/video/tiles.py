"""Pictures that HEIF and AVIF store as a grid of tiles: decoding the tiles and putting them together.

Does not know: files, colours, and the picture's edges, which `crop` says how to cut.
"""

import math
from typing import Any

import av
import av.error
import av.filter

from cvcodec.errors import InputError
from cvcodec.video.described import TileGrid
from cvcodec.video.libav import reason


def crop(name: str, grid: TileGrid, tile: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the tiles together that lie beyond the picture. tile: the first one's decoder.
    name: of the file, for messages. Raises InputError where there are too few tiles."""
    columns, rows = math.ceil(grid.width / tile.width), math.ceil(grid.height / tile.height)
    if columns * rows != len(grid.streams):
        wanted = f"{columns}x{rows} tiles of {tile.width}x{tile.height}"
        raise InputError(
            f"{name!r}: the picture of {grid.width}x{grid.height} wants {wanted}, the file has {len(grid.streams)}"
        )
    return 0, rows * tile.height - grid.height, 0, columns * tile.width - grid.width


def assembled(name: str, container: Any, grid: TileGrid) -> av.VideoFrame:
    """All tiles in their places. Raises InputError where one cannot be decoded or differs from the first."""
    tiles: dict[int, av.VideoFrame] = {}
    streams = [container.streams[index] for index in grid.streams]
    try:
        for packet in container.demux(streams):
            for frame in packet.decode():
                tiles.setdefault(packet.stream.index, frame)
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{name!r}: tile {len(tiles)} of the picture cannot be decoded: {reason(error)}") from error
    first = tiles.get(grid.streams[0])
    shape = None if first is None else (first.width, first.height, first.format.name)
    for number, index in enumerate(grid.streams):
        tile = tiles.get(index)
        if first is None or tile is None or (tile.width, tile.height, tile.format.name) != shape:
            raise InputError(f"{name!r}: tile {number} of the picture is missing or unlike the first")
    assert first is not None
    return _stacked([tiles[index] for index in grid.streams], math.ceil(grid.width / first.width))


def _stacked(tiles: list[av.VideoFrame], columns: int) -> av.VideoFrame:
    first = tiles[0]
    if len(tiles) == 1:
        return first
    graph = av.filter.Graph()
    places = "|".join(
        f"{number % columns * first.width}_{number // columns * first.height}" for number in range(len(tiles))
    )
    stack = graph.add("xstack", f"inputs={len(tiles)}:layout={places}")
    sink = graph.add("buffersink")
    what = f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}:time_base=1/1"
    inputs = [graph.add("buffer", what) for _ in tiles]
    for number, source in enumerate(inputs):
        source.link_to(stack, 0, number)
    stack.link_to(sink)
    graph.configure()
    for source, tile in zip(inputs, tiles, strict=True):
        tile.pts = 0
        source.push(tile)
        source.push(None)
    whole: Any = sink.pull()
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(whole, name, getattr(first, name))
    return whole  # type: ignore[no-any-return]
