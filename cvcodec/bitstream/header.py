"""The header record: everything a reader needs before the first chunk, and nothing that is known only later.

Owns: the header's fields, their JSON form (in `header_json`) and every range that they must keep.
Does not know: records, chunks, models, files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from cvcodec.bitstream import format as fmt
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
    """See scaling_factor."""
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
            wanted = channels if self.latents == "quantised" else 0
            if not len(steps) == len(offsets) == wanted:
                raise ValueError(
                    f"{self.latents} latents of {channels} channels want {wanted} steps and offsets, "
                    f"got {len(steps)} and {len(offsets)}"
                )
            if wanted:
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


def _one_of(value: object, name: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {_short(value)}, this release knows {', '.join(known)}")


def _ratio(value: object, name: str) -> None:
    if not isinstance(value, Fraction) or not 0 < value.numerator <= MAX_RATIO_PART >= value.denominator:
        raise ValueError(f"{name} is {_short(value)}, wanted a positive Fraction of 31-bit integers")


def _short(value: object) -> str:
    text = ascii(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."
