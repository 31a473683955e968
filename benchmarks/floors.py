"""`python benchmarks/floors.py`: our models against a PCA of patches, the least that a trained model must beat.

Owns: what is compared and the floors that released weights are held to. For every clip (short side 256, first 33
frames, see `shorts`):

    model     the real `encode_file` at a quality and the decoder's own output; bits are the file's bytes
    PCA n     4x8x8 patches, as many components as the model has channels, not quantised (see `patch_pca`)

PSNR (RGB), SSIM and LPIPS are `cvcodec eval`'s: means over all frames, then over clips; and by a frame's position in
its group, see `positions`. LPIPS is the shift-tolerant AlexNet, on which nothing is trained. Blockiness is that of the
8x8 grid over the source's, see `blocks`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import blocks
import harness
import positions
import shorts
from cvcodec.bench.report import check_block, update_block
from cvcodec.checkpoints.registry import load_model
from cvcodec.cli import report
from cvcodec.codec import DEFAULT_MODEL, DecodeOptions, EncodeOptions
from cvcodec.errors import InputError
from cvcodec.model import VideoAutoencoder
from cvcodec.quality.compare import evaluate
from cvcodec.quality.lpips import Lpips
from cvcodec.quality.pictures import KeptFrame
from cvcodec.quality.report import Report
from cvcodec.quality.sources import Comparison, round_trip
from cvcodec.system.device import set_threads
from patch_pca import GROUP, PatchPca
from shorts import Short

GAIN_DB = 3.0
"""PSNR above the PCA that released weights must have ..."""
LPIPS_RATIO = 0.85
"""... and LPIPS, as a share of the PCA's, that they must stay below ..."""
MOST_BPP = {16: 0.28, 4: 0.06}
"""... at no more bits per pixel than these, by latent channels ..."""
SPREAD_DB, LPIPS_SPREAD = 0.5, 0.15
"""... and how far the positions in a group may lie apart, in PSNR, and in LPIPS as a share of the smallest."""

BLOCK = "bench: floors"
"""The block that --update replaces."""

_MODELS = (DEFAULT_MODEL, "cvvae-mini-z4")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One clip by one method."""

    clip: str
    method: str
    psnr_db: float | None
    ssim: float | None
    lpips: float | None
    bpp: float | None
    """None: not coded."""
    blockiness: float | None = None
    """Over the source's."""
    psnr_db_by_position: positions.Means = ()
    lpips_by_position: positions.Means = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A model's means next to those of the PCA with as many components."""

    model: str
    channels: int
    clips: int
    mean: Score
    pca: Score

    @property
    def gain_db(self) -> float:
        """PSNR above the PCA's."""
        return _value(self.mean.psnr_db) - _value(self.pca.psnr_db)

    @property
    def lpips_ratio(self) -> float:
        """LPIPS over the PCA's."""
        return _value(self.mean.lpips) / _value(self.pca.lpips)

    @property
    def missed(self) -> list[str]:
        """The floors that are not reached, in words."""
        most_bpp = MOST_BPP.get(self.channels, math.inf)
        apart_db = positions.spread(self.mean.psnr_db_by_position) or 0.0
        apart = positions.relative_spread(self.mean.lpips_by_position) or 0.0
        return [
            *([] if self.gain_db >= GAIN_DB else [f"PSNR is not {GAIN_DB:g} dB above the PCA's"]),
            *([] if self.lpips_ratio <= LPIPS_RATIO else [f"LPIPS is not {1 - LPIPS_RATIO:.0%} below the PCA's"]),
            *([] if _value(self.mean.bpp) <= most_bpp else [f"more than {most_bpp:g} bits per pixel"]),
            *(
                [f"PSNR by position is {apart_db:.2f} dB apart, more than {SPREAD_DB:g}"]
                if apart_db > SPREAD_DB
                else []
            ),
            *(
                [f"LPIPS by position is {apart:.0%} apart, more than {LPIPS_SPREAD:.0%}"]
                if apart > LPIPS_SPREAD
                else []
            ),
        ]


