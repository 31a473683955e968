"""Colour conversion against ffmpeg's own scale filter, and against the standards' matrices written out in numpy."""

from typing import Any

import av
import av.filter
import numpy as np
import pytest

from cvcodec.errors import InputError
from cvcodec.video.color import Color
from cvcodec.video.convert import RgbReader, RgbWriter

PATCH = 16
FILTER_NAMES = {"smpte170m": "bt601", "bt709": "bt709", "bt2020nc": "bt2020", "smpte240m": "smpte240m"}
FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


KR_KB = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
"""ITU-T H.273 table 4."""


def patches(make: Any, pixel_format: str, full: bool, *, seed: int = 0) -> tuple[av.VideoFrame, np.ndarray]:
    """A frame of flat patches in random nominal colours, and the colours, (rows, columns, 3) YUV codes."""
    frame = av.VideoFrame(8 * PATCH, 4 * PATCH, pixel_format)
    bits = max(c.bits for c in frame.format.components)
    random = np.random.default_rng(seed)
    low, high = (0, 256) if full else (16, 241)
    colours = random.integers(low, high, (4, 8, 3)) << (bits - 8)
    if not full:
        colours[..., 0] = np.minimum(colours[..., 0], 235 << (bits - 8))
    for index, view in enumerate(make.plane_views(frame)):
        rows, columns = view.shape[0] // 4, view.shape[1] // 8
        view[...] = np.kron(colours[..., index], np.ones((rows, columns), np.int64))
    return frame, colours


def rgb_by_the_standard(yuv: np.ndarray, matrix: str, full: bool, bits: int) -> np.ndarray:
    """H.273 equations; limited-range white lands on 255 << (bits - 8), as in ffmpeg."""
    kr, kb = KR_KB[matrix]
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    y, u, v = (yuv[..., i].astype(np.float64) for i in range(3))
    if full:
        y, u, v, white = y / top, (u - 128 * scale) / top, (v - 128 * scale) / top, top
    else:
        y, u, v, white = (
            (y - 16 * scale) / (219 * scale),
            (u - 128 * scale) / (224 * scale),
            (v - 128 * scale) / (224 * scale),
            255 * scale,
        )
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.rint(np.stack([red, green, blue], -1) * white), 0, top)


def rgb_by_ffmpeg(make: Any, frame: av.VideoFrame, matrix: str, full: bool) -> np.ndarray:
    """The picture through libavfilter's scale with explicit matrix and range."""
    bits = max(c.bits for c in frame.format.components)
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"),
        graph.add(
            "scale",
            f"flags={FLAGS}:in_color_matrix={FILTER_NAMES[matrix]}:in_range={'pc' if full else 'tv'}:out_range=pc",
        ),
        graph.add("format", "pix_fmts=" + ("gbrp" if bits == 8 else f"gbrp{bits}le")),
        graph.add("buffersink"),
    ).configure()
    graph.push(frame)
    green, blue, red = make.plane_views(graph.vpull())
    return np.stack([red, green, blue], -1).astype(np.float64)


