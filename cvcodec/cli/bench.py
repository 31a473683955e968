"""`cvcodec bench`: rate and distortion of models and encoders. Owns its options and files; `bench` does the work."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from cvcodec.bench.measure import Row, Workbench
    from cvcodec.bench.settings import Setting
    from cvcodec.model.base import VideoAutoencoder

_WHAT = "What is compared"
_CLIPS = "Clips"

TABLE_QUALITIES = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 90.0, 100.0)
"""Of `--quality-table`."""

QUALITY_BLOCK, RATE_BLOCK = "bench: quality", "bench: rate"
"""Names of the blocks that `--update` replaces."""


def parse_names(text: str) -> tuple[str, ...]:
    """`libx264,libx265` to names; `none` to none."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if names == ("none",) else names


def parse_numbers(text: str) -> tuple[float, ...]:
    """`20,50,75` to finite numbers, at least one. Raises typer.BadParameter."""
    try:
        numbers = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(f"{text!r} is not a list of numbers, such as 20,50,75")
    return numbers


def _list_option(flag: str, parse: Callable[[str], tuple[Any, ...]], text: str, default: str) -> Any:
    """An option that takes a comma-separated list; `default` is what help says of it."""
    return typer.Option(flag, metavar="LIST", parser=parse, help=text, show_default=default, rich_help_panel=_WHAT)


