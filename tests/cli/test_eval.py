"""`cvcodec eval`: its four forms against numbers computed elsewhere, its files, its refusals."""

from __future__ import annotations

import csv
import math
import os
import select
import shutil
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import cvcodec
from cvcodec.codec import DEFAULT_QUALITY
from cvcodec.quality.pictures import MARGIN
from tests.cli.programs import cvcodec as run
from tests.cli.programs import one_line, process
from tests.codec.clips import Picture, smooth, times_of, write_rgb
from tests.codec.models import save_model, tiny_mini

COUNT, HEIGHT, WIDTH = 14, 40, 56
CLIP = smooth(COUNT, HEIGHT, WIDTH)
QUICK = ["--metrics", "psnr,ssim", "--quiet", "--device", "cpu", "--precision", "fp32"]


def noisy(pictures: list[Picture], spread: float) -> list[Picture]:
    rng = np.random.default_rng(1)
    return [np.clip(p + rng.normal(0, spread, p.shape), 0, 255).astype(np.uint8) for p in pictures]


NOISY = noisy(CLIP, 9.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval")
    save_model(path / "tiny.safetensors", tiny_mini())
    write_rgb(str(path / "ref.mkv"), CLIP, container="matroska")
    write_rgb(str(path / "recon.mkv"), NOISY, container="matroska")
    options = ["-w", path / "tiny.safetensors", "--device", "cpu", "--precision", "fp32"]
    assert run("encode", path / "ref.mkv", path / "a.cvl", *options).code == 0
    return path


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in folder.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def psnr_filter(reference: list[Picture], test: list[Picture]) -> list[dict[str, float]]:
    """What ffmpeg's psnr filter says of each pair of RGB frames."""
    graph = av.filter.Graph()
    height, width = reference[0].shape[:2]
    shape = av.VideoFormat("gbrp", width, height)
    buffers = [graph.add_buffer(width=width, height=height, format=shape, time_base=Fraction(1, 25)) for _ in range(2)]
    measure, sink = graph.add("psnr"), graph.add("buffersink")
    for side, buffer in enumerate(buffers):
        buffer.link_to(measure, 0, side)
    measure.link_to(sink)
    graph.configure()
    results = []
    for number, pair in enumerate(zip(test, reference, strict=True)):
        for buffer, picture in zip(buffers, pair, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="gbrp")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            buffer.push(frame)
    for buffer in buffers:
        buffer.push(None)
    while len(results) < len(reference):
        metadata: Any = dict(sink.pull().metadata)
        results.append({key.removeprefix("lavfi.psnr."): float(value) for key, value in metadata.items()})
    return results


def test_two_videos_give_the_values_of_ffmpegs_psnr_filter(here: Path) -> None:
    outcome = run("eval", "ref.mkv", "recon.mkv", "--json", "--csv", "frames.csv", *QUICK)
    assert outcome.code == 0, outcome.err
    record = outcome.record
    theirs = psnr_filter(CLIP, NOISY)
    with (here / "frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr_db"]) for row in rows] == pytest.approx([one["psnr_avg"] for one in theirs], abs=0.01)
    assert [float(row["time_s"]) for row in rows] == pytest.approx([number / 25 for number in range(COUNT)])
    assert record["psnr_db"] == pytest.approx(np.mean([one["psnr_avg"] for one in theirs]), abs=0.01)
    mean_error = np.mean([one["mse_avg"] for one in theirs])
    assert record["psnr_global_db"] == pytest.approx(10 * math.log10(255**2 / mean_error), abs=0.01)
    assert record["psnr_min_db"] == pytest.approx(min(one["psnr_avg"] for one in theirs), abs=0.01)
    assert (record["command"], record["frames"], record["width"], record["height"]) == ("eval", COUNT, WIDTH, HEIGHT)
    assert (record["unmatched_reference_frames"], record["unmatched_test_frames"]) == (0, 0)
    assert "the video file recon.mkv, as its codec stores them" in record["compared"]
    with av.open("recon.mkv") as container:
        size = sum(packet.size for packet in container.demux(video=0))
    assert record["size_bytes"] == size
    assert record["bpp"] == pytest.approx(8 * size / (COUNT * WIDTH * HEIGHT))
    assert (record["lpips"], record["lpips_name"]) == (None, None)


