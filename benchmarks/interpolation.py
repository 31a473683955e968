"""`python benchmarks/interpolation.py`: a video model against an image model whose frames between are interpolated.

Owns: what is compared at equal numbers of latents (the paper's Table 4, on reconstructions in place of generated
clips). For every clip (short side 256, first 33 frames, cut to 4k+1 frames and multiples of 8 pixels), posterior means,
not quantised, pictures rounded to bytes:

    2D model, NAME       frames 0, 4, 8 ... encoded and decoded alone; the frames between by `minterpolate` (FFmpeg's,
                         motion-compensated), `blend` (the mean of its neighbours, by distance) or a TorchScript file
    video model          encoded and decoded as a video; of two layers, the base alone and both
    2D model, all frames encoded and decoded alone: four times as many latents

PSNR (RGB) and LPIPS are `cvcodec eval`'s, means over frames, then over clips; PSNR also of the frames 0, 4, 8 ... and
of those between apart. LPIPS is the shift-tolerant AlexNet, FVD that of the I3D that is named.

A TorchScript interpolator is given two of (1, 3, H, W) float in [0, 1], of sides that are multiples of 64 by repeated
edges, and (1, 1) with the time from 0 to 1 between them, and answers with a picture like them; RIFE and FILM become
one in a few lines of wrapping.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import harness
import shorts
from compatibility import GROUP, check_pair, pictures_of, trimmed
from cvcodec.bench.measure import Strided, check_stride
from cvcodec.bench.report import check_block, update_block
from cvcodec.checkpoints.registry import load_model
from cvcodec.cli import report
from cvcodec.codec.runner import denormalise, normalise
from cvcodec.errors import CheckpointError, InputError
from cvcodec.model import VideoAutoencoder
from cvcodec.quality.compare import evaluate
from cvcodec.quality.lpips import Lpips
from cvcodec.quality.sets.distances import Moments, frechet_distance
from cvcodec.quality.sets.networks import I3d, Script
from cvcodec.system.device import Precision, arithmetic, select_device, select_precision, set_threads
from cvcodec.training.objective import decode_pictures, encode_pictures
from shorts import Short

BLOCK = "bench: interpolation"
"""The block that --update replaces."""

Pixels = NDArray[np.uint8]
"""(T, H, W, 3), RGB."""
Interpolator = Callable[[Pixels], Pixels]
"""Every fourth frame -> all frames."""

_PAIRS = (("cvvae-mini-z16", "image-vae-mini-z16"),)
_MULTIPLE = 64  # of the sides of what a TorchScript interpolator sees
_ENDS = 2  # copies of the first and of the last frame around a clip: minterpolate looks so far beyond what it gives
_MINTERPOLATE = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"
_REFERENCE = "source"


@dataclass(frozen=True, kw_only=True)
class Score:
    """One clip by one method; infinite PSNR and what was not measured is None."""

    clip: str
    method: str
    latents: float
    """Of the clip; or the mean."""
    psnr_db: float | None
    psnr_db_kept: float | None
    """Of frames 0, 4, 8 ..."""
    psnr_db_between: float | None
    lpips: float | None
    fvd: float | None = None
    """Of all clips, against the sources'; None for a clip."""


def minterpolate(kept: Pixels) -> Pixels:
    """FFmpeg's motion-compensated interpolation; the frames that it is given come back as they are."""
    height, width = kept.shape[1:3]
    count = GROUP * (len(kept) - 1) + 1
    graph: Any = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("yuvj444p"), time_base=Fraction(GROUP, 1)
    )
    middle, sink = graph.add("minterpolate", f"fps=1:{_MINTERPOLATE}"), graph.add("buffersink")
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    made: dict[int, Pixels] = {}
    for index, picture in enumerate([kept[0]] * _ENDS + list(kept) + [kept[-1]] * _ENDS):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuvj444p")
        frame.pts, frame.time_base = index, Fraction(GROUP, 1)
        source.push(frame)
        _pull(sink, made)
    source.push(None)
    _pull(sink, made)
    frames = [made[index + _ENDS * GROUP] for index in range(count)]
    frames[::GROUP] = list(kept)
    return np.stack(frames)


def _pull(sink: Any, made: dict[int, Pixels]) -> None:
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        made[round(frame.pts * frame.time_base)] = frame.to_ndarray(format="rgb24")


def blend(kept: Pixels) -> Pixels:
    """The mean of the two neighbours, weighted by distance."""
    return _between(kept, lambda first, second, time: (1 - time) * first + time * second)