def bench(
    clips: Annotated[
        list[Path],
        typer.Argument(metavar="CLIPS...", parser=options.parse_file, help="Videos.", show_default=False),
    ],
    against: Annotated[
        Any,
        _list_option(
            "--against",
            parse_names,
            "Encoders to compare with, of libx264, libx265, libsvtav1, libvpx-vp9; none. The first is the anchor.",
            "libx264,libx265,libsvtav1,libvpx-vp9",
        ),
    ] = None,
    presets: Annotated[
        Literal["quality", "speed", "both"],
        typer.Option("--presets", help="quality: veryslow and its like. speed: medium.", rich_help_panel=_WHAT),
    ] = "both",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="NAME|FILE",
            help="A model; may be repeated.",
            show_default="the default model",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    vae: Annotated[
        list[str] | None,
        typer.Option(
            "--vae",
            metavar="DIR|FILE",
            help="Weights of another project, as for `models add`; may be repeated.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    qualities: Annotated[
        Any,
        _list_option(
            "--qualities",
            parse_numbers,
            "Qualities of our models.",
            "20,30,40,50,60,75",
        ),
    ] = None,
    crfs: Annotated[Any, _list_option("--crfs", parse_numbers, "CRFs of all encoders.", "seven, by encoder")] = None,
    match: Annotated[
        Any,
        _list_option(
            "--match",
            parse_numbers,
            "Qualities whose sizes encoders are made to match, for frames side by side.",
            "50",
        ),
    ] = None,
    rdo: options.Rdo = None,
    protocol: Annotated[
        Literal["source", "cvvae"],
        typer.Option(
            "--protocol",
            help="cvvae, as in the paper: 33 frames, every third, the middle 256x256; unquantised latents as well.",
            rich_help_panel=_CLIPS,
        ),
    ] = "source",
    start: options.Start = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, metavar="N", help="At most N frames a clip.", rich_help_panel=_CLIPS),
    ] = None,
    quality_table: Annotated[
        bool,
        typer.Option("--quality-table", help="Only what each --quality means: our models at 0, 10, ... 100."),
    ] = False,
    update: Annotated[
        Path | None,
        typer.Option(
            "--update",
            metavar="FILE.md",
            help=f"Replace what stands between <!-- {QUALITY_BLOCK} --> or <!-- {RATE_BLOCK} --> and its end; "
            "docs/benchmarks.md has both.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="For the report: page, JSON, plots.")
    ] = Path("cvcodec-bench"),
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="FOLDER", help="For results, so that a run can go on.", show_default="in -o"),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Encodes at a time; above 1, no speeds are noted.")
    ] = 1,
    lpips_variant: Annotated[
        Literal["auto", "standard", "shift-tolerant", "none"], typer.Option("--lpips-variant", help="As for eval.")
    ] = "auto",
    lpips_every: Annotated[
        int,
        typer.Option(
            "--lpips-every", min=1, metavar="N", help="Take LPIPS, the slowest metric, of one frame in N, odd."
        ),
    ] = 1,
    device: options.Device = options.AUTO,
    precision: options.Precision = options.AUTO,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode clips at many rates with our models and with other encoders, and compare curves.

    Results are kept as they come; the same command goes on where it was stopped.
    """
    from cvcodec.bench import settings as tried
    from cvcodec.bench.blocks import check_block
    from cvcodec.bench.clips import distinct_names, open_clip
    from cvcodec.bench.measure import check_stride
    from cvcodec.bench.run import run
    from cvcodec.codec import ReaderOptions
    from cvcodec.device import set_threads

    check_block(update, QUALITY_BLOCK if quality_table else RATE_BLOCK)
    check_stride(lpips_every)
    set_threads(threads)
    encoders = () if quality_table else tried.CRFS.keys() if against is None else against
    kinds = ("quality", "speed") if presets == "both" else (presets,)
    steps = qualities or (TABLE_QUALITIES if quality_table else tried.QUALITIES)
    bench = _workbench(
        cache or output / "cache",
        weights,
        vae,
        metrics_without_lpips=lpips_variant == "none",
        lpips_variant=lpips_variant,
        lpips_every=lpips_every,
        device=device,
        precision=precision,
        threads=threads,
        rdo=rdo or "time",
        timed=jobs == 1,
    )
    wanted: list[Setting] = [
        *tried.model_settings(list(bench.models), steps, unquantised=quality_table or protocol == "cvvae"),
        *tried.encoder_settings(list(encoders), kinds, dict.fromkeys(encoders, crfs) if crfs else None),
    ]
    trim = ReaderOptions(start=start, frames=frames)
    kept = bench.cache.folder / "clips"
    opened = [
        open_clip(path, name, protocol=protocol, reader=trim, folder=kept)
        for path, name in distinct_names(clips).items()
    ]
    rows = run(
        bench,
        opened,
        wanted,
        match=[] if quality_table or not encoders else [50.0] if match is None else list(match),
        jobs=jobs,
        on_notice=None if quiet else report.note,
    )
    anchor = next((setting.series for setting in wanted if not setting.ours), None)
    _write(rows, anchor, bench, {clip.name: clip for clip in opened}, output, protocol)
    _tell(rows, anchor, quality_table=quality_table, update=update, json=json)


def _workbench(
    folder: Path,
    weights: list[str] | None,
    vae: list[str] | None,
    *,
    metrics_without_lpips: bool,
    lpips_variant: str,
    lpips_every: int,
    device: str,
    precision: str,
    threads: int | None,
    rdo: Literal["none", "time", "all"],
    timed: bool,
) -> Workbench:
    from importlib.metadata import version

    from cvcodec.bench.cache import Cache
    from cvcodec.bench.measure import METRICS, Workbench
    from cvcodec.codec import DEFAULT_MODEL
    from cvcodec.metrics.lpips import Lpips
    from cvcodec.registry import load_model

    models: dict[str, VideoAutoencoder] = {}
    named: dict[str, str] = {}
    loaded = [(name, load_model(name)) for name in weights or ([] if vae else [DEFAULT_MODEL])]
    loaded += [(source, _imported(source)) for source in vae or []]
    for source, model in loaded:
        name = model.name or model.config.family
        if name in models:
            raise UsageError(f"two models are called {name!r}: {named[name]} and {source}; rename a file")
        models[name], named[name] = model, source
    metrics = tuple(metric for metric in METRICS if metric != "lpips" or not metrics_without_lpips)
    return Workbench(
        cache=Cache(folder, {"av": version("av"), "threads": threads, "models_format": 1}),
        models=models,
        weights=named,
        metrics=metrics,
        lpips=None if metrics_without_lpips else Lpips.load("alex", lpips_variant),
        lpips_every=lpips_every,
        device=device,
        precision=precision,
        threads=threads,
        rdo=rdo,
        timed=timed,
    )


def _imported(source: str) -> VideoAutoencoder:
    """A model of another project, with published or default scales for the quantiser."""
    from cvcodec.checkpoint import instantiate, make_checkpoint
    from cvcodec.importers.importing import import_model

    found = import_model(source)
    for text in found.notes:
        report.note(f"{source}: {text}")
    checkpoint = make_checkpoint(found.config, found.state_dict, statistics=found.statistics, card=found.card)
    return instantiate(checkpoint, name=Path(source.rstrip("/")).name)


def _write(
    rows: list[Row], anchor: str | None, bench: Workbench, clips: dict[str, Any], folder: Path, protocol: str
) -> None:
    """The page, JSON and plots into `folder`."""
    import json
    from importlib.metadata import version

    from cvcodec.bench import curves, summary
    from cvcodec.bench.machine import describe_machine, machine_facts
    from cvcodec.bench.measure import source_key
    from cvcodec.bench.report import page
    from cvcodec.device import select_device
    from cvcodec.fileio import atomic_output, make_folder

    machine = machine_facts(select_device(bench.device))
    invocation = shlex.join(["cvcodec", *sys.argv[1:]])
    found = summary.to_dict(rows, anchor)
    record = {"machine": machine, "command": invocation, "protocol": protocol, "av": version("av"), **found}

    def picture(name: str) -> Path:
        return bench.cache.picture(source_key(clips[name]) if name in clips else name)

    metrics = summary.metrics_of(rows)
    drawn: dict[str | None, bytes] = {}
    files: dict[str, bytes] = {}
    try:
        drawn[None] = curves.draw(rows, metrics, kind="svg")
        # The means show these; a clip shows what is asked for first.
        few = [metric for metric in metrics if metric.key not in ("psnr_y_db", "ssim")]
        drawn |= {clip: curves.draw(rows, few, clip, kind="svg") for clip in summary.clips_of(rows)}
        files |= {f"curves.{kind}": curves.draw(rows, few, kind=kind) for kind in ("png", "svg")}
    except MissingDependencyError as error:
        report.note(str(error))
    text = page(
        rows,
        anchor=anchor,
        facts={
            "protocol": protocol,
            "models": ", ".join(bench.models),
            "symbols chosen by rate and distortion (--rdo)": bench.rdo,
            "rates": "of ours, the whole file; of others alike, what a decoder needs of the stream: packets and "
            "parameter sets without user data, such as the text of x264's options",
            "Y of PSNR, SSIM and MS-SSIM": "made from RGB, which is all that our decoder gives, for all encoders alike",
            "LPIPS": f"{bench.lpips.name}: {summary.sampling(rows)}" if bench.lpips else "not measured",
            "PyAV": version("av"),
        },
        machine=describe_machine(machine),
        invocation=invocation,
        picture_of=picture,
        curves=drawn,
    )
    files |= {"report.html": text.encode(), "bench.json": json.dumps(report.jsonable(record), indent=1).encode()}
    make_folder(folder)
    for name, data in files.items():
        with atomic_output(folder / name, overwrite=True) as file:
            file.write(data)
    report.say(f"{folder}: {', '.join(sorted(files))}")


def _tell(rows: list[Row], anchor: str | None, *, quality_table: bool, update: Path | None, json: bool) -> None:
    """Tables on standard output, or rows as JSON lines; and into the file that is to be updated."""
    from cvcodec.bench import summary
    from cvcodec.bench.blocks import update_block

    text = summary.quality_table(rows)
    if anchor and not quality_table:
        found = summary.differences(rows, anchor)
        lpips = next(metric for metric in summary.METRICS if metric.key == "lpips")
        same = summary.at_same_rate(rows, anchor, lpips)
        parts = [f"Against {anchor}, mean over clips, {summary.sampling(rows)}:"]
        parts += [summary.difference_table(found, summary.speeds(rows)), *summary.warnings(rows)]
        parts += [summary.same_rate_table(same, anchor)] if same else []
        text = "\n\n".join(parts)
    update_block(update, QUALITY_BLOCK if quality_table else RATE_BLOCK, text)
    if json:
        for row in rows:
            report.emit({"command": "bench", **{k: v for k, v in row.to_dict().items() if k != "command"}})
    else:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
