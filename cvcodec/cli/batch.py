"""`cvcodec batch`: many videos to .cvl files. Owns its options and the live table; the work is `dataset`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cvcodec.cli import options, report

if TYPE_CHECKING:
    from cvcodec.dataset.sources import Clip
    from cvcodec.dataset.work import Outcome, Task

_WORK = "Work"
_REFRESHES_PER_S = 4
_SHOWN_CLIPS = 8
_NAME_COLUMNS = 52
"""Of a clip's name, its end: with its frames beside it, a line fits 80 columns."""


def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES...",
            parser=options.parse_source,
            help="Videos, folders, quoted globs, or manifests (.csv and .tsv with a column `path`, .jsonl, .txt).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the .cvl files and their index.")],
    weights: options.Weights = None,
    quality: options.Quality = None,
    latents: Annotated[
        Literal["quantised", "fp16", "fp32"],
        typer.Option("--latents", help="Store quantised latents, or the latents themselves: fp16 reads fastest."),
    ] = "quantised",
    store_logvar: Annotated[
        bool, typer.Option("--store-logvar", help="Keep the posterior's log-variance, for training on samples of it.")
    ] = False,
    layers: options.Layers = "auto",
    rdo: options.Rdo = None,
    windows: Annotated[
        Literal["auto", "context", "official"],
        typer.Option("--windows", help="official: chunks and tiles of the official CV-VAE code. auto: by model."),
    ] = "auto",
    window: options.Window = None,
    tile: options.Tile = None,
    audio: options.Audio = True,
    metadata: options.Metadata = True,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="This machine, or a Ray cluster.", rich_help_panel=_WORK),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT|auto",
            help="Of the Ray cluster. Default: RAY_ADDRESS, else this machine alone.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="N",
            help="Ray workers. Default: one a GPU, or a CPU pair.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Every N-th clip from I on, from 0: for job arrays.", rich_help_panel=_WORK
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Files at once on each device.", rich_help_panel=_WORK),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            metavar="N",
            help="Most clips of equal shape in one call of the model. Default: 1 on CPUs, 4 on GPUs.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            "--retries", min=0, metavar="N", help="Further attempts at a clip that fails.", rich_help_panel=_WORK
        ),
    ] = 1,
    devices: Annotated[
        str,
        typer.Option(
            "--devices",
            "--device",
            metavar="auto|cpu|cuda:0,cuda:1",
            help="One copy of the model on each. auto: every CUDA device, else the CPU.",
            rich_help_panel=_WORK,
        ),
    ] = "auto",
    precision: options.Precision = options.AUTO,
    threads: options.Threads = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit with code 3 when sources were damaged; their files are complete all the same."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Encode again what was made from another source or with other settings."),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode many videos: mirrored .cvl files and an index; run it again to resume, it skips what is done."""
    if engine == "ray":
        from cvcodec.dataset.engines.ray_address import check_address

        check_address(address)  # before anything is loaded: a wrong address is known at once
    from cvcodec.codec import DEFAULT_MODEL, DEFAULT_QUALITY, EncodeOptions
    from cvcodec.copied import KINDS
    from cvcodec.dataset.batch import run_batch
    from cvcodec.dataset.overlooked import overlooked
    from cvcodec.dataset.sources import find_clips, parse_shard, shard_of
    from cvcodec.dataset.work import Job, settings_id
    from cvcodec.errors import InputError, UsageError
    from cvcodec.registry import load_model

    if engine == "local" and (address is not None or workers is not None):
        raise UsageError("--address and --workers are for --engine ray")
    if engine == "ray" and devices != "auto":
        raise UsageError("--devices is for --engine local: Ray gives each worker its device")
    options.check_quantiser(latents, quality=quality, rdo=rdo)
    part = parse_shard(shard) if shard is not None else None
    found = find_clips(sources)
    for text in overlooked(found, sources):
        report.note(text)
    clips = shard_of(found, part)
    model = load_model(weights or DEFAULT_MODEL)
    options.check_layers(layers, model)
    chosen = EncodeOptions(
        quality=DEFAULT_QUALITY if quality is None else quality,
        latents=latents,
        rdo=rdo or "time",
        layers=layers,
        store_logvar=store_logvar,
        windows=windows,
        window=window,
        tile=tile,
        kinds=KINDS if audio else (),
        tags=metadata,
        precision=precision,
        threads=threads,
    )
    job = Job(
        out=str(out.resolve()),
        options=chosen,
        settings=settings_id(model, chosen),
        overwrite=overwrite,
        retries=retries,
        latent_space_id=model.latent_space_id,
    )
    said: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    with _watch(len(clips), hidden=quiet or json) as monitor:

        def finished(outcome: Outcome) -> None:
            monitor.finished(outcome)
            if outcome.video_bytes and outcome.source_video_bytes:
                sizes["ours"] += outcome.video_bytes
                sizes["sources"] += outcome.source_video_bytes
            if json:
                report.emit(_line(outcome))
                return
            for text in outcome.notices:
                said[text] += text != outcome.damage
                if said[text] == 1:  # thousands of clips may have the same to say
                    say(f"{outcome.clip.source}: {text}")
            wrong = outcome.error or outcome.damage
            if wrong is not None:
                report.warn(f"{outcome.clip.source}: {wrong}", console=monitor.console)

        def say(text: str) -> None:
            report.note(text, console=monitor.console)

        def work(tasks: Sequence[Task]) -> Iterator[Outcome]:
            if engine == "local":
                from cvcodec.dataset.engines.local import run_local

                return run_local(
                    tasks,
                    job,
                    model,
                    devices=devices,
                    jobs=jobs,
                    batch=batch_size,
                    on_frames=monitor.frames,
                    on_notice=say,
                )
            from cvcodec.dataset.engines.ray import run_ray

            return run_ray(
                tasks,
                job,
                model,
                address=address,
                workers=workers,
                jobs=jobs,
                batch=batch_size,
                on_notice=say,
            )

        def warn(text: str) -> None:
            report.warn(text, console=monitor.console)

        summary = run_batch(clips, job, work, shard=part, on_outcome=finished, on_notice=warn)
    for text, count in said.items():
        if count > 1:
            report.note(f"{count} clips in all: {text}")
    if not (json or quiet):
        damaged = f", {summary.damaged} damaged" if summary.damaged else ""
        report.say(
            f"{out}: {summary.encoded} encoded, {summary.skipped} already there, {len(summary.failures)} failed"
            f"{damaged}; index {summary.index.name}"
        )
        if sizes["sources"]:
            ratio, size = sizes["ours"] / sizes["sources"], report.format_size(sizes["sources"])
            report.say(f"{ratio:.2f} times the video of the sources encoded now, {size}")
    if summary.failures:
        raise typer.Exit(1)
    if strict and summary.damaged:
        raise InputError(
            f"{summary.damaged} of {len(clips)} sources are damaged; {out} is complete, --strict asks to fail"
        )


def _line(outcome: Outcome) -> dict[str, object]:
    record = {key: value for key, value in (outcome.record or {}).items() if key not in ("path", "source")}
    return {
        "command": "batch",
        "status": outcome.status,
        "source": outcome.clip.source,
        "path": outcome.clip.output,
        "error": outcome.error,
        "attempts": outcome.attempts,
        "seconds": outcome.seconds,
        "notices": list(outcome.notices),
        "video_bytes": outcome.video_bytes,
        "source_video_bytes": outcome.source_video_bytes,
        **record,
    }


class _Monitor:
    """Counts for the table; its methods are called from several threads."""

    def __init__(self, total: int, console: Console | None) -> None:
        self.console = console
        """Where the table is shown, and lines go above it; None: there is no table."""
        self._total = total
        self._lock = threading.Lock()
        self._active: dict[str, tuple[int, int | None]] = {}
        self._counts = {"encoded": 0, "skipped": 0, "failed": 0}
        self._pixels = 0
        self._begun = time.monotonic()

    def frames(self, clip: Clip, done: int, total: int | None) -> None:
        """A clip has `done` of `total` frames."""
        with self._lock:
            self._active[clip.output] = done, total

    def finished(self, outcome: Outcome) -> None:
        """A clip has ended."""
        with self._lock:
            self._active.pop(outcome.clip.output, None)
            self._counts[outcome.status] += 1
            self._pixels += outcome.pixels

    def __rich__(self) -> Group:
        with self._lock:
            active, counts = dict(self._active), dict(self._counts)
        spent = time.monotonic() - self._begun
        done = sum(counts.values())
        worked = counts["encoded"] + counts["failed"]
        left = (self._total - done) * spent / worked if worked else None
        totals = Table.grid(padding=(0, 2))
        totals.add_row(
            Text(f"{done}/{self._total} clips", style="bold"),
            f"{counts['encoded']} encoded, {counts['skipped']} there already",
            Text(f"{counts['failed']} failed", style="bold red" if counts["failed"] else ""),
            f"{self._pixels / 1e6 / spent:.2f} Mpixel/s",
            "" if left is None else f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d} left",
        )
        clips = Table.grid(padding=(0, 2))  # a grid of its own: names do not share their width with counts
        for name, (frames, total) in list(active.items())[:_SHOWN_CLIPS]:
            place = name if len(name) <= _NAME_COLUMNS else "…" + name[1 - _NAME_COLUMNS :]
            clips.add_row("  " + place, f"frame {frames}" + (f" of {total}" if total else ""))
        return Group(totals, clips)


@contextlib.contextmanager
def _watch(total: int, *, hidden: bool) -> Iterator[_Monitor]:
    if hidden or not report.stderr_is_terminal():
        yield _Monitor(total, None)
        return
    console = report.stderr_console()
    monitor = _Monitor(total, console)
    with Live(monitor, console=console, refresh_per_second=_REFRESHES_PER_S, transient=True):
        yield monitor
