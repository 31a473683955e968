"""Header: what is kept, what it costs, what is refused."""

import json
import math
import zlib
from fractions import Fraction

import numpy as np
import pytest

from cvcodec.bitstream import ColorTags
from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.header import pack_header, unpack_header
from cvcodec.bitstream.wire import Cursor, dump_json, load_json, put_sized_block, take_sized_block
from cvcodec.errors import BitstreamError, UnsupportedError
from cvcodec.windows.specs import Official, Tile, Window
from tests.bitstream.samples import make_header


def text_of(payload: bytes) -> dict:
    return json.loads(take_sized_block(Cursor(payload, "test"), fmt.MAX_JSON, "JSON", fmt.HEADER_DICTIONARY))


def changed(**changes) -> bytes:
    values = text_of(pack_header(make_header()))
    for name, value in changes.items():
        if value is KeyError:
            del values[name]
        else:
            values[name] = value
    return put_sized_block(json.dumps(values).encode(), fmt.HEADER_DICTIONARY)


def test_every_field_comes_back_exactly():
    header = make_header(
        windows="official",
        official=Official(chunk_frames=16, tile_pixels=576, tile_overlap=0.2222),
        encode_tile=Tile(size=64, context=8, blend=4),
        decode_tile=Tile(size=48),
        scaling_factor=1.5305,
        shift_factor=0.0609,
        pixel_range=(0.0, 1.0),
        color=ColorTags(matrix="bt2020nc", range="full", primaries="bt2020", transfer="smpte2084"),
        bit_depth=10,
        sample_aspect_ratio=Fraction(64, 45),
        rotation=270,
        average_rate=None,
        logvar=True,
        metadata={"title": "Zoë ☃ 𝄞", "chapters": [{"start": -5, "end": 2**60}], "empty": None},
    )
    assert unpack_header(pack_header(header)) == header


@pytest.mark.parametrize("latents", ["fp16", "fp32"])
def test_float_files_have_no_quantiser(latents):
    header = make_header(latents=latents, steps=(), offsets=(), quality=None)
    assert unpack_header(pack_header(header)) == header
    assert header.quantizer is None


def test_steps_and_offsets_are_hex_digits_of_little_endian_float32():
    text = text_of(pack_header(make_header(steps=(0.5, 1.0, 2.0, 4.0))))
    assert text["steps"] == "0000003f0000803f0000004000008040"


def test_steps_keep_every_bit_of_awkward_floats():
    steps = np.array([0.1, 1 / 3, 2.0**-60, 16777217.0], np.float32)
    header = unpack_header(pack_header(make_header(steps=tuple(steps.tolist()))))
    assert header.quantizer.steps.tobytes() == steps.tobytes()


def test_a_header_of_16_channels_takes_little_more_than_its_random_bits():
    rng = np.random.default_rng(0)
    steps = tuple(rng.uniform(0.1, 2, 16).astype(np.float32).tolist())
    offsets = tuple(rng.normal(0, 1, 16).astype(np.float32).tolist())
    payload = pack_header(make_header(latent_channels=16, steps=steps, offsets=offsets, model="cvvae-mini-z16"))
    assert len(payload) < 128 + 8 + 8 + 16 + 140


def test_geometry_follows_from_size_padding_and_factor():
    header = make_header()
    assert header.padded_size == (128, 96)
    assert header.latent_size == (12, 16)
    assert header.chunk_shape(5) == (4, 5, 12, 16)


def test_unknown_keys_are_kept_and_written_again():
    header = unpack_header(changed(future={"a": [1, 2]}, another=3))
    assert header.extra == {"future": {"a": [1, 2]}, "another": 3}
    assert unpack_header(pack_header(header)) == header


def test_an_unknown_required_feature_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="'warp-drive'"):
        unpack_header(changed(requires=["warp-drive"], width=-1))


def test_optional_keys_may_be_missing():
    header = unpack_header(changed(rotation=KeyError, metadata=KeyError, quality=KeyError, bit_depth=KeyError))
    assert (header.rotation, header.metadata, header.quality, header.bit_depth) == (0, {}, None, 8)


