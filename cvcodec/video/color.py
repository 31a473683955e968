"""Colour description: names, guesses, HDR metadata and what a code value means. Knows no pixels, no files and no PyAV.

Names are FFmpeg's own (``bt709``, ``smpte2084``, ...), except that ranges are called ``limited`` and ``full`` and the
identity matrix is called ``rgb``. `None` stands for "not signalled" in primaries and transfer, which are never guessed:
they do not take part in the conversion between YUV and RGB and pass through as they are.

Code values. RGB code values of an n-bit frame are right-aligned in [0, 2**n - 1]. Their scale is swscale's, so that
they agree with ffmpeg's own conversion: a *limited* range YUV white (235 << (n - 8)) becomes 255 << (n - 8), that is
255 at 8 bits and 1020 at 10, while a *full* range or RGB white is 2**n - 1 (`Color.white_code`). The way back is the
exact inverse.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Self

UNSPECIFIED = 2
"""The number that H.273 and FFmpeg use for "not signalled" in matrix, primaries and transfer."""

MATRICES: dict[str, int] = {
    "rgb": 0,
    "bt709": 1,
    "fcc": 4,
    "bt470bg": 5,
    "smpte170m": 6,
    "smpte240m": 7,
    "ycgco": 8,
    "bt2020nc": 9,
    "bt2020c": 10,
    "smpte2085": 11,
    "chroma-derived-nc": 12,
    "chroma-derived-c": 13,
    "ictcp": 14,
}
"""Matrix names and their H.273 numbers (ITU-T H.273 table 4)."""

RANGES: dict[str, int] = {"limited": 1, "full": 2}
"""Range names and FFmpeg's AVColorRange numbers."""

PRIMARIES: dict[str, int] = {
    "bt709": 1,
    "bt470m": 4,
    "bt470bg": 5,
    "smpte170m": 6,
    "smpte240m": 7,
    "film": 8,
    "bt2020": 9,
    "smpte428": 10,
    "smpte431": 11,
    "smpte432": 12,
    "jedec-p22": 22,
}
"""Primaries names and their H.273 numbers (table 2)."""

TRANSFERS: dict[str, int] = {
    "bt709": 1,
    "bt470m": 4,
    "bt470bg": 5,
    "smpte170m": 6,
    "smpte240m": 7,
    "linear": 8,
    "log100": 9,
    "log316": 10,
    "iec61966-2-4": 11,
    "bt1361e": 12,
    "iec61966-2-1": 13,
    "bt2020-10": 14,
    "bt2020-12": 15,
    "smpte2084": 16,
    "smpte428": 17,
    "arib-std-b67": 18,
}
"""Transfer names and their H.273 numbers (table 3). `smpte2084` is PQ, `arib-std-b67` is HLG."""

_HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
_HD_WIDTH, _HD_HEIGHT, _PAL_HEIGHT = 1280, 576, 576


def _name(table: dict[str, int], number: int) -> str | None:
    return next((name for name, value in table.items() if value == number), None)


