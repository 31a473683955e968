"""RGB arrays from decoded frames, and frames for encoders from RGB arrays. The one place where colours are converted.

Every conversion between YUV and RGB names its matrix and range explicitly and runs in swscale with bicubic chroma
interpolation, accurate rounding and full chroma resolution at both ends: the same arithmetic as ffmpeg's
`scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp` with explicit `in_color_matrix` and `in_range`.
Nothing is left to swscale's defaults, which assume BT.601. Chroma siting is the stream's on the way in; on the way
out it is "left", the default of H.264 and H.265, and tagged. Grey is not swscale's business (it ignores the range of
grey); a table does it. Limits: swscale wraps around for YUV triples that lie beyond twice the RGB range, which needs
luma and chroma both outside their nominal ranges; ffmpeg shows the same.

Code values follow `color`: see its module docstring for what white is.
"""

import functools
from typing import Any

import av
import av.error
import av.filter
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from cvcodec.errors import InputError
from cvcodec.video.color import Color
from cvcodec.video.frame import Pixels
from cvcodec.video.libav import reason

_FLAGS = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
_FLAGS_TEXT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"

_COLORSPACES = {
    "bt709": Colorspace.ITU709,
    "fcc": Colorspace.FCC,
    "bt470bg": Colorspace.ITU601,
    "smpte170m": Colorspace.ITU601,
    "smpte240m": Colorspace.SMPTE240M,
    "bt2020nc": Colorspace.BT2020,
}
_FILTER_MATRICES = {
    "bt709": "bt709",
    "fcc": "fcc",
    "bt470bg": "bt601",
    "smpte170m": "bt601",
    "smpte240m": "smpte240m",
    "bt2020nc": "bt2020",
}
_SWS_RANGES = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
_FILTER_RANGES = {"limited": "tv", "full": "pc"}

DEPTHS = (8, 9, 10, 12, 14, 16)
"""Bit depths that swscale has planar RGB formats for."""

BACKGROUNDS = {"black": 0.0, "white": 1.0}
"""What transparent pixels are flattened on."""


def is_gray(format_: Any) -> bool:
    """Whether a PyAV `VideoFormat` holds luma alone, with or without alpha."""
    return bool(format_.name.startswith(("gray", "ya8", "ya16", "yaf")))


def is_rgb(format_: Any) -> bool:
    """Whether a PyAV `VideoFormat` holds RGB, directly, by palette, as a mosaic or as one bit of black and white."""
    return bool(format_.is_rgb or format_.has_palette or format_.name.startswith(("mono", "xyz")))


def has_alpha(format_: Any) -> bool:
    """Whether a PyAV `VideoFormat` may carry transparency."""
    return bool(format_.has_palette or len(format_.components) in (2, 4))


def chroma_of(name: str) -> str | None:
    """Colour resolution of the pixel format `name`: `444` (RGB too), `422`, `420` for that and less; None where it has
    no colours, or is no format."""
    try:
        format_ = av.VideoFormat(name)
    except ValueError:
        return None
    if is_gray(format_) or name.startswith("mono"):
        return None
    if is_rgb(format_):
        return "444"
    across, down = format_.chroma_width(8), format_.chroma_height(8)
    return "444" if across == down == 8 else "422" if across + down >= 12 else "420"


def bit_depth_of(format_: Any) -> int:
    """Bits per sample at which a PyAV `VideoFormat` is read: the least of `DEPTHS` that loses nothing (floats become
    16).
    """
    bits = max((component.bits for component in format_.components), default=8)
    if has_alpha(format_) and bits == 9:
        return 10  # swscale has no planar RGB with alpha at 9 bits
    return next((depth for depth in DEPTHS if depth >= bits), 16)


def check_matrix(color: Color) -> None:
    """Raise InputError where the matrix is one that swscale cannot convert."""
    if color.matrix != "rgb" and color.matrix not in _COLORSPACES:
        raise InputError(
            f"cannot convert colours of matrix {color.matrix!r} to RGB; readable are {', '.join(_COLORSPACES)}, rgb: "
            "convert the source with another tool first"
        )