@pytest.mark.parametrize("matrix", FILTER_NAMES)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_yuv_becomes_rgb_as_in_ffmpeg_and_as_in_the_standard(
    make: Any, matrix: str, full: bool, chroma: str, bits: int
) -> None:
    frame, colours = patches(make, f"yuv{chroma}p" + ("" if bits == 8 else f"{bits}le"), full)
    color = Color(matrix, "full" if full else "limited")
    pixels = RgbReader(bits)(frame, color).astype(np.float64)
    bound = 1 if bits == 8 else 2
    assert np.abs(pixels - rgb_by_ffmpeg(make, frame, matrix, full)).max() <= bound
    centres = pixels[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
    assert np.abs(centres - rgb_by_the_standard(colours, matrix, full, bits)).max() <= bound


def test_the_wrong_matrix_would_be_seen(make: Any) -> None:
    frame, colours = patches(make, "yuv444p", False)
    pixels = RgbReader(8)(frame, Color("bt709"))[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
    assert np.abs(pixels - rgb_by_the_standard(colours, "smpte170m", False, 8)).max() > 10


@pytest.mark.parametrize("matrix", FILTER_NAMES)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("bits", [8, 10])
def test_rgb_becomes_yuv_by_the_standard(make: Any, matrix: str, full: bool, bits: int) -> None:
    color = Color(matrix, "full" if full else "limited")
    white, scale = color.white_code(bits), 1 << (bits - 8)
    random = np.random.default_rng(1)
    pixels = random.integers(0, white + 1, (32, 48, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    writer = RgbWriter(48, 32, bits, "yuv444p" + ("" if bits == 8 else "10le"), color)
    y, u, v = (view.astype(np.float64) for view in make.plane_views(writer(pixels)))
    kr, kb = KR_KB[matrix]
    red, green, blue = (pixels[..., i] / white for i in range(3))
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    top = (1 << bits) - 1
    wanted = (luma * top, cb * top + 128 * scale, cr * top + 128 * scale) if full else (
        luma * 219 * scale + 16 * scale, cb * 224 * scale + 128 * scale, cr * 224 * scale + 128 * scale)  # fmt: skip
    bound = 1 if bits == 8 else 2
    for plane, reference in zip((y, u, v), wanted, strict=True):
        assert np.abs(plane - np.clip(np.rint(reference), 0, top)).max() <= bound


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("bits", [8, 10])
def test_yuv_survives_rgb_and_back(make: Any, full: bool, bits: int) -> None:
    color = Color("bt709", "full" if full else "limited")
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    pixel_format = "yuv444p" + ("" if bits == 8 else "10le")
    frame = av.VideoFrame(64, 64, pixel_format)
    greys = np.linspace(0 if full else 16 * scale, top if full else 235 * scale, 64 * 64).round().reshape(64, 64)
    for view, values in zip(make.plane_views(frame), (greys, 128 * scale, 128 * scale), strict=True):
        view[...] = values
    back = make.plane_views(RgbWriter(64, 64, bits, pixel_format, color)(RgbReader(bits)(frame, color)))
    assert np.abs(back[0].astype(int) - greys).max() <= (1 if bits == 8 else 2)
    assert np.abs(back[1].astype(int) - 128 * scale).max() <= 1


def test_chroma_is_written_where_h264_expects_it() -> None:
    """A horizontal chroma ramp sampled at even columns, not between them ("left" siting)."""
    ramp = np.linspace(0, 255, 256)
    pixels = np.stack(np.broadcast_arrays(ramp, np.full(256, 128.0), 255 - ramp), -1)
    pixels = np.ascontiguousarray(np.broadcast_to(pixels.round().astype(np.uint8), (32, 256, 3)))
    frame = RgbWriter(256, 32, 8, "yuv420p", Color("bt709"))(pixels)
    cb = np.frombuffer(frame.planes[1], np.uint8).reshape(16, -1)[8, 10:118].astype(np.float64)
    red, green, blue = (pixels[0, :, i].astype(np.float64) / 255 for i in range(3))
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    exact = (blue - luma) / 1.8556 * 224 + 128
    left, centre = exact[0::2][10:118], ((exact[0::2] + exact[1::2]) / 2)[10:118]
    assert abs((cb - left).mean()) < 0.1 < abs((cb - centre).mean())


@pytest.mark.parametrize(("bits", "pixel_format"), [(8, "gray"), (10, "gray10le"), (12, "gray12le"), (16, "gray16le")])
def test_grey_follows_its_range(bits: int, pixel_format: str) -> None:
    frame = av.VideoFrame(4, 1, pixel_format)
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    np.frombuffer(frame.planes[0], np.uint8 if bits == 8 else np.uint16)[:4] = [16 * scale, 235 * scale, 0, 126 * scale]
    assert RgbReader(bits)(frame, Color("bt709", "full"))[0, :2, 0].tolist() == [16 * scale, 235 * scale]
    limited = RgbReader(bits)(frame, Color("bt709", "limited"))
    assert limited[0, :, 0].tolist() == [0, 255 * scale, 0, round(110 * 255 / 219 * scale)]
    assert (limited == limited[..., :1]).all()
    assert limited.max() <= top


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr24", "rgb0", "bgr0", "gbrp", "rgba", "bgra", "gbrap"])
def test_eight_bit_rgb_arrives_untouched(pixel_format: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (13, 17, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format)
    assert np.array_equal(RgbReader(8)(frame, Color("rgb", "full")), pixels)


@pytest.mark.parametrize(
    ("bits", "pixel_format"), [(9, "gbrp9le"), (10, "gbrp10le"), (12, "gbrp12le"), (14, "gbrp14le"), (16, "gbrp16le")]
)
def test_deep_rgb_arrives_untouched_and_is_stored_untouched(bits: int, pixel_format: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 1 << bits, (13, 17, 3)).astype(np.uint16)
    frame = RgbWriter(17, 13, bits, pixel_format, Color("rgb", "full"))(pixels)
    assert frame.format.name == pixel_format
    assert np.array_equal(RgbReader(bits)(frame, Color("rgb", "full")), pixels)


def test_16_bit_packed_rgb_arrives_untouched_in_either_byte_order() -> None:
    pixels = np.random.default_rng(4).integers(0, 1 << 16, (5, 7, 3)).astype(np.uint16)
    for name in ("rgb48le", "rgb48be"):
        assert np.array_equal(RgbReader(16)(av.VideoFrame.from_ndarray(pixels, name), Color("rgb", "full")), pixels)


@pytest.mark.parametrize(("background", "value"), [("black", 0), ("white", 255)])
def test_transparent_pixels_are_flattened(background: str, value: int) -> None:
    rgba = np.random.default_rng(5).integers(0, 256, (6, 8, 4), np.uint8)
    reader = RgbReader(8, background)
    flat = reader(av.VideoFrame.from_ndarray(rgba, "rgba"), Color("rgb", "full"))
    alpha = rgba[..., 3:].astype(np.float64) / 255
    wanted = rgba[..., :3] * alpha + value * (1 - alpha)
    assert reader.flattened
    assert np.abs(flat - wanted).max() <= 0.5 + 1e-9


def test_opaque_alpha_is_not_called_flattened() -> None:
    rgba = np.full((4, 4, 4), 255, np.uint8)
    reader = RgbReader(8)
    reader(av.VideoFrame.from_ndarray(rgba, "rgba"), Color("rgb", "full"))
    assert not reader.flattened


def test_alpha_of_yuva_is_flattened_too() -> None:
    frame = av.VideoFrame(16, 16, "yuva420p")
    for plane, value in zip(frame.planes, (235, 128, 128, 0), strict=True):
        np.frombuffer(plane, np.uint8)[:] = value
    assert RgbReader(8)(frame, Color("bt709")).max() == 0


@pytest.mark.parametrize("matrix", ["ycgco", "ictcp"])
def test_a_matrix_that_swscale_lacks_is_an_error_and_not_a_wrong_picture(matrix: str) -> None:
    with pytest.raises(InputError, match=matrix):
        RgbReader(8)(av.VideoFrame(16, 16, "yuv444p"), Color(matrix))
