"""Tables, means, curves and the page of made-up rows."""

import base64
import dataclasses
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from cvcodec.bench import report, summary
from cvcodec.bench.measure import Row
from cvcodec.bench.report import page, replace_block
from cvcodec.errors import MissingDependencyError, UsageError


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
    assert ("say little (b: " in page_of(rows, anchor="libx264 slow")) == bool(found)
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
    assert replace_block(text, "x", "new\n") == "one\n<!-- x -->\nnew\n<!-- /x -->\ntwo\n"
    for wrong in ("nothing", "<!-- /x --><!-- x -->", text + text):
        with pytest.raises(UsageError, match="block"):
            replace_block(wrong, "x", "new")


def points_drawn(axes):
    """Of each curve the pixels of its points, as numpy arrays (points, 2)."""
    return {line.get_label(): axes.transData.transform(line.get_xydata()) for line in axes.get_lines()}


def test_curves_are_where_their_points_are():
    drawn = report.figure(make_rows(), [summary.METRICS[0], summary.METRICS[-1]], "a")
    psnr, lpips = drawn.axes
    assert [axes.get_title() for axes in drawn.axes] == ["PSNR RGB (dB), a", "LPIPS, a"]
    for axes in (psnr, lpips):  # both have better pictures farther up, as small values of LPIPS are good
        (first, *others) = points_drawn(axes)["ours"]
        assert all(point[0] > first[0] and point[1] > first[1] for point in others)
    across = points_drawn(psnr)["libx264 slow"][:, 0]
    assert across[1:] - across[:-1] == pytest.approx([across[1] - across[0]] * 4), "each point has twice the rate"
    half = points_drawn(psnr)["ours"][:, 0]
    assert across - half == pytest.approx([across[1] - across[0]] * 5), "ours has half the rate"


def test_two_presets_of_an_encoder_share_a_colour_and_one_is_dashed():
    rows = [*make_rows(), *(dataclasses.replace(row, series="libx264 fast") for row in make_rows() if row.preset)]
    (axes,) = report.figure(rows, summary.METRICS[:1]).axes
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert list(looks) == ["ours", "libx264 slow", "libx264 fast"]
    assert looks["libx264 slow"] == (looks["libx264 fast"][0], "-")
    assert looks["libx264 fast"][1] == "--"
    assert looks["ours"][0] != looks["libx264 slow"][0]


def test_ticks_of_rates_are_numbers_a_person_reads():
    drawn = report.figure(make_rows(), summary.METRICS[:1])
    drawn.canvas.draw()
    (axes,) = drawn.axes
    low, high = axes.get_xlim()
    shown = {float(label.get_text()) for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high}
    assert {0.02, 0.05, 0.1, 0.2} <= shown


@pytest.mark.parametrize("name", ["a<b & c", "$x^2$", "a\x1b[31mb"])
def test_names_stand_in_an_svg_as_they_are_and_control_characters_do_not(name):
    rows = [dataclasses.replace(row, series=name) for row in make_rows() if row.codec == "cvcodec"]
    root = ElementTree.fromstring(report.draw(rows, summary.METRICS[:1], kind="svg"))
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert name.replace("\x1b", "\\x1b") in texts


def page_of(rows, *, anchor=None, **changes):
    given = {"facts": {}, "machine": "m", "invocation": "i", "picture_of": lambda name: None, "curves": {}}
    return page(rows, anchor=anchor, **given | changes)


def test_the_page_escapes_names_and_shows_every_curve():
    rows = [make_row("ours", "<clip>", 10 * i, 0.01 * 2**i, 20 + i) for i in range(3)]
    drawn = {name: report.draw(rows, summary.METRICS[:1], name, kind="svg") for name in (None, "<clip>")}
    text = page_of(rows, facts={"a": "<b>"}, curves=drawn)
    assert "<clip>" not in text
    assert "&lt;clip&gt;" in text
    assert "&lt;b&gt;" in text
    for image in drawn.values():
        assert text.count(base64.b64encode(image).decode()) == 1
    assert "<img" not in page_of(rows), "without curves the page is without them"


def test_without_matplotlib_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "cvcodec\[plot\]"'):
        report.figure(make_rows(), summary.METRICS[:1])
