"""Header <-> the JSON text of a HEAD record, and JSON texts read strictly.

Keys are the fields of `Header`. Windows are [kept, context_before, context_after, blend], whose blend is 0 in all that
is written and decoded, tiles [size, context, blend], `official` [chunk_frames, tile_pixels, tile_overlap], ratios
[numerator, denominator], colours an object, `steps` and `offsets` the hex digits of little-endian float32 values.
`enhancement` is an object of `channels` and its own `steps` and `offsets`; files of one layer leave it out. Optional
keys may be missing: their defaults are `Header`'s.

Owns: this mapping, and what a JSON text from a file may be.
Does not know: ranges (`Header` and `windows.specs` check them themselves), records.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.header import FEATURES, ColorTags, Enhancement, Header
from cvcodec.bitstream.wire import Cursor, put_sized_block, take_sized_block
from cvcodec.errors import BitstreamError, UnsupportedError
from cvcodec.windows.specs import Official, Tile, Window

_FIELDS = {entry.name: entry for entry in dataclasses.fields(Header) if entry.name != "extra"}
_REQUIRED_KEYS = [
    name
    for name, entry in _FIELDS.items()
    if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
]


def pack_header(header: Header) -> bytes:
    """Payload of a HEAD record. ValueError where the metadata is no JSON or too much of it."""
    return put_sized_block(dump_header(header), fmt.HEADER_DICTIONARY)


def dump_header(header: Header) -> bytes:
    """The JSON text of a HEAD record. ValueError as `pack_header`."""
    clash = sorted(set(header.extra) & set(_FIELDS))
    if clash:
        raise ValueError(f"extra header keys are known fields: {', '.join(clash)}")
    values = dict(header.extra)
    for name in _FIELDS:
        values[name] = _TO_JSON.get(name, _same)(getattr(header, name))
    if header.enhancement is None:  # so that files of one layer are what they always were
        del values["enhancement"]
    return dump_json(values)


def unpack_header(payload: bytes) -> Header:
    """Inverse of `pack_header`. BitstreamError for anything malformed or out of range, UnsupportedError for a feature
    that this release does not know."""
    cursor = Cursor(payload, "header")
    text = take_sized_block(cursor, fmt.MAX_JSON, "JSON", fmt.HEADER_DICTIONARY)
    cursor.end()
    return load_header(text)


def load_header(text: bytes) -> Header:
    """Inverse of `dump_header`. Raises as `unpack_header`."""
    values = load_json(text, "header")
    requires = values.get("requires", [])
    if isinstance(requires, list):
        unknown = [repr(name)[:60] for name in requires if not (isinstance(name, str) and name in FEATURES)]
        if unknown:
            names = ", ".join(unknown[:4])
            raise UnsupportedError(f"file requires {names}, which this release does not know; update cvcodec")
    missing = [name for name in _REQUIRED_KEYS if name not in values]
    if missing:
        raise BitstreamError(f"header is malformed: it lacks {', '.join(missing)}")
    known: dict[str, Any] = {}
    try:
        for name in _FIELDS.keys() & values.keys():
            known[name] = _FROM_JSON.get(name, _same)(values[name])
        return Header(**known, extra={name: value for name, value in values.items() if name not in _FIELDS})
    except (ValueError, TypeError) as error:
        raise BitstreamError(f"header is malformed: {error}") from error


def dump_json(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON. ValueError for NaN, infinities, lone surrogates, deep nesting, and more than MAX_JSON bytes."""
    _check_nesting(values)
    try:
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        data = text.encode()
    except TypeError as error:
        raise ValueError(f"metadata is no JSON: {error}") from error
    if len(data) > fmt.MAX_JSON:
        raise ValueError(f"metadata takes {len(data)} bytes of JSON, at most {fmt.MAX_JSON} fit")
    return data


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object from a file. BitstreamError for anything that `format` does not allow."""
    try:
        values = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if not isinstance(values, dict):
            raise ValueError("its JSON is no object")
        dump_json(values)  # refuses numbers that became infinite, strings that are no text, deep nesting
    except (ValueError, RecursionError) as error:
        raise BitstreamError(f"{what} is malformed: {error}") from error
    return values


def _check_nesting(value: Any, depth: int = 0) -> None:
    if depth > fmt.MAX_JSON_DEPTH:
        raise ValueError(f"JSON nests more than {fmt.MAX_JSON_DEPTH} deep")
    if isinstance(value, (Mapping, list, tuple)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            _check_nesting(entry, depth + 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("JSON repeats a key")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON holds {name}")


def _same(value: Any) -> Any:
    return value


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError(f"wanted a list{'' if length is None else f' of {length}'}, got {ascii(value)[:40]}")
    return value


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _window(value: Any) -> Window:
    kept, before, after, blend = _list(value, 4)
    return Window(kept=kept, context_before=before, context_after=after, blend=blend)


def _tile(value: Any) -> Tile:
    size, context, blend = _list(value, 3)
    return Tile(size=size, context=context, blend=blend)


def _official(value: Any) -> Official:
    frames, pixels, overlap = _list(value, 3)
    return Official(chunk_frames=frames, tile_pixels=pixels, tile_overlap=overlap)


def _fraction(value: Any) -> Fraction:
    numerator, denominator = _list(value, 2)
    if type(numerator) is not int or type(denominator) is not int or denominator < 1:
        raise ValueError(f"wanted a numerator and a positive denominator, got {ascii(value)[:40]}")
    ratio = Fraction(numerator, denominator)
    if (ratio.numerator, ratio.denominator) != (numerator, denominator):
        raise ValueError(f"{numerator}/{denominator} is not in lowest terms")
    return ratio


def _color(value: Any) -> ColorTags:
    if not isinstance(value, dict):
        raise ValueError(f"color is {ascii(value)[:40]}, wanted an object")
    known = {entry.name for entry in dataclasses.fields(ColorTags)}
    return ColorTags(**{name: value[name] for name in known & value.keys()})


def _enhancement(value: Any) -> Enhancement:
    if not isinstance(value, dict) or "channels" not in value:
        raise ValueError(f"enhancement is {ascii(value)[:40]}, wanted an object with channels")
    steps, offsets = (_floats(value.get(name, "")) for name in ("steps", "offsets"))
    return Enhancement(channels=value["channels"], steps=steps, offsets=offsets)


def _floats(value: Any) -> tuple[float, ...]:
    if not isinstance(value, str) or len(value) % 8 or len(value) > 8 * fmt.MAX_CHANNELS or not value.isascii():
        raise ValueError("steps and offsets are hex digits of float32 values")
    return tuple(np.frombuffer(bytes.fromhex(value), "<f4").tolist())


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"metadata is {ascii(value)[:40]}, wanted an object")
    return value


def _hex(values: tuple[float, ...]) -> str:
    return np.array(values, "<f4").tobytes().hex()


def _layer(value: Enhancement) -> dict[str, Any]:
    return {"channels": value.channels, "steps": _hex(value.steps), "offsets": _hex(value.offsets)}


def _parts(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]


def _values(value: Window | Tile | Official) -> list[Any]:
    return list(dataclasses.astuple(value))


_WINDOWS = ("encode_window", "decode_window", "encode_tile", "decode_tile", "official")
_RATIOS = ("sample_aspect_ratio", "time_base", "average_rate")
_TUPLES = ("pixel_range", "padding", "requires")

_TO_JSON: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_WINDOWS, _optional(_values)),
    **dict.fromkeys(_RATIOS, _optional(_parts)),
    **dict.fromkeys(_TUPLES, list),
    **dict.fromkeys(("steps", "offsets"), _hex),
    "enhancement": _optional(_layer),
    "color": dataclasses.asdict,
    "metadata": dict,
}
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("encode_window", "decode_window"), _optional(_window)),
    **dict.fromkeys(("encode_tile", "decode_tile"), _optional(_tile)),
    "official": _optional(_official),
    **dict.fromkeys(_RATIOS, _optional(_fraction)),
    **dict.fromkeys(_TUPLES, lambda value: tuple(_list(value))),
    **dict.fromkeys(("steps", "offsets"), _floats),
    "enhancement": _optional(_enhancement),
    "color": _color,
    "metadata": _object,
}
