"""`cvcodec batch`: many videos to .cvl files. Owns its options and the live table; the work is `dataset`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cvcodec.cli import options, report
from cvcodec.cli.fields import Fields, Given, with_fields
from cvcodec.codec import DEFAULT_MODEL, EncodeOptions, ReaderOptions
from cvcodec.codec.options import RunOptions
from cvcodec.dataset.cutting_options import Cutting
from cvcodec.errors import InputError, UsageError
from cvcodec.options import option

if TYPE_CHECKING:
    from cvcodec.dataset.batch import Outcome, Summary
    from cvcodec.dataset.sources import Clip

_WORK, _BUCKETS = "Work", "Size and rate"
_REFRESHES_PER_S = 4
_SHOWN_CLIPS = 8
_NAME_COLUMNS = 52
"""Of a clip's name, its end: with its frames beside it, a line fits 80 columns."""


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Who does the work, and how much of it at once."""

    engine: Literal["local", "ray"] = option("local", "This machine, or a Ray cluster.", panel=_WORK)
    address: str | None = option(
        None,
        "Of the Ray cluster. Default: RAY_ADDRESS, else this machine alone.",
        panel=_WORK,
        metavar="HOST:PORT|auto",
    )
    workers: int | None = option(
        None, "Ray workers. Default: one a GPU, or a CPU pair.", panel=_WORK, metavar="N", least=1
    )
    shard: str | None = option(None, "Every N-th clip from I on, from 0: for job arrays.", panel=_WORK, metavar="I/N")
    jobs: int | None = option(
        None, "Files at once on each device.", panel=_WORK, flags=("--jobs", "-j"), metavar="N", least=1
    )
    batch: int | None = option(
        None,
        "Most clips of equal shape in one call of the model. Default: 1 on CPUs, 4 on GPUs.",
        panel=_WORK,
        metavar="N",
        least=1,
    )
    retries: int = option(1, "Further attempts at a clip that fails.", panel=_WORK, metavar="N", least=0)
    devices: str = option(
        "auto",
        "One copy of the model on each. auto: every CUDA device, else the CPU.",
        panel=_WORK,
        flags=("--devices", "--device"),
        metavar="auto|cpu|cuda:0,cuda:1",
    )


@with_fields
def batch(
    sources: Annotated[
        list[str],
        options.argument(
            "SOURCES...",
            "Videos, pictures, folders, quoted globs, or manifests (.csv and .tsv with a column `path`, .jsonl, .txt).",
            options.parse_source,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            parser=options.parse_place,
            help="Folder for the .cvl files and their index.",
        ),
    ],
    *,
    weights: options.Weights = None,
    given: Annotated[
        Given[EncodeOptions],
        Fields(
            without=("reader", "device", "precision", "threads"),
            help={"latents": "Store quantised latents, or the latents themselves: fp16 reads fastest."},
        ),
    ],
    cutting: Given[Cutting],
    work: Given[WorkOptions],
    run: Annotated[Given[RunOptions], Fields(only=("precision", "threads"))],
    reading: Annotated[Given[ReaderOptions], Fields(only=("size", "crop", "fps", "hwaccel"))],
    buckets: Annotated[
        str | None,
        typer.Option(
            metavar="WxH,WxH,...",
            help="Resize each clip to the one of these sizes that has the nearest shape, as --size with several does.",
            rich_help_panel=_BUCKETS,
            parser=options.parse_size,
        ),
    ] = None,
    bucket_area: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|WxH",
            help="The same with buckets of about so many pixels, from 21:9 to 9:21, sides multiples of 16.",
            rich_help_panel=_BUCKETS,
            parser=options.parse_bucket_area,
        ),
    ] = None,
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
    from cvcodec.dataset.run import batch as run_batch
    from cvcodec.dataset.sources import parse_shard

    by, reader = work.options(), reading.options()
    sizes = [size for size in (reader.size, buckets, bucket_area) if size is not None]
    if len(sizes) > 1:
        raise UsageError("--size, --buckets and --bucket-area exclude each other: each gives clips their size")
    encode = given.options(reader=replace(reader, size=sizes[0]) if sizes else reader, **run.values)
    options.check_quantiser(encode.latents, given)
    part = parse_shard(by.shard) if by.shard is not None else None
    with _watch(hidden=quiet or json) as monitor:
        told = _Told(monitor, json=json)
        summary = run_batch(
            sources,
            out,
            model=weights or DEFAULT_MODEL,
            options=encode,
            cutting=cutting.options(),
            overwrite=overwrite,
            retries=by.retries,
            shard=part,
            engine=by.engine,
            devices=by.devices,
            address=by.address,
            workers=by.workers,
            jobs=by.jobs,
            clips_per_call=by.batch,
            on_clips=monitor.begin,
            on_frames=monitor.frames,
            on_outcome=told.outcome,
            on_notice=told.note,
            on_warning=told.warn,
        )
    told.repeat()
    if not (json or quiet):
        _close(out, summary, told)
    if summary.failures:
        raise typer.Exit(1)
    if strict and summary.damaged:
        raise InputError(
            f"{summary.damaged} of {monitor.total} sources are damaged; {out} is complete, --strict asks to fail"
        )


class _Told:
    """What a run says while it goes on, above the table or as JSON lines, and what of it the closing lines need."""

    def __init__(self, monitor: _Monitor, *, json: bool) -> None:
        self._monitor, self._json = monitor, json
        self._said: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        """Bytes of video: `ours`, and the `sources`'."""

    def note(self, text: str) -> None:
        """A line above the table."""
        report.note(text, console=self._monitor.console)

    def warn(self, text: str) -> None:
        """The same as a warning."""
        report.warn(text, console=self._monitor.console)

    def outcome(self, outcome: Outcome) -> None:
        """Count a clip that has ended, and say what it has to say."""
        self._monitor.finished(outcome)
        if outcome.video_bytes and outcome.source_video_bytes:
            self.sizes["ours"] += outcome.video_bytes
            self.sizes["sources"] += outcome.source_video_bytes
        if self._json:
            report.emit(_line(outcome))
            return
        for text in outcome.notices:
            self._said[text] += text != outcome.damage
            if self._said[text] == 1:  # thousands of clips may have the same to say
                self.note(f"{outcome.clip.source}: {text}")
        wrong = outcome.error or outcome.damage
        if wrong is not None:
            self.warn(f"{outcome.clip.source}: {wrong}")

    def repeat(self) -> None:
        """Say how many clips had the same to say."""
        for text, count in self._said.items():
            if count > 1:
                report.note(f"{count} clips in all: {text}")


