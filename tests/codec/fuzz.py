"""Files forged with right checksums, read in every way: each is a clean error or a result, at little cost.

What is changed is what a stranger can write: keys of the header and of the description of copied streams, places and
times of chunks, columns of packets, the index, the order of records. Checksums, index and footer are then made right
again. Run as a program for longer: `python -m tests.codec.fuzz --seconds 180 --seed 1`.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvcodec.bitstream import BitstreamReader
from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.chunk import unpack_info
from cvcodec.bitstream.header import unpack_header
from cvcodec.bitstream.records import pack_record
from cvcodec.bitstream.trailer import Ledger, pack_trailer
from cvcodec.bitstream.wire import Cursor, put_sized_block, put_uvarint, take_sized_block
from cvcodec.cli.info import describe
from cvcodec.codec import DecodeOptions, EncodeOptions, LatentFile, WriterOptions, decode_stream, encode_file
from cvcodec.codec.input import verify
from cvcodec.dataset import LatentDataset
from cvcodec.errors import CvcodecError
from tests.bitstream.test_stream import records_of
from tests.codec.clips import Pipe
from tests.codec.movies import Track, film
from tests.codec.patch_model import PatchModel

SECONDS, MEMORY = 15.0, 1.5e9
"""Most processor time for one file in any way of reading it, and most memory of the process."""

WILD: list[Any] = [
    *(
        None,
        True,
        False,
        "",
        "x",
        "a\x1b[31m[/x]",
        "9" * 400,
        "1/0",
        "é\u202e",
        [],
        {},
        [[]],
        [0, 0],
        [1, 0],
        {"a": {}},
    ),
    *(0, 1, -1, 2, 3, 7, 100, 255, 257, 4096, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**62, 2**63 - 1),
    *(2**63, 2**64, -(2**63), 10**300, 0.0, -0.5, 0.99, 1.5, 1e-300, 1e38, 1e308, -1e308),
]
TOLD: dict[str, Any] = {
    "start_time": [1, 3],
    "display_matrix": [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30],
    "mastering_display": {
        **{color: ["53/200", "17/25"] for color in ("red", "green", "blue", "white")},
        "min_luminance": "1/10000",
        "max_luminance": "1000",
    },
    "content_light": {"max_content": 1000, "max_frame_average": 400},
    "source_reader": {"stream": 0, "deinterlace": False, "background": "white"},
    "batch": {"source_id": "a", "settings": "b"},
}
"""What the metadata of headers say of their sources, as this program writes it."""


def make_files(folder: Path) -> list[bytes]:
    """Files with everything in them."""
    source = folder / "film.mkv"
    film(
        str(source),
        *(Track("aac", seconds=0.6), Track("libopus", seconds=0.6)),
        frames=15,
        subtitle="subrip",
        chapters=True,
        attachments=[("a.txt", "text/plain", b"hello")],
        metadata={"title": "Film"},
    )
    files = []
    for latents, logvar in (("quantised", False), ("fp16", True)):
        options = EncodeOptions(
            device="cpu",
            precision="fp32",
            latents=latents,  # type: ignore[arg-type]
            store_logvar=logvar,
            metadata=TOLD if logvar else {},
        )
        encode_file(source, folder / "film.cvl", model=PatchModel(), options=options, overwrite=True)
        files.append((folder / "film.cvl").read_bytes())
    return files


def forged(data: bytes, rng: np.random.Generator) -> bytes:
    """A few of the things that a stranger may change, and everything that must then agree made so."""
    pieces = [(piece[:4].decode(), piece[11:-4]) for piece in records_of(data)]
    for _ in range(_few(rng)):
        at = int(rng.integers(len(pieces) - 2))
        if rng.random() < 0.4:  # the two that say most
            at = 0 if rng.random() < 0.6 else next((n for n, (kind, _) in enumerate(pieces) if kind == "STRM"), 0)
        kind, payload = pieces[at]
        choice = rng.random()
        if choice < 0.04:
            pieces.insert(at, pieces[int(rng.integers(len(pieces) - 2))])
        elif choice < 0.08:
            del pieces[at]
        else:
            pieces[at] = kind, _CHANGES.get(kind, _bytes)(payload, rng)
        if len(pieces) < 4:
            break
    return _joined(pieces, rng)


def _joined(pieces: list[tuple[str, bytes]], rng: np.random.Generator) -> bytes:
    """Records, with index and footer that fit them, unless the index is what was forged."""
    out = bytearray(b"\x89CVL\r\n\x01\x00")
    ledger = Ledger()
    header = None
    trailer = next((payload for kind, payload in pieces if kind == "TRLR"), b"")
    for kind, payload in pieces:
        if kind in ("TRLR", "FOOT"):
            continue
        record = pack_record(kind, payload, required=kind in ("HEAD", "CHNK"))
        try:
            header = unpack_header(payload) if kind == "HEAD" else header
            info = unpack_info(payload, header) if kind == "CHNK" and header is not None else None
            ledger.add(kind, len(record), struct.unpack("<I", record[-4:])[0], info)
        except CvcodecError:
            header = None
        out += record
    offset = len(out)
    if ledger.entries:
        trailer = pack_trailer(ledger.trailer(), ledger.entries[0].offset if header is None else _head_end(out))
    if rng.random() < 0.15:
        trailer = _sized(trailer, rng)
    out += pack_record("TRLR", trailer, required=True)
    return bytes(out + pack_record("FOOT", struct.pack("<Q", offset), required=True))


def _head_end(data: bytes | bytearray) -> int:
    return 8 + fmt.RECORD_OVERHEAD + int(struct.unpack_from("<I", data, 13)[0])


def _bytes(payload: bytes, rng: np.random.Generator, front: int = 1 << 30) -> bytes:
    """Another byte, fewer, or more, within the first `front`."""
    changed = bytearray(payload)
    for _ in range(_few(rng)):
        at = int(rng.integers(min(front, len(changed)) + 1))
        match int(rng.integers(8)):
            case 0:
                changed[at : at + 1] = rng.bytes(1)
            case 1:
                del changed[at : at + int(rng.integers(1, 9))]
            case 2:
                changed[at : at + 1] = put_uvarint(int(rng.choice([0, 1, 4096, 2**31, 2**48, 2**63 - 1])))
            case 3:
                changed[at:at] = bytes(int(rng.integers(1, 9)))
            case _ if at < len(changed):  # most often still a varint of as many bytes
                changed[at] = changed[at] & 0x80 | int(rng.integers(128))
    return bytes(changed)


def _sized(payload: bytes, rng: np.random.Generator, dictionary: bytes | None = None) -> bytes:
    """The content of the sized block at the start changed."""
    cursor = Cursor(payload, "fuzz")
    content = take_sized_block(cursor, 1 << 26, "content", dictionary)
    return put_sized_block(_bytes(content, rng), dictionary) + cursor.rest()


def _json(values: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Another value somewhere, or a key more or less."""
    for _ in range(_few(rng)):
        places = list(_places(values))
        holder, key = places[int(rng.integers(len(places)))]
        value, choice = holder[key], rng.random()
        if choice < 0.05:
            del holder[key]
        elif choice < 0.5 and type(value) is int:
            holder[key] = [value + 1, value - 1, 2 * value, -value, value // 2][int(rng.integers(5))]
        else:
            alike = [wild for wild in WILD if choice > 0.9 or type(wild) is type(value)]
            holder[key] = alike[int(rng.integers(len(alike)))] if alike else None
    return values


def _few(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.7 else int(rng.integers(2, 4))


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield values, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _described(dictionary: bytes | None) -> Callable[[bytes, np.random.Generator], bytes]:
    def change(payload: bytes, rng: np.random.Generator) -> bytes:
        cursor = Cursor(payload, "fuzz")
        values = json.loads(take_sized_block(cursor, fmt.MAX_JSON, "JSON", dictionary))
        if dictionary is not None and rng.random() < 0.5:
            name = list(TOLD)[int(rng.integers(len(TOLD)))]
            values["metadata"] = {**values.get("metadata", {}), name: json.loads(json.dumps(TOLD[name]))}
        rest = cursor.rest()
        if rest and rng.random() < 0.3:
            rest = _bytes(rest, rng)
        return put_sized_block(json.dumps(_json(values, rng)).encode(), dictionary) + rest

    return change


def _chunk(payload: bytes, rng: np.random.Generator) -> bytes:
    """Place, time stamps or latents changed."""
    cursor = Cursor(payload, "fuzz")
    place = [cursor.uvarint(2**48, "place") for _ in range(5)]
    times = take_sized_block(cursor, 1 << 20, "times")
    rest = cursor.rest()
    match int(rng.integers(4)):
        case 0:
            number = int(rng.integers(5))
            place[number] = int(rng.choice([0, 1, 2, place[number] + 1, 4096, 2**31, 2**47]))
        case 1 | 2:
            times = _bytes(times, rng)
        case 3:
            rest = _bytes(rest, rng, 600)
    return b"".join(map(put_uvarint, place)) + put_sized_block(times) + rest


def _packets(payload: bytes, rng: np.random.Generator) -> bytes:
    cursor = Cursor(payload, "fuzz")
    head = [cursor.uvarint(2**48, "head") for _ in range(2)]
    columns = take_sized_block(cursor, 1 << 26, "columns")
    if rng.random() < 0.2:
        head[int(rng.integers(2))] = int(rng.choice([0, 1, 2, 3, 2**12, 2**20]))
    else:
        columns = _bytes(columns, rng)
    return b"".join(map(put_uvarint, head)) + put_sized_block(columns) + cursor.rest()


_CHANGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "HEAD": _described(fmt.HEADER_DICTIONARY),
    "STRM": _described(None),
    "CHNK": _chunk,
    "PKTS": _packets,
}


def _decode(source: Any, container: str, *, salvage: bool = False) -> None:
    options = DecodeOptions(device="cpu", precision="fp32", salvage=salvage, writer=WriterOptions(container=container))
    decode_stream(source, io.BytesIO(), model=PatchModel(), options=options)


def _open(path: Path) -> None:
    with LatentFile(path, model=PatchModel(), device="cpu", precision="fp32") as file:
        file.pts(0, min(20, file.frame_count))
        assert file.latents[-1:].dtype == np.float32
        assert file.frames[:2].ndim == 4
        if file.header.logvar:
            assert file.logvar[:1].dtype == np.float32


def _info(data: bytes) -> None:
    reader = BitstreamReader(io.BytesIO(data))
    assert reader.trailer is not None
    json.dumps(describe(reader.header, reader.trailer, duration_s=float(reader.duration())))


def ways(data: bytes, path: Path) -> dict[str, Callable[[], object]]:
    """Every way of reading a file."""
    return {
        "info": lambda: _info(data),
        "check": lambda: verify(io.BytesIO(data)),
        "check of a pipe": lambda: verify(Pipe(data)),  # type: ignore[arg-type]
        "decode": lambda: _decode(io.BytesIO(data), "matroska"),
        "decode to mp4": lambda: _decode(io.BytesIO(data), "mp4"),
        "salvage": lambda: _decode(io.BytesIO(data), "matroska", salvage=True),
        "open": lambda: _open(path),
        "dataset": lambda: LatentDataset([path], latents=1)[0],
    }


def fuzz(folder: Path, *, seed: int, cases: int | None = None, seconds: float | None = None) -> Counter[str]:
    """Outcomes by the way of reading. Anything that is no error of ours is a defect, and raised; so is what costs more
    than `SECONDS` or `MEMORY`."""
    files = make_files(folder)
    path = folder / "forged.cvl"
    outcomes: Counter[str] = Counter()
    begun = time.monotonic()
    number = 0
    while number != cases and (seconds is None or time.monotonic() - begun < seconds):
        rng = np.random.default_rng([seed, number])
        data = forged(files[number % len(files)], rng)
        path.write_bytes(data)
        for name, way in ways(data, path).items():
            used = time.process_time()
            try:
                way()
                outcomes[f"{name}: done"] += 1
            except CvcodecError as error:
                lines = str(error).count("\n")
                outcomes[f"{name}: {type(error).__name__}" + " of several lines" * (lines > 0)] += 1
            except BaseException as error:
                error.add_note(f"case {number} of seed {seed}, {name}; the file is {path}")
                raise
            used = time.process_time() - used
            assert used < SECONDS, f"case {number} of seed {seed} took {used:.1f} s to {name}: {path}"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert memory < MEMORY, f"case {number} of seed {seed} took {memory / 1e9:.2f} GB: {path}"
        number += 1
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = Path(tempfile.mkdtemp(prefix="cvcodec-fuzz-"))
    for outcome, count in sorted(fuzz(made, seed=arguments.seed, seconds=arguments.seconds).items()):
        sys.stdout.write(f"{count:6d}  {outcome}\n")
