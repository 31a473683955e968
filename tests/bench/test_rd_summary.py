"""Tables, means and charts of made-up rows."""

import dataclasses
import math
import xml.etree.ElementTree as ElementTree

import pytest

from cvcodec.bench.rd import chart, html, summary
from cvcodec.bench.rd.measure import Row
from cvcodec.errors import UsageError


def make_row(series: str, clip: str, value: float | None, bpp: float, psnr: float, lpips: float | None = None) -> Row:
    ours = series == "ours"
    return Row(
        clip=clip,
        codec="cvcodec" if ours else series.split()[0],
        model="ours" if ours else "",
        preset="" if ours else series.split()[1],
        value=value,
        series=series,
        point=f"q {value}" if ours else f"CRF {value}",
        width=100,
        height=100,
        frames=10,
        size_bytes=round(bpp * 12500),
        bpp=bpp,
        bitrate_bps=bpp * 250000,
        psnr_db=psnr,
        psnr_y_db=None,
        ssim=None,
        ms_ssim=None,
        lpips=lpips,
        lpips_name="a-metric" if lpips is not None else None,
        encode_fps=4.0,
        decode_fps=None,
        command="none",
    )


def make_rows() -> list[Row]:
    """x264 on two clips; ours takes half the rate on one and twice the rate on the other."""
    rows = []
    for clip, factor in (("a", 0.5), ("b", 2.0)):
        for step in range(5):
            rate = 0.02 * 2**step
            rows.append(make_row("libx264 slow", clip, 40 - step, rate, 24 + 3 * step, 0.5 - 0.1 * step))
            rows.append(make_row("ours", clip, 10 * step, factor * rate, 24 + 3 * step, 0.5 - 0.1 * step))
    return rows


def test_half_the_rate_and_twice_the_rate_cancel():
    (psnr, lpips) = summary.differences(make_rows(), "libx264 slow")
    assert (psnr.series, psnr.metric, psnr.counted) == ("ours", "psnr_db", 2)
    assert psnr.clips == pytest.approx({"a": -50.0, "b": 100.0})
    assert psnr.percent == pytest.approx(0.0, abs=1e-9)
    assert lpips.percent == pytest.approx(0.0, abs=1e-9)


def test_a_clip_without_common_quality_is_left_out_and_said():
    rows = make_rows()
    rows = [row for row in rows if row.clip == "a" or row.series != "ours"]
    rows += [make_row("ours", "b", 10 * step, 0.02 * 2**step, 4 + step) for step in range(5)]
    entry = summary.differences(rows, "libx264 slow")[0]
    assert (entry.counted, entry.clips["b"]) == (1, None)
    assert "-50.0 % (1 of 2 clips)" in summary.difference_table([entry], summary.speeds(rows))


def test_ours_is_compared_with_the_other_curve_at_its_own_rate():
    lpips = next(metric for metric in summary.METRICS if metric.key == "lpips")
    found = summary.at_same_rate(make_rows(), "libx264 slow", lpips)
    assert [(entry.clip, entry.quality) for entry in found] == [("a", 10), ("a", 20), ("a", 30), ("b", 0), ("b", 10)]
    assert [entry.theirs - entry.ours for entry in found] == pytest.approx([0.1, 0.1, 0.1, -0.1, -0.1])
    assert "better at 3 of 5 points" in summary.same_rate_table(found, "libx264 slow")


def test_tables_say_which_frames_lpips_is_of():
    rows = make_rows()
    assert summary.sampling(rows) == "LPIPS of all frames"
    sampled = [dataclasses.replace(row, lpips_every=7) for row in rows]
    assert "mean of 2 clips, LPIPS of one frame in 7:" in summary.quality_table(sampled)
    assert summary.sampling([dataclasses.replace(row, lpips=None) for row in rows]) == "no LPIPS"