@pytest.mark.parametrize(
    "change",
    [
        {"width": KeyError},
        {"model": KeyError},
        {"width": 0},
        {"width": 2**32},
        {"width": 10**400},
        {"width": "125"},
        {"width": 125.0},
        {"width": True},
        {"width": 65525, "height": 65530},
        {"height": 91},
        {"padding": [0, 0, 3]},
        {"padding": [0, 0, -5, 6]},
        {"latent_channels": 0},
        {"latent_channels": 257},
        {"latent_channels": 5},
        {"temporal_factor": 65},
        {"spatial_factor": 0},
        {"latents": "fp8"},
        {"latents": ["fp16"]},
        {"latent_kind": "sample"},
        {"windows": "none"},
        {"windows": "official"},
        {"encode_window": None},
        {"encode_window": [0, 0, 0, 0]},
        {"encode_window": [2**40, 0, 0, 0]},
        {"encode_window": [16, 0, 0]},
        {"encode_window": {"kept": 16}},
        {"encode_tile": [0, 0, 0]},
        {"decode_tile": 7},
        {"steps": "00" * 15},
        {"steps": "zz" * 16},
        {"steps": "00" * 16},
        {"steps": "ffffffff" * 4},
        {"steps": [1.0] * 4},
        {"offsets": "0000c07f" * 4},
        {"quality": 101},
        {"quality": "high"},
        {"scaling_factor": 0},
        {"scaling_factor": 10**400},
        {"pixel_range": [1, 1]},
        {"pixel_range": [1]},
        {"pixel_range": None},
        {"bit_depth": 7},
        {"bit_depth": 17},
        {"rotation": 360},
        {"time_base": [1, 0]},
        {"time_base": [2, 4]},
        {"time_base": [0, 1]},
        {"time_base": [1, -3]},
        {"time_base": [1, 2**31]},
        {"time_base": [1.5, 2]},
        {"time_base": None},
        {"average_rate": "25"},
        {"sample_aspect_ratio": [-1, 1]},
        {"color": None},
        {"color": {}},
        {"color": {"matrix": "bt709", "range": 3}},
        {"color": {"matrix": "x" * 257, "range": "full"}},
        {"metadata": []},
        {"metadata": "text"},
        {"tool": "line\nbreak"},
        {"model": 7},
        {"latent_space_id": ""},
        {"requires": "nothing"},
        {"requires": [[]]},
        {"logvar": 1},
    ],
)
def test_impossible_values_are_refused(change):
    with pytest.raises(BitstreamError):
        unpack_header(changed(**change))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"\xff\xfe{\x00}\x00",
        b'{"a":1',
        b"[" * 100_000,
        b'{"a":' * 17 + b"1" + b"}" * 17,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_texts_that_are_no_strict_json_object_are_refused(text):
    with pytest.raises(BitstreamError):
        load_json(text, "test")


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1, 2}, "\ud800", "x" * 2**20])
def test_metadata_that_is_no_json_is_refused_when_writing(value):
    with pytest.raises(ValueError, match=r"."):
        dump_json({"a": value})


def test_metadata_that_contains_itself_is_refused_when_writing():
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="deep"):
        pack_header(make_header(metadata={"loop": loop}))


def test_a_json_that_claims_4_gigabytes_is_refused():
    with pytest.raises(BitstreamError, match="at most"):
        unpack_header(bytes.fromhex("ffffffff0f") + b"\x01\x00")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"steps": (0.1, 0.5, 0.5, 0.5)},
        {"encode_window": None},
        {"time_base": 0.04},
        {"windows": "official"},
    ],
)
def test_impossible_headers_cannot_be_made(change):
    with pytest.raises(ValueError, match=r"."):
        make_header(**change)


def test_windows_have_limits():
    with pytest.raises(ValueError, match=r"window\.kept"):
        Window(kept=0)
    with pytest.raises(ValueError, match="overlap"):
        Official(chunk_frames=16, tile_pixels=576, tile_overlap=1.0)


def test_the_dictionary_of_version_1_never_changes():
    assert (len(fmt.HEADER_DICTIONARY), zlib.crc32(fmt.HEADER_DICTIONARY)) == (1417, 3209666021)