@dataclass(frozen=True, slots=True)
class Color:
    """How the samples of a stream relate to light.

    matrix: a key of `MATRICES`; `rgb` for sources stored as RGB.
    range: `limited` or `full`.
    primaries, transfer: keys of `PRIMARIES` and `TRANSFERS`, or None where the stream does not say.
    guessed: True where matrix or range was not signalled and comes from the usual rule (`Color.resolve`).
    """

    matrix: str = "bt709"
    range: str = "limited"
    primaries: str | None = None
    transfer: str | None = None
    guessed: bool = False

    def __post_init__(self) -> None:
        for field, table, value in (
            ("matrix", MATRICES, self.matrix),
            ("range", RANGES, self.range),
            ("primaries", PRIMARIES, self.primaries),
            ("transfer", TRANSFERS, self.transfer),
        ):
            if value not in table and not (value is None and field in ("primaries", "transfer")):
                raise ValueError(f"Color.{field} = {value!r} is not one of {', '.join(table)}")

    @classmethod
    def resolve(
        cls,
        matrix: int,
        range_: int,
        primaries: int,
        transfer: int,
        *,
        width: int,
        height: int,
        is_rgb: bool,
        is_full: bool,
    ) -> Self:
        """Build from FFmpeg's numbers, guessing what is not signalled.

        The usual size rule: 1280 wide or more, or more than 576 lines, is BT.709; otherwise BT.601, in its 625-line
        variant at 576 lines. BT.2020 is taken only where its primaries are signalled, or a PQ or HLG transfer. Range
        is limited for YUV and full for RGB, for grey, and for pixel formats that mean full range (`is_full`).

        width, height: stored size in pixels, before any rotation.
        """
        guessed = False
        primaries_name, transfer_name = _name(PRIMARIES, primaries), _name(TRANSFERS, transfer)
        matrix_name = _name(MATRICES, matrix)
        if is_rgb:
            return cls("rgb", "full", primaries_name, transfer_name, False)
        if matrix_name is None or matrix_name == "rgb":
            matrix_name, guessed = guess_matrix(width, height, primaries_name, transfer_name), True
        range_name = _name(RANGES, range_)
        if range_name is None:
            range_name = "full" if is_full else "limited"
            guessed = guessed or not is_full
        return cls(matrix_name, range_name, primaries_name, transfer_name, guessed)

    def for_yuv(self, width: int, height: int) -> Self:
        """The same colours described as YUV: an RGB source gets the matrix of the size rule and limited range."""
        if self.matrix != "rgb":
            return self
        matrix = guess_matrix(width, height, self.primaries, self.transfer)
        return replace(self, matrix=matrix, range="limited")

    def for_rgb(self) -> Self:
        """The same primaries and transfer, stored as RGB."""
        return replace(self, matrix="rgb", range="full", guessed=False)

    def white_code(self, bit_depth: int) -> int:
        """RGB code value of the nominal white in frames of this colour: 255 << (n - 8) if limited, else 2**n - 1."""
        if self.matrix == "rgb" or self.range == "full":
            return (1 << bit_depth) - 1
        return 255 << (bit_depth - 8)

    def numbers(self) -> tuple[int, int, int, int]:
        """FFmpeg's numbers: (matrix, range, primaries, transfer), `UNSPECIFIED` where not known."""
        return (
            MATRICES[self.matrix],
            RANGES[self.range],
            UNSPECIFIED if self.primaries is None else PRIMARIES[self.primaries],
            UNSPECIFIED if self.transfer is None else TRANSFERS[self.transfer],
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form: the fields."""
        return asdict(self)

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer is that of high dynamic range: PQ or HLG."""
        return self.transfer in _HDR_TRANSFERS

    def __str__(self) -> str:
        parts = [
            self.matrix,
            self.range,
            self.primaries or "primaries unspecified",
            self.transfer or "transfer unspecified",
        ]
        return "/".join(parts) + (" (guessed)" if self.guessed else "")


def guess_matrix(width: int, height: int, primaries: str | None = None, transfer: str | None = None) -> str:
    """The matrix to assume where none is signalled; see `Color.resolve`."""
    if primaries == "bt2020" or transfer in _HDR_TRANSFERS:
        return "bt2020nc"
    if width >= _HD_WIDTH or height > _HD_HEIGHT:
        return "bt709"
    return "bt470bg" if height == _PAL_HEIGHT else "smpte170m"


def _fraction(name: str, text: Any) -> Fraction:
    """From `str` of a fraction of 32-bit integers; others would take long to compute with."""
    found = re.fullmatch(r"(-?[0-9]{1,10})(?:/([0-9]{1,10}))?", text) if isinstance(text, str) else None
    numerator, denominator = (int(part or 1) for part in found.groups()) if found else (0, 0)
    if not denominator or max(abs(numerator), denominator) > 1 << 31:
        raise ValueError(f"{name} is {ascii(text)[:40]}, wanted a fraction of 32-bit integers, as text")
    return Fraction(numerator, denominator)


@dataclass(frozen=True, slots=True)
class MasteringDisplay:
    """SMPTE ST 2086: the display a picture was graded on. Chromaticities are CIE 1931 xy, luminances are cd/m2.

    red, green, blue, white: (x, y); None where the stream does not give chromaticities.
    """

    red: tuple[Fraction, Fraction] | None
    green: tuple[Fraction, Fraction] | None
    blue: tuple[Fraction, Fraction] | None
    white: tuple[Fraction, Fraction] | None
    min_luminance: Fraction | None
    max_luminance: Fraction | None

    @classmethod
    def from_side_data(cls, data: bytes) -> Self | None:
        """From the bytes of FFmpeg's AVMasteringDisplayMetadata; None where they are not of its size or say nothing."""
        if len(data) != struct.calcsize("22i"):
            return None
        values = struct.unpack("22i", data)
        rationals = [Fraction(n, d) if d else Fraction(0) for n, d in zip(values[0:20:2], values[1:20:2], strict=True)]
        points = [(rationals[i], rationals[i + 1]) for i in range(0, 8, 2)]
        has_primaries, has_luminance = values[20], values[21]
        if not has_primaries and not has_luminance:
            return None
        red, green, blue, white = points if has_primaries else (None, None, None, None)
        low, high = (rationals[8], rationals[9]) if has_luminance else (None, None)
        return cls(red, green, blue, white, low, high)

    @property
    def complete(self) -> bool:
        """Whether every field is known; encoders take all or nothing."""
        return None not in (self.red, self.green, self.blue, self.white, self.min_luminance, self.max_luminance)

    def encoder_text(self, format_value: Callable[[Fraction, int], str]) -> str:
        """`G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)`, each value by `format_value(value, units_per_one)`.

        Raises ValueError where a field is missing (`complete`)."""
        if not self.complete:
            raise ValueError("mastering display metadata lacks chromaticities or luminances")
        text = ""
        for letter, point in (("G", self.green), ("B", self.blue), ("R", self.red), ("WP", self.white)):
            assert point is not None
            text += f"{letter}({format_value(point[0], 50000)},{format_value(point[1], 50000)})"
        assert self.max_luminance is not None and self.min_luminance is not None
        return text + f"L({format_value(self.max_luminance, 10000)},{format_value(self.min_luminance, 10000)})"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form (fractions as strings); `from_dict` is its inverse."""

        def pair(point: tuple[Fraction, Fraction] | None) -> list[str] | None:
            return None if point is None else [str(point[0]), str(point[1])]

        def one(value: Fraction | None) -> str | None:
            return None if value is None else str(value)

        return {
            "red": pair(self.red),
            "green": pair(self.green),
            "blue": pair(self.blue),
            "white": pair(self.white),
            "min_luminance": one(self.min_luminance),
            "max_luminance": one(self.max_luminance),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises ValueError for anything else."""
        values: Any = data
        if not isinstance(values, dict):
            raise ValueError(f"mastering display is {ascii(data)[:40]}, wanted an object")

        def pair(key: str) -> tuple[Fraction, Fraction] | None:
            value = data.get(key)
            if value is not None and (not isinstance(value, list) or len(value) != 2):
                raise ValueError(f"{key} of the mastering display is {ascii(value)[:40]}, wanted two fractions")
            return None if value is None else (_fraction(key, value[0]), _fraction(key, value[1]))

        def one(key: str) -> Fraction | None:
            value = data.get(key)
            return None if value is None else _fraction(key, value)

        return cls(pair("red"), pair("green"), pair("blue"), pair("white"), one("min_luminance"), one("max_luminance"))


@dataclass(frozen=True, slots=True)
class ContentLight:
    """CTA-861.3 content light levels in cd/m2: brightest pixel, and brightest frame average."""

    max_content: int
    max_frame_average: int

    @classmethod
    def from_side_data(cls, data: bytes) -> Self | None:
        """From the bytes of FFmpeg's AVContentLightMetadata; None where they are not of its size or all zero."""
        if len(data) != struct.calcsize("2I"):
            return None
        values = struct.unpack("2I", data)
        return cls(*values) if any(values) else None

    def to_dict(self) -> dict[str, int]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises ValueError for anything else."""
        values: Any = data
        names = ("max_content", "max_frame_average")
        levels: list[Any] = [values.get(name) if isinstance(values, dict) else None for name in names]
        if any(type(level) is not int or not 0 <= level < 1 << 32 for level in levels):
            raise ValueError(f"content light is {ascii(data)[:60]}, wanted two 32-bit integers")
        return cls(*levels)