def scripted(path: Path, device: torch.device) -> Interpolator:
    """By a TorchScript file; see the module. Raises InputError, CheckpointError."""
    script = Script(path, device)

    def picture(first: NDArray[np.float64], second: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        height, width = first.shape[:2]
        padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
        pair = [
            F.pad(torch.from_numpy(side).float().permute(2, 0, 1)[None] / 255, padding, mode="replicate")
            for side in (first, second)
        ]
        found = script(*pair, torch.full((1, 1), time))
        if found.shape != pair[0].shape:
            raise CheckpointError(
                f"{path} answers {tuple(pair[0].shape)} with {tuple(found.shape)}; wanted a picture between the two"
            )
        cut = found[0, :, :height, :width].permute(1, 2, 0).cpu().numpy() * 255
        return np.asarray(cut, np.float64)

    return lambda kept: _between(kept, picture)


def _between(
    kept: Pixels, picture: Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.float64]]
) -> Pixels:
    frames = []
    for first, second in zip(kept, kept[1:], strict=False):
        frames.append(first)
        pair = first.astype(np.float64), second.astype(np.float64)
        for step in range(1, GROUP):
            frames.append(np.clip(np.rint(picture(*pair, step / GROUP)), 0, 255).astype(np.uint8))
    return np.stack([*frames, kept[-1]])


@torch.inference_mode()
def reconstructions(
    clip: Tensor,
    video: VideoAutoencoder,
    image: VideoAutoencoder,
    interpolators: Mapping[str, Interpolator],
    precision: Precision,
) -> Iterator[tuple[str, int, Pixels]]:
    """(method, latents, all frames) of (1, 3, 4k+1, 8h, 8w) uint8 on the models' device."""
    pixels = normalise(clip, 8)
    latents = (clip.shape[2] - 1) // GROUP + 1
    with arithmetic(clip.device, precision):
        posterior = video.encode(pixels)
        alone = decode_pictures(image, encode_pictures(image, pixels).mean)
        decoded = {f"`{video.name}`": video.decode(posterior.mean)}
    of_image = pictures_of(denormalise(alone, 8))
    for name, interpolate in interpolators.items():
        yield f"`{image.name}`, {name}", latents, interpolate(of_image[::GROUP])
    for name, output in decoded.items():
        yield name, latents, pictures_of(denormalise(output, 8))
    yield f"`{image.name}`, all frames", clip.shape[2], of_image


@dataclass(kw_only=True)
class Comparison:
    """What clips are measured by, and the features of those that were."""

    video: VideoAutoencoder
    image: VideoAutoencoder
    """Both on `device`."""
    interpolators: Mapping[str, Interpolator]
    device: torch.device
    precision: Precision
    lpips: Lpips | None = None
    lpips_every: int = 1
    i3d: I3d | None = None
    features: dict[str, Moments] = field(default_factory=lambda: defaultdict(Moments))
    """By method, and of the sources; empty without `i3d`."""

    def scores(self, clip: Short) -> Iterator[Score]:
        """By each method. InputError for a clip of less than 8x8 pixels."""
        x = trimmed(clip, self.device)
        source = pictures_of(x)
        self._see(_REFERENCE, source)
        for method, latents, found in reconstructions(x, self.video, self.image, self.interpolators, self.precision):
            self._see(method, found)
            yield self._score(clip.name, method, latents, source, found)

    def fvd(self) -> dict[str, float]:
        """By method, against the sources; none for less than two clips."""
        found = {method: moments for method, moments in self.features.items() if moments.count > 1}
        source = found.pop(_REFERENCE, None)
        return {} if source is None else {name: frechet_distance(source, moments) for name, moments in found.items()}

    def _see(self, method: str, pictures: Pixels) -> None:
        if self.i3d is not None:
            self.features[method].add(self.i3d.features(torch.from_numpy(pictures).permute(0, 3, 1, 2)))

    def _score(self, clip: str, method: str, latents: int, source: Pixels, found: Pixels) -> Score:
        measured = evaluate(
            harness.frames_of(source),
            harness.frames_of(found),
            reference_time_base=Fraction(1),
            test_time_base=Fraction(1),
            metrics=("psnr",) if self.lpips is None else ("psnr", "lpips"),
            lpips=None if self.lpips is None else Strided(self.lpips, self.lpips_every),
            device=self.device,
        )
        values = list(measured.columns["psnr_db"])
        return Score(
            clip=clip,
            method=method,
            latents=latents,
            psnr_db=_mean(values),
            psnr_db_kept=_mean(values[::GROUP]),
            psnr_db_between=_mean([value for index, value in enumerate(values) if index % GROUP]),
            lpips=_mean(measured.columns.get("lpips", ())),
        )


