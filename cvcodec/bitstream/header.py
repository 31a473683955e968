"""The header record: everything a reader needs before the first chunk, and nothing that is known only later.

Keys of its JSON text are the fields of `Header`. Windows are [kept, context_before, context_after, blend], whose blend
is 0 in all that is written and decoded, tiles [size, context, blend], `official` [chunk_frames, tile_pixels,
tile_overlap], ratios [numerator, denominator], colours an object, `steps` and `offsets` the hex digits of little-endian
float32 values. `enhancement` is an object of `channels` and its own `steps` and `offsets`; files of one layer leave it
out. Optional keys may be missing: their defaults are `Header`'s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.wire import Cursor, dump_json, load_json, put_sized_block, take_sized_block
from cvcodec.errors import BitstreamError, UnsupportedError
from cvcodec.quantization import QUALITY_RANGE, Quantizer
from cvcodec.windows.specs import Official, Tile, Window

LATENT_TYPES: dict[str, np.dtype[Any]] = {
    "quantised": np.dtype(np.int32),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
}
"""What a chunk holds in memory, by `Header.latents`."""

LATENT_KINDS = ("mean",)
WINDOW_MODES = ("context", "official")
ENHANCEMENT = "enhancement"
FEATURES = frozenset({ENHANCEMENT})
"""Names in `Header.requires` that this release knows."""

MAX_NAME = 256
"""Characters of a name, id or digest."""

MAX_RATIO_PART = 2**31 - 1
"""Numerator and denominator of every ratio fit int32, as in libav."""


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """Colour description of the source, by libav's names; None: the source does not say."""

    matrix: str
    range: str
    primaries: str | None = None
    transfer: str | None = None
    guessed: bool = False
    """Whether matrix or range come from a rule instead of the source."""

    def __post_init__(self) -> None:
        for name in ("matrix", "range", "primaries", "transfer"):
            value = getattr(self, name)
            if value is not None or name in ("matrix", "range"):
                _name(value, f"color.{name}", empty=False)
        if not isinstance(self.guessed, bool):
            raise ValueError(f"color.guessed is {self.guessed!r}, wanted true or false")


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """The second layer of a latent, on the same grid: channels that only the video decoder reads."""

    channels: int
    """E, 1 to 256."""
    steps: tuple[float, ...] = ()
    """Quantiser step of each channel, exactly float32; empty unless the file is quantised."""
    offsets: tuple[float, ...] = ()
    """Quantiser offset of each channel, exactly float32; empty unless the file is quantised."""

    def __post_init__(self) -> None:
        _integer(self.channels, "enhancement.channels", 1, fmt.MAX_CHANNELS)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a `.cvl` file says before its first chunk. ValueError for anything outside the documented ranges."""

    model: str
    """Name of the model that encoded."""
    latent_space_id: str
    """Identity that weights must share to decode."""
    decoder_hash: str = ""
    """Identity of the decoder that belonged to the encoder; another one gives other pixels."""
    config_digest: str = ""
    """Digest of the model's config."""
    latent_kind: str = "mean"
    """`mean`: the mean of the posterior."""
    latent_channels: int
    """C, 1 to 256."""
    temporal_factor: int = 4
    """Frames per latent after the first, 1 to 64."""
    spatial_factor: int = 8
    """Pixels per latent side, 1 to 64."""
    scaling_factor: float = 1.0
    """A diffusion model sees (latent - shift_factor) * scaling_factor; the file's latents are not scaled."""
    shift_factor: float = 0.0
    """What is subtracted before scaling."""
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    """What code values 0 and 2**bit_depth - 1 are mapped to at the model's input."""

    latents: str = "quantised"
    """`quantised` (int32 symbols), `fp16` or `fp32` (the latents themselves)."""
    quality: float | None = None
    """Quality the steps were made for, 0 to 100; information only, the steps rule."""
    steps: tuple[float, ...] = ()
    """Quantiser step of each channel, exactly float32; empty unless quantised."""
    offsets: tuple[float, ...] = ()
    """Quantiser offset of each channel, exactly float32; empty unless quantised."""
    enhancement: Enhancement | None = None
    """The second layer, where the file has one; "requires" then names it."""
    logvar: bool = False
    """Whether an optional LVAR record follows each chunk."""

    windows: str = "context"
    """`context` (the two windows and tiles below) or `official` (the field of that name)."""
    encode_window: Window | None = None
    decode_window: Window | None = None
    encode_tile: Tile | None = None
    """None: whole frames."""
    decode_tile: Tile | None = None
    """None: whole frames."""
    official: Official | None = None

    width: int
    """Pixels of the source, without padding."""
    height: int
    """Pixels of the source, without padding."""
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels added left, above, right, below; with them both sides are multiples of spatial_factor."""
    bit_depth: int = 8
    """Bits of a decoded sample, 8 to 16."""
    color: ColorTags = field(default_factory=lambda: ColorTags(matrix="bt709", range="limited", guessed=True))
    sample_aspect_ratio: Fraction = Fraction(1)
    """Width to height of a pixel."""
    rotation: int = 0
    """Degrees, 0 to 359, clockwise, that a viewer turns the decoded picture."""
    time_base: Fraction
    """Seconds per unit of pts and duration."""
    average_rate: Fraction | None = None
    """Frames per second, where the source says so."""

    tool: str = ""
    """Program and version that wrote the file."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Any JSON object: container tags, chapters, mastering display, ..."""
    requires: tuple[str, ...] = ()
    """Features a reader must know to decode the file correctly."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the JSON form that this release does not know."""

    def __post_init__(self) -> None:
        for name in ("model", "latent_space_id", "decoder_hash", "config_digest", "tool"):
            _name(getattr(self, name), name, empty=name != "latent_space_id")
        _one_of(self.latent_kind, "latent_kind", LATENT_KINDS)
        _one_of(self.latents, "latents", tuple(LATENT_TYPES))
        _one_of(self.windows, "windows", WINDOW_MODES)
        _integer(self.latent_channels, "latent_channels", 1, fmt.MAX_CHANNELS)
        for name in ("temporal_factor", "spatial_factor"):
            _integer(getattr(self, name), name, 1, fmt.MAX_FACTOR)
        for name in ("scaling_factor", "shift_factor"):
            _number(getattr(self, name), name)
        if self.scaling_factor <= 0:
            raise ValueError(f"scaling_factor is {self.scaling_factor}, wanted more than 0")
        low_and_high = [_number(value, "pixel_range") for value in self.pixel_range]
        if len(low_and_high) != 2 or low_and_high[0] >= low_and_high[1]:
            raise ValueError(f"pixel_range is {self.pixel_range}, wanted a low and a high end")
        if self.quality is not None and not QUALITY_RANGE[0] <= _number(self.quality, "quality") <= QUALITY_RANGE[1]:
            raise ValueError(f"quality is {self.quality}, wanted 0 to 100")
        if not isinstance(self.logvar, bool):
            raise ValueError(f"logvar is {_short(self.logvar)}, wanted true or false")
        self._check_quantizer()
        self._check_windows()
        self._check_geometry()
        _integer(self.bit_depth, "bit_depth", 8, 16)
        _integer(self.rotation, "rotation", 0, 359)
        for name in ("sample_aspect_ratio", "time_base", "average_rate"):
            value = getattr(self, name)
            if value is not None or name != "average_rate":
                _ratio(value, name)
        for feature in self.requires:
            _name(feature, "requires", empty=False)
        if (self.enhancement is not None) != (ENHANCEMENT in self.requires):
            raise ValueError(f'`enhancement` and "{ENHANCEMENT}" in `requires` go together')

    def _check_quantizer(self) -> None:
        layers = [(self.latent_channels, self.steps, self.offsets)]
        if self.enhancement is not None:
            layers.append((self.enhancement.channels, self.enhancement.steps, self.enhancement.offsets))
        for channels, steps, offsets in layers:
            count = channels if self.latents == "quantised" else 0
            if not len(steps) == len(offsets) == count:
                raise ValueError(
                    f"{self.latents} latents of {channels} channels want {count} steps and offsets, "
                    f"got {len(steps)} and {len(offsets)}"
                )
            if count:
                quantizer = _quantizer(steps, offsets)
                if quantizer.steps.tolist() != list(steps) or quantizer.offsets.tolist() != list(offsets):
                    raise ValueError("steps and offsets must be exact float32 values")

    def _check_windows(self) -> None:
        if self.windows == "official" and self.official is None:
            raise ValueError("official windows want the field `official`")
        if self.windows == "context" and (self.encode_window is None or self.decode_window is None):
            raise ValueError("context windows want the fields `encode_window` and `decode_window`")
        most = {Window: fmt.MAX_CHUNK_LATENTS, Tile: fmt.MAX_SIDE}
        for spec in (self.encode_window, self.decode_window, self.encode_tile, self.decode_tile):
            for part, value in {} if spec is None else vars(spec).items():
                _integer(value, f"{type(spec).__name__.lower()}.{part}", 0, most[type(spec)])
        if self.official is not None:
            frames, largest = self.official.chunk_frames, fmt.MAX_CHUNK_LATENTS * fmt.MAX_FACTOR
            _integer(0 if frames is None else frames, "official.chunk_frames", 0, largest)
            _integer(self.official.tile_pixels, "official.tile_pixels", 0, fmt.MAX_SIDE)
            _number(self.official.tile_overlap, "official.tile_overlap")

    def _check_geometry(self) -> None:
        _integer(self.width, "width", 1, fmt.MAX_SIDE)
        _integer(self.height, "height", 1, fmt.MAX_SIDE)
        if len(self.padding) != 4:
            raise ValueError(f"padding is {self.padding}, wanted left, above, right, below")
        for value in self.padding:
            _integer(value, "padding", 0, fmt.MAX_SIDE)
        width, height = self.padded_size
        if width % self.spatial_factor or height % self.spatial_factor:
            raise ValueError(f"padded size {width}x{height} is not a multiple of {self.spatial_factor}")
        if max(width, height) > fmt.MAX_SIDE or width * height > fmt.MAX_AREA:
            raise ValueError(f"frames of {width}x{height} are too large: {fmt.MAX_SIDE} a side, {fmt.MAX_AREA} in all")
        if self.values_per_latent > fmt.MAX_CHUNK_VALUES:
            raise ValueError(
                f"a latent holds {self.values_per_latent} values, at most {fmt.MAX_CHUNK_VALUES} are legal"
            )

    @property
    def padded_size(self) -> tuple[int, int]:
        """(width, height) in pixels as the model sees them."""
        left, above, right, below = self.padding
        return self.width + left + right, self.height + above + below

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latent grid."""
        width, height = self.padded_size
        return height // self.spatial_factor, width // self.spatial_factor

    @property
    def values_per_latent(self) -> int:
        """(C + E) * h * w."""
        return (self.latent_channels + self.enhancement_channels) * math.prod(self.latent_size)

    @property
    def enhancement_channels(self) -> int:
        """E; 0 in a file of one layer."""
        return 0 if self.enhancement is None else self.enhancement.channels

    @property
    def latent_dtype(self) -> np.dtype[Any]:
        """int32, float16 or float32: what `Chunk.symbols` holds."""
        return LATENT_TYPES[self.latents]

    @property
    def quantizer(self) -> Quantizer | None:
        """The quantiser whose steps and offsets the file carries; None unless quantised."""
        return _quantizer(self.steps, self.offsets) if self.steps else None

    @property
    def enhancement_quantizer(self) -> Quantizer | None:
        """The same of the enhancement layer."""
        layer = self.enhancement
        return None if layer is None or not layer.steps else _quantizer(layer.steps, layer.offsets)

    def chunk_shape(self, latents: int) -> tuple[int, int, int, int]:
        """(C, t, h, w) of a chunk of `latents` latents."""
        return self.latent_channels, latents, *self.latent_size

    def enhancement_shape(self, latents: int) -> tuple[int, int, int, int]:
        """(E, t, h, w) of its enhancement layer."""
        return self.enhancement_channels, latents, *self.latent_size

    def base_layer(self) -> Header:
        """That of a file with the base layer alone."""
        requires = tuple(name for name in self.requires if name != ENHANCEMENT)
        return self.replace(enhancement=None, requires=requires)

    def replace(self, **changes: Any) -> Header:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)


def _quantizer(steps: tuple[float, ...], offsets: tuple[float, ...]) -> Quantizer:
    return Quantizer(np.array(steps, np.float32), np.array(offsets, np.float32))


def _integer(value: object, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {_short(value)}, wanted an integer from {low} to {high}")
    return value


def _number(value: object, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 2.0**127:
        raise ValueError(f"{name} is {_short(value)}, wanted a finite number")
    return float(value)


def _name(value: object, name: str, *, empty: bool) -> None:
    if not isinstance(value, str) or len(value) > MAX_NAME or not (value or empty) or not value.isprintable():
        raise ValueError(f"{name} is {_short(value)}, wanted {0 if empty else 1} to {MAX_NAME} printable characters")


def _one_of(value: object, name: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ValueError(f"{name} is {_short(value)}, this release knows {', '.join(legal)}")


def _ratio(value: object, name: str) -> None:
    if not isinstance(value, Fraction) or not 0 < value.numerator <= MAX_RATIO_PART >= value.denominator:
        raise ValueError(f"{name} is {_short(value)}, wanted a positive Fraction of 31-bit integers")


def _short(value: object) -> str:
    text = ascii(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."


Convert = Callable[[Any], Any]


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError(f"wanted a list{'' if length is None else f' of {length}'}, got {ascii(value)[:40]}")
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {ascii(value)[:40]}, wanted an object")
    return value


def _spec(kind: type[Window | Tile | Official]) -> tuple[Convert, Convert]:
    names = [entry.name for entry in dataclasses.fields(kind)]
    return (
        lambda spec: list(dataclasses.astuple(spec)),
        lambda value: kind(**dict(zip(names, _list(value, len(names)), strict=True))),
    )


def _fraction(value: Any) -> Fraction:
    numerator, denominator = _list(value, 2)
    if type(numerator) is not int or type(denominator) is not int or denominator < 1:
        raise ValueError(f"wanted a numerator and a positive denominator, got {ascii(value)[:40]}")
    ratio = Fraction(numerator, denominator)
    if (ratio.numerator, ratio.denominator) != (numerator, denominator):
        raise ValueError(f"{numerator}/{denominator} is not in lowest terms")
    return ratio


def _color(value: Any) -> ColorTags:
    names = {entry.name for entry in dataclasses.fields(ColorTags)}
    return ColorTags(**{name: entry for name, entry in _object(value, "color").items() if name in names})


def _enhancement(value: Any) -> Enhancement:
    if not isinstance(value, dict) or "channels" not in value:
        raise ValueError(f"enhancement is {ascii(value)[:40]}, wanted an object with channels")
    steps, offsets = (_floats(value.get(name, "")) for name in ("steps", "offsets"))
    return Enhancement(channels=value["channels"], steps=steps, offsets=offsets)


def _floats(value: Any) -> tuple[float, ...]:
    if not isinstance(value, str) or len(value) % 8 or len(value) > 8 * fmt.MAX_CHANNELS or not value.isascii():
        raise ValueError("steps and offsets are hex digits of float32 values")
    return tuple(np.frombuffer(bytes.fromhex(value), "<f4").tolist())


def _hex(values: tuple[float, ...]) -> str:
    return np.array(values, "<f4").tobytes().hex()


_RATIO: tuple[Convert, Convert] = (lambda ratio: [ratio.numerator, ratio.denominator], _fraction)
_TUPLE: tuple[Convert, Convert] = (list, lambda value: tuple(_list(value)))

_MAY_BE_NULL: dict[str, tuple[Convert, Convert]] = {
    **dict.fromkeys(("encode_window", "decode_window"), _spec(Window)),
    **dict.fromkeys(("encode_tile", "decode_tile"), _spec(Tile)),
    "official": _spec(Official),
    **dict.fromkeys(("sample_aspect_ratio", "time_base", "average_rate"), _RATIO),
    "enhancement": (
        lambda layer: {"channels": layer.channels, "steps": _hex(layer.steps), "offsets": _hex(layer.offsets)},
        _enhancement,
    ),
}
_CONVERTED: dict[str, tuple[Convert, Convert]] = {
    **_MAY_BE_NULL,
    **dict.fromkeys(("pixel_range", "padding", "requires"), _TUPLE),
    **dict.fromkeys(("steps", "offsets"), (_hex, _floats)),
    "color": (dataclasses.asdict, _color),
    "metadata": (dict, lambda value: _object(value, "metadata")),
}
"""To JSON and from it; the other fields are what they are in JSON."""

_FIELDS = {entry.name: entry for entry in dataclasses.fields(Header) if entry.name != "extra"}
_REQUIRED_KEYS = [
    name
    for name, entry in _FIELDS.items()
    if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
]


def _converted(name: str, value: Any, direction: int) -> Any:
    if name not in _CONVERTED or (value is None and name in _MAY_BE_NULL):
        return value
    return _CONVERTED[name][direction](value)


def pack_header(header: Header) -> bytes:
    """Payload of a HEAD record. ValueError where the metadata is no JSON or too much of it."""
    return put_sized_block(dump_header(header), fmt.HEADER_DICTIONARY)


def dump_header(header: Header) -> bytes:
    """The JSON text of a HEAD record. ValueError as `pack_header`."""
    if clash := sorted(set(header.extra) & set(_FIELDS)):
        raise ValueError(f"extra header keys are known fields: {', '.join(clash)}")
    values = {**header.extra, **{name: _converted(name, getattr(header, name), 0) for name in _FIELDS}}
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
    if missing := [name for name in _REQUIRED_KEYS if name not in values]:
        raise BitstreamError(f"header is malformed: it lacks {', '.join(missing)}")
    extra = {name: value for name, value in values.items() if name not in _FIELDS}
    try:
        fields = {name: _converted(name, values[name], 1) for name in _FIELDS.keys() & values.keys()}
        return Header(**fields, extra=extra)
    except (ValueError, TypeError) as error:
        raise BitstreamError(f"header is malformed: {error}") from error
