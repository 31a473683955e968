"""`python benchmarks/grid.py`: a few frames of a clip as it is, by PCA and by our models, side by side.

Owns: what stands in the columns. Models go through the real encode and decode at the default quality; the PCA of 4x8x8
patches is not quantised (see `patch_pca`). The clip is scaled to short side 256, of which the middle is shown, pixel
for pixel; the numbers below are PSNR (RGB) of the whole frame, and bits per pixel of the clip's file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import harness
import shorts
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import DEFAULT_MODEL, DecodeOptions, Decoder, EncodeOptions, encode_file
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import open_input
from cvcodec.model import VideoAutoencoder
from cvcodec.quality.psnr import psnr
from cvcodec.system.device import set_threads
from patch_pca import PatchPca
from sheet import Cell, check_picture_name, middle, sheet, write_picture
from shorts import Short

_CLIP = Path(".demo/bikes.mp4")
_MODELS = ("cvvae-mini-z4", DEFAULT_MODEL)
_START = Fraction(4)  # a street, in the demo clip
_FRAMES = (6, 27)
_PANEL = (224, 160)


def round_trip(
    clip: Short, model: VideoAutoencoder, *, device: str = "auto", precision: str = "auto"
) -> tuple[NDArray[np.uint8], float]:
    """Encoded to a file and decoded again: (frames (T, H, W, 3) uint8, bits per pixel)."""
    with tempfile.TemporaryDirectory(prefix="cvcodec-bench-") as name:
        video, coded = Path(name) / "clip.mkv", Path(name) / "clip.cvl"
        clip.write(video)
        result = encode_file(video, coded, model=model, options=EncodeOptions(device=device, precision=precision))
        with open_input(coded) as file:
            decoder = Decoder(file, model=model, options=DecodeOptions(device=device, precision=precision))
            frames = np.stack([frame.pixels for frame in decoder.frames()]).astype(np.uint8, copy=False)
    return frames, result.bpp


def draw(
    clip: Short, columns: Sequence[tuple[str, NDArray[np.uint8], str]], frames: Sequence[int], panel: tuple[int, int]
) -> NDArray[np.uint8]:
    """Rows of frames, the original and then `columns`: (name, frames (T, H, W, 3), what to say after the PSNR)."""
    rows = []
    for index in frames:
        original = clip.pixels[index]
        row = [Cell(middle(original, *panel), f"frame {index}")]
        for _, pixels, remark in columns:
            value = float(psnr(torch.from_numpy(original)[None], torch.from_numpy(pixels[index])[None], peak=255))
            row.append(Cell(middle(pixels[index], *panel), f"{value:.1f} dB{remark}"))
        rows.append(row)
    return sheet(["original", *(name for name, _, _ in columns)], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/grid.py",
        description="Frames of a clip: original, PCA of patches, and what models make of it.",
    )
    add = parser.add_argument
    add("--clip", type=Path, default=_CLIP, help=f"a video (default: {_CLIP}, which `make demo` fetches)")
    add("--output", "-o", type=Path, default=Path("grid.png"), metavar="FILE", help=".png, .jpg or .webp")
    add("--weights", "-w", action="append", metavar="NAME|FILE", help=f"a model, repeatable (default: {_MODELS})")
    add("--frame", type=int, action="append", metavar="N", help=f"a frame to show, repeatable (default: {_FRAMES})")
    add("--start", type=Fraction, metavar="SECONDS", help="where frame 0 is (default: 0; 4 in the demo clip)")
    add("--panel", type=harness.size_argument, default=_PANEL, metavar="WxH", help="the part of a frame that is shown")
    add("--side", type=int, default=shorts.SIDE, metavar="PIXELS", help="short side that the clip is scaled to")
    harness.add_machine_arguments(parser)
    options = parser.parse_args(arguments)
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    set_threads(options.threads)
    check_picture_name(options.output)
    if options.clip == _CLIP and not _CLIP.exists():
        raise InputError(f"{_CLIP} is not here; run make demo, which fetches it, or give --clip")
    start = options.start if options.start is not None else _START if options.clip.name == _CLIP.name else Fraction(0)
    clip = shorts.read_short(options.clip, side=options.side, start=start)
    frames = options.frame or [min(index, len(clip.pixels) - 1) for index in _FRAMES]
    if wrong := [index for index in frames if not 0 <= index < len(clip.pixels)]:
        raise UsageError(f"--frame {wrong[0]} is not among the first {len(clip.pixels)} frames of {options.clip}")
    models = [load_model(name) for name in options.weights or _MODELS]
    pca = PatchPca.load()
    columns: list[tuple[str, NDArray[np.uint8], str]] = [
        (f"PCA {channels}", pca.reconstruct(clip.pixels, channels), "")
        for channels in dict.fromkeys(model.config.latent_channels for model in models)
    ]
    for model in models:
        decoded, bpp = round_trip(clip, model, device=options.device, precision=options.precision)
        columns.append((model.name or model.config.family, decoded, f", {bpp:.3f} bpp"))
    write_picture(options.output, draw(clip, columns, frames, options.panel))
    sys.stdout.write(f"{options.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