@pytest.mark.parametrize(("frames", "warned"), [(32, "b"), (33, None), (9, "b")])
def test_bd_rates_of_short_clips_carry_a_warning_everywhere(frames, warned):
    rows = [dataclasses.replace(row, frames=frames if row.clip == "b" else 100) for row in make_rows()]
    found = summary.warnings(rows)
    assert len(found) == (warned is not None)
    assert summary.to_dict(rows, "libx264 slow")["warnings"] == found
    page = html.page(rows, anchor="libx264 slow", facts={}, machine="m", invocation="i", picture_of=lambda name: None)
    assert ("say little (b: " in page) == bool(found)
    assert all(f"(b: {frames} frames; 33 or more" in text for text in found)
    everywhere = summary.warnings([dataclasses.replace(row, frames=5) for row in rows])
    assert "(all clips: 5 frames" in everywhere[0]
    both = summary.warnings([dataclasses.replace(row, frames=5 if row.clip == "b" else 9) for row in rows])
    assert "(all clips: 5 to 9 frames" in both[0]


def test_means_take_only_settings_that_every_clip_has():
    rows = make_rows()
    psnr = summary.METRICS[0]
    assert summary.mean_points(rows, "ours", psnr)[0] == pytest.approx((1.25 * 0.02, 24.0))
    assert len(summary.mean_points(rows[:-1], "ours", psnr)) == 4


def test_the_quality_table_has_a_line_for_each_quality_and_one_for_latents():
    rows = [*make_rows(), make_row("ours", "a", None, 9.0, 40.0, 0.01), make_row("ours", "b", None, 9.0, 42.0, 0.03)]
    lines = summary.quality_table(rows).splitlines()
    assert lines[0] == "`ours`, mean of 2 clips, LPIPS of all frames:"
    assert lines[2] == "| quality | bits per pixel | PSNR RGB (dB) | PSNR Y (dB) | SSIM | a-metric |"
    assert lines[4] == "| 0 | 0.0250 | 24.00 | – | – | 0.5000 |"
    assert lines[-1] == "| not quantised | – | 41.00 | – | – | 0.0200 |"


def test_a_block_of_a_file_is_replaced_and_nothing_else():
    text = "one\n<!-- x -->\nold\n<!-- /x -->\ntwo\n"
    assert summary.replace_block(text, "x", "new\n") == "one\n<!-- x -->\nnew\n<!-- /x -->\ntwo\n"
    for wrong in ("nothing", "<!-- /x --><!-- x -->", text + text):
        with pytest.raises(UsageError, match="block"):
            summary.replace_block(wrong, "x", "new")


def test_a_chart_is_well_formed_and_puts_points_where_they_belong():
    lines = [chart.Line("a<b", "#123456", True, [(0.01, 20.0, "q 1"), (0.1, 30.0, "q 2"), (1.0, 40.0, "q 3")])]
    root = ElementTree.fromstring(chart.chart("PSNR & more", "dB", lines))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    (x0, y0), (x1, y1), (x2, y2) = circles
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # decades
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1 > y2
    falling = ElementTree.fromstring(chart.chart("LPIPS", "LPIPS", lines, falling=True))
    heights = [float(c.get("cy")) for c in falling.iter("{http://www.w3.org/2000/svg}circle")]
    assert heights[0] < heights[1] < heights[2]
    assert chart.chart("nothing", "dB", []) == ""


@pytest.mark.parametrize(("low", "high"), [(0.011, 0.52), (23.1, 41.0), (5.0, 5.0), (0.0, 0.0), (-3.0, 1e-4)])
def test_ticks_are_round_enclose_the_values_and_are_few(low, high):
    ticks = chart._ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9
    steps = {round(b - a, 9) for a, b in zip(ticks[:-1], ticks[1:], strict=True)}
    assert len(steps) == 1
    step = steps.pop()
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_the_page_escapes_names_and_shows_every_curve():
    rows = [make_row("ours", "<clip>", 10 * i, 0.01 * 2**i, 20 + i) for i in range(3)]
    text = html.page(
        rows, anchor=None, facts={"a": "<b>"}, machine="m", invocation="cvcodec bench", picture_of=lambda name: None
    )
    assert "<clip>" not in text
    assert "&lt;clip&gt;" in text
    assert text.count("<polyline") == 2  # means, and the clip
