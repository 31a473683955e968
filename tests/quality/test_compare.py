"""Reports against closed forms, and the bookkeeping around them."""

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cvcodec.errors import InputError, UsageError
from cvcodec.quality import backbones, lpips_weights
from cvcodec.quality.compare import evaluate
from cvcodec.quality.lpips import Lpips
from cvcodec.quality.report import Rate, Report
from cvcodec.video.frame import Frame
from tests.pictures import degraded, pattern

BASE = Fraction(1, 25)


def _clip(pictures: Iterable[NDArray[Any]], bit_depth: int = 8, start: int = 0) -> list[Frame]:
    return [Frame(pixels, start + i, bit_depth=bit_depth) for i, pixels in enumerate(pictures)]


def _evaluate(reference: Iterable[Frame], test: Iterable[Frame], **options: Any) -> Report:
    options.setdefault("metrics", ("psnr",))
    return evaluate(reference, test, reference_time_base=BASE, test_time_base=BASE, **options)


def _flat(value: int, dtype: type = np.uint8) -> NDArray[Any]:
    return np.full((12, 16, 3), value, dtype=dtype)


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    torch.manual_seed(0)
    return Lpips(backbones.build_standard("squeeze"), lpips_weights.read_linear("squeeze"), "test-lpips")


def test_means_and_global_psnr_follow_their_closed_forms() -> None:
    report = _evaluate(_clip([_flat(100)] * 3), _clip([_flat(101), _flat(100), _flat(110)]))
    first, last = 20 * math.log10(255), 20 * math.log10(25.5)
    result = report.to_dict()
    assert result["psnr_db"] == pytest.approx((first + last) / 2)
    assert result["psnr_y_db"] == pytest.approx((first + last) / 2)
    assert result["psnr_global_db"] == pytest.approx(10 * math.log10(255**2 / ((1 + 100) / 3)))
    assert result["psnr_y_global_db"] == pytest.approx(result["psnr_global_db"])
    assert result["psnr_min_db"] == pytest.approx(last)
    assert (result["identical"], result["identical_frames"], result["frames"]) == (False, 1, 3)


def test_luma_errors_are_weighted_by_the_named_matrix() -> None:
    reference, test = _flat(100), _flat(100)
    test[..., 0] += 20  # red alone
    for matrix, weight in (("bt709", 0.2126), ("smpte170m", 0.299)):
        result = _evaluate(_clip([reference]), _clip([test]), matrix=matrix).to_dict()
        assert result["psnr_db"] == pytest.approx(10 * math.log10(255**2 / (400 / 3)))
        assert result["psnr_y_db"] == pytest.approx(20 * math.log10(255 / (20 * weight)))
    assert result["luma_matrix"] == "bt601"
    result = _evaluate(_clip([reference]), _clip([test]), matrix="rgb").to_dict()
    assert result["luma_matrix"] == "bt709"
    assert "BT.709" in result["notes"][0]


def test_ten_bit_code_values_have_their_own_peak() -> None:
    report = _evaluate(_clip([_flat(500, np.uint16)], 10), _clip([_flat(504, np.uint16)], 10))
    assert report.mean("psnr_db") == pytest.approx(20 * math.log10(1023 / 4))


def test_sides_of_two_bit_depths_are_compared_by_their_whites() -> None:
    eight, ten = _clip([_flat(51)]), _clip([_flat(204, np.uint16)], 10)
    assert _evaluate(eight, ten, whites=(255, 1020)).to_dict()["identical"] is True
    report = _evaluate(eight, ten)
    assert report.mean("psnr_db") == pytest.approx(-20 * math.log10(51 / 255 - 204 / 1023))


def test_identical_clips_are_null_in_json_and_inf_in_csv() -> None:
    clip = _clip([_flat(7), _flat(9)])
    report = _evaluate(clip, clip, metrics=("psnr", "ssim"))
    result = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert result["identical"] is True
    assert [result[key] for key in result if key.startswith("psnr")] == [None] * 5
    assert result["ssim"] == 1.0
    rows = list(report.rows())
    assert rows[1] == {
        "frame": 1, "pts": 1, "time_s": 0.04, "identical": True, "psnr_db": None, "psnr_y_db": None, "ssim": 1.0,
    }  # fmt: skip
    file = io.StringIO()
    report.write_csv(file)
    table = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert table[0] == {
        "frame": "0", "pts": "0", "time_s": "0.0", "identical": "1",
        "psnr_db": "inf", "psnr_y_db": "inf", "ssim": "1.0",
    }  # fmt: skip


def test_every_metric_is_the_mean_over_frames_whatever_the_batches(lpips: Lpips) -> None:
    pictures = [pattern(164, 161, seed) for seed in range(2)]
    reference = _clip(pictures)
    test = _clip([degraded(picture, seed) for seed, picture in enumerate(pictures)])
    metrics = ("psnr", "ssim", "ssim_rgb", "ms_ssim", "lpips")
    together = _evaluate(reference, test, metrics=metrics, lpips=lpips)
    alone = _evaluate(reference, test, metrics=metrics, lpips=lpips, batch_pixels=1)
    assert together.lpips_name == "test-lpips"
    assert set(together.columns) == {"psnr_db", "psnr_y_db", "ssim", "ssim_rgb", "ms_ssim", "lpips"}
    for name, column in together.columns.items():
        assert list(column) == pytest.approx(list(alone.columns[name]), rel=1e-5)
        assert together.to_dict()[name] == pytest.approx(sum(column) / 2)
    with torch.inference_mode():
        sides = [
            torch.from_numpy(frame.pixels / 127.5 - 1).permute(2, 0, 1)[None].float()
            for frame in (reference[1], test[1])
        ]
        assert together.columns["lpips"][1] == pytest.approx(lpips(*sides).item(), rel=1e-5)


