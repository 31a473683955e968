"""AVIF pictures put together by hand (ISO/IEC 23008-12): tiles that FFmpeg encoded, and a grid of them."""

from __future__ import annotations

import io
import struct

import av

from tests.video.boxes import box, boxes, full


def still(frame: av.VideoFrame) -> bytes:
    """One picture as AVIF, by FFmpeg."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avif") as output:
        stream = output.add_stream("libsvtav1", rate=1, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
        frame.pts = 0
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


def grid(tiles: list[av.VideoFrame], columns: int, width: int, height: int, *, turn: int = 0) -> bytes:
    """A picture of width x height cut out of rows of tiles. turn: quarters anticlockwise by which it is shown."""
    coded, configuration = [], b""
    for tile in tiles:
        top = dict(boxes(still(tile)))
        coded.append(top[b"mdat"])
        properties = dict(boxes(top[b"meta"][4:]))[b"iprp"]
        found = dict(boxes(dict(boxes(properties))[b"ipco"]))
        configuration = box(b"av1C", found[b"av1C"])
    rows, count = len(tiles) // columns, len(tiles)
    grid_item = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    sizes = [len(data) for data in (*coded, grid_item)]
    ids = [*range(2, count + 2), 1]  # the grid is item 1, its data are last

    def meta(offset: int) -> bytes:
        places = b"".join(
            struct.pack(">HHHII", item, 0, 1, offset + sum(sizes[:number]), sizes[number])
            for number, item in enumerate(ids)
        )
        entries = [full(b"infe", struct.pack(">HH", 1, 0), b"grid", b"\0", version=2)]
        entries += [full(b"infe", struct.pack(">HH", item, 0), b"av01", b"\0", version=2) for item in ids[:-1]]
        own = [full(b"ispe", struct.pack(">II", width, height)), box(b"irot", bytes([turn]))]
        shared = [full(b"ispe", struct.pack(">II", tiles[0].width, tiles[0].height)), configuration]
        uses = struct.pack(">HBBB", 1, 2, 1, 0x82) + b"".join(
            struct.pack(">HBBB", item, 2, 3, 0x84) for item in ids[:-1]
        )
        return full(
            b"meta",
            full(b"hdlr", bytes(4), b"pict", bytes(13)),
            full(b"pitm", struct.pack(">H", 1)),
            full(b"iloc", bytes([0x44, 0]), struct.pack(">H", count + 1), places),
            full(b"iinf", struct.pack(">H", count + 1), *entries),
            full(b"iref", box(b"dimg", struct.pack(f">HH{count}H", 1, count, *ids[:-1]))),
            box(b"iprp", box(b"ipco", *own, *shared), full(b"ipma", struct.pack(">I", count + 1), uses)),
        )

    head = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    offset = len(head) + len(meta(0)) + 8
    return head + meta(offset) + box(b"mdat", *coded, grid_item)
