"""`python benchmarks/compatibility.py`: do a video model and a 2D model read each other's latents?

Owns: what is decoded by whom, and what it is compared with. For every clip (short side 256, first 33 frames, cut to
4k+1 frames and multiples of 8 pixels), posterior means, not quantised, pictures rounded to bytes:

    video model          encoded and decoded as a video, all frames
    2D model             frames 0, 4, 8 ..., each encoded and decoded alone
    2D decoder           each latent of the video encoder, decoded alone, against frames 0, 4, 8 ...
    image by video       each 2D latent of frames 0, 4, 8 ..., decoded by the video decoder as a one-frame clip
    video from images    the 2D latents of frames 0, 4, 8 ... as one clip by the video decoder, against all frames

The paper's claim is that the two in the middle come close to the two above: a diffusion model that was trained on the
2D model's latents can then use the video model as it is. PSNR is the whole clip's, one mean square error over frames.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import harness
import shorts
from cvcodec.bench.report import check_block, update_block
from cvcodec.checkpoints.registry import load_model
from cvcodec.cli import report
from cvcodec.codec.runner import denormalise, normalise
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.model import VideoAutoencoder
from cvcodec.quality.psnr import psnr
from cvcodec.system.device import Precision, arithmetic, select_device, select_precision, set_threads
from cvcodec.training.objective import decode_pictures, encode_pictures
from sheet import Cell, check_picture_name, middle, sheet, write_picture
from shorts import Short

GROUP = 4
BLOCK = "bench: compatibility"
"""The block that --update replaces."""

_PICTURE = (240, 192)  # width and height of a panel: five of them fit a page
_ROWS = 2  # frames of the picture


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """PSNR in dB of one pair of models, on one clip or as means over clips."""

    clip: str
    video_model: str
    image_model: str
    psnr_db_video: float
    psnr_db_image: float
    psnr_db_image_decoder: float
    """The 2D decoder on the video model's latents."""
    psnr_db_image_by_video: float
    """The video decoder on 2D latents, each as an image."""
    psnr_db_video_from_images: float
    """The video decoder on the clip of 2D latents, against all frames."""


@dataclass(frozen=True)
class Pictures:
    """uint8 (T, H, W, 3): the clip and what was made of it; `video` has all frames, the others 0, 4, 8 ..."""

    clip: NDArray[np.uint8]
    video: NDArray[np.uint8]
    image: NDArray[np.uint8]
    image_decoder: NDArray[np.uint8]
    image_by_video: NDArray[np.uint8]


def check_pair(video: VideoAutoencoder, image: VideoAutoencoder) -> None:
    """UsageError unless these are a video and a 2D model of as many latent channels."""
    if not video.config.is_video:
        raise UsageError(f"--video {video.name} is a 2D model; wanted a video model")
    if image.config.is_video:
        raise UsageError(f"--image {image.name} is a video model; wanted a 2D one")
    if video.config.latent_channels != image.config.latent_channels:
        raise UsageError(
            f"{video.name} has {video.config.latent_channels} latent channels, {image.name} "
            f"{image.config.latent_channels}: they share no latent space"
        )


@torch.inference_mode()
def compare(
    clip: Short, video: VideoAutoencoder, image: VideoAutoencoder, *, device: torch.device, precision: Precision
) -> tuple[Numbers, Pictures]:
    """Everything of one clip. Both models lie on `device`, in fp32. InputError for a clip of less than 8x8 pixels."""
    x = trimmed(clip, device)
    pixels = normalise(x, 8)
    stills = pixels[:, :, ::GROUP]
    with arithmetic(device, precision):
        posterior = video.encode(pixels)
        latent = posterior.mean
        of_stills = encode_pictures(image, stills).mean
        outputs = {
            "video": video.decode(posterior.mean),
            "image": decode_pictures(image, of_stills),
            "image_decoder": decode_pictures(image, latent),
            "image_by_video": decode_pictures(video, of_stills),  # one-latent clips: image mode
            "video_from_images": video.decode(of_stills),
        }
    codes = {name: denormalise(output, 8) for name, output in outputs.items()}
    sources = {name: x if output.shape == x.shape else x[:, :, ::GROUP] for name, output in codes.items()}
    numbers = Numbers(
        clip=clip.name,
        video_model=_name(video),
        image_model=_name(image),
        **{f"psnr_db_{name}": float(psnr(sources[name], output, peak=255)) for name, output in codes.items()},
    )
    shown = {name: pictures_of(codes[name]) for name in ("video", "image", "image_decoder", "image_by_video")}
    return numbers, Pictures(clip=pictures_of(x), **shown)


def mean_numbers(numbers: Sequence[Numbers]) -> Numbers:
    """Of one pair over clips."""
    names = [field.name for field in dataclasses.fields(Numbers) if field.name.startswith("psnr_db")]
    means: dict[str, Any] = {name: statistics.fmean(getattr(entry, name) for entry in numbers) for name in names}
    return dataclasses.replace(numbers[0], **{**means, "clip": "mean"})


def draw(pictures: Sequence[tuple[str, Pictures]], *, size: tuple[int, int] = _PICTURE) -> NDArray[np.uint8]:
    """The middle of frames of a clip by each (video model, pictures): original, both models, and across them."""
    columns = ("original", "2D model", "video model", "2D decoder, video latents", "video decoder, 2D latents")
    cut = partial(middle, width=size[0], height=size[1])
    rows = []
    for name, made in pictures:
        stills = len(made.image)
        for index in sorted({round(stills * (2 * row + 1) / (2 * _ROWS) - 0.5) for row in range(_ROWS)}):
            original = made.clip[index * GROUP]
            options = (
                made.image[index],
                made.video[index * GROUP],
                made.image_decoder[index],
                made.image_by_video[index],
            )
            rows.append(
                [
                    Cell(cut(original), f"{name}, frame {index * GROUP}"),
                    *(Cell(cut(option), f"{_picture_psnr(original, option):.1f} dB") for option in options),
                ]
            )
    return sheet(columns, rows)


