"""A whole bench on clips of a few frames: numbers against other sources, resuming, matching, files."""

import dataclasses
import io
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from cvcodec.bench import clips, measure, settings, summary
from cvcodec.bench.measure import Cache, Workbench, matching_settings, run
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import EncodeOptions, ReaderOptions, encode_stream
from cvcodec.codec.layers import requantise
from cvcodec.errors import InputError, UsageError
from cvcodec.quality import backbones, lpips_weights
from cvcodec.quality.lpips import Lpips
from cvcodec.video import VideoReader
from harness import write_clip
from tests.cli.programs import cvcodec
from tests.video.clips import filtered_bytes

WIDTH, HEIGHT, FRAMES = 48, 32, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(2):
        write_clip(folder / f"clip{seed}.mp4", WIDTH, HEIGHT, FRAMES, seed=seed)
    return folder


@pytest.fixture(scope="module")
def bench(tiny_weights, tmp_path_factory):
    model = load_model(tiny_weights)
    return Workbench(
        cache=Cache(tmp_path_factory.mktemp("cache"), {}),
        models={"tiny": model},
        metrics=("psnr", "ssim"),
        device="cpu",
        precision="fp32",
        threads=1,
    )


@pytest.fixture(scope="module")
def opened(folder):
    return [
        clips.open_clip(
            folder / f"clip{seed}.mp4", f"clip{seed}", protocol="source", reader=ReaderOptions(), folder=folder
        )
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def rows(bench, opened):
    wanted = [
        *settings.model_settings(["tiny"], [30, 70], unquantised=True),
        *settings.encoder_settings(["libx264"], ["speed"], {"libx264": (18, 35, 48)}),
    ]
    return run(bench, opened, wanted)


def test_a_clip_is_named_by_its_bytes_and_its_stretch(folder, opened):
    first = opened[0]
    assert (first.width, first.height, first.frames, first.name) == (WIDTH, HEIGHT, FRAMES, "clip0")
    assert first.duration_s == pytest.approx(FRAMES / 25)
    again = clips.open_clip(folder / "clip0.mp4", "clip0", protocol="source", reader=ReaderOptions(), folder=folder)
    shorter = clips.open_clip(
        folder / "clip0.mp4", "clip0", protocol="source", reader=ReaderOptions(frames=5), folder=folder
    )
    assert again.digest == first.digest
    assert len({first.digest, shorter.digest, opened[1].digest}) == 3
    assert shorter.frames == 5


def test_every_clip_and_setting_has_a_row_with_real_bytes_and_speeds(rows):
    assert [(row.clip, row.point) for row in rows] == [
        (clip, point)
        for clip in ("clip0", "clip1")
        for point in ("q 30", "q 70", "latents", "CRF 18", "CRF 35", "CRF 48")
    ]
    for row in rows:
        assert row.bpp == pytest.approx(8 * row.size_bytes / (WIDTH * HEIGHT * FRAMES))
        assert row.bitrate_bps == pytest.approx(8 * row.size_bytes / (FRAMES / 25))
        assert row.encode_fps > 0
        assert row.decode_fps > 0
        assert row.lpips is None


def test_an_encoder_is_measured_as_ffmpeg_libraries_measure_it(bench, opened, tmp_path, monkeypatch):
    """One file measured by hand as well: PSNR of the frames by numpy, bytes by FFmpeg's bitstream filters."""
    clip, file = opened[0], tmp_path / "x.mp4"
    setting = settings.Setting(codec="libx264", preset="medium", value=35)
    measure.encode_with(clip, setting, file, threads=1)

    def copy(clip, setting, target, **options):  # x264 does not make the same file every time
        shutil.copy(file, target)
        return 2.0

    monkeypatch.setattr(measure, "encode_with", copy)
    row = dataclasses.replace(bench, cache=Cache(tmp_path / "cache", {})).measure(clip, setting)
    elementary = filtered_bytes(file, "h264_mp4toannexb,filter_units=remove_types=6")
    assert row.size_bytes == pytest.approx(elementary, abs=FRAMES + 3)  # start codes of three or four bytes
    assert row.size_bytes < filtered_bytes(file, "null") - 500  # which holds the text of x264's options
    with VideoReader(clip.path) as left, VideoReader(file) as right:
        pairs = [(a.pixels.astype(float), b.pixels.astype(float)) for a, b in zip(left, right, strict=True)]
    expected = np.mean([10 * math.log10(255**2 / np.mean((a - b) ** 2)) for a, b in pairs])
    assert row.psnr_db == pytest.approx(expected, abs=1e-6)
    assert row.encode_fps == FRAMES / 2


def test_the_settings_ask_x264_for_what_they_say(rows):
    x264 = [row for row in rows if row.clip == "clip0" and row.codec == "libx264"]
    assert x264[0].size_bytes > x264[1].size_bytes > x264[2].size_bytes
    assert x264[0].psnr_db > x264[1].psnr_db > x264[2].psnr_db
    assert x264[1].command == ("ffmpeg -i clip0.mp4 -an -c:v libx264 -crf 35 -preset medium -pix_fmt yuv420p out.mkv")
    assert rows[0].command == "cvcodec encode clip0.mp4 out.cvl --weights tiny --quality 30"


def test_requantised_latents_are_the_file_that_encode_writes(tiny_weights, opened):
    model = load_model(tiny_weights)

    def encoded(**options):
        file = io.BytesIO()
        encode_stream(
            opened[0].path, file, model=model, options=EncodeOptions(device="cpu", precision="fp32", **options)
        )
        file.seek(0)
        return file

    for rdo in ("none", "time", "all"):
        made = io.BytesIO()
        size = requantise(encoded(latents="fp32"), made, model=model, quality=40, rdo=rdo)
        assert made.getvalue() == encoded(quality=40, rdo=rdo).getvalue()
        assert size == len(made.getvalue())
    with pytest.raises(UsageError, match="quantised already"):
        requantise(encoded(), io.BytesIO(), model=model, quality=40)


def test_a_second_run_encodes_nothing(bench, opened, rows, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("encoded again")

    monkeypatch.setattr(measure, "encode_stream", refuse)
    monkeypatch.setattr(measure, "encode_with", refuse)
    monkeypatch.setattr(measure, "evaluate", refuse)
    wanted = settings.encoder_settings(["libx264"], ["speed"], {"libx264": (18, 35, 48)})
    assert run(bench, opened, wanted) == [row for row in rows if row.codec == "libx264"]
    with pytest.raises(AssertionError, match="encoded again"):
        run(bench, opened, settings.encoder_settings(["libx264"], ["speed"], {"libx264": (19,)}))


def test_a_damaged_result_is_measured_again(bench, opened, rows):
    setting = settings.Setting(codec="libx264", preset="medium", value=48)
    (bench.cache.folder / f"{rows[5].key}.json").write_text('{"clip": ')
    again = bench.measure(opened[0], setting)
    assert again.size_bytes == pytest.approx(rows[5].size_bytes, rel=0.2)


def test_several_encodes_at_a_time_note_no_speeds(bench, opened, rows, tmp_path):
    side = dataclasses.replace(bench, cache=Cache(tmp_path, {}), timed=False)
    wanted = settings.encoder_settings(["libx264"], ["speed"], {"libx264": (35,)})
    found = run(side, opened, wanted, jobs=2)
    assert [(row.clip, row.encode_fps, row.decode_fps) for row in found] == [
        ("clip0", None, None),
        ("clip1", None, None),
    ]
    assert [row.psnr_db for row in found] == pytest.approx(
        [row.psnr_db for row in rows if row.point == "CRF 35"], abs=1
    )


def test_what_ends_a_run_ends_the_encodes_beside_it(bench, opened, tmp_path, monkeypatch):
    side = dataclasses.replace(bench, cache=Cache(tmp_path, {}), timed=False)
    wanted = settings.encoder_settings(["libx264"], ["speed"], {"libx264": (20, 35)})
    begun = threading.Event()
    ends = []

    def encode_with(clip, setting, target, *, threads=None, check=lambda: None):
        if setting.value == 20:
            begun.wait(30)
            raise InputError("broken")
        begun.set()
        try:
            for _ in range(3000):
                check()
                time.sleep(0.01)
            ends.append("finished")
        except Exception:
            ends.append("stopped")
            raise

    monkeypatch.setattr(measure, "encode_with", encode_with)
    with pytest.raises(InputError, match="broken"):
        run(side, opened[:1], wanted, jobs=2)
    assert ends == ["stopped"]


def test_the_matched_encode_has_about_our_size(bench, opened, rows):
    found = run(
        bench,
        opened[:1],
        [
            *settings.model_settings(["tiny"], [30], unquantised=False),
            *settings.encoder_settings(["libx264"], ["speed"], {"libx264": (18, 35, 48)}),
        ],
        match=[30],
    )
    ours, match = found[0], [row for row in found if row.matched is not None]
    low, high = sorted((rows[3].size_bytes, rows[5].size_bytes))
    if low < ours.size_bytes < high:
        assert match[0].matched == 30
        assert abs(math.log(match[0].bpp / ours.bpp)) < 0.25
    else:
        assert match == []
    assert summary.on_curves(found) == found[: len(found) - len(match)]


def test_matching_interpolates_crf_over_the_logarithm_of_the_rate(rows):
    x264 = [row for row in rows if row.clip == "clip0" and row.codec == "libx264"]
    (setting,) = matching_settings(x264, x264[1])
    assert (setting.codec, setting.preset, setting.value) == ("libx264", "medium", 35)


def test_the_paper_s_protocol_takes_every_third_frame_and_the_middle(tmp_path):
    write_clip(tmp_path / "long.mp4", 300, 270, 100)

    def open_one(name):
        folder = tmp_path / "kept"
        return clips.open_clip(
            tmp_path / f"{name}.mp4", name, protocol="cvvae", reader=ReaderOptions(frames=99), folder=folder
        )

    clip = open_one("long")
    assert open_one("long") == clip  # of the frames that were kept
    assert (clip.width, clip.height, clip.frames, clip.name) == (256, 256, 33, "long")
    with VideoReader(tmp_path / "long.mp4") as reader:
        source = [frame for index, frame in enumerate(reader) if index % 3 == 0]
    with clip.open() as reader:
        for kept, frame in zip(reader, source, strict=False):
            planes = torch.from_numpy(frame.pixels).permute(2, 0, 1)[None].float()
            scaled = torch.nn.functional.interpolate(planes, size=(256, 284), mode="bicubic", antialias=True)
            wanted = scaled[0, :, :, 14:270].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
            np.testing.assert_array_equal(kept.pixels, wanted)
            assert kept.pts * reader.info.time_base == pytest.approx(float(frame.pts / 25), abs=1e-3)
    write_clip(tmp_path / "short.mp4", 64, 64, 96)
    with pytest.raises(InputError, match="too few frames"):
        open_one("short")


def test_lpips_of_every_third_frame_is_that_of_the_whole_metric_and_others_are_left_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = Lpips(backbones.build_standard("squeeze"), lpips_weights.read_linear("squeeze"), "seeded")
        x, y = torch.rand(2, 7, 3, 32, 32) * 2 - 1
    strided = measure.Strided(whole, 3)
    values = torch.cat([strided(x[:2], y[:2]), strided(x[2:3], y[2:3]), strided(x[3:], y[3:])])
    assert values.isnan().tolist() == [False, True, True, False, True, True, False]
    torch.testing.assert_close(values[::3], whole(x, y)[::3])
    assert (strided.name, strided.minimum_side) == (whole.name, whole.minimum_side)


@pytest.mark.parametrize("every", [2, 4, 6, 8, 12])
def test_a_stride_in_step_with_groups_of_four_frames_is_refused(bench, every):
    with pytest.raises(UsageError, match=rf"groups of 4 frames .* an odd number, such as {every + 1}"):
        dataclasses.replace(bench, lpips_every=every)


def test_the_command_refuses_such_a_stride_before_anything_is_made(folder, tmp_path):
    outcome = cvcodec("bench", folder / "clip0.mp4", "--lpips-every", "8", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "take an odd number, such as 9" in outcome.err
    assert not (tmp_path / "out").exists()


def test_unknown_encoders_and_impossible_crfs_are_refused():
    with pytest.raises(UsageError, match="libx999"):
        settings.encoder_settings(["libx999"], ["speed"])
    with pytest.raises(UsageError, match="CRF"):
        settings.encoder_settings(["libx264"], ["speed"], {"libx264": (99,)})
    with pytest.raises(UsageError, match="whole number"):
        settings.encoder_settings(["libsvtav1"], ["speed"], {"libsvtav1": (20.5,)})


class Page(HTMLParser):
    """Tags and the addresses a page refers to."""

    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


def test_the_command_writes_a_page_that_needs_nothing_else_json_and_plots(folder, tiny_weights, tmp_path):
    arguments = ["--weights", tiny_weights, "--qualities", "30,45,60", "--against", "libx264", "--presets", "speed"]
    arguments += ["--crfs", "18,27,36,48", "--match", "45", "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    arguments += [
        "--lpips-variant",
        "none",
        "--quiet",
        "-o",
        str(tmp_path / "out"),
        "--update",
        str(tmp_path / "README.md"),
    ]
    (tmp_path / "README.md").write_text("before\n<!-- bench: rate -->\nold\n<!-- /bench: rate -->\nafter\n")
    command = [
        sys.executable,
        "-m",
        "cvcodec",
        "bench",
        str(folder / "clip0.mp4"),
        str(folder / "clip1.mp4"),
        *arguments,
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
    page = Page()
    page.feed((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    kinds = [link.partition(",")[0] for link in page.links]
    assert set(kinds) == {"data:image/svg+xml;base64", "data:image/png;base64"}
    assert kinds.count("data:image/svg+xml;base64") == 1 + 2  # means, and each clip
    assert "table" in page.tags
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert record["anchor"] == "libx264 medium"
    assert len([row for row in record["rows"] if row["matched"] is None]) == 2 * (3 + 4)
    text = (tmp_path / "README.md").read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert "| libx264 medium | anchor |" in text
    assert f"(all clips: {FRAMES} frames" in text
    assert [f"(all clips: {FRAMES} frames" in line for line in record["warnings"]] == [True]
    assert "without user data" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "out" / "curves.svg").read_bytes()


def test_clips_of_one_name_are_told_apart() -> None:
    paths = [Path(name) for name in ("a/v.mp4", "b/v.mp4", "b/v.mkv", "c/b/v.mp4", "w.mp4", "a/v.mp4")]
    names = clips.distinct_names(paths)
    assert list(names) == paths[:-1], "a file given twice counts once"
    here = Path.cwd().name
    assert list(names.values()) == ["a/v.mp4", f"{here}/b/v.mp4", "v.mkv", "c/b/v.mp4", "w"]