def stored_luma(frame: av.VideoFrame, bit_depth: int) -> npt.NDArray[Any] | None:
    """(H, W) code values of luma as the frame stores them, copied; None where it has none at `bit_depth` that stands
    for the picture alone (RGB, transparency), in a plane of its own."""
    name, components = frame.format.name, frame.format.components
    if not name.startswith(("yuv", "gray", "nv")) or name.endswith("be") or has_alpha(frame.format):
        return None
    shared = any(component.plane == 0 for component in components[1:])
    if shared or components[0].bits != bit_depth:
        return None
    if frame.planes[0].line_size < 0:  # stored from the bottom up
        return None
    return np.array(planes(frame, _dtype(bit_depth))[0], order="C")


def _check_format(frame: av.VideoFrame) -> None:
    """Refuse what makes swscale abort the whole process."""
    name = frame.format.name
    mosaic = name.startswith("bayer") and (frame.width % 2 or frame.height % 2)
    if mosaic or name.startswith("yaf32"):
        raise InputError(f"cannot convert pixel format {name} at {frame.width}x{frame.height} to RGB")


def planes(frame: av.VideoFrame, dtype: Any) -> list[npt.NDArray[Any]]:
    """Writable (H, W) views of the planes of a frame made here (top-down rows), padding left out."""
    itemsize = np.dtype(dtype).itemsize
    found: Any = frame.planes
    return [
        np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // itemsize)[:, : plane.width]
        for plane in found
    ]


def _dtype(bit_depth: int) -> Any:
    return np.uint8 if bit_depth == 8 else np.uint16


def _planar_rgb(bit_depth: int, *, alpha: bool = False) -> str:
    name = "gbrap" if alpha else "gbrp"
    return name if bit_depth == 8 else f"{name}{bit_depth}le"


@functools.lru_cache(maxsize=16)
def _gray_table(bit_depth: int) -> npt.NDArray[Any]:
    """Limited-range luma code -> RGB code, in swscale's scale."""
    codes = np.arange(1 << bit_depth, dtype=np.float64)
    scale = 1 << (bit_depth - 8)
    rgb = (codes - 16 * scale) * (255 / 219)
    return np.clip(np.rint(rgb), 0, (1 << bit_depth) - 1).astype(_dtype(bit_depth))


@functools.lru_cache(maxsize=16)
def _white_table(bit_depth: int, white: int, target: int) -> npt.NDArray[Any]:
    """RGB code -> RGB code such that `white` becomes `target`."""
    codes = np.arange(1 << bit_depth, dtype=np.float64) * (target / white)
    return np.clip(np.rint(codes), 0, max(target, (1 << bit_depth) - 1)).astype(_dtype(bit_depth))


