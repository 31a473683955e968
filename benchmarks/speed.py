"""`python benchmarks/speed.py`: how many megapixels a second this machine encodes and decodes.

Owns: what is timed. For every model, precision and size, in both directions:

    model call   the network alone, on one window (and tile) as the codec cuts them, frames in memory
    command      `encode_file` from a video file to a .cvl and `decode_file` from it to an .mp4, models already loaded
    overhead     seconds of the command over its seconds inside model calls, less one: what the pipeline adds

Megapixels are width x height x frames of what was computed (model call) or of the source (command): the difference
between the two columns is what windows compute twice, what the other threads take from the model, and the overhead.
Figures are medians after a warm-up. They describe this machine under its present load and nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import harness
from cvcodec.bench.machine import describe_machine, machine_facts
from cvcodec.cli import report
from cvcodec.codec import (
    DecodeOptions,
    DecodeResult,
    EncodeOptions,
    EncodeResult,
    ReaderOptions,
    decode_file,
    encode_file,
)
from cvcodec.codec.runner import ModelRunner
from cvcodec.errors import DeviceError, InputError
from cvcodec.model import VideoAutoencoder
from cvcodec.model.base import Posterior
from cvcodec.system.device import select_device, select_precision, set_threads
from cvcodec.video import VideoReader
from cvcodec.windows.plan import choose_plan
from cvcodec.windows.space import padded_size
from cvcodec.windows.time import padded_frame_count

_SIZES = {"mini": ((256, 256),), "official": ((128, 128),)}
_FEW_FRAMES = 61  # one window of the mini
_MANY_FRAMES = 509  # eight windows, so that what comes before the first and after the last counts as it does in use
_OFFICIAL_FRAMES = 17  # one official chunk
_BUDGET_S = 30.0  # no further repeats of one measurement after so long
_WARM_UP_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: a model in a precision at a size."""

    model: str
    precision: str
    width: int
    height: int
    frames: int
    repeats: int
    encode_model_mpixel_per_s: float
    encode_command_mpixel_per_s: float
    encode_overhead: float
    """Seconds of the command / seconds inside the model - 1."""
    decode_model_mpixel_per_s: float
    decode_command_mpixel_per_s: float
    decode_overhead: float


