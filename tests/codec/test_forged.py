"""What a stranger can write into a file whose checksums are right: refused at the door, by every way of reading it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cvcodec.bitstream import BitstreamReader, BitstreamWriter, ColorTags, Header
from cvcodec.bitstream.format import CHNK
from cvcodec.codec import DecodeOptions, Decoder, decode
from cvcodec.codec.headers import info_from_header
from cvcodec.codec.input import verify
from cvcodec.errors import BitstreamError, DeviceError
from cvcodec.passthrough.records import COPIED_TYPES, pack_packets, pack_streams, unpack_packets, unpack_streams
from cvcodec.windows.specs import Official, Tile, Window
from tests.codec.fuzz import TOLD, fuzz, make_files, ways
from tests.codec.patch_model import PatchModel

WAYS = ("check", "check of a pipe", "decode", "decode to mp4", "salvage", "open", "dataset")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_files(tmp_path_factory.mktemp("forged"))[0]


def rewritten(
    data: bytes, change: Callable[[str, bytes], bytes] = lambda kind, payload: payload, **fields: Any
) -> bytes:
    """The file with other fields in its header and other payloads in its optional records."""
    reader = BitstreamReader(io.BytesIO(data))
    sink = io.BytesIO()
    with BitstreamWriter(sink, reader.header.replace(**fields)) as writer:
        for record in reader.records(COPIED_TYPES):
            if record.type == CHNK:
                writer.write_chunk(reader.decode(record))
            else:
                writer.write_record(record.type, change(record.type, record.payload))
    return sink.getvalue()


def refusals(data: bytes, path: Path) -> set[str]:
    path.write_bytes(data)
    refused = set()
    for name, way in ways(data, path).items():
        try:
            way()
        except BitstreamError:
            refused.add(name)
    return refused


def metadata(**told: Any) -> dict[str, Any]:
    return {"metadata": told}


def spoiled(tile: Tile, *, size: int) -> Tile:
    """As another program may write it."""
    object.__setattr__(tile, "size", size)
    return tile


MASTERING = TOLD["mastering_display"]

IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "blend longer than its window": {"encode_window": Window(kept=1, context_before=3, context_after=4096, blend=100)},
    "blend in time, which nothing writes": {
        "decode_window": Window(kept=4, context_before=2, context_after=2, blend=1)
    },
    "tile smaller than its context": {"decode_tile": spoiled(Tile(size=9, context=3, blend=1), size=6)},
    "official chunk of odd length": {
        "windows": "official",
        "official": Official(chunk_frames=257, tile_pixels=16, tile_overlap=0.25),
    },
    "official tiles that leave gaps": {
        "windows": "official",
        "official": Official(chunk_frames=16, tile_pixels=18, tile_overlap=0.3),
    },
    "colours of no name": {"color": ColorTags(matrix="bt709", range="wide")},
    "mastering display that is a number": metadata(mastering_display=2**62),
    "mastering display of one coordinate": metadata(mastering_display={**MASTERING, "red": ["1"]}),
    "mastering display of a fraction that takes for ever": metadata(
        mastering_display={**MASTERING, "max_luminance": "1e999999999"}
    ),
    "mastering display of a division by zero": metadata(mastering_display={**MASTERING, "max_luminance": "1/0"}),
    "content light of text": metadata(content_light={"max_content": "1000", "max_frame_average": 400}),
    "content light that is negative": metadata(content_light={"max_content": 1000, "max_frame_average": -1}),
    "display matrix of eight": metadata(display_matrix=[1, 0, 0, 0, 1, 0, 0, 0]),
    "display matrix beyond 32 bits": metadata(display_matrix=[0, 2**31, 0, 0, 1, 0, 0, 0, 1]),
    "start that is a division by zero": metadata(start_time=[1, 0]),
    "start that is text": metadata(start_time="0"),
    "reader of a stream before the first": metadata(source_reader={"stream": -1}),
    "reader that is text": metadata(source_reader="\x1b[31m"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_header_that_says_what_cannot_be_is_refused_by_every_way_of_reading(
    data: bytes, tmp_path: Path, name: str
) -> None:
    # `info` alone tells what the header says of the source, whatever it is.
    assert refusals(rewritten(data, **IMPOSSIBLE[name]), tmp_path / "x.cvl") - {"info"} == set(WAYS)


def test_a_header_that_says_what_can_be_is_read_by_all_and_means_what_it_says(data: bytes, tmp_path: Path) -> None:
    told = rewritten(data, metadata=TOLD)
    assert refusals(told, tmp_path / "x.cvl") == set()
    info = info_from_header(BitstreamReader(io.BytesIO(told)).header)
    assert info.mastering_display is not None
    assert info.mastering_display.to_dict() == MASTERING
    assert info.content_light is not None
    assert info.content_light.to_dict() == TOLD["content_light"]
    assert (info.display_matrix, info.start_time.denominator) == (tuple(TOLD["display_matrix"]), 3)


def test_a_file_of_another_geometry_than_its_models_is_refused(data: bytes, tmp_path: Path) -> None:
    header: Header = BitstreamReader(io.BytesIO(data)).header
    assert (header.width, header.height, header.spatial_factor) == (48, 32, 4)
    other = rewritten(data, width=24, height=16, spatial_factor=2)  # the same grid of latents
    assert refusals(other, tmp_path / "x.cvl") == {"decode", "decode to mp4", "salvage", "open"}


def test_parameters_of_sound_that_no_container_can_be_given_are_found_by_the_check(data: bytes, tmp_path: Path) -> None:
    def another_codec(kind: str, payload: bytes) -> bytes:
        if kind != "STRM":
            return payload
        container = unpack_streams(payload)
        streams = tuple(replace(one, codec="flac") if one.codec == "aac" else one for one in container.streams)
        return pack_streams(replace(container, streams=streams))

    forged = rewritten(data, another_codec)
    with pytest.raises(BitstreamError, match="wanted audio flac"):
        verify(io.BytesIO(forged))
    assert refusals(forged, tmp_path / "x.cvl") == {"check", "check of a pipe", "decode", "decode to mp4"}


def test_a_sound_file_passes_the_check_from_a_file_and_from_a_pipe(tmp_path: Path) -> None:
    for file in make_files(tmp_path):
        assert refusals(file, tmp_path / "x.cvl") == set()


def test_packets_and_chapters_at_times_that_no_container_can_say_are_refused(data: bytes, tmp_path: Path) -> None:
    def late_packets(kind: str, payload: bytes) -> bytes:
        if kind != "PKTS":
            return payload
        first, *others = unpack_packets(payload)
        return pack_packets([first, *(one._replace(pts=2**61, dts=2**61) for one in others)])

    def late_chapters(kind: str, payload: bytes) -> bytes:
        if kind != "STRM":
            return payload
        container = unpack_streams(payload)
        assert container.chapters
        return pack_streams(replace(container, chapters=tuple(replace(one, end=2**62) for one in container.chapters)))

    for change in (late_packets, late_chapters):
        with pytest.raises(BitstreamError, match="times end at"):
            verify(io.BytesIO(rewritten(data, change)))
        refused = refusals(rewritten(data, change), tmp_path / "x.cvl")
        assert refused == {"check", "check of a pipe", "decode", "decode to mp4"}
    assert refusals(rewritten(data, time_base=Fraction(2**31 - 1, 7)), tmp_path / "x.cvl") >= {"check", "decode"}


def test_frames_that_memory_cannot_hold_are_refused_before_the_model_runs(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PatchModel()  # windows of two latents, one of context on either side: 13 frames at once, of 15
    options = DecodeOptions(device="cpu", precision="fp32")
    needed = 48 * 32 * 13 * 3 * 4
    monkeypatch.setattr(decode, "available_memory", lambda device: needed - 1)
    with pytest.raises(DeviceError, match="13 frames of 48x32"):
        Decoder(io.BytesIO(data), model=model, options=options)
    assert model.decoded == []
    monkeypatch.setattr(decode, "available_memory", lambda device: needed)
    assert len(list(Decoder(io.BytesIO(data), model=model, options=options).frames())) == 15


def test_forged_files_are_clean_errors_or_results_at_little_cost(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, seed=0, cases=40)
    assert outcomes["check: done"] > 2
    assert outcomes["check: BitstreamError"] > 10
    assert outcomes["salvage: done"] > 10
    assert not any("several lines" in outcome for outcome in outcomes)
