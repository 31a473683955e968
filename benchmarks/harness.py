"""What the measurements share: synthetic clips, models to measure, timing, tables.

Owns: all that a benchmark needs besides what it measures.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cvcodec.checkpoints import registry
from cvcodec.checkpoints.checkpoint import default_statistics
from cvcodec.cli import report
from cvcodec.codec import DEFAULT_MODEL
from cvcodec.codec.runner import frames_to_tensor
from cvcodec.errors import CvcodecError
from cvcodec.model import ModelConfig, VideoAutoencoder, build_model
from cvcodec.model.mini import mini_config
from cvcodec.model.official.config import config_from_official
from cvcodec.system import host
from cvcodec.system.device import release_memory
from cvcodec.video import Frame, VideoWriter

RATE = 25
"""Frames per second of synthetic clips."""

_DRIFT = 64  # pixels that the camera of a synthetic clip wanders
_PLAIN_COLUMNS = 150  # width of tables that do not go to a terminal


# ---------------------------------------------------------------------------------------------------- clips


def moving_frames(width: int, height: int, count: int, *, seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    """`count` pictures (height, width, 3) uint8: a textured scene under a wandering camera, and a square crossing it.

    Made one at a time, the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    rows, columns = height + _DRIFT, width + _DRIFT
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    patches = np.kron(rng.uniform(-40, 40, (rows // 16 + 1, columns // 16 + 1, 3)), np.ones((16, 16, 1)))
    scene = patches[:rows, :columns].astype(np.float32)
    for channel, (across, down) in enumerate(((37.0, 61.0), (53.0, 29.0), (71.0, 43.0))):
        scene[..., channel] += 128 + 50 * np.sin(x / across + channel) * np.cos(y / down)
    scene += rng.normal(0, 4, scene.shape).astype(np.float32)
    canvas = np.clip(scene, 0, 255).astype(np.uint8)
    side = max(1, min(width, height) // 5)
    for index in range(count):
        left = round(_DRIFT / 2 * (1 + math.sin(2 * math.pi * index / 97)))
        top = round(_DRIFT / 2 * (1 + math.cos(2 * math.pi * index / 61)))
        picture = canvas[top : top + height, left : left + width].copy()
        row, column = (3 * index) % (height - side + 1), (5 * index) % (width - side + 1)
        picture[row : row + side, column : column + side] = (230, 60, 40)
        yield picture


def moving_clip(width: int, height: int, count: int, *, seed: int = 0) -> Tensor:
    """`moving_frames` as one tensor (1, 3, count, height, width) uint8, as a `ModelRunner` takes it."""
    return frames_to_tensor(list(moving_frames(width, height, count, seed=seed)))


def frames_of(pictures: Iterable[NDArray[np.uint8]]) -> Iterator[Frame]:
    """Pictures (H, W, 3) one tick after another."""
    return (Frame(pixels=picture, pts=index, duration=1) for index, picture in enumerate(pictures))


def write_clip(path: Path, width: int, height: int, count: int, *, seed: int = 0) -> None:
    """Write `moving_frames` as a video at `RATE`, one frame in memory; coded cheaply, as only its decoding counts."""
    with VideoWriter(
        path,
        width=width,
        height=height,
        time_base=Fraction(1, RATE),
        rate=Fraction(RATE),
        codec="libx264",
        crf=20,
        preset="ultrafast",
    ) as writer:
        for index, picture in enumerate(moving_frames(width, height, count, seed=seed)):
            writer.write(Frame(pixels=picture, pts=index, duration=1))


# ---------------------------------------------------------------------------------------------------- models


def official_config(family: str = "cvvae", *, width: int = 128) -> ModelConfig:
    """The config of the official z=4 (`cvvae`) or z=16 (`cvvae-sd3`) model of a base width, 128 as published.

    Below 32 there are as many norm groups as channels.
    """
    config = config_from_official({"_class_name": "CVVAEModel" if family == "cvvae" else "CVVAESD3Model"})
    widths = tuple(width * multiple for multiple in (1, 2, 4, 4))
    return dataclasses.replace(config, widths=widths, norm_groups=min(config.norm_groups, width))


def random_model(config: ModelConfig, name: str, *, seed: int = 0) -> VideoAutoencoder:
    """A model with seeded random weights, ready for the codec; no path through it is silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1 and not bool(parameter.any()):  # the mini's last layers start at zero
                    parameter.normal_(0.0, 0.1 * parameter[0].numel() ** -0.5)
    model.name = name
    model.statistics = default_statistics(config)
    # No file, so no identities of content; what is encoded and decoded in one process only has to match itself.
    model.latent_space_id = model.decoder_hash = f"{seed:016x}"
    return model


def named_model(name: str) -> VideoAutoencoder:
    """What `--models` means by a name: `mini`, `official`, or whatever `load_model` takes.

    mini: the default model where weights are installed, else one of its size with random weights.
    official: the z=4 architecture at its published width, with random weights.
    """
    if name == "official":
        return random_model(official_config(), "official-z4-random")
    if name != "mini":
        return registry.load_model(name)
    if registry.find_model(DEFAULT_MODEL) is None:
        report.say("no weights are installed: measuring a mini model with random weights, whose speed is the same")
        return random_model(mini_config(), "mini-z16-random")
    return registry.load_model(DEFAULT_MODEL)


# ---------------------------------------------------------------------------------------------------- time


def timed(work: Callable[[], object], *, repeats: int, budget_s: float = math.inf) -> list[float]:
    """Seconds of each of `repeats` runs; fewer, but at least one, once they have taken `budget_s` together."""
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or sum(seconds) < budget_s):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return seconds


median = statistics.median


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_bytes(device: torch.device, work: Callable[[], object]) -> tuple[int, int]:
    """Bytes of tensors on the device before `work` and at its peak; zeros, without any work, where the device does not
    tell.
    """
    if device.type != "cuda":
        return 0, 0
    release_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    synchronise(device)
    return before, torch.cuda.max_memory_allocated(device)


# ---------------------------------------------------------------------------------------------------- output


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str | None = None
) -> None:
    """A table on standard output; the first column is text, the others are aligned like numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS).print(table)


def number(value: float | None, digits: int = 2, suffix: str = "") -> str:
    """For table cells; `–` where there is nothing."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}{suffix}"


# ---------------------------------------------------------------------------------------------------- programs


def size_argument(text: str) -> tuple[int, int]:
    """`1280x720` to (1280, 720), for argparse."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    if not match or min(int(match[1]), int(match[2])) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; wanted WIDTHxHEIGHT, such as 1280x720")
    return int(match[1]), int(match[2])


def list_argument(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A comma-separated list of what `parse` takes, for argparse."""

    def parse_list(text: str) -> list[Any]:
        return [parse(part.strip()) for part in text.split(",") if part.strip()]

    return parse_list


def add_machine_arguments(parser: argparse.ArgumentParser, *, precision: str = "auto") -> None:
    """`--device`, `--precision` and `--threads`; `precision` is the default of the second."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--precision", default=precision, help=f"auto, fp32, bf16 or fp16 (default: {precision})")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")


def add_update_argument(parser: argparse.ArgumentParser, block: str) -> None:
    """`--update FILE`, for `check_block` before the run and `update_block` after it."""
    parser.add_argument(
        "--update",
        type=Path,
        metavar="FILE",
        help=f"put the table between <!-- {block} --> and its end: docs/benchmarks.md has these",
    )


def run_program(work: Callable[[], int]) -> int:
    """The exit code of `work`; an error of ours becomes one line and its own code, Ctrl-C 130."""
    host.keep_freed_memory()  # as the program itself does
    try:
        return work()
    except CvcodecError as error:
        report.error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        report.error("interrupted")
        return 130
