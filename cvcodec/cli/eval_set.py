"""`cvcodec eval --set`: a folder of clips against another. Owns its options and table; `quality.sets` measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cvcodec.cli import report
from cvcodec.errors import InputError, UsageError
from cvcodec.options import option

if TYPE_CHECKING:
    from collections.abc import Callable

    from cvcodec.codec import DecodeOptions
    from cvcodec.quality.lpips import Lpips
    from cvcodec.quality.sets.compare import Networks, SetReport

METRICS = ("fvd", "kvd", "fid", "kid", "clip", "consistency", "pic")
_SETS = "Sets of clips (--set)"
_NEEDED = {
    "i3d": ("--i3d", ("fvd", "kvd")),
    "inception": ("--inception", ("fid", "kid")),
    "clip_model": ("--clip-model", ("clip", "consistency")),
    "dreamsim": ("--dreamsim", ("pic",)),
}
"""Fields of `SetOptions` with the flag and the metrics that they serve."""


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """Which sets, and the networks to see them with."""

    set: bool = option(
        False,
        f"REF and RECON are folders of videos, .cvl files or pictures; --metrics are some of {','.join(METRICS)}.",
        panel=_SETS,
    )
    i3d: Path | None = option(None, "TorchScript network of clips, for fvd and kvd.", panel=_SETS, metavar="FILE")
    inception: Path | None = option(
        None, "TorchScript network of pictures, for fid and kid.", panel=_SETS, metavar="FILE"
    )
    clip_model: str | None = option(
        None,
        "A CLIP model of transformers, for clip (captions: a.txt beside a.mp4) and consistency.",
        panel=_SETS,
        metavar="NAME|FOLDER",
    )
    dreamsim: Path | None = option(
        None, "TorchScript distance of two pictures, for pic; without it, LPIPS.", panel=_SETS, metavar="FILE"
    )
    set_frames: int = option(16, "First frames of each clip.", panel=_SETS, metavar="N", least=1)
    set_size: int | None = option(None, "At most N clips of each folder, by --seed.", panel=_SETS, metavar="N", least=2)
    seed: int = option(0, "Of what is chosen.", panel=_SETS, metavar="N", least=0)


def evaluate_sets(
    real: Path | None,
    fake: Path | None,
    chosen: SetOptions,
    metrics: tuple[str, ...] | None,
    *,
    weights: str | None,
    lpips: Callable[[], Lpips],
    decode: DecodeOptions,
    json: bool,
    quiet: bool,
) -> None:
    """metrics: None for all that a network is named for. lpips: gives it, where pic needs it. Raises UsageError,
    InputError, CheckpointError, ..."""
    from cvcodec.quality.sets.compare import compare_sets
    from cvcodec.quality.sets.folders import ClipFolder, ClipReader
    from cvcodec.system.device import set_threads

    if real is None or fake is None:
        raise UsageError("--set compares two folders: cvcodec eval --set REAL/ FAKE/ --metrics fvd,kvd --i3d FILE")
    measured = _check_metrics(chosen, metrics)
    folders = [ClipFolder.of(folder, _files(folder)) for folder in (real, fake)]
    set_threads(decode.threads)
    networks = _networks(chosen, measured, lpips, decode.device)
    total = sum(len(folder.chosen(chosen.set_size, chosen.seed)) for folder in folders)
    with report.progress("eval", total, quiet=quiet, unit="clips/s") as meter:
        result = compare_sets(
            *folders,
            metrics=measured,
            networks=networks,
            reader=ClipReader(_models(weights), decode),
            frames=chosen.set_frames,
            most=chosen.set_size,
            seed=chosen.seed,
            on_progress=meter,
        )
    if json:
        report.emit({"command": "eval", **result.to_dict()})
    else:
        _print(result)
        for text in result.notes:
            report.note(text)


def _check_metrics(chosen: SetOptions, metrics: tuple[str, ...] | None) -> tuple[str, ...]:
    """Those to be measured. UsageError for one without a network, and for a network that none needs."""
    named = {field: getattr(chosen, field) is not None for field in _NEEDED}
    if metrics is None:
        metrics = tuple(name for field, (_, served) in _NEEDED.items() if named[field] for name in served)
        if not metrics:
            raise UsageError(
                "--set needs the networks to compare by: some of --i3d, --inception, --clip-model, or -m pic"
            )
        return metrics
    if others := sorted(set(metrics) - set(METRICS)):
        raise UsageError(
            f"{', '.join(others)} compares frame by frame; with --set, --metrics are of {','.join(METRICS)}"
        )
    for field, (flag, served) in _NEEDED.items():
        wanted = [name for name in served if name in metrics]
        if wanted and not named[field] and field != "dreamsim":
            raise UsageError(f"{wanted[0]} is measured by a network that is not part of cvcodec; name it with {flag}")
        if named[field] and not wanted:
            raise UsageError(f"{flag} is for {' and '.join(served)}, which --metrics do not have: leave it out")
    return metrics


def _networks(chosen: SetOptions, metrics: tuple[str, ...], lpips: Callable[[], Lpips], device: str) -> Networks:
    from cvcodec.quality.sets.compare import Networks
    from cvcodec.quality.sets.networks import Clip, I3d, Inception, Pairs, Script
    from cvcodec.system.device import select_device

    where = select_device(device)
    found: dict[str, Any] = {}
    if chosen.i3d is not None:
        found["i3d"] = I3d(chosen.i3d, where)
    if chosen.inception is not None:
        found["inception"] = Inception(chosen.inception, where)
    if "pic" in metrics:
        found["pairs"] = Pairs(lpips() if chosen.dreamsim is None else Script(chosen.dreamsim, where), where)
    if chosen.clip_model is not None:
        found["clip"] = Clip(chosen.clip_model, where)
    return Networks(**found)


def _files(folder: Path) -> Iterator[Path]:
    from cvcodec.dataset.sources import walk

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder, which --set compares; without --set two videos are compared")
    return (parent / name for parent, names in walk(folder) for name in names)


def _models(weights: str | None) -> Callable[[Any], Any]:
    """From a file's header to its model, each loaded once."""
    from functools import cache

    from cvcodec.checkpoints.registry import load_model, load_named_model

    if weights is not None:
        given = cache(lambda: load_model(weights))
        return lambda header: given()
    named = cache(load_named_model)
    return lambda header: named(header.model)


def _print(result: SetReport) -> None:
    title = f"{result.fake} against {result.real}, the first {result.frames} frames of each clip"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    labels = {"fvd": "FVD", "kvd": "KVD", "fid": "FID", "kid": "KID", "clip": "CLIP, caption and frames"}
    labels |= {"consistency": "CLIP, consecutive frames", "pic": "PIC"}
    for name in result.metrics:
        table.add_row(f"{labels[name]} ({result.networks[name]})", f"{result.values[name]:.5g}")
    for what, counts in (("clips", result.clips), ("pictures", result.pictures)):
        table.add_row(what, f"{counts['real']} and {counts['fake']}")
    report.stdout_console().print(table)
