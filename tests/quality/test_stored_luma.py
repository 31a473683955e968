"""Luma as it is stored, against ffmpeg's filters on the frames that PyAV decodes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest

from cvcodec.codec import DecodeOptions
from cvcodec.quality.report import Report
from cvcodec.quality.sources import Comparison, compare_videos
from cvcodec.video import VideoReader
from tests.cli.programs import cvcodec as run
from tests.codec.models import save_model, tiny_mini

WIDTH, HEIGHT, COUNT = 48, 32, 3


def stored(
    path: Path, pixel_format: str, *, seed: int = 0, noise: int = 0, color_range: str = "mpeg", swing: float = 127.9
) -> Path:
    """A lossless video by PyAV alone; its luma takes every code value, also those beyond the nominal range, or lies
    near 246 where `swing` is 0."""
    values = np.random.default_rng(seed)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.codec_context.color_range = {"mpeg": 1, "jpeg": 2}[color_range]
        stream.codec_context.colorspace = 1
        for number in range(COUNT):
            frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
            bits = frame.format.components[0].bits
            for index, plane in enumerate(frame.planes):
                kind = np.uint8 if bits == 8 else np.uint16
                rows = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
                y, x = np.mgrid[: plane.height, : rows.shape[1]]
                middle = 128 if swing else 246
                wave = middle + swing * np.sin((x + 3 * y + 5 * number) / 9) if index == 0 else np.full(x.shape, 128.0)
                wave = wave + values.integers(-noise, noise + 1, x.shape) * (index == 0)
                rows[...] = (np.clip(wave, 0, 255.9) * 2 ** (bits - 8)).astype(kind)
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def measured(name: str, key: str, reference: Path, test: Path) -> list[float]:
    """What a filter of ffmpeg's says of the two files' frames as they are decoded."""
    pairs = list(zip(decoded(test), decoded(reference), strict=True))
    graph = av.filter.Graph()
    buffers = [
        graph.add_buffer(width=WIDTH, height=HEIGHT, format=frame.format, time_base=Fraction(1, 25))
        for frame in pairs[0]
    ]
    measure, sink = graph.add(name), graph.add("buffersink")
    for side, buffer in enumerate(buffers):
        buffer.link_to(measure, 0, side)
    measure.link_to(sink)
    graph.configure()
    for number, pair in enumerate(pairs):
        for buffer, frame in zip(buffers, pair, strict=True):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            buffer.push(frame)
    for buffer in buffers:
        buffer.push(None)
    found: list[float] = []
    while len(found) < len(pairs):
        metadata: Any = dict(sink.pull().metadata)
        found.append(float(metadata[f"lavfi.{name}.{key}"]))
    return found


def report(reference: Path, test: Path) -> Report:
    options = Comparison(measure={"metrics": ("psnr", "ssim")}, decode=DecodeOptions())
    return compare_videos(reference, test, options)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "gray", "gray10le"])
def test_psnr_of_luma_is_that_of_ffmpegs_filter_on_the_stored_planes(tmp_path: Path, pixel_format: str) -> None:
    reference = stored(tmp_path / "ref.mkv", pixel_format)
    test = stored(tmp_path / "test.mkv", pixel_format, seed=1, noise=30)
    ours = report(reference, test)
    assert (ours.luma_source, ours.to_dict()["luma_source"]) == ("planes", "planes")
    theirs = measured("psnr", "psnr.y", reference, test)
    assert list(ours.columns["psnr_y_db"]) == pytest.approx(theirs, abs=0.006)  # the filter prints two digits


def test_luma_beyond_the_nominal_range_is_not_clipped_away(tmp_path: Path) -> None:
    reference = stored(tmp_path / "ref.mkv", "yuv420p", swing=0, noise=8)
    test = stored(tmp_path / "test.mkv", "yuv420p", swing=0, noise=8, seed=1)
    ours, theirs = report(reference, test), measured("psnr", "psnr.y", reference, test)
    assert list(ours.columns["psnr_y_db"]) == pytest.approx(theirs, abs=0.006)
    assert ours.identical_frames == COUNT  # all that RGB shows of it
    assert ours.mean("psnr_y_db") == pytest.approx(31, abs=2)


@pytest.mark.parametrize(
    ("pixel_format", "color_range", "source"),
    [
        ("yuv420p10le", "mpeg", "rgb"),
        ("yuv420p", "jpeg", "rgb"),
        ("bgr0", "jpeg", "rgb"),
        ("yuv422p", "mpeg", "planes"),
    ],
)
def test_planes_that_mean_different_things_are_compared_as_rgb_and_the_report_says_so(
    tmp_path: Path, pixel_format: str, color_range: str, source: str
) -> None:
    reference = stored(tmp_path / "ref.mkv", "yuv420p")
    if pixel_format == "bgr0":
        test = tmp_path / "test.mkv"
        with av.open(str(test), "w") as output:
            stream: Any = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
            for number, frame in enumerate(decoded(reference)):
                other = frame.reformat(format=pixel_format)
                other.pts, other.time_base = number, Fraction(1, 25)
                output.mux(stream.encode(other))
            output.mux(stream.encode(None))
    else:
        test = stored(tmp_path / "test.mkv", pixel_format, noise=9, color_range=color_range)
    assert report(reference, test).luma_source == source


def test_the_command_says_what_its_luma_is(tmp_path: Path) -> None:
    reference = stored(tmp_path / "ref.mkv", "yuv420p")
    weights = save_model(tmp_path / "tiny.safetensors", tiny_mini())
    words = ["--metrics", "psnr,ssim", "--device", "cpu", "--precision", "fp32"]
    planes = run("eval", reference, reference, *words)
    assert "PSNR, Y (stored planes)" not in planes.out  # identical frames have none
    assert "SSIM, Y (stored planes)" in planes.out
    rgb = run("eval", reference, "-w", weights, *words)
    assert "PSNR, Y (bt709, from RGB)" in rgb.out
    record = json.loads(run("eval", reference, "-w", weights, "--json", *words).out)
    assert record["luma_source"] == "rgb"


def test_stored_luma_is_turned_with_the_picture(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.mkv", "yuv420p")
    turned = tmp_path / "turned.mp4"
    with av.open(str(path)) as source, av.open(str(turned), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.color_range = 1
        stream.set_display_rotation(90)
        for frame in source.decode(video=0):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with VideoReader(turned, stored_luma=True) as reader:
        frames = list(reader)
    for frame, theirs in zip(frames, decoded(path), strict=True):
        assert frame.luma is not None
        assert np.array_equal(frame.luma, np.rot90(theirs.to_ndarray()[:HEIGHT]))


def test_frames_carry_luma_only_where_it_was_asked_for(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.mkv", "yuv420p")
    with VideoReader(path) as plain, VideoReader(path, stored_luma=True) as asked:
        for without, frame, theirs in zip(plain, asked, decoded(path), strict=True):
            assert without.luma is None
            assert frame.luma is not None
            assert np.array_equal(frame.luma, theirs.to_ndarray()[:HEIGHT])
