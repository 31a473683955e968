"""`python benchmarks/borders.py CLIPS...`: what windows do to the frames beside their borders.

Owns: coding a clip with windows and again in one window, and PSNR by a frame's place relative to the nearest border.

A border lies in front of the first frame that a window keeps, after the first window. Place -1 is the last frame before
it, place 0 the first after it. Two questions are answered, both on frames rounded as a decoder rounds them, with
latents that are not quantised:

    against neighbours    Mean PSNR of the four frames on each side of a border (one latent) below that of the four
                          frames next to them, farther from the border. Whole latents, because PSNR varies inside one.
                          Pictures change too, so one clip's figure means little unless the same in one window is less.
    against one window    PSNR of the same frame when the whole clip is one window, minus PSNR with windows. What the
                          pictures show cancels out. Official models have norms that span a window, so for them this
                          compares two different results, not a result with its approximation.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import harness
from cvcodec.checkpoints.registry import load_model
from cvcodec.cli import report
from cvcodec.codec import DEFAULT_MODEL
from cvcodec.codec.headers import choose_plan
from cvcodec.codec.runner import ModelRunner, denormalise, frames_to_tensor
from cvcodec.errors import InputError
from cvcodec.model import ModelConfig
from cvcodec.model.base import Posterior
from cvcodec.quality.psnr import psnr
from cvcodec.system.device import set_threads
from cvcodec.video import VideoReader
from cvcodec.windows.plan import ContextPlan, OfficialPlan, Plan
from cvcodec.windows.space import crop_space
from cvcodec.windows.time import frame_count, frames_of_latents, latent_count, trim_frames

_SUMMARY = {
    "mean dip, dB": "mean_dip_db",
    "largest": "largest_dip_db",
    "mean in one window": "one_window_mean_dip_db",
    "largest loss of a frame, dB": "largest_loss_db",
}
"""Columns of the table per clip -> keys of `Borders.summary`."""

_CEILING_DB = 100.0  # stands for the infinite PSNR of a frame without any error


@dataclass(frozen=True)
class Borders:
    """PSNR of a clip's frames, and where its borders are."""

    clip: str
    model: str
    frames: int
    width: int
    height: int
    group: int
    """Frames of a latent (4; 1 for image models)."""
    firsts: tuple[int, ...]
    """First frame after each border."""
    windowed_db: NDArray[np.float64]
    """(frames,) with windows."""
    whole_db: NDArray[np.float64] | None = field(default=None)
    """(frames,) in one window; None where that was not asked for."""

    def by_place(self, values: NDArray[np.float64], reach: int) -> dict[int, float]:
        """Mean of `values` over all borders, for places -reach to reach - 1."""
        means = {}
        for place in range(-reach, reach):
            frames = [first + place for first in self.firsts if 0 <= first + place < self.frames]
            if frames:
                means[place] = float(values[frames].mean())
        return means

    def dips_db(self, values: NDArray[np.float64]) -> list[float]:
        """Of each border: PSNR of its neighbours minus PSNR of the frames on both sides of it; positive is a dip."""
        dips = []
        for first in self.firsts:
            inner = [*range(first - self.group, first), *range(first, first + self.group)]
            outer = [
                *range(first - 2 * self.group, first - self.group),
                *range(first + self.group, first + 2 * self.group),
            ]
            if min(outer) < 0 or max(outer) >= self.frames:
                continue  # no neighbours to compare with
            dips.append(float(values[outer].mean() - values[inner].mean()))
        return dips

    @property
    def losses_db(self) -> NDArray[np.float64] | None:
        """(frames,) PSNR in one window minus PSNR with windows."""
        return None if self.whole_db is None else self.whole_db - self.windowed_db

    def summary(self) -> dict[str, Any]:
        """JSON types; None where there is nothing to say."""
        dips, losses = self.dips_db(self.windowed_db), self.losses_db
        content = self.dips_db(self.whole_db) if self.whole_db is not None else []
        return {
            "clip": self.clip,
            "model": self.model,
            "frames": self.frames,
            "width": self.width,
            "height": self.height,
            "borders": len(self.firsts),
            "psnr_db": float(self.windowed_db.mean()),
            "mean_dip_db": float(np.mean(dips)) if dips else None,
            "largest_dip_db": max(dips) if dips else None,
            "one_window_mean_dip_db": float(np.mean(content)) if content else None,
            "one_window_psnr_db": None if self.whole_db is None else float(self.whole_db.mean()),
            "largest_loss_db": None if losses is None else float(losses.max()),
        }


