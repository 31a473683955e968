"""The report beside ffmpeg's `psnr` and `ssim` filters, run through PyAV.

PSNR must agree to the filter's printed digits. ffmpeg's SSIM is another one (8x8 blocks every 4 pixels, all pixels of a
block with the same weight), so it is compared loosely: near, and in the same order.
"""

from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
import pytest
from numpy.typing import NDArray

from cvcodec.quality.compare import evaluate
from cvcodec.quality.report import Report
from cvcodec.video.frame import Frame
from tests.pictures import degraded, pattern

BASE = Fraction(1, 25)
Clip = list[NDArray[np.uint8]]


def _filter(name: str, pixel_format: str, reference: Clip, test: Clip) -> list[dict[str, float]]:
    """Per-frame metadata of a two-input measuring filter; frames are RGB, converted to `pixel_format` by swscale."""
    height, width = reference[0].shape[:2]
    graph = av.filter.Graph()
    shape = av.VideoFormat(pixel_format, width, height)
    sources = [graph.add_buffer(width=width, height=height, format=shape, time_base=BASE) for _ in range(2)]
    measure, sink = graph.add(name), graph.add("buffersink")
    for side, source in enumerate(sources):
        source.link_to(measure, 0, side)
    measure.link_to(sink)
    graph.configure()
    for pts, pair in enumerate(zip(test, reference, strict=True)):
        for source, pixels in zip(sources, pair, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = pts, BASE
            source.push(frame)
    for source in sources:
        source.push(None)
    results: list[dict[str, float]] = []
    while len(results) < len(reference):
        metadata: dict[str, Any] = dict(sink.pull().metadata)
        results.append({key.removeprefix(f"lavfi.{name}."): float(value) for key, value in metadata.items()})
    return results


def _report(reference: Clip, test: Clip) -> Report:
    sides = [[Frame(pixels, pts) for pts, pixels in enumerate(clip)] for clip in (reference, test)]
    return evaluate(*sides, reference_time_base=BASE, test_time_base=BASE, metrics=("psnr", "ssim"))


def _grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture[..., :1].repeat(3, axis=2)


def test_rgb_psnr_of_every_frame_equals_the_psnr_filter() -> None:
    reference = [pattern(48, 64, seed) for seed in range(3)]
    test = [degraded(picture, seed) for seed, picture in enumerate(reference)]
    theirs = _filter("psnr", "gbrp", reference, test)
    report = _report(reference, test)
    assert list(report.columns["psnr_db"]) == pytest.approx([frame["psnr_avg"] for frame in theirs], abs=2e-6)
    assert [error * 255**2 for error in report.errors["rgb"]] == pytest.approx(
        [frame["mse_avg"] for frame in theirs], rel=1e-6
    )


def test_luma_psnr_of_grey_pictures_equals_the_psnr_filter() -> None:
    reference = [_grey(pattern(48, 64, seed)) for seed in range(2)]
    test = [_grey(degraded(picture, seed)) for seed, picture in enumerate(reference)]
    theirs = _filter("psnr", "gbrp", reference, test)
    assert list(_report(reference, test).columns["psnr_y_db"]) == pytest.approx(
        [frame["psnr.g"] for frame in theirs], abs=2e-6
    )


def test_limited_range_luma_psnr_is_higher_by_the_documented_amount() -> None:
    reference, test = [_grey(pattern(96, 128, 1))], [_grey(degraded(pattern(96, 128, 1), 1))]
    (theirs,) = _filter("psnr", "yuv444p", reference, test)
    ours = _report(reference, test).columns["psnr_y_db"][0]
    assert theirs["psnr.y"] - ours == pytest.approx(20 * np.log10(255 / 219), abs=0.02)


def test_ssim_is_near_the_block_based_filter_and_in_its_order() -> None:
    reference = [_grey(pattern(96, 128, 1))] * 4
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((96, 128, 1))
    test = [
        np.clip(np.rint(reference[0] + spread * noise), 0, 255).astype(np.uint8) for spread in (2.0, 6.0, 15.0, 40.0)
    ]
    theirs = [frame["All"] for frame in _filter("ssim", "gbrp", reference, test)]
    ours = list(_report(reference, test).columns["ssim"])
    assert ours == pytest.approx(theirs, abs=0.15)
    assert ours == sorted(ours, reverse=True)
    assert theirs == sorted(theirs, reverse=True)