def mean_scores(scores: Sequence[Score], fvd: Mapping[str, float]) -> list[Score]:
    """Over clips, by method in order of their first; `fvd` by method."""
    by_method: dict[str, list[Score]] = defaultdict(list)
    for entry in scores:
        by_method[entry.method].append(entry)

    def mean(group: Sequence[Score], name: str) -> float | None:
        return _mean([value for entry in group if (value := getattr(entry, name)) is not None])

    return [
        Score(
            clip="mean",
            method=method,
            latents=statistics.fmean(entry.latents for entry in group),
            psnr_db=mean(group, "psnr_db"),
            psnr_db_kept=mean(group, "psnr_db_kept"),
            psnr_db_between=mean(group, "psnr_db_between"),
            lpips=mean(group, "lpips"),
            fvd=fvd.get(method),
        )
        for method, group in by_method.items()
    ]


def _mean(values: Sequence[float] | Any) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def markdown(means: Sequence[Score], clips: int, *, lpips: str, i3d: str | None) -> str:
    """A table for docs/benchmarks.md."""
    columns = ["latents", "PSNR (RGB)", "of frames 0, 4, 8 ...", "of those between", f"LPIPS ({lpips})"]
    columns += [f"FVD ({i3d})"] if i3d else []
    lines = [f"| mean over {clips} clips | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for entry in means:
        cells = [
            f"{entry.latents:.3g}",
            *(harness.number(value, 2, " dB") for value in (entry.psnr_db, entry.psnr_db_kept, entry.psnr_db_between)),
            harness.number(entry.lpips, 4),
            *([harness.number(entry.fvd, 1)] if i3d else []),
        ]
        lines.append(f"| {entry.method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/interpolation.py",
        description="Every fourth frame by a 2D model and interpolation, beside a video model at as many latents.",
    )
    add = parser.add_argument
    shorts.add_clip_arguments(parser)
    add("--video", "-w", default=_PAIRS[0][0], metavar="NAME|FILE", help="the video model (default: %(default)s)")
    add("--image", "-i", default=_PAIRS[0][1], metavar="NAME|FILE", help="the 2D model (default: %(default)s)")
    add("--interpolator", type=Path, metavar="FILE", help="TorchScript of (picture, picture, time): RIFE, FILM")
    add("--i3d", type=Path, metavar="FILE", help="TorchScript network of clips, for FVD")
    add("--lpips-every", type=int, default=1, metavar="N", help="LPIPS of every Nth frame, an odd number")
    add("--no-lpips", action="store_true", help="leave LPIPS out, which takes most of the time")
    harness.add_machine_arguments(parser)
    add("--json", action="store_true", help="JSON lines: every clip, then means")
    harness.add_update_argument(parser, BLOCK)
    options = parser.parse_args(arguments)
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    set_threads(options.threads)
    device = select_device(options.device)
    precision = select_precision(options.precision, device)
    check_stride(options.lpips_every)
    check_block(options.update, BLOCK)
    clips = shorts.chosen(options)
    video, image = (load_model(name, device=device) for name in (options.video, options.image))
    check_pair(video, image)
    interpolators: dict[str, Interpolator] = {"minterpolate": minterpolate, "blend": blend}
    if options.interpolator is not None:
        interpolators[options.interpolator.name] = scripted(options.interpolator, device)
    comparison = Comparison(
        video=video,
        image=image,
        interpolators=interpolators,
        device=device,
        precision=precision,
        lpips=None if options.no_lpips else Lpips.load("alex", "shift-tolerant"),
        lpips_every=options.lpips_every,
        i3d=None if options.i3d is None else I3d(options.i3d, device),
    )
    scores: list[Score] = []
    for clip in clips:
        for entry in comparison.scores(clip):
            scores.append(entry)
            if options.json:
                report.emit(dataclasses.asdict(entry))
            else:
                psnr_db, distance = harness.number(entry.psnr_db), harness.number(entry.lpips, 4)
                report.say(f"{entry.clip}: {entry.method} {psnr_db} dB, LPIPS {distance}")
    if not scores:
        raise InputError("no clip could be read: nothing was measured")
    count = len({entry.clip for entry in scores})
    means = mean_scores(scores, comparison.fvd())
    table = markdown(
        means,
        count,
        lpips="not measured" if comparison.lpips is None else comparison.lpips.name,
        i3d=None if comparison.i3d is None else comparison.i3d.name,
    )
    if options.json:
        for mean in means:
            report.emit({**dataclasses.asdict(mean), "clips": count})
    else:
        sys.stdout.write(table + "\n")
    update_block(options.update, BLOCK, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