def measure(clip: Tensor, depth: int, runner: ModelRunner, plan: Plan, *, name: str, whole: bool = True) -> Borders:
    """Code `clip` (1, 3, T, H, W), code values of `depth` bits, with `plan`; and with `whole` also in one window.

    InputError when the clip is too short to have a border.
    """
    frames = clip.shape[2]
    firsts = border_frames(plan, frames)
    if not firsts:
        raise InputError(
            f"{name}: {frames} frames are one window, so there is no border; use a longer clip or a smaller --window"
        )
    return Borders(
        clip=name,
        model=runner.model.name or runner.model.config.family,
        frames=frames,
        width=clip.shape[4],
        height=clip.shape[3],
        group=plan.temporal_factor,
        firsts=firsts,
        windowed_db=frame_psnr(clip, depth, runner, plan),
        whole_db=frame_psnr(clip, depth, runner, in_one_window(plan, frames)) if whole else None,
    )


def frame_psnr(clip: Tensor, depth: int, runner: ModelRunner, plan: Plan) -> NDArray[np.float64]:
    """PSNR in dB of each frame of `clip`, encoded and decoded by `plan`."""
    pieces = plan.encode(lambda x: Posterior.from_moments(runner.encode(x, depth)).mean.float(), [clip], _stay)
    latent = torch.cat([piece.cpu() for piece in pieces], dim=2)
    total = latent.shape[2]
    pieces = plan.decode(runner.decode, lambda a, b: latent[:, :, a:b], (0, total), total, _stay)
    values: list[Tensor] = []
    first = 0
    for pixels in trim_frames(pieces, 0, 0, clip.shape[2]):
        codes = denormalise(crop_space(pixels, *clip.shape[3:]), depth).cpu()
        source = clip[0, :, first : first + codes.shape[2]].transpose(0, 1)
        values.append(psnr(source, codes[0].transpose(0, 1), peak=2**depth - 1).clamp(max=_CEILING_DB))
        first += codes.shape[2]
    return np.asarray(torch.cat(values).numpy(), np.float64)


def _stay(plan: Plan, text: str) -> None:
    report.say(text)


def border_frames(plan: Plan, frames: int) -> tuple[int, ...]:
    """The first frame that each window but the first keeps, of a clip of `frames` frames."""
    factor = plan.temporal_factor
    latents = latent_count(frames, factor)
    last = plan.index_of(max(0, latents - 1), encoding=False)
    starts = (plan.span(index, encoding=False).keep for index in range(1, last + 1))
    return tuple(frames_of_latents(start, start, factor)[0] for start in starts)


def in_one_window(plan: Plan, frames: int) -> Plan:
    """`plan` with windows so long that a clip of `frames` frames is one; tiles stay."""
    if isinstance(plan, OfficialPlan):
        return dataclasses.replace(plan, official=dataclasses.replace(plan.official, chunk_frames=None))
    assert isinstance(plan, ContextPlan)
    kept = max(1, latent_count(frames, plan.temporal_factor))
    return dataclasses.replace(
        plan,
        encode_window=dataclasses.replace(plan.encode_window, kept=kept),
        decode_window=dataclasses.replace(plan.decode_window, kept=kept),
    )


def read_clip(path: Path, *, frames: int, crop: int) -> tuple[Tensor, int]:
    """The middle `crop` x `crop` (0: all) of the first `frames` frames: (1, 3, T, H, W) code values, bit depth."""
    with VideoReader(path, frames=frames) as reader:
        depth = reader.info.bit_depth
        pictures = [_middle(frame.pixels, crop) for frame in reader]
    if not pictures:
        raise InputError(f"{path} has no frames")
    return frames_to_tensor(pictures), depth


