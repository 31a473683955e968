"""Interrupted encodes: what they leave, and that going on gives the bytes of an uninterrupted run."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import EncodeOptions, ReaderOptions, encode_file
from cvcodec.errors import InputError, OutputError, UsageError
from cvcodec.fileio import partial_path
from cvcodec.model.base import VideoAutoencoder
from tests.cli.programs import cvcodec as run
from tests.cli.programs import environment
from tests.codec.clips import noise, write_rgb
from tests.codec.models import save_model, tiny_mini, tiny_official
from tests.codec.movies import FONT, Track, film
from tests.codec.patch_model import PatchModel

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
MS = Fraction(1, 1000)
VARIANTS: dict[str, dict[str, Any]] = {
    "symbols": {},
    "latents and log-variance": {"latents": "fp16", "store_logvar": True},
    "windows of one latent": {"window": 1},
    "a trim": {"reader": ReaderOptions(start=0.5, end=3.3)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, and a film with two sound tracks, subtitles, a font and chapters."""
    path = tmp_path_factory.mktemp("resume")
    save_model(path / "tiny.safetensors", tiny_mini())
    save_model(path / "official.safetensors", tiny_official())
    save_model(path / "layered.safetensors", tiny_mini(enhancement_channels=3, quality_aware=True))
    film(
        str(path / "in.mkv"),
        Track("aac", seconds=4),
        Track("ac3", seconds=4),
        frames=100,
        subtitle="ass",
        chapters=True,
        attachments=[("a.ttf", "font/ttf", FONT)],
    )
    return path


@pytest.fixture(scope="module", params=["tiny", "official", "layered"])
def model(folder: Path, request: pytest.FixtureRequest) -> VideoAutoencoder:
    return load_model(str(folder / f"{request.param}.safetensors"))


def spots(data: bytes) -> list[int]:
    """Lengths at which a file may have been cut: around the ends of every chunk, inside, and behind the trailer."""
    index = BitstreamReader(io.BytesIO(data)).index
    edges = {entry.offset + near for entry in index for near in (0, 20, entry.size - 1, entry.size, entry.size + 25)}
    return sorted(cut for cut in {*edges, 0, 3, 30, len(data) - 24, len(data) - 1, len(data)} if cut <= len(data))