class RgbReader:
    """Turns decoded frames into RGB arrays. One per stream: it keeps a swscale context.

    bit_depth: of the arrays, whatever the frames bring. background: a key of `BACKGROUNDS`.
    flattened: whether any pixel so far was transparent and has been flattened.
    """

    def __init__(self, bit_depth: int, background: str = "black") -> None:
        self.bit_depth = bit_depth
        self.flattened = False
        self._background = round(BACKGROUNDS[background] * ((1 << bit_depth) - 1))
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, color: Color) -> Pixels:
        """(H, W, 3) RGB at `bit_depth`, C-contiguous, owned by the caller or by nobody else.

        Raises InputError where the matrix or the pixel format is not convertible."""
        check_matrix(color)
        _check_format(frame)
        try:
            return self._convert(frame, color)
        except av.error.FFmpegError as error:
            raise InputError(f"cannot convert pixel format {frame.format.name} to RGB: {reason(error)}") from error

    def _convert(self, frame: av.VideoFrame, color: Color) -> Pixels:
        if is_gray(frame.format):
            return self._gray(frame, color)
        if has_alpha(frame.format):
            return self._flatten(frame, color)
        name, native = frame.format.name, bit_depth_of(frame.format) == self.bit_depth
        if native and name in ("rgb24", "rgb48le", "rgb48be"):
            return np.array(frame.to_ndarray(), order="C")
        if self.bit_depth == 8 and is_rgb(frame.format) and not name.startswith("gbrp"):
            return np.ascontiguousarray(self._reformat(frame, "rgb24", color).to_ndarray())
        planar = (
            frame
            if native and name == _planar_rgb(self.bit_depth)
            else self._reformat(frame, _planar_rgb(self.bit_depth), color)
        )
        return self._interleave(planar)

    def _reformat(self, frame: av.VideoFrame, name: str, color: Color) -> av.VideoFrame:
        if is_rgb(frame.format) or is_gray(frame.format):
            full = ColorRange.JPEG
            return self._reformatter.reformat(
                frame, format=name, interpolation=_FLAGS, src_color_range=full, dst_color_range=full
            )
        matrix = _COLORSPACES.get(color.matrix, Colorspace.ITU709)
        return self._reformatter.reformat(
            frame,
            format=name,
            interpolation=_FLAGS,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_SWS_RANGES[color.range],
            dst_color_range=ColorRange.JPEG,
        )

    def _interleave(self, frame: av.VideoFrame) -> Pixels:
        green, blue, red = planes(frame, _dtype(self.bit_depth))[:3]
        pixels = np.empty((frame.height, frame.width, 3), _dtype(self.bit_depth))
        pixels[..., 0], pixels[..., 1], pixels[..., 2] = red, green, blue
        return pixels

    def _gray(self, frame: av.VideoFrame, color: Color) -> Pixels:
        if has_alpha(frame.format):
            rgb, alpha = self._split_alpha(self._reformat(frame, _planar_rgb(self.bit_depth, alpha=True), color))
            return self._composite(self._expand(rgb[..., :1], color), alpha)
        name = "gray" if self.bit_depth == 8 else f"gray{self.bit_depth}le"
        luma = (frame if frame.format.name == name else self._reformat(frame, name, color)).to_ndarray()
        return self._expand(luma[..., None], color)

    def _expand(self, luma: npt.NDArray[Any], color: Color) -> Pixels:
        if color.range == "limited":
            luma = _gray_table(self.bit_depth).take(luma, mode="clip")  # damaged data may exceed the bits
        return np.ascontiguousarray(np.broadcast_to(luma, (*luma.shape[:2], 3)))

    def _split_alpha(self, frame: av.VideoFrame) -> tuple[Pixels, npt.NDArray[Any]]:
        return self._interleave(frame), planes(frame, _dtype(self.bit_depth))[3]

    def _flatten(self, frame: av.VideoFrame, color: Color) -> Pixels:
        if self.bit_depth == 8 and is_rgb(frame.format):
            rgba = self._reformat(frame, "rgba", color).to_ndarray()
            return self._composite(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3])
        return self._composite(
            *self._split_alpha(self._reformat(frame, _planar_rgb(self.bit_depth, alpha=True), color))
        )

    def _composite(self, rgb: Pixels, alpha: npt.NDArray[Any]) -> Pixels:
        top = (1 << self.bit_depth) - 1
        if int(alpha.min()) == top:
            return rgb
        self.flattened = True
        weight = alpha[..., None].astype(np.uint32)
        flat = (rgb * weight + (top - weight) * self._background + top // 2) // top
        return flat.astype(_dtype(self.bit_depth))


class RgbWriter:
    """Turns RGB arrays into frames for an encoder. One per stream: it keeps a filter graph.

    width, height: pixels. bit_depth: of the arrays. pixel_format: what the encoder takes.
    color: of the arrays as they came (its `white_code` says what white is); the frames are tagged and converted by
    `frame_color`, which is `color` described in the family, YUV or RGB, of `pixel_format`.
    """

    def __init__(self, width: int, height: int, bit_depth: int, pixel_format: str, color: Color) -> None:
        self.size = width, height
        self.bit_depth = bit_depth
        self.pixel_format = pixel_format
        target = av.VideoFormat(pixel_format)
        self._to_rgb = is_rgb(target)
        self.frame_color = color.for_rgb() if self._to_rgb else color.for_yuv(width, height)
        self._source_depth = next(depth for depth in DEPTHS if depth >= bit_depth)
        # swscale reads n-bit RGB on the scale where white is 255 << (n - 8), for limited and full range targets alike.
        white, wanted = color.white_code(bit_depth), 255 << (bit_depth - 8)
        self._table = None if self._to_rgb or white == wanted else _white_table(bit_depth, white, wanted)
        self._target_depth = bit_depth_of(target)
        if self._to_rgb and self._target_depth != bit_depth:
            self._table = _depth_table(bit_depth, white, self._target_depth)
        self._reformatter = VideoReformatter()
        self._graph: Any = None

    def __call__(self, pixels: Pixels) -> av.VideoFrame:
        """A frame of `pixel_format`. pixels: (H, W, 3) at `bit_depth`. Raises ValueError on another shape or dtype."""
        width, height = self.size
        if pixels.shape != (height, width, 3) or pixels.dtype != _dtype(self.bit_depth):
            wanted = np.dtype(_dtype(self.bit_depth))
            raise ValueError(f"{pixels.shape = }, {pixels.dtype = }; wanted ({height}, {width}, 3) {wanted}")
        if self._table is not None:
            pixels = self._table[pixels]
        if self._to_rgb:
            if self._target_depth == 8:
                rgb = av.VideoFrame.from_numpy_buffer(_in_rows(pixels), "rgb24")
                if self.pixel_format == "rgb24":
                    return rgb
                full = ColorRange.JPEG
                return self._reformatter.reformat(
                    rgb, format=self.pixel_format, src_color_range=full, dst_color_range=full
                )
            if self.pixel_format.startswith("rgb48"):
                return av.VideoFrame.from_ndarray(pixels, self.pixel_format)
            return self._planar(pixels, self._target_depth)
        if self.bit_depth == 8:
            frame = av.VideoFrame.from_numpy_buffer(_in_rows(pixels), "rgb24")
        else:
            frame = self._planar(pixels << (self._source_depth - self.bit_depth), self._source_depth)
        if self._graph is None:
            self._graph = self._make_graph(frame.format.name)
        self._graph.push(frame)
        converted: av.VideoFrame = self._graph.pull()
        return converted

    def _planar(self, pixels: Pixels, bit_depth: int) -> av.VideoFrame:
        frame = av.VideoFrame(*self.size, _planar_rgb(bit_depth))
        for plane, channel in zip(planes(frame, _dtype(bit_depth)), (1, 2, 0), strict=True):
            plane[...] = pixels[..., channel]
        return frame

    def _make_graph(self, source_format: str) -> Any:
        graph = av.filter.Graph()
        width, height = self.size
        siting = ":out_chroma_loc=left" if "420" in self.pixel_format else ""
        nodes = [
            graph.add("buffer", f"video_size={width}x{height}:pix_fmt={source_format}:time_base=1/1:pixel_aspect=1/1"),
            graph.add(
                "scale",
                f"flags={_FLAGS_TEXT}:in_range=pc:out_color_matrix={_FILTER_MATRICES[self.frame_color.matrix]}"
                f":out_range={_FILTER_RANGES[self.frame_color.range]}{siting}",
            ),
            graph.add("format", f"pix_fmts={self.pixel_format}"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph


@functools.lru_cache(maxsize=16)
def _depth_table(bit_depth: int, white: int, target_depth: int) -> npt.NDArray[Any]:
    """RGB code -> code at another depth, such that white becomes the largest code (beyond white clips)."""
    top = (1 << target_depth) - 1
    codes = np.arange(1 << bit_depth, dtype=np.float64) * (top / white)
    return np.clip(np.rint(codes), 0, top).astype(_dtype(target_depth))


def _in_rows(pixels: Pixels) -> Pixels:
    """The same picture with the strides of C order, which PyAV checks.

    NumPy calls an axis of length 1 contiguous whatever its stride, so `ascontiguousarray` may leave odd ones.
    """
    _, width, channels = pixels.shape
    if pixels.strides == (width * channels * pixels.itemsize, channels * pixels.itemsize, pixels.itemsize):
        return pixels
    rows = np.empty(pixels.shape, pixels.dtype)
    rows[...] = pixels
    return rows