def test_ssim_in_the_report_is_that_of_luma() -> None:
    image = pattern(48, 64, 1)
    report = _evaluate(_clip([image]), _clip([degraded(image, 1)]), metrics=("ssim", "ssim_rgb"))
    assert report.mean("ssim") == pytest.approx(0.7222570307362054, abs=1e-6)  # scikit-image 0.26.0
    assert report.mean("ssim_rgb") == pytest.approx(0.6444159618240154, abs=1e-6)
    assert report.to_dict()["psnr_db"] is None


def test_metrics_that_need_larger_frames_are_null_with_a_note(lpips: Lpips) -> None:
    clip = _clip([pattern(10, 12, 0)])
    report = _evaluate(
        clip, _clip([degraded(clip[0].pixels, 0)]), metrics=("psnr", "ssim", "ms_ssim", "lpips"), lpips=lpips
    )
    result = report.to_dict()
    assert result["psnr_db"] is not None
    assert result["ssim"] is result["ms_ssim"] is result["lpips"] is None
    assert result["notes"] == [
        "ssim not measured: it needs 11x11 pixels, frames are 12x10",
        "ms_ssim not measured: it needs 161x161 pixels, frames are 12x10",
        "lpips not measured: it needs 17x17 pixels, frames are 12x10",
    ]
    file = io.StringIO()
    report.write_csv(file)
    assert next(csv.DictReader(io.StringIO(file.getvalue())))["lpips"] == ""


def test_frames_without_a_partner_are_counted_and_the_rest_measured() -> None:
    report = _evaluate(_clip([_flat(1)] * 5), _clip([_flat(2)] * 5, start=2))
    result = report.to_dict()
    assert (result["frames"], result["unmatched_reference_frames"], result["unmatched_test_frames"]) == (3, 2, 2)
    assert list(report.pts) == [2, 3, 4]
    assert list(report.times) == [0.08, 0.12, 0.16]


def test_no_match_at_all_is_an_error_that_names_both_first_times() -> None:
    with pytest.raises(InputError, match=r"2 and 3 frames, first times 0\.000000 s and 0\.400000 s"):
        _evaluate(_clip([_flat(1)] * 2), _clip([_flat(2)] * 3, start=10))
    with pytest.raises(InputError, match="first times none and none"):
        _evaluate([], [])
    assert _evaluate(_clip([_flat(1)] * 2), _clip([_flat(2)] * 3, start=10), align="start").frames == 2


def test_frames_of_two_sizes_are_an_error_not_a_resize() -> None:
    with pytest.raises(InputError, match="reference 16x12, test 8x6"):
        _evaluate(_clip([_flat(1)]), _clip([_flat(1)[:6, :8]]))


def test_the_frame_kept_for_a_picture_is_the_worst_or_the_one_asked_for() -> None:
    test = [_flat(value) for value in (101, 130, 100, 120)]
    sides = _clip([_flat(100)] * 4), _clip(test)
    for batch_pixels in (1, 1 << 20):
        kept = _evaluate(*sides, keep="worst", batch_pixels=batch_pixels).kept
        assert kept is not None
        assert (kept.index, kept.time_s, int(kept.test[0, 0, 0])) == (1, 0.04, 130)
        kept = _evaluate(*sides, keep=2, batch_pixels=batch_pixels).kept
        assert kept is not None
        assert kept.index == 2
        assert kept.picture().dtype == np.uint8
    assert _evaluate(*sides).kept is None


def test_rates_come_from_real_bytes_without_copied_streams() -> None:
    rate = Rate(size_bytes=1000, copied_bytes=77, pixels=12 * 16 * 2, duration_s=0.08)
    result = _evaluate(_clip([_flat(1)] * 2), _clip([_flat(2)] * 2), rate=rate).to_dict()
    assert result["bpp"] == pytest.approx(8000 / 384)
    assert result["bitrate_bps"] == pytest.approx(100_000)
    assert (result["size_bytes"], result["copied_bytes"]) == (1000, 77)
    assert Rate(size_bytes=1, pixels=8).bitrate_bps is None


def test_only_one_batch_of_frames_is_alive() -> None:
    alive, most = 0, 0

    class Counted(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def clip() -> Iterable[Frame]:
        nonlocal alive, most
        for i in range(40):
            pixels = np.zeros((12, 16, 3), np.uint8).view(Counted)
            alive += 1
            most = max(most, alive)
            yield Frame(pixels, i)
            del pixels

    done: list[int] = []
    _evaluate(clip(), _clip([_flat(3)] * 40), batch_pixels=4 * 12 * 16, on_progress=done.append)
    assert done == list(range(4, 41, 4))
    assert most <= 4 + 3


def test_bad_options_are_usage_errors() -> None:
    clip = _clip([_flat(1)])
    with pytest.raises(UsageError, match="unknown metric vmaf"):
        _evaluate(clip, clip, metrics=("vmaf", "psnr"))
    with pytest.raises(UsageError, match="unknown alignment"):
        _evaluate(clip, clip, align="index")
    with pytest.raises(UsageError, match="cannot keep"):
        _evaluate(clip, clip, keep="best")


def test_lpips_is_measured_in_true_fp32_by_the_switch_that_the_model_uses(
    lpips: Lpips, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def recorded(device: torch.device, precision: str) -> Iterator[None]:
        asked.append((device.type, precision))
        yield

    monkeypatch.setattr("cvcodec.quality.compare.arithmetic", recorded)
    clip = _clip([pattern(64, 64, 1)])
    _evaluate(clip, clip, metrics=("lpips",), lpips=lpips)
    assert asked == [("cpu", "fp32")]