def _middle(picture: NDArray[Any], crop: int) -> NDArray[Any]:
    if not crop:
        return picture
    top, left = (max(0, (side - crop) // 2) for side in picture.shape[:2])
    return picture[top : top + crop, left : left + crop]


def default_frames(plan: Plan, borders: int) -> int:
    """Frames of a clip that has `borders` borders and a whole window after the last."""
    return frame_count(plan.span(borders, encoding=False).keep_end, plan.temporal_factor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/borders.py",
        description="PSNR of frames at window borders, against their neighbours and against the clip in one window.",
    )
    add = parser.add_argument
    add("clips", nargs="+", type=Path, metavar="CLIP", help="videos; each is measured alone, the summary covers all")
    add("--weights", default=DEFAULT_MODEL, metavar="NAME|FILE", help="the model (default: %(default)s)")
    add("--windows", choices=("auto", "context", "official"), default="auto", help="as for cvcodec encode")
    add("--window", type=int, metavar="N", help="latents kept per window (default: the model's)")
    add("--borders", type=int, default=3, metavar="N", help="borders per clip, if it is long enough (default: 3)")
    add("--frames", type=int, metavar="N", help="frames of each clip instead, from its beginning")
    add("--crop", type=int, default=256, metavar="N", help="use the middle NxN pixels; 0: whole frames (default: 256)")
    add("--no-whole", action="store_true", help="do not code the clip in one window, which takes memory by its length")
    harness.add_machine_arguments(parser, precision="fp32")
    add("--json", action="store_true", help="JSON lines: one a clip, with PSNR by place")
    options = parser.parse_args(arguments)
    if options.borders < 1 or (options.frames is not None and options.frames < 1) or options.crop < 0:
        parser.error("--borders and --frames must be at least 1, --crop at least 0")
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    set_threads(options.threads)
    model = load_model(options.weights)
    runner = ModelRunner(model, device=options.device, precision=options.precision, on_notice=report.say)
    results = []
    for path in options.clips:
        with VideoReader(path) as reader:
            width, height = reader.info.width, reader.info.height
        plan = _plan(model.config, options, width, height)
        frames = options.frames or default_frames(plan, options.borders)
        clip, depth = read_clip(path, frames=frames, crop=options.crop)
        report.say(f"coding {clip.shape[2]} frames of {path.name} at {clip.shape[4]}x{clip.shape[3]} ...")
        result = measure(clip, depth, runner, plan, name=path.name, whole=not options.no_whole)
        results.append(result)
        if options.json:
            report.emit({**result.summary(), **_places(result)})
    if not options.json:
        _show(results)
    return 0


def _plan(config: ModelConfig, options: argparse.Namespace, width: int, height: int) -> Plan:
    sides = [min(side, options.crop or side) for side in (width, height)]
    return choose_plan(config, width=sides[0], height=sides[1], mode=options.windows, window=options.window)


def _reach(result: Borders) -> int:
    """Places shown on each side of a border: two latents, three where windows are long."""
    gaps = [after - before for before, after in zip(result.firsts, result.firsts[1:], strict=False)]
    return min(3 * result.group, min(gaps, default=result.firsts[0]) // 2)


def _places(result: Borders) -> dict[str, dict[str, float]]:
    reach = _reach(result)
    places = {"psnr_db_by_place": _keyed(result.by_place(result.windowed_db, reach))}
    if result.whole_db is not None:
        places["one_window_psnr_db_by_place"] = _keyed(result.by_place(result.whole_db, reach))
    return places


def _keyed(values: dict[int, float]) -> dict[str, float]:
    return {str(place): value for place, value in values.items()}


def _show(results: Sequence[Borders]) -> None:
    reach = min(_reach(result) for result in results)
    rows = []
    for place in range(-reach, reach):
        windowed = _average(result.by_place(result.windowed_db, reach).get(place) for result in results)
        whole = _average(
            result.by_place(result.whole_db, reach).get(place) for result in results if result.whole_db is not None
        )
        loss = None if whole is None or windowed is None else whole - windowed
        rows.append((f"{place:+d}" if place else " 0", *map(_db, (windowed, whole)), harness.number(loss, 3)))
    harness.show_table(
        f"PSNR by place relative to a window border, mean over borders and clips, {results[0].model}",
        ("place", "with windows", "in one window", "loss, dB"),
        rows,
    )
    harness.show_table(
        "Per clip",
        ("clip", "frames", "borders", "PSNR", *_SUMMARY),
        [
            (
                f"{result.clip} {result.width}x{result.height}",
                str(result.frames),
                str(len(result.firsts)),
                _db(summary["psnr_db"]),
                *(harness.number(summary[key], 3) for key in _SUMMARY.values()),
            )
            for result, summary in _with_summaries(results)
        ],
        caption="dip: the frames of one latent on each side of a border below those of the next latents, which the "
        "pictures alone may cause, hence also in one window; loss: in one window minus with windows.",
    )


def _with_summaries(results: Sequence[Borders]) -> Iterator[tuple[Borders, dict[str, Any]]]:
    for result in results:
        yield result, result.summary()


def _average(values: Iterable[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _db(value: float | None) -> str:
    return harness.number(value, 2, " dB")


if __name__ == "__main__":
    sys.exit(main())