class Counted:
    """Counts the clips that a model encodes."""

    def __init__(self, model: VideoAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        moments = model.moments

        def counted(pixels: Any) -> Any:
            self.calls += 1
            return moments(pixels)

        monkeypatch.setattr(model, "moments", counted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_cut_anywhere_is_finished_to_the_bytes_of_an_uninterrupted_run(
    folder: Path, model: VideoAutoencoder, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EncodeOptions(**{**CPU, **VARIANTS[variant]})
    whole, out = tmp_path / "whole.cvl", tmp_path / "out.cvl"
    encode_file(folder / "in.mkv", whole, model=model, options=options)
    data = whole.read_bytes()
    with whole.open("rb") as file:
        reader = BitstreamReader(file)
        index, records = reader.index, reader.trailer.records if reader.trailer else {}
    assert len(index) > 3
    assert {"STRM", "PKTS", "ATCH"} <= set(records)
    cuts = spots(data)
    for cut in random.Random(variant).sample(cuts, min(6, len(cuts))):
        partial_path(out).write_bytes(data[:cut])
        counted = Counted(model, monkeypatch)
        result = encode_file(folder / "in.mkv", out, model=model, options=options, resume=True)
        monkeypatch.undo()
        assert out.read_bytes() == data, f"cut at {cut} of {len(data)}"
        assert not partial_path(out).exists()
        kept = len([e for e in index if e.offset + e.size <= cut]) if result.resumed_frames else 1
        # The last whole chunk (without its log-variance it may not be whole) is encoded again, none before it.
        assert result.resumed_frames in {index[max(0, kept - back)].first_frame for back in (1, 2)}
        assert result.frames == index[-1].first_frame + index[-1].frame_count
        behind = len(index) - len([e for e in index if e.first_frame < result.resumed_frames])
        # What the decoder looks back at is encoded again where it is decoded, for an enhancement layer.
        assert counted.calls <= behind + (3 if model.config.enhancement_channels else 0)
        out.unlink()


def test_an_interrupted_run_can_itself_be_resumed_and_damage_is_cut_off(
    folder: Path, model: VideoAutoencoder, tmp_path: Path
) -> None:
    options = EncodeOptions(**CPU)
    encode_file(folder / "in.mkv", tmp_path / "whole.cvl", model=model, options=options)
    data = (tmp_path / "whole.cvl").read_bytes()
    index = BitstreamReader(io.BytesIO(data)).index
    out = tmp_path / "out.cvl"

    class Stop(Exception):
        pass

    def stop_after(frames: int) -> Any:
        def progress(done: int, size: int, total: int | None) -> None:
            if done >= frames:
                raise Stop

        return progress

    for frames in (index[1].first_frame, index[3].first_frame):
        with pytest.raises(Stop):
            encode_file(
                folder / "in.mkv", out, model=model, options=options, resume=True, on_progress=stop_after(frames)
            )
        assert not out.exists()
    assert data.startswith(partial_path(out).read_bytes())
    damaged = bytearray(partial_path(out).read_bytes())
    damaged[index[1].offset + 40] ^= 1
    partial_path(out).write_bytes(damaged)
    result = encode_file(folder / "in.mkv", out, model=model, options=options, resume=True)
    assert result.resumed_frames == 0  # one whole chunk, which is encoded again
    assert out.read_bytes() == data


def test_another_source_other_settings_and_other_weights_are_refused_and_change_nothing(
    folder: Path, tmp_path: Path
) -> None:
    clip, out = tmp_path / "in.mkv", tmp_path / "out.cvl"
    pictures = noise(30, 16, 16)
    write_rgb(str(clip), pictures, container="matroska")
    options = EncodeOptions(latents="fp32", **CPU)
    encode_file(clip, out, model=PatchModel(), options=options)
    begun = out.read_bytes()[: BitstreamReader(io.BytesIO(out.read_bytes())).index[2].offset + 5]
    out.unlink()
    partial_path(out).write_bytes(begun)
    late = [number * 40 + (number == 2) for number in range(30)]
    write_rgb(str(tmp_path / "late.mkv"), pictures, container="matroska", pts=late, time_base=MS)
    write_rgb(str(tmp_path / "other.mkv"), noise(30, 16, 16, seed=1), container="matroska")
    write_rgb(str(tmp_path / "size.mkv"), noise(30, 16, 17), container="matroska")
    write_rgb(str(tmp_path / "short.mkv"), pictures[:4], container="matroska")
    film(str(tmp_path / "loud.mkv"), Track("aac"))

    def refused(source: str, message: str, options: EncodeOptions = options, model: Any = None) -> None:
        with pytest.raises(OutputError, match=message) as caught:
            encode_file(tmp_path / source, out, model=model or PatchModel(), options=options, resume=True)
        assert "out.cvl.partial" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert partial_path(out).read_bytes() == begun
        assert not out.exists()

    refused("late.mkv", "other times")
    refused("other.mkv", "not what is encoded now")
    refused("size.mkv", "width: 16 there, 17 now")
    refused("short.mkv", "only 4 frames now")
    refused("in.mkv", "latents: fp32 there, fp16 now", EncodeOptions(latents="fp16", **CPU))
    refused("in.mkv", "encode_window", EncodeOptions(latents="fp32", window=3, **CPU))
    refused("in.mkv", "model: patch-model there", model=load_model(str(folder / "tiny.safetensors")))
    encode_file(clip, out, model=PatchModel(), options=options, resume=True)


def test_windows_that_memory_had_chosen_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rgb(str(tmp_path / "in.mkv"), noise(60, 64, 64), container="matroska")
    out, options = tmp_path / "out.cvl", EncodeOptions(latents="fp32", **CPU)
    config = {"tile_latents": 0, "window_latents": 4}
    monkeypatch.setattr("cvcodec.codec.encode.available_memory", lambda device: 6_000_000)
    encode_file(tmp_path / "in.mkv", out, model=PatchModel(**config), options=options)
    data = out.read_bytes()
    header = BitstreamReader(io.BytesIO(data)).header
    assert header.encode_window is not None
    assert header.encode_window.kept < 4 or header.encode_tile
    monkeypatch.undo()
    out.unlink()
    partial_path(out).write_bytes(data[: len(data) * 2 // 3])
    encode_file(tmp_path / "in.mkv", out, model=PatchModel(**config), options=options, resume=True)
    assert out.read_bytes() == data


def test_what_can_not_be_resumed_says_so(folder: Path, tmp_path: Path) -> None:
    model, out = PatchModel(), tmp_path / "out.cvl"
    with pytest.raises(UsageError, match="standard output cannot be continued"):
        encode_file(folder / "in.mkv", "-", model=model, resume=True)
    partial_path(out).write_bytes(b"some other file of this name")
    with pytest.raises(OutputError, match=r"not a \.cvl file.*remove it"):
        encode_file(folder / "in.mkv", out, model=model, resume=True)
    assert partial_path(out).read_bytes() == b"some other file of this name"
    partial_path(out).unlink()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for resume in (False, True):
        with pytest.raises(InputError):
            encode_file(tmp_path / "bad.mp4", out, model=model, resume=resume)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4"]


def test_a_partial_file_is_neither_overwritten_nor_ignored_unasked(folder: Path, tmp_path: Path) -> None:
    weights = folder / "tiny.safetensors"
    command = ["encode", folder / "in.mkv", tmp_path / "out.cvl", "-w", weights, "--frames", "40"]
    assert run("encode", *command[1:2], tmp_path / "whole.cvl", *command[3:]).code == 0
    data = (tmp_path / "whole.cvl").read_bytes()
    partial = tmp_path / "out.cvl.partial"
    partial.write_bytes(data[: len(data) // 2])
    outcome = run(*command)
    assert outcome.code == 4
    assert "--resume goes on with it, -y starts over" in outcome.err.splitlines()[-1]
    assert partial.exists()
    assert run(*command, "-y").code == 0
    assert (tmp_path / "out.cvl").read_bytes() == data
    assert not partial.exists()
    (tmp_path / "out.cvl").unlink()
    partial.write_bytes(data[: len(data) * 3 // 4])
    outcome = run(*command, "--resume", "--json")
    assert outcome.code == 0
    assert outcome.record["resumed_frames"] > 0
    assert outcome.record["frames"] == 40
    assert "taken over" in outcome.err.splitlines()[-1]
    assert (tmp_path / "out.cvl").read_bytes() == data
    outcome = run(*command, "--resume", "--target", "psnr=30", "-y")
    assert outcome.code == 2
    assert "exclude each other" in outcome.err.splitlines()[-1]


SERVER = """
import os, signal, sys, time
import torch
from cvcodec.cli import app
import cvcodec.codec, cvcodec.checkpoints.registry, cvcodec.quality.target
torch.set_num_threads(1)
for line in sys.stdin:
    seconds, size, *words = line.split()
    child = os.fork()  # what is slow, importing, is done once
    if not child:
        os._exit(app.run(app.app, words))
    if seconds != "never":
        time.sleep(float(seconds))
        left, done = words[2] + ".partial", 0
        while not done and int(size) and not (os.path.exists(left) and os.path.getsize(left) >= int(size)):
            time.sleep(0.001)
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    else:
        _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork and SIGKILL")
def test_after_kill_9_at_20_random_moments_nothing_is_at_the_final_path_and_resume_gives_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.mkv"
    film(str(source), Track("aac", seconds=8), frames=200, subtitle="ass", chapters=True)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None and server.stdout is not None

    def encode(target: Path, *more: str, kill_after: float | None = None, and_size: int = 0) -> tuple[int, float]:
        """Exit code and seconds of one run of the program, killed when the time is over and so many bytes are there."""
        words = ["encode", str(source), str(target), "-w", str(folder / "tiny.safetensors"), "--threads", "1", *more]
        when = "never" if kill_after is None else f"{kill_after:.4f}"
        begun = time.monotonic()
        server.stdin.write(" ".join([when, str(and_size), *words]) + "\n")  # type: ignore[union-attr]
        server.stdin.flush()  # type: ignore[union-attr]
        return int(server.stdout.readline()), time.monotonic() - begun  # type: ignore[union-attr]

    try:
        whole = tmp_path / "whole.cvl"
        code, _ = encode(whole)
        assert code == 0
        _, seconds = encode(tmp_path / "again.cvl")
        data = whole.read_bytes()
        moments = random.Random(9)
        sizes = set()
        for number in range(20):
            out = tmp_path / f"{number}.cvl"
            if number < 10:  # moments of the clock
                when, size = moments.uniform(0, 1.05 * seconds), 0
            else:  # and of the file, however slow the machine is just now
                when, size = moments.uniform(0, 0.01), int(moments.uniform(0.05, 0.95) * len(data))
            code, _ = encode(out, *["--resume"] * (number % 2), kill_after=when, and_size=size)
            if code == 0:  # it was quicker than the signal
                assert out.read_bytes() == data
                continue
            assert code == -signal.SIGKILL
            assert not out.exists()
            left = partial_path(out)
            sizes.add(left.stat().st_size if left.exists() else 0)
            if number % 3 == 0:  # killed once more while it goes on
                encode(out, "--resume", kill_after=moments.uniform(0, seconds))
            if not out.exists():
                code, _ = encode(out, "--resume")
                assert code == 0
            assert out.read_bytes() == data
            assert not left.exists()
        assert len(sizes) > 3, f"{sizes}: the moments were hardly different"
    finally:
        server.kill()
        server.communicate()