def markdown(means: Sequence[Numbers], clips: int) -> str:
    """A table for docs/benchmarks.md, one row a video model."""
    lines = [
        f"| mean PSNR in dB over {clips} clips | video model | 2D model | 2D decoder on video latents "
        "| video decoder on 2D latents, as images | the same, as a clip |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for entry in means:
        values = (
            entry.psnr_db_video,
            entry.psnr_db_image,
            entry.psnr_db_image_decoder,
            entry.psnr_db_image_by_video,
            entry.psnr_db_video_from_images,
        )
        cells = " | ".join(harness.number(value) for value in values)
        lines.append(f"| `{entry.video_model}` with `{entry.image_model}` | {cells} |")
    return "\n".join(lines)


def trimmed(clip: Short, device: torch.device) -> Tensor:
    """(1, 3, 4k+1, 8h, 8w) uint8, cut about the middle."""
    frames, height, width = clip.pixels.shape[:3]
    if min(height, width) < 8:
        raise InputError(f"{clip.name} has {width}x{height} pixels; wanted at least 8x8")
    cut = middle(clip.pixels[: frames - (frames - 1) % GROUP], width // 8 * 8, height // 8 * 8)
    return torch.from_numpy(np.ascontiguousarray(cut)).permute(3, 0, 1, 2)[None].to(device)


def pictures_of(codes: Tensor) -> NDArray[np.uint8]:
    """(1, 3, T, H, W) -> (T, H, W, 3)."""
    return codes[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()


def _picture_psnr(original: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(psnr(torch.from_numpy(original)[None], torch.from_numpy(other)[None], peak=255))


def _name(model: VideoAutoencoder) -> str:
    return model.name or model.config.family


def _named(text: str) -> tuple[str, str]:
    """`LABEL=NAME|FILE` or `NAME|FILE` to (label or "", what to load)."""
    label, found, rest = text.partition("=")
    return (label, rest) if found and "/" not in label else ("", text)


def _load(text: str, device: torch.device) -> VideoAutoencoder:
    label, what = _named(text)
    model = load_model(what, device=device)
    model.name = label or (Path(what).parent.name if model.name == "model" else model.name)  # RUN/model.safetensors
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/compatibility.py",
        description="PSNR of a 2D decoder on a video model's latents and of the video decoder on 2D latents.",
    )
    add = parser.add_argument
    shorts.add_clip_arguments(parser)
    add("--video", "-w", action="append", required=True, metavar="[LABEL=]NAME|FILE", help="video model; repeatable")
    add("--image", "-i", required=True, metavar="[LABEL=]NAME|FILE", help="the 2D model that they may share")
    add("--picture", type=Path, metavar="FILE", help="a grid of the first clip: .png, .jpg or .webp")
    add("--output", "-o", type=Path, metavar="FILE.json", help="all numbers")
    harness.add_machine_arguments(parser)
    add("--json", action="store_true", help="JSON lines on standard output: every clip, then means")
    harness.add_update_argument(parser, BLOCK)
    options = parser.parse_args(arguments)
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    set_threads(options.threads)
    device = select_device(options.device)
    precision = select_precision(options.precision, device)
    if options.picture is not None:
        check_picture_name(options.picture)
    check_block(options.update, BLOCK)
    clips = shorts.chosen(options)
    image = _load(options.image, device)
    videos = [_load(name, device) for name in options.video]
    for video in videos:
        check_pair(video, image)
    found: dict[str, list[Numbers]] = {_name(video): [] for video in videos}
    if len(found) < len(videos):
        raise UsageError(
            f"two video models are called alike ({', '.join(map(_name, videos))}); give --video LABEL=FILE"
        )
    shown: list[tuple[str, Pictures]] = []
    for clip in clips:
        for number, (numbers, made) in enumerate(_each(clip, videos, image, device, precision)):
            if len(shown) == number:
                shown.append((numbers.video_model, made))
            found[numbers.video_model].append(numbers)
            _tell(numbers, json_lines=options.json)
    if not shown:
        raise InputError("no clip could be read: nothing was measured")
    means = [mean_numbers(entries) for entries in found.values()]
    table = markdown(means, len(found[_name(videos[0])]))
    if options.json:
        for mean in means:
            report.emit(dataclasses.asdict(mean))
    else:
        sys.stdout.write(table + "\n")
    if options.output is not None:
        each = [dataclasses.asdict(entry) for entries in found.values() for entry in entries]
        record = report.jsonable({"means": [dataclasses.asdict(mean) for mean in means], "clips": each})
        with atomic_output(options.output, overwrite=True) as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())
    if options.picture is not None:
        write_picture(options.picture, draw(shown))
    update_block(options.update, BLOCK, table)
    return 0


def _each(
    clip: Short, videos: Iterable[VideoAutoencoder], image: VideoAutoencoder, device: torch.device, precision: Precision
) -> Iterator[tuple[Numbers, Pictures]]:
    for video in videos:
        yield compare(clip, video, image, device=device, precision=precision)


def _tell(numbers: Numbers, *, json_lines: bool) -> None:
    if json_lines:
        report.emit(dataclasses.asdict(numbers))
    else:
        report.say(
            f"{numbers.clip}: {numbers.video_model} {numbers.psnr_db_video:.2f} dB, 2D {numbers.psnr_db_image:.2f}, "
            f"2D decoder {numbers.psnr_db_image_decoder:.2f}, image by video {numbers.psnr_db_image_by_video:.2f}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