def _close(out: Path, summary: Summary, told: _Told) -> None:
    damaged = f", {summary.damaged} damaged" if summary.damaged else ""
    left_out = f", {len(summary.left_out)} left out" if summary.left_out else ""
    report.say(
        f"{out}: {summary.encoded} encoded, {summary.skipped} already there, {len(summary.failures)} failed"
        f"{left_out}{damaged}; index {summary.index.name}"
    )
    if sources := told.sizes["sources"]:
        ratio, size = told.sizes["ours"] / sources, report.format_size(sources)
        report.say(f"{ratio:.2f} times the video of the sources encoded now, {size}")


def _line(outcome: Outcome) -> dict[str, object]:
    record = {key: value for key, value in (outcome.record or {}).items() if key not in ("path", "source")}
    return {
        "command": "batch",
        "status": outcome.status,
        "source": outcome.clip.source,
        "path": outcome.clip.output,
        "error": outcome.error,
        "left_out": outcome.reason,
        "attempts": outcome.attempts,
        "seconds": outcome.seconds,
        "notices": list(outcome.notices),
        "video_bytes": outcome.video_bytes,
        "source_video_bytes": outcome.source_video_bytes,
        **record,
    }


class _Monitor:
    """Counts for the table; its methods are called from several threads."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        """Where the table is shown, and lines go above it; None: there is no table."""
        self.total = 0
        """Clips of the run, as soon as they are known."""
        self._lock = threading.Lock()
        self._active: dict[str, tuple[int, int | None]] = {}
        self._counts = {"encoded": 0, "skipped": 0, "failed": 0, "left out": 0}
        self._pixels = 0
        self._begun = time.monotonic()

    def begin(self, clips: Sequence[Clip]) -> None:
        """These are to be encoded."""
        self.total, self._begun = len(clips), time.monotonic()

    def frames(self, clip: Clip, done: int, total: int | None) -> None:
        """A clip has `done` of `total` frames."""
        with self._lock:
            self._active[clip.output] = done, total

    def finished(self, outcome: Outcome) -> None:
        """Count a clip that has ended."""
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
        left = (self.total - done) * spent / worked if worked else None
        totals = Table.grid(padding=(0, 2))
        totals.add_row(
            Text(f"{done}/{self.total} clips", style="bold"),
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
def _watch(*, hidden: bool) -> Iterator[_Monitor]:
    if hidden or not report.stderr_is_terminal():
        yield _Monitor(None)
        return
    console = report.stderr_console()
    monitor = _Monitor(console)
    with Live(monitor, console=console, refresh_per_second=_REFRESHES_PER_S, transient=True):
        yield monitor