def measure(
    model: VideoAutoencoder,
    clip: Path,
    folder: Path,
    *,
    frames: int,
    repeats: int,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Case:
    """Time one case. `clip` must have at least `frames` frames; `folder` takes the outputs."""
    with VideoReader(clip, frames=frames) as reader:
        width, height, depth = reader.info.width, reader.info.height, reader.info.bit_depth
    runner = ModelRunner(model, device=device, precision=precision)
    window = _one_window(model, width, height, frames)
    latent = Posterior.from_moments(runner.encode(window, depth)).mean.float().cpu()
    runner.decode(latent)
    window_mpixel = math.prod(window.shape[2:]) / 1e6
    encode_call = harness.timed(lambda: runner.encode(window, depth), repeats=repeats, budget_s=_BUDGET_S)
    decode_call = harness.timed(lambda: runner.decode(latent), repeats=repeats, budget_s=_BUDGET_S)

    coded, decoded = folder / "speed.cvl", folder / "speed.mp4"

    def encode(count: int) -> EncodeResult:
        options = EncodeOptions(device=device, precision=precision, threads=threads, reader=ReaderOptions(frames=count))
        return encode_file(clip, coded, model=model, options=options, overwrite=True)

    def decode() -> DecodeResult:
        options = DecodeOptions(device=device, precision=precision, threads=threads)
        return decode_file(coded, decoded, model=model, options=options, overwrite=True)

    encode(min(frames, _WARM_UP_FRAMES))
    decode()
    encodes: list[EncodeResult] = []
    decodes: list[DecodeResult] = []
    harness.timed(lambda: encodes.append(encode(frames)), repeats=repeats, budget_s=_BUDGET_S)
    harness.timed(lambda: decodes.append(decode()), repeats=repeats, budget_s=_BUDGET_S)
    if encodes[0].frames < frames:
        raise InputError(f"{clip} has {encodes[0].frames} frames, {frames} wanted; use --frames {encodes[0].frames}")
    return Case(
        model=model.name or model.config.family,
        precision=runner.precision,
        width=width,
        height=height,
        frames=frames,
        repeats=min(len(encodes), len(decodes)),
        encode_model_mpixel_per_s=window_mpixel / harness.median(encode_call),
        encode_command_mpixel_per_s=harness.median(result.megapixels_per_s for result in encodes),
        encode_overhead=harness.median(result.seconds / result.model_seconds for result in encodes) - 1,
        decode_model_mpixel_per_s=window_mpixel / harness.median(decode_call),
        decode_command_mpixel_per_s=harness.median(result.megapixels_per_s for result in decodes),
        decode_overhead=harness.median(result.seconds / result.model_seconds for result in decodes) - 1,
    )


def _one_window(model: VideoAutoencoder, width: int, height: int, frames: int) -> Tensor:
    """Frames as one model call of an encode sees them: a window and a tile, or the whole clip where that is smaller."""
    plan = choose_plan(model.config, height=height, width=width)
    tile = plan.tile_latents(encoding=True) * plan.spatial_factor
    wide, high = (padded_size(min(side, tile or side), plan.spatial_factor) for side in (width, height))
    most = plan.frames_at_once(frames, encoding=True)
    return harness.moving_clip(wide, high, padded_frame_count(most, plan.temporal_factor))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/speed.py",
        description="Mpixel/s of encode and decode on this machine: the model call and the whole command.",
    )
    add = parser.add_argument
    add(
        "--models",
        type=harness.list_argument(str),
        default=["mini", "official"],
        metavar="NAME,...",
        help="mini (the default model), official (z=4, full width, random weights), names or weights files",
    )
    add("--precision", type=harness.list_argument(str), metavar="P,...", help="fp32, bf16, fp16 (default: fp32,bf16)")
    add("--size", type=harness.list_argument(harness.size_argument), metavar="WxH,...", help="sizes of synthetic clips")
    add("--frames", type=int, metavar="N", help="frames of each clip")
    add("--clip", type=Path, metavar="VIDEO", help="a video of your own instead of synthetic clips")
    add("--repeats", type=int, default=3, metavar="N", help="runs of each measurement, of which the median counts")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add("--threads", type=int, metavar="N", help="CPU threads of the model")
    add("--quick", action="store_true", help="small clips, one run each: a first impression")
    add("--json", action="store_true", help="JSON lines: the machine, then one line a case")
    options = parser.parse_args(arguments)
    if (options.frames is not None and options.frames < 1) or options.repeats < 1:
        parser.error("--frames and --repeats must be at least 1")
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    device = select_device(options.device)
    threads = set_threads(options.threads)
    facts = machine_facts(device)
    if options.json:
        report.emit({"machine": facts})
    cases: list[Case] = []
    repeats = 1 if options.quick else options.repeats
    with tempfile.TemporaryDirectory(prefix="cvcodec-bench-") as name:
        folder = Path(name)
        for model_name in options.models:
            model = harness.named_model(model_name)
            for clip, frames in _clips(options, model_name, folder):
                for precision in options.precision or ("fp32", "bf16"):
                    try:
                        select_precision(precision, device)
                    except DeviceError as error:
                        report.say(f"{precision} is left out: {error}")
                        continue
                    report.say(f"measuring {model.name} in {precision} on {frames} frames of {clip.name} ...")
                    case = measure(
                        model,
                        clip,
                        folder,
                        frames=frames,
                        device=str(device),
                        precision=precision,
                        threads=threads,
                        repeats=repeats,
                    )
                    cases.append(case)
                    if options.json:
                        report.emit(dataclasses.asdict(case))
    if not options.json:
        _show(cases, describe_machine(facts))
    return 0


def _clips(options: argparse.Namespace, model_name: str, folder: Path) -> list[tuple[Path, int]]:
    """Video files and how many of their frames to use."""
    if options.clip is not None:
        with VideoReader(options.clip) as reader:
            most = options.frames or (_FEW_FRAMES if options.quick else _MANY_FRAMES)
            return [(options.clip, _count(reader, most))]
    sizes = options.size or _SIZES["official" if model_name == "official" else "mini"]
    if options.quick and options.size is None:
        sizes = sizes[:1]
    clips = []
    for width, height in sizes:
        if options.frames:
            frames = options.frames
        elif model_name == "official":
            frames = _OFFICIAL_FRAMES
        else:
            frames = _FEW_FRAMES if options.quick or width * height > 256 * 256 else _MANY_FRAMES
        path = folder / f"{width}x{height}-{frames}.mp4"
        if not path.exists():
            harness.write_clip(path, width, height, frames)
        clips.append((path, frames))
    return clips


def _count(reader: VideoReader, most: int) -> int:
    """Frames in a video, up to `most`. Counted, because containers only estimate."""
    count = 0
    for _ in reader:
        count += 1
        if count == most:
            break
    return count


def _show(cases: Sequence[Case], machine: str) -> None:
    harness.show_table(
        "Mpixel/s",
        ("model", "precision", "clip", "encode: model", "command", "overhead", "decode: model", "command", "overhead"),
        [
            (
                case.model,
                case.precision,
                f"{case.frames}x{case.width}x{case.height}",
                harness.number(case.encode_model_mpixel_per_s, 3),
                harness.number(case.encode_command_mpixel_per_s, 3),
                harness.number(100 * case.encode_overhead, 1, " %"),
                harness.number(case.decode_model_mpixel_per_s, 3),
                harness.number(case.decode_command_mpixel_per_s, 3),
                harness.number(100 * case.decode_overhead, 1, " %"),
            )
            for case in cases
        ],
        caption=f"{machine}. Medians; clips are frames x width x height. This machine, under its present load.",
    )


if __name__ == "__main__":
    sys.exit(main())
