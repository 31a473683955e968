"""`cvcodec encode` and `cvcodec decode` as a person meets them: what they print, do, and leave behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cvcodec
from cvcodec.codec import DEFAULT_QUALITY
from tests.cli.programs import COUNT, HEIGHT, WIDTH, command, environment, finished, one_line, process
from tests.cli.programs import cvcodec as run
from tests.codec.clips import noise, read_rgb, smooth, times_of, write_rgb
from tests.codec.models import save_model, tiny_official

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("tiny.safetensors", "in.mkv", "a.cvl"))


# ---------------------------------------------------------------------------------------------- what they print


def test_encode_json_has_the_documented_keys(folder: Path) -> None:
    record = json.loads((folder / "encode.json").read_text())
    size = (folder / "a.cvl").stat().st_size
    assert {key: record[key] for key in ("command", "model", "latents", "quality", "device")} == {
        "command": "encode",
        "model": "tiny",
        "latents": "quantised",
        "quality": DEFAULT_QUALITY,
        "device": "cpu",
    }
    assert (record["source"], record["output"]) == (str(folder / "in.mkv"), str(folder / "a.cvl"))
    assert (record["frames"], record["width"], record["height"], record["chunks"]) == (COUNT, WIDTH, HEIGHT, 3)
    assert record["size_bytes"] == size
    assert record["bpp"] == pytest.approx(8 * size / (COUNT * WIDTH * HEIGHT))
    assert record["mpixel_per_s"] == pytest.approx(COUNT * WIDTH * HEIGHT / 1e6 / record["seconds"])
    assert 0 < record["model_seconds"] < record["seconds"]
    assert record["precision"] in ("fp32", "bf16")
    assert isinstance(record["notices"], list)


def test_decode_json_has_the_documented_keys_and_the_video_is_complete(here: Path) -> None:
    outcome = run("decode", "a.cvl", "out.mp4", "-w", "tiny.safetensors", "--json")
    assert outcome.code == 0, outcome.err
    record = outcome.record
    assert {key: record[key] for key in ("command", "source", "output", "model", "frames", "width", "height")} == {
        "command": "decode",
        "source": "a.cvl",
        "output": "out.mp4",
        "model": "tiny",
        "frames": COUNT,
        "width": WIDTH,
        "height": HEIGHT,
    }
    assert {"seconds", "model_seconds", "mpixel_per_s", "precision", "device", "notices"} <= set(record)
    assert times_of(here / "out.mp4") == times_of(here / "in.mkv")
    assert names(here) == ["out.mp4"]


def test_without_json_a_line_on_stderr_says_what_was_done_and_stdout_stays_empty(here: Path) -> None:
    outcome = run("encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors")
    assert (outcome.code, outcome.out) == (0, "")
    assert f"b.cvl: {COUNT} frames of {WIDTH}x{HEIGHT}, " in outcome.err
    outcome = run("decode", "b.cvl", "out.mkv", "-w", "tiny.safetensors", "--codec", "ffv1")
    assert (outcome.code, outcome.out) == (0, "")
    assert f"out.mkv: {COUNT} frames of {WIDTH}x{HEIGHT}, " in outcome.err
    outcome = run("encode", "in.mkv", "c.cvl", "-w", "tiny.safetensors", "--quiet")
    assert outcome.code == 0
    assert "frames of" not in outcome.err


def test_the_program_itself_encodes_and_decodes_in_any_folder(here: Path) -> None:
    encoded = finished("encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--json", cwd=here)
    assert encoded.returncode == 0, encoded.stderr
    assert json.loads(encoded.stdout)["frames"] == COUNT
    assert (here / "b.cvl").read_bytes() == (here / "a.cvl").read_bytes()
    decoded = finished("decode", "b.cvl", "out.mkv", "-w", "tiny.safetensors", "--codec", "ffv1", "--json", cwd=here)
    assert decoded.returncode == 0, decoded.stderr
    assert json.loads(decoded.stdout)["frames"] == COUNT
    with cvcodec.open("a.cvl", model="./tiny.safetensors") as file:
        np.testing.assert_array_equal([shown.pixels for shown in read_rgb("out.mkv")], file.frames[:])


# ---------------------------------------------------------------------------------------------- what they refuse


def test_yes_overwrites(here: Path) -> None:
    (here / "b.cvl").write_bytes(b"old")
    assert run("encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "-y").code == 0
    assert (here / "b.cvl").read_bytes() == (here / "a.cvl").read_bytes()
    (here / "out.mkv").write_bytes(b"old")
    assert run("decode", "b.cvl", "out.mkv", "-w", "tiny.safetensors", "-y").code == 0
    assert len(times_of(here / "out.mkv")) == COUNT


# ---------------------------------------------------------------------------------------------- options


def test_trims_agree_on_both_sides(here: Path) -> None:
    times = times_of(here / "in.mkv")
    cases: list[tuple[list[str], slice]] = [
        (["--start", "0.4"], slice(10, None)),
        (["--end", "0:00.4"], slice(0, 10)),
        (["--start", "0.4", "--duration", "0.2"], slice(10, 15)),
        (["--start", "0.2", "--frames", "7"], slice(5, 12)),
    ]
    for number, (options, kept) in enumerate(cases):
        assert run("encode", "in.mkv", f"{number}.cvl", "-w", "tiny.safetensors", *options).code == 0
        assert run("decode", f"{number}.cvl", f"{number}.mkv", "-w", "tiny.safetensors").code == 0
        assert run("decode", "a.cvl", f"{number}d.mkv", "-w", "tiny.safetensors", *options).code == 0
        assert times_of(here / f"{number}.mkv") == times_of(here / f"{number}d.mkv") == times[kept]


def test_windows_tiles_and_latents_are_recorded(here: Path) -> None:
    tiles = ["--window", "4", "--tile", "none", "--latents", "fp16"]
    outcome = run("encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--json", *tiles)
    assert outcome.code == 0, outcome.err
    assert (outcome.record["latents"], outcome.record["quality"]) == ("fp16", None)
    header = cvcodec.open("b.cvl").header
    assert header.encode_window is not None and header.encode_window.kept == 4
    assert (header.encode_tile, header.latents) == (None, "fp16")


def test_official_windows_are_those_of_official_models(here: Path) -> None:
    save_model(here / "official.safetensors", tiny_official())
    for options, mode in (
        ([], "official"),
        (["--windows", "official"], "official"),
        (["--windows", "context"], "context"),
    ):
        command_line = ["encode", "in.mkv", "b.cvl", "-y", "-w", "official.safetensors", "--frames", "6", *options]
        assert run(*command_line).code == 0
        assert cvcodec.open("b.cvl").header.windows == mode
        assert run("decode", "b.cvl", "out.mkv", "-y", "-w", "official.safetensors").code == 0
        assert len(times_of(here / "out.mkv")) == 6


def test_quality_buys_precision_with_bytes(here: Path) -> None:
    sizes = []
    for quality in (20, 50, 80):
        outcome = run("encode", "in.mkv", "b.cvl", "-y", "-w", "tiny.safetensors", "-q", quality, "--json")
        assert outcome.record["quality"] == quality
        sizes.append(outcome.record["size_bytes"])
    assert sizes == sorted(set(sizes))


def test_images_in_and_out(here: Path) -> None:
    (here / "frames").mkdir()
    outcome = run("decode", "a.cvl", "frames/%05d.png", "-w", "tiny.safetensors", "--json", "--frames", "4")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in sorted((here / "frames").iterdir())] == [f"{n:05d}.png" for n in range(1, 5)]
    outcome = run("decode", "a.cvl", "frames/%05d.png", "-w", "tiny.safetensors")
    assert (outcome.code, "00001.png exists; use -y" in one_line(outcome.err)) == (4, True)
    assert run("encode", "frames/%05d.png", "b.cvl", "-w", "tiny.safetensors", "--json").record["frames"] == 4
    assert run("encode", "frames/00002.png", "c.cvl", "-w", "tiny.safetensors", "--json").record["frames"] == 1
    assert run("decode", "c.cvl", "one.png", "-w", "tiny.safetensors").code == 0
    assert read_rgb("one.png")[0].pixels.shape == (HEIGHT, WIDTH, 3)


def test_odd_sizes_are_said_once(here: Path) -> None:
    write_rgb("odd.mkv", smooth(6, 9, 7), container="matroska")
    assert run("encode", "odd.mkv", "odd.cvl", "-w", "tiny.safetensors").code == 0
    outcome = run("decode", "odd.cvl", "odd.mp4", "-w", "tiny.safetensors")
    assert outcome.code == 0
    assert outcome.err.count("odd size 7x9 is stored as 4:4:4") == 1


# ---------------------------------------------------------------------------------------------- pipes and signals


def pipeline(*stages: list[str], data: bytes, cwd: Path) -> tuple[bytes, list[tuple[int, str]]]:
    """What the last of several processes prints, and each one's exit code and messages."""
    running: list[subprocess.Popen[bytes]] = []
    for stage in stages:
        stdin = running[-1].stdout if running else subprocess.PIPE
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": cwd}
        running.append(subprocess.Popen(stage, stdin=stdin, env=environment(), **options))
        if len(running) > 1:
            assert running[-2].stdout is not None
            running[-2].stdout.close()
    first, last = running[0], running[-1]
    assert first.stdin is not None and last.stdout is not None
    first.stdin.write(data)
    first.stdin.close()
    output = last.stdout.read()
    results = []
    for one in running:
        assert one.stderr is not None
        messages = one.stderr.read().decode()
        results.append((one.wait(60), messages))
    return output, results