def measure(
    clips: Iterable[Short],
    models: Sequence[VideoAutoencoder],
    pca: PatchPca,
    lpips: Lpips | None,
    *,
    quality: float | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[Score]:
    """Scores clip by clip: each model, then the PCA once for each number of channels among them."""
    metrics = ("psnr", "ssim") if lpips is None else ("psnr", "ssim", "lpips")
    encode = EncodeOptions(device=device, precision=precision)
    if quality is not None:
        encode = dataclasses.replace(encode, quality=quality)
    options = Comparison(
        measure={"metrics": metrics, "lpips": lpips},
        decode=DecodeOptions(device=device, precision=precision),
    )
    with tempfile.TemporaryDirectory(prefix="cvcodec-bench-") as folder:
        for clip in clips:
            video = Path(folder) / "clip.mkv"
            clip.write(video)
            for model in models:
                seen = _Seen()
                each = dataclasses.replace(options, measure=options.measure | {"on_pair": seen.add})
                report = round_trip(video, model, encode, each)
                name, group = model.name or model.config.family, model.config.temporal_factor
                yield _score(clip.name, name, report, group, seen)
            for channels in dict.fromkeys(model.config.latent_channels for model in models):
                seen = _Seen()
                report = evaluate(
                    harness.frames_of(clip.pixels),
                    harness.frames_of(pca.reconstruct(clip.pixels, channels)),
                    reference_time_base=Fraction(1),
                    test_time_base=Fraction(1),
                    metrics=metrics,
                    lpips=lpips,
                    on_pair=seen.add,
                )
                yield _score(clip.name, f"PCA {channels}", report, GROUP, seen)


class _Seen:
    """Blockiness of both sides of a comparison, by `on_pair` of `evaluate`."""

    def __init__(self) -> None:
        self._source, self._decoded = blocks.Blockiness(), blocks.Blockiness()

    def add(self, pair: KeptFrame, pts: int, time_base: Fraction) -> None:
        self._source.add(pair.reference)
        self._decoded.add(pair.test)

    @property
    def value(self) -> float | None:
        return blocks.over_source(self._decoded, self._source)


def judge(scores: Sequence[Score], models: Sequence[VideoAutoencoder]) -> list[Verdict]:
    """The models' means. Raises InputError without scores."""
    if not scores:
        raise InputError("no clip could be read: nothing was measured")
    means = mean_scores(scores)
    return [
        Verdict(
            model=model.name or model.config.family,
            channels=model.config.latent_channels,
            clips=len({score.clip for score in scores}),
            mean=means[model.name or model.config.family],
            pca=means[f"PCA {model.config.latent_channels}"],
        )
        for model in models
    ]


def mean_scores(scores: Sequence[Score]) -> dict[str, Score]:
    """Means over clips, by method; what a clip does not have is left out of its mean."""
    by_method: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        by_method[score.method].append(score)

    def mean(values: Iterable[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return statistics.fmean(present) if present else None

    return {
        method: Score(
            clip="mean",
            method=method,
            psnr_db=mean(score.psnr_db for score in group),
            ssim=mean(score.ssim for score in group),
            lpips=mean(score.lpips for score in group),
            bpp=mean(score.bpp for score in group),
            blockiness=mean(score.blockiness for score in group),
            psnr_db_by_position=positions.mean([score.psnr_db_by_position for score in group]),
            lpips_by_position=positions.mean([score.lpips_by_position for score in group]),
        )
        for method, group in by_method.items()
    }


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Tables for docs/benchmarks.md: each model below its PCA, then the models by position in the group."""
    lines = [
        f"| mean over {verdicts[0].clips} clips | PSNR (RGB) | SSIM | LPIPS | bits per pixel | blockiness "
        "| against the PCA |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for verdict in verdicts:
        against = f"{verdict.gain_db:+.2f} dB, LPIPS {verdict.lpips_ratio - 1:+.0%}".replace("-", "−")
        pca = f"PCA of 4x8x8 patches, {verdict.channels} components, not quantised"
        lines += [_line(pca, verdict.pca, ""), _line(f"`{verdict.model}`", verdict.mean, against)]
    pulse = positions.table(
        {
            f"`{verdict.model}`": (verdict.mean.psnr_db_by_position, verdict.mean.lpips_by_position)
            for verdict in verdicts
        }
    )
    return "\n".join([*lines, *(["", pulse] if pulse else [])])


def _line(name: str, score: Score, last: str) -> str:
    cells = (
        harness.number(score.psnr_db, 2, " dB"),
        harness.number(score.ssim, 3),
        harness.number(score.lpips, 4),
        harness.number(score.bpp, 4),
        harness.number(score.blockiness, 2),
        last,
    )
    return f"| {name} | {' | '.join(cells)} |"


def _score(clip: str, method: str, report: Report, group: int, seen: _Seen) -> Score:
    return Score(
        clip=clip,
        method=method,
        psnr_db=report.mean("psnr_db"),
        ssim=report.mean("ssim"),
        lpips=report.mean("lpips"),
        bpp=report.rate.bpp if report.rate is not None else None,
        blockiness=seen.value,
        psnr_db_by_position=positions.by_position(report.columns["psnr_db"], group),
        lpips_by_position=positions.by_position(report.columns.get("lpips", ()), group),
    )


def _value(number: float | None) -> float:
    return math.nan if number is None else number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's own; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/floors.py",
        description="PSNR, SSIM, LPIPS and bits of models against a PCA of patches, and by position in the group.",
    )
    add = parser.add_argument
    shorts.add_clip_arguments(parser)
    add("--weights", "-w", action="append", metavar="NAME|FILE", help=f"a model, repeatable (default: {_MODELS})")
    add("--quality", "-q", type=float, metavar="Q", help="default: the codec's")
    add("--fit", metavar="DATA", help="fit the PCA on the train split of this (default: the factors in the package)")
    add("--no-lpips", action="store_true", help="leave LPIPS out, which takes most of the time")
    harness.add_machine_arguments(parser)
    add("--json", action="store_true", help="JSON lines: every clip, then means")
    harness.add_update_argument(parser, BLOCK)
    options = parser.parse_args(arguments)
    return harness.run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    set_threads(options.threads)
    check_block(options.update, BLOCK)
    clips = shorts.chosen(options)
    models = [load_model(name) for name in options.weights or _MODELS]
    if options.fit:
        training = shorts.video_paths([options.fit], "train")
        report.say(f"fitting the PCA on {len(training)} clips ...")
        pca = PatchPca.fit(
            clip.pixels for clip in shorts.read_shorts(training, side=options.side, frames=options.frames)
        )
    else:
        pca = PatchPca.load()
    lpips = None if options.no_lpips else Lpips.load("alex", "shift-tolerant")
    scores: list[Score] = []
    for score in measure(
        clips,
        models,
        pca,
        lpips,
        quality=options.quality,
        device=options.device,
        precision=options.precision,
    ):
        scores.append(score)
        if options.json:
            report.emit(dataclasses.asdict(score))
        else:
            report.say(
                f"{score.clip}: {score.method} {harness.number(score.psnr_db)} dB, LPIPS "
                f"{harness.number(score.lpips, 4)}, {harness.number(score.bpp, 4)} bpp"
            )
    verdicts = judge(scores, models)
    if options.json:
        for mean in mean_scores(scores).values():
            report.emit({**dataclasses.asdict(mean), "clips": verdicts[0].clips})
    else:
        sys.stdout.write(markdown(verdicts) + "\n")
    for verdict in verdicts:
        report.say(f"{verdict.model}: {'; '.join(verdict.missed) or 'all floors are reached'}")
    update_block(options.update, BLOCK, markdown(verdicts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
