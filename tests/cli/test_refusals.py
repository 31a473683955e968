"""What the commands but `batch`, `eval` and `train` refuse: one line, an exit code, nothing left behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from tests.cli.programs import command, environment, one_line
from tests.cli.programs import cvcodec as run
from tests.codec.models import save_model, tiny_mini


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["encode", "in.mkv", "a.cvl", "-w", "tiny.safetensors"], 4, "a.cvl exists; use -y"),
        (["decode", "a.cvl", "in.mkv", "-w", "tiny.safetensors"], 4, "in.mkv exists; use -y"),
        (["encode", "in.mkv", "in.mkv", "-y", "-w", "tiny.safetensors"], 4, "is the source itself"),
        (["decode", "a.cvl", "./a.cvl", "-y", "-w", "tiny.safetensors"], 4, "is the source itself"),
        (["encode", "absent.mp4", "b.cvl", "-w", "tiny.safetensors"], 3, "'absent.mp4' does not exist"),
        (["decode", "absent.cvl", "b.mp4", "-w", "tiny.safetensors"], 3, "absent.cvl: no such file"),
        (["encode", "tiny.safetensors", "b.cvl", "-w", "tiny.safetensors"], 3, "cannot open 'tiny.safetensors'"),
        (["encode", ".", "b.cvl", "-w", "tiny.safetensors"], 3, "is a folder"),
        (["encode", "in.mkv", "b.cvl", "-w", "nobody"], 3, "no model is called 'nobody'"),
        (["encode", "in.mkv", "b.cvl", "-w", "in.mkv"], 6, "not a readable safetensors file"),
        (["encode", "in.mkv", "absent/b.cvl", "-w", "tiny.safetensors"], 4, "the folder"),
        (["decode", "a.cvl", "b.txt", "-w", "tiny.safetensors"], 4, "known extensions"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--quality", "101"], 2, "is not a quality"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--start", "soon"], 2, "is not a time"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--windows", "official"], 2, "official CV-VAE"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--tile", "3"], 2, "too small"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--device", "cuda"], 7, "cuda"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--stream", "1"], 3, "stream"),
        (["decode", "a.cvl", "b.mkv", "-w", "tiny.safetensors", "--codec", "ffv1", "--crf", "3"], 2, "lossless"),
        (["decode", "a.cvl", "b.mkv", "-w", "tiny.safetensors", "--start", "99"], 2, "no frames lie in the range"),
        (["encode", "in.mkv", "b.mp4", "-w", "tiny.safetensors"], 2, "name it b.cvl"),
        (["encode", "a.cvl", "b.cvl", "-w", "tiny.safetensors"], 3, "a.cvl is a .cvl file already"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "-q", "9", "--latents", "fp16"], 2, "leave out --qua"),
        (
            ["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--threads", "99999"],
            2,
            "less than or equal to 1024",
        ),
        (
            ["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--start", "99"],
            3,
            "no frames in the range that was asked for; it lasts 1.20 s",
        ),
        (["decode", "a.cvl", "b.png", "-w", "tiny.safetensors", "--codec", "ffv1"], 2, "leave out codec"),
        (["decode", "a.cvl", "b.png", "-w", "tiny.safetensors"], 4, "'b.png' holds one picture"),
        (["decode", "a.cvl", "b.mov", "-w", "tiny.safetensors", "--codec", "libsvtav1"], 4, "cannot hold libsvtav1"),
        (["decode", "a.cvl", "b.png", "-w", "tiny.safetensors", "--preview", "--crf", "3"], 2, "leave out --crf"),
        (["decode", "a.cvl", "b.png", "--preview", "--device", "cpu"], 2, "leave out --device"),
        (["decode", "in.mkv", "b.mp4", "-w", "tiny.safetensors"], 5, "in.mkv: not a .cvl file"),
        (["info", "in.mkv"], 5, "in.mkv: not a .cvl file"),
        (["encode", "in.mkv", "b.cvl", "-w", ""], 2, "'' names no model"),
        (["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--start", "9" * 20], 2, "too long a time"),
        (["decode", "a.cvl", "b.mkv", "-w", "tiny.safetensors", "--duration", "9" * 400], 2, "too long a time"),
        (["bench", "in.mkv", "-w", "tiny.safetensors", "-o", "a.cvl"], 4, "a.cvl/cache cannot be created: Not a dir"),
        (
            ["encode", "in.mkv", "b.cvl", "-w", "tiny.safetensors", "--target", "psnr=30", "--latents", "fp16"],
            2,
            "a target needs",
        ),
        (
            ["decode", "a.cvl", "b.mkv", "-w", "tiny.safetensors", "--start", "0.4", "--end", "0.2"],
            2,
            "the trim is empty",
        ),
        (["info", "https://bucket/a.cvl"], 2, "https://bucket/a.cvl is an address"),
        (["info", "sftp://me:secret@host/a.cvl"], 2, "an address of sftp:// has a password in it"),
        (["export", "absent", "b"], 3, "absent: no such file or folder"),
        (["export", "a.cvl", "b"], 2, "b: wanted a .safetensors or .npy file"),
        (["import", "absent.npy", "b.cvl"], 3, "absent.npy: no such file"),
        (["import", ".", "b.cvl"], 3, ". is a folder; name a file"),
        (["import", "a.cvl", "b.cvl"], 3, "a.cvl holds no latents that can be read"),
        (["import", "a.npy", "b.mp4"], 2, "import writes a .cvl file, not b.mp4; name it b.cvl"),
        (["import", "a.npy", "b.cvl", "-q", "50", "--latents", "fp16"], 2, "themselves: leave out --quality"),
    ],
)
def test_what_cannot_be_done_is_one_line_an_exit_code_and_nothing_left_behind(
    here: Path, arguments: list[str], code: int, words: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    outcome = run(*arguments)
    line = outcome.err.splitlines()[-1]
    assert line.startswith("cvcodec: error: ") and words in line
    assert all(text.startswith("cvcodec: note: ") for text in outcome.err.splitlines()[:-1])
    assert (outcome.code, outcome.out) == (code, "")
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_a_damaged_file_is_one_line_exit_code_5_and_no_output(here: Path) -> None:
    data = (here / "a.cvl").read_bytes()
    half = len(data) // 2
    for damaged in (data[:-1], data[:half], b"", data[:half] + bytes([data[half] ^ 255]) + data[half + 1 :]):
        (here / "b.cvl").write_bytes(damaged)
        outcome = run("decode", "b.cvl", "out.mkv", "-w", "tiny.safetensors")
        assert (outcome.code, outcome.out) == (5, "")
        assert one_line(outcome.err).startswith("cvcodec: error: ")
        assert {path.name for path in here.iterdir()} - {"tiny.safetensors", "in.mkv", "a.cvl"} == {"b.cvl"}


ADDRESS = "http://127.0.0.1:9/in.mkv"


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", ADDRESS, "b.cvl", "-w", "tiny.safetensors"],
        ["decode", ADDRESS, "b.mkv", "-w", "tiny.safetensors"],
        ["decode", "--preview", ADDRESS, "b.png", "-w", "tiny.safetensors"],
        ["eval", ADDRESS],
        ["eval", "in.mkv", ADDRESS],
        ["eval", "a.cvl", "--reference", ADDRESS],
        ["info", ADDRESS],
        ["batch", ADDRESS, "-o", "out", "-w", "tiny.safetensors"],
        ["batch", "list.txt", "-o", "out", "-w", "tiny.safetensors"],
        ["bench", ADDRESS, "-w", "tiny.safetensors"],
        ["export", ADDRESS, "b.npy"],
        ["import", ADDRESS, "b.cvl"],
        ["models", "add", ADDRESS],
        ["train", "video-vae", "--data", ADDRESS, "--output", "run", "--steps", "1"],
    ],
    ids=" ".join,
)
def test_every_command_refuses_an_address_in_the_same_words(here: Path, arguments: list[str]) -> None:
    (here / "list.txt").write_text(f"{ADDRESS}\n")
    before = {path.name for path in here.iterdir()}
    outcome = run(*arguments)
    assert outcome.code in (2, 3)
    assert f"{ADDRESS} is an address, and this reads files; download it first, or pipe it in" in one_line(outcome.err)
    assert {path.name for path in here.iterdir()} - {"run"} == before  # a run's folder has its config in it


def test_weights_of_another_latent_space_are_refused_and_another_decoder_is_reported(here: Path) -> None:
    save_model(here / "other.safetensors", tiny_mini(seed=9))
    outcome = run("decode", "a.cvl", "out.mkv", "-w", "other.safetensors")
    assert outcome.code == 6
    assert "other has latent space" in one_line(outcome.err)
    assert "--weights" in outcome.err
    save_model(here / "finetuned.safetensors", tiny_mini(decoder_seed=5))
    outcome = run("decode", "a.cvl", "out.mkv", "-w", "finetuned.safetensors", "--json")
    assert outcome.code == 0
    assert "cvcodec: note: finetuned has another decoder" in outcome.err
    assert any("another decoder" in notice for notice in outcome.record["notices"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_behind_a_device_or_standard_output_is_an_output_that_cannot_be_written(here: Path) -> None:
    encode = ["encode", "in.mkv", "-w", "tiny.safetensors", "--quiet"]
    for arguments in ([*encode[:2], "/dev/full", *encode[2:]], [*encode[:2], "-", *encode[2:]], ["info", "a.cvl"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE, env=environment(), cwd=here)
        assert done.returncode == 4, done.stderr
        assert "cannot be written: No space left on device" in one_line(done.stderr.decode())