@posix
def test_video_flows_through_encode_and_decode_on_pipes(here: Path) -> None:
    output, results = pipeline(
        command("encode", "-", "-", "-w", "tiny.safetensors", "--json"),
        command("decode", "-", "-", "-w", "tiny.safetensors", "--codec", "ffv1", "--json"),
        data=(here / "in.mkv").read_bytes(),
        cwd=here,
    )
    assert [code for code, _ in results] == [0, 0], results
    for _, messages in results:  # data is on standard output, so the record is on standard error
        record = json.loads(messages.splitlines()[-1])
        assert record["frames"] == COUNT
    assert run("decode", "a.cvl", "file.mkv", "-w", "tiny.safetensors", "--codec", "ffv1").code == 0
    ours, theirs = read_rgb(io.BytesIO(output)), read_rgb("file.mkv")
    assert [frame.time for frame in ours] == [frame.time for frame in theirs]
    np.testing.assert_array_equal([frame.pixels for frame in ours], [frame.pixels for frame in theirs])


@posix
def test_a_pipe_that_ends_early_gives_its_frames_and_fails(here: Path) -> None:
    data = (here / "a.cvl").read_bytes()
    last = cvcodec.open("a.cvl").reader.index[-1]
    result = finished(
        "decode", "-", "-", "-w", "tiny.safetensors", "--format", "raw", data=data[: last.offset], cwd=here
    )
    assert result.returncode == 5
    assert "trailer" in one_line(result.stderr)
    with cvcodec.open("a.cvl", model="./tiny.safetensors") as file:
        frames = file.frames[:]
    got = np.frombuffer(result.stdout, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    assert len(got) > 0
    np.testing.assert_array_equal(got, frames[: len(got)])


@pytest.fixture
def long_clip() -> bytes:
    target = io.BytesIO()
    write_rgb(target, noise(120, 40, 40))
    return target.getvalue()


def begun(folder: Path, stream: Any, clip: bytes) -> None:
    """Feed part of a clip and wait until the encoder has written something: nothing at the final path."""
    stream.write(clip[: len(clip) * 3 // 4])
    stream.flush()
    for _ in range(600):
        if any(path.stat().st_size for path in folder.glob("out.cvl.partial")):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the encode never began")
    time.sleep(0.3)
    assert not (folder / "out.cvl").exists()


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_encode_leaves_nothing_at_the_final_path(
    here: Path, long_clip: bytes, number: signal.Signals
) -> None:
    # The source is a pipe that falls silent, so that the encode is stopped in the middle, waiting for frames.
    options = ["--latents", "fp32", "-w", "tiny.safetensors"]
    with process("encode", "-", "out.cvl", *options, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here) as child:
        begun(here, child.stdin, long_clip)
        child.send_signal(number)
        code = child.wait(60)
        assert child.stderr is not None
        messages = child.stderr.read().decode()
    assert not (here / "out.cvl").exists()
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 128 + number
        assert messages.splitlines()[-1:] == (["cvcodec: error: interrupted"] if number == signal.SIGINT else [])
        assert names(here) == []


@posix
def test_an_encode_is_stopped_while_ffmpeg_still_waits_for_the_beginning_of_a_pipe(here: Path) -> None:
    options = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": here}
    with process("encode", "-", "out.cvl", "-w", "tiny.safetensors", **options) as child:
        assert child.stdin is not None and child.stderr is not None
        child.stdin.write((here / "in.mkv").read_bytes()[:200])
        child.stdin.flush()
        for _ in range(600):
            if list(here.glob("out.cvl.partial")):
                break
            time.sleep(0.1)
        time.sleep(1.0)  # by now it reads
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert one_line(child.stderr.read()) == "cvcodec: error: interrupted"
    assert names(here) == []


@posix
def test_a_reader_that_leaves_early_ends_the_decode_without_words(here: Path) -> None:
    options = ["-w", "tiny.safetensors", "--format", "raw"]
    with process("decode", "a.cvl", "-", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        messages = child.stderr.read()
        assert child.wait(60) == 1
    assert messages == b""