def test_frames_are_matched_by_their_times_and_what_has_no_partner_is_counted(here: Path) -> None:
    times = [40 * n for n in range(COUNT) if n not in (3, 9)]
    kept = [NOISY[tick // 40] for tick in times]
    write_rgb("gaps.mkv", kept, pts=times, time_base=Fraction(1, 1000), container="matroska")
    record = run("eval", "ref.mkv", "gaps.mkv", "--json", *QUICK).record
    assert (record["frames"], record["unmatched_reference_frames"], record["unmatched_test_frames"]) == (
        COUNT - 2,
        2,
        0,
    )
    theirs = psnr_filter([CLIP[tick // 40] for tick in times], kept)
    assert record["psnr_db"] == pytest.approx(np.mean([one["psnr_avg"] for one in theirs]), abs=0.01)
    late = [tick + 400 for tick in range(0, 40 * COUNT, 40)]
    write_rgb("late.mkv", NOISY, pts=late, time_base=Fraction(1, 1000), container="matroska")
    assert run("eval", "ref.mkv", "late.mkv", "--json", *QUICK, "--align", "start").record["frames"] == COUNT


def test_a_trim_measures_a_part_and_has_no_rate(here: Path) -> None:
    trims = ["--start", "0.2", "--frames", "4"]
    record = run("eval", "ref.mkv", "recon.mkv", "--json", *QUICK, *trims).record
    theirs = psnr_filter(CLIP[5:9], NOISY[5:9])
    assert (record["frames"], record["bpp"]) == (4, None)
    assert record["psnr_db"] == pytest.approx(np.mean([one["psnr_avg"] for one in theirs]), abs=0.01)
    record = run("eval", "a.cvl", "--reference", "ref.mkv", "-w", "tiny.safetensors", "--json", *QUICK, *trims).record
    assert (record["frames"], record["unmatched_test_frames"], record["unmatched_reference_frames"]) == (4, 0, 0)


def test_a_cvl_file_is_measured_on_the_models_own_output(here: Path) -> None:
    with cvcodec.open("a.cvl", model="./tiny.safetensors", device="cpu", precision="fp32") as file:
        frames = list(file.frames[:])
    theirs = psnr_filter(CLIP, frames)
    command = ["eval", "a.cvl", "--reference", "ref.mkv", "-w", "tiny.safetensors", "--json", *QUICK]
    record = run(*command).record
    assert record["psnr_db"] == pytest.approx(np.mean([one["psnr_avg"] for one in theirs]), abs=0.01)
    assert "model's own output, before any output codec" in record["compared"]
    size = (here / "a.cvl").stat().st_size
    assert (record["size_bytes"], record["copied_bytes"]) == (size, 0)
    assert record["bpp"] == pytest.approx(8 * size / (COUNT * WIDTH * HEIGHT))
    assert record["bitrate_bps"] == pytest.approx(8 * size / (COUNT / 25))


def test_a_video_alone_is_encoded_and_decoded_and_leaves_nothing(here: Path) -> None:
    before = sorted(path.name for path in here.iterdir())
    ours = run("eval", "ref.mkv", "-w", "tiny.safetensors", "--json", *QUICK).record
    theirs = run("eval", "a.cvl", "--reference", "ref.mkv", "-w", "tiny.safetensors", "--json", *QUICK).record
    keys = ("psnr_db", "psnr_y_db", "ssim", "frames", "size_bytes", "bpp", "compared")
    assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}
    assert f"quality {DEFAULT_QUALITY:g}" in ours["test"]
    coarse = run("eval", "ref.mkv", "-w", "tiny.safetensors", "--json", "--quality", "10", *QUICK).record
    assert coarse["size_bytes"] < ours["size_bytes"]
    assert sorted(path.name for path in here.iterdir()) == before


def test_without_a_file_the_built_in_clip_is_measured(here: Path) -> None:
    outcome = run("eval", "-w", "tiny.safetensors", "--json", "--metrics", "psnr", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    record = outcome.record
    assert (record["frames"], record["width"], record["height"]) == (33, 256, 256)
    assert record["reference"] == "built-in-clip.mkv"
    assert record["psnr_db"] > 0


def test_identical_videos_say_so(here: Path) -> None:
    outcome = run("eval", "ref.mkv", "ref.mkv", "--json", *QUICK)
    record = outcome.record
    assert (record["identical"], record["identical_frames"], record["psnr_db"], record["ssim"]) == (
        True,
        COUNT,
        None,
        1.0,
    )
    assert "all identical" in run("eval", "ref.mkv", "ref.mkv", *QUICK).out


def test_the_table_names_what_was_compared_and_with_which_units(here: Path) -> None:
    outcome = run("eval", "ref.mkv", "recon.mkv", *QUICK)
    assert outcome.code == 0
    for words in ("recon.mkv", "PSNR, RGB (mean over frames)", " dB", "SSIM, Y", "bits per pixel", f"{WIDTH}x{HEIGHT}"):
        assert words in outcome.out
    assert "the reference's matrix rgb defines none" in one_line(outcome.err)  # RGB files name no luma


def test_lpips_is_named_after_its_weights(here: Path) -> None:
    pytest.importorskip("stlpips_pytorch")
    write_rgb("big.mkv", smooth(1, 80, 96), container="matroska")
    write_rgb("bad.mkv", noisy(smooth(1, 80, 96), 20.0), container="matroska")
    options = ["--metrics", "lpips", "--lpips-variant", "shift-tolerant", "--device", "cpu"]
    record = run("eval", "big.mkv", "bad.mkv", "--json", *options).record
    assert "ST-LPIPS" in record["lpips_name"].upper()
    assert record["lpips"] > 0
    assert record["lpips_name"] in run("eval", "big.mkv", "bad.mkv", *options).out.replace("\n", " ")


def shows(path: str, part: Picture) -> bool:
    """Whether an image contains a picture, each pixel enlarged to a square."""
    with av.open(path) as container:
        (frame,) = container.decode(video=0)
        picture = frame.reformat(format="rgb24").to_ndarray()
    factor = picture.shape[1] // 3 // WIDTH
    large = part.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = large.shape[:2]
    corners = np.argwhere((picture[: -height + 1 or None, : -width + 1 or None] == large[0, 0]).all(axis=-1))
    return any(np.array_equal(picture[y : y + height, x : x + width], large) for y, x in corners)


def test_the_picture_shows_both_sides_of_the_worst_frame_or_of_the_one_asked_for(here: Path) -> None:
    assert run("eval", "ref.mkv", "recon.mkv", "--picture", "side.png", *QUICK).code == 0
    worst = int(np.argmin([one["psnr_avg"] for one in psnr_filter(CLIP, NOISY)]))
    assert shows("side.png", CLIP[worst]) and shows("side.png", NOISY[worst])
    assert run("eval", "ref.mkv", "recon.mkv", "--picture", "five.png", "--frame", "5", *QUICK).code == 0
    assert shows("five.png", CLIP[5]) and shows("five.png", NOISY[5])
    assert worst != 5 and not shows("side.png", CLIP[5])


@pytest.mark.parametrize(("name", "codec"), [("side.png", "png"), ("side.jpg", "mjpeg"), ("side.webp", "webp")])
def test_the_picture_is_of_the_format_that_its_name_says(here: Path, name: str, codec: str) -> None:
    assert run("eval", "ref.mkv", "recon.mkv", "--picture", name, *QUICK).code == 0
    with av.open(name) as container:
        assert container.streams.video[0].codec_context.name == codec


def test_numbers_are_shown_before_a_frame_that_is_not_there_is_missed(here: Path) -> None:
    result = run("eval", "ref.mkv", "recon.mkv", "--picture", "p.png", "--frame", "99", *QUICK)
    assert result.code == 2
    assert "PSNR" in result.out
    assert "--frame is out of range: frames 0 to 13 were compared" in result.err


@pytest.mark.parametrize("name", ["all.mp4", "all.mkv"])
def test_a_video_shows_both_sides_of_every_frame_at_its_time(here: Path, name: str) -> None:
    assert run("eval", "ref.mkv", "recon.mkv", "--picture", name, *QUICK).code == 0
    assert times_of(name) == times_of("ref.mkv")
    with av.open(name) as container:
        frames = [frame.reformat(format="rgb24").to_ndarray() for frame in container.decode(video=0)]
    assert len(frames) == len(CLIP)
    height, width = frames[0].shape[:2]
    assert height % 2 == width % 2 == 0
    panel = width // 3
    factor = panel // WIDTH
    for shown, left, right in zip(frames, CLIP, NOISY, strict=True):
        for number, part in enumerate((left, right)):
            large = part.repeat(factor, axis=0).repeat(factor, axis=1).astype(int)
            x = number * (large.shape[1] + MARGIN)
            y = 5 * 2 + 2 * MARGIN
            there = shown[y : y + large.shape[0], x : x + large.shape[1]].astype(int)
            assert np.abs(there - large).mean() < 12
    assert run("eval", "ref.mkv", "recon.mkv", "--picture", name, *QUICK).code == 4
    assert (
        run("eval", "a.cvl", "--reference", "ref.mkv", "--picture", name, "-y", "-w", "tiny.safetensors", *QUICK).code
        == 0
    )
    assert times_of(name) == times_of("ref.mkv")


def test_image_sequences_are_videos_too(here: Path) -> None:
    (here / "frames").mkdir()
    options = ["-w", "tiny.safetensors", "--device", "cpu", "--precision", "fp32"]
    assert run("decode", "a.cvl", "frames/%05d.png", *options).code == 0
    outcome = run("eval", "ref.mkv", "frames/%05d.png", "--json", *QUICK)
    assert outcome.code == 0, outcome.err
    direct = run("eval", "a.cvl", "--reference", "ref.mkv", "-w", "tiny.safetensors", "--json", *QUICK).record
    assert outcome.record["psnr_db"] == pytest.approx(direct["psnr_db"], abs=1e-9)
    assert outcome.record["size_bytes"] == sum(path.stat().st_size for path in (here / "frames").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.cvl"], 2, "--reference"),
        (["ref.mkv", "--reference", "recon.mkv"], 2, "goes with a .cvl file"),
        (["a.cvl", "recon.mkv", "--reference", "ref.mkv"], 2, "leave recon.mkv out"),
        (["ref.mkv", "a.cvl"], 2, "--reference"),
        (["ref.mkv", "absent.mkv"], 3, "absent.mkv"),
        (["absent.mkv"], 3, "absent.mkv"),
        (["ref.mkv", "tiny.safetensors"], 3, "cannot open"),
        (["ref.mkv", "small.mkv"], 3, "sizes differ"),
        (["ref.mkv", "recon.mkv", "--metrics", "vmaf"], 2, "is not a list of metrics"),
        (["ref.mkv", "recon.mkv", "--csv", "ref.mkv", "-y"], 4, "source itself"),
        (["ref.mkv", "recon.mkv", "--csv", "a.cvl"], 4, "exists; use -y"),
        (["ref.mkv", "recon.mkv", "--picture", "absent/a.png"], 4, "does not exist"),
        (["ref.mkv", "recon.mkv", "--picture", "p.mp4", "--frame", "9"], 2, "gets all"),
        (["ref.mkv", "recon.mkv", "--picture", "p.y4m"], 2, "not y4m"),
        (["ref.mkv", "small.mkv", "--picture", "p.mp4"], 3, "sizes differ"),
        (["ref.mkv", "recon.mkv", "--frame", "9"], 2, "--frame chooses the frame of --picture"),
        (["ref.mkv", "recon.mkv", "-q", "50", "-w", "tiny.safetensors"], 2, "as they are: leave out --quality, --weig"),
        (["a.cvl", "--reference", "ref.mkv", "-q", "50"], 2, "a.cvl is encoded already: leave out --quality"),
        (["a.cvl", "--reference", "ref.mkv", "--latents", "fp16"], 2, "leave out --latents"),
        (["ref.mkv", "-q", "50", "--latents", "fp16"], 2, "themselves: leave out --quality"),
        (["-", "--reference", "ref.mkv"], 2, "write what comes there to a file first"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_an_exit_code(
    here: Path, arguments: list[str], code: int, words: str
) -> None:
    write_rgb("small.mkv", smooth(3, 20, 20), container="matroska")
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    extra = [] if "--metrics" in arguments else ["--metrics", "psnr"]
    outcome = run("eval", *arguments, *extra)
    assert outcome.code == code, outcome.err
    line = one_line(outcome.err)
    assert line.startswith("cvcodec: error: ") and words in line
    assert outcome.out == ""
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_an_interrupt_ends_the_wait_for_a_video_from_a_silent_pipe(here: Path) -> None:
    os.mkfifo(here / "pipe.mkv")
    pipe = os.open(here / "pipe.mkv", os.O_RDWR)  # does not wait for the other side
    data = (here / "ref.mkv").read_bytes()
    os.write(pipe, data[: min(len(data) // 2, 60_000)])  # less than a pipe holds
    with process("eval", "pipe.mkv", here / "recon.mkv", *QUICK, cwd=here) as child:
        try:
            while child.poll() is None and select.select([pipe], [], [], 0)[0]:
                time.sleep(0.05)
            time.sleep(0.5)  # FFmpeg waits for more
            child.send_signal(signal.SIGINT)
            assert child.wait(30) == 130
        finally:
            child.kill()
            os.close(pipe)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_video_from_a_pipe_measures_as_its_file(here: Path) -> None:
    os.mkfifo(here / "pipe.mkv")
    data = (here / "ref.mkv").read_bytes()
    writer = threading.Thread(target=(here / "pipe.mkv").write_bytes, args=(data,), daemon=True)
    writer.start()
    piped = run("eval", here / "pipe.mkv", here / "recon.mkv", "--json", *QUICK).record
    writer.join(30)
    plain = run("eval", here / "ref.mkv", here / "recon.mkv", "--json", *QUICK).record
    assert not writer.is_alive()
    assert piped["psnr_db"] == plain["psnr_db"]
    assert piped["frames"] == COUNT
