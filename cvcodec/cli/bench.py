"""`cvcodec bench`: rate and distortion of models and encoders. Owns its options and files; `bench` does the work."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.cli.fields import Fields, Given, with_fields
from cvcodec.codec import DEFAULT_MODEL, EncodeOptions, ReaderOptions
from cvcodec.codec.options import RunOptions
from cvcodec.errors import MissingDependencyError, UsageError
from cvcodec.options import option

if TYPE_CHECKING:
    from cvcodec.bench.measure import Row, Workbench
    from cvcodec.bench.settings import Setting
    from cvcodec.model.base import VideoAutoencoder

_WHAT = "What is compared"
_CLIPS = "Clips"

TABLE_QUALITIES = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 90.0, 100.0)
"""Those that `--quality-table` tries."""

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


def _list_of(parse: Callable[[str], tuple[Any, ...]], text: str, *, default: str, flags: tuple[str, ...] = ()) -> Any:
    """A field that takes a comma-separated list; `default` is what help says of None."""
    return option(None, text, panel=_WHAT, flags=flags, metavar="LIST", syntax=parse, shown=default)


@dataclass(frozen=True, kw_only=True)
class ComparedOptions:
    """The models and encoders, and at which points of their curves."""

    against: tuple[str, ...] | None = _list_of(
        parse_names,
        "Encoders to compare with, of libx264, libx265, libsvtav1, libvpx-vp9; none. The first is the anchor.",
        default="libx264,libx265,libsvtav1,libvpx-vp9",
    )
    presets: Literal["quality", "speed", "both"] = option(
        "both", "quality: veryslow and its like. speed: medium.", panel=_WHAT
    )
    weights: list[str] | None = option(
        None,
        "A model; may be repeated.",
        panel=_WHAT,
        flags=("--weights", "-w"),
        metavar="NAME|FILE",
        shown="the default model",
    )
    vae: list[str] | None = option(
        None, "Weights of another project, as for `models add`; may be repeated.", panel=_WHAT, metavar="DIR|FILE"
    )
    qualities: tuple[float, ...] | None = _list_of(
        parse_numbers, "Qualities of our models.", default="20,30,40,50,60,75"
    )
    crfs: tuple[float, ...] | None = _list_of(parse_numbers, "CRFs of all encoders.", default="seven, by encoder")
    match: tuple[float, ...] | None = _list_of(
        parse_numbers, "Qualities whose sizes encoders are made to match, for frames side by side.", default="50"
    )


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How it is measured, and where results go."""

    protocol: Literal["source", "cvvae"] = option(
        "source",
        "cvvae, as in the paper: 33 frames, every third, the middle 256x256; unquantised latents as well.",
        panel=_CLIPS,
    )
    quality_table: bool = option(False, "Only what each --quality means: our models at 0, 10, ... 100.")
    update: Path | None = option(
        None,
        f"Replace what stands between <!-- {QUALITY_BLOCK} --> or <!-- {RATE_BLOCK} --> and its end; "
        "docs/benchmarks.md has both.",
        metavar="FILE.md",
    )
    output: Path = option(
        Path("cvcodec-bench"), "For the report: page, JSON, plots.", flags=("--output", "-o"), metavar="FOLDER"
    )
    cache: Path | None = option(None, "For results, so that a run can go on.", metavar="FOLDER", shown="in -o")
    jobs: int = option(
        1, "Encodes at a time; above 1, no speeds are noted.", flags=("--jobs", "-j"), metavar="N", least=1
    )
    lpips_variant: Literal["auto", "standard", "shift-tolerant", "none"] = option("auto", "As for eval.")
    lpips_every: int = option(1, "Take LPIPS, the slowest metric, of one frame in N, odd.", metavar="N", least=1)


@with_fields
def bench(
    clips: Annotated[
        list[Path],
        options.argument("CLIPS...", "Videos.", options.parse_file),
    ],
    *,
    compared: Given[ComparedOptions],
    coding: Annotated[Given[EncodeOptions], Fields(only=("rdo",))],
    given: Given[BenchOptions],
    reading: Annotated[
        Given[ReaderOptions],
        Fields(only=("start", "frames"), help={"frames": "At most N frames a clip."}, panel={"frames": _CLIPS}),
    ],
    where: Annotated[Given[RunOptions], Fields(only=("device", "precision", "threads"))],
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode clips at many rates with our models and with other encoders, and compare curves.

    Results are kept as they come; the same command goes on where it was stopped.
    """
    from cvcodec.bench.clips import distinct_names, open_clip
    from cvcodec.bench.measure import check_stride, run
    from cvcodec.bench.report import check_block
    from cvcodec.system.device import set_threads

    chosen, what = given.options(), compared.options()
    check_block(chosen.update, QUALITY_BLOCK if chosen.quality_table else RATE_BLOCK)
    check_stride(chosen.lpips_every)
    encode = coding.options(**where.values)
    set_threads(encode.threads)
    bench = _workbench(what, chosen, encode)
    settings = _settings(what, chosen, list(bench.models))
    kept = bench.cache.folder / "clips"
    opened = [
        open_clip(path, name, protocol=chosen.protocol, reader=reading.options(), folder=kept)
        for path, name in distinct_names(clips).items()
    ]
    anchor = next((setting.series for setting in settings if not setting.ours), None)
    matched = [50.0] if what.match is None else list(what.match)
    rows = run(
        bench,
        opened,
        settings,
        match=[] if anchor is None else matched,
        jobs=chosen.jobs,
        on_notice=(lambda text: None) if quiet else report.note,
    )
    _write(rows, anchor, bench, {clip.name: clip for clip in opened}, chosen.output, chosen.protocol)
    _tell(rows, anchor, quality_table=chosen.quality_table, update=chosen.update, json=json)


def _settings(what: ComparedOptions, chosen: BenchOptions, models: list[str]) -> list[Setting]:
    """Everything that is tried on each clip."""
    from cvcodec.bench import settings

    encoders = list(settings.CRFS) if what.against is None else list(what.against)
    if chosen.quality_table:
        encoders = []
    qualities = what.qualities or (TABLE_QUALITIES if chosen.quality_table else settings.QUALITIES)
    unquantised = chosen.quality_table or chosen.protocol == "cvvae"
    presets = ("quality", "speed") if what.presets == "both" else (what.presets,)
    crfs = dict.fromkeys(encoders, what.crfs) if what.crfs else None
    return [
        *settings.model_settings(models, qualities, unquantised=unquantised),
        *settings.encoder_settings(encoders, presets, crfs),
    ]


def _workbench(what: ComparedOptions, chosen: BenchOptions, encode: EncodeOptions) -> Workbench:
    from importlib.metadata import version

    from cvcodec.bench.measure import METRICS, Cache, Workbench
    from cvcodec.checkpoints.registry import load_model
    from cvcodec.quality.lpips import Lpips

    models: dict[str, VideoAutoencoder] = {}
    named: dict[str, str] = {}
    loaded = [(name, load_model(name)) for name in what.weights or ([] if what.vae else [DEFAULT_MODEL])]
    loaded += [(source, _imported(source)) for source in what.vae or []]
    for source, model in loaded:
        name = model.name or model.config.family
        if name in models:
            raise UsageError(f"two models are called {name!r}: {named[name]} and {source}; rename a file")
        models[name], named[name] = model, source
    lpips = chosen.lpips_variant != "none"
    facts = {"av": version("av"), "threads": encode.threads, "models_format": 1}
    return Workbench(
        cache=Cache(chosen.cache or chosen.output / "cache", facts),
        models=models,
        weights=named,
        metrics=tuple(metric for metric in METRICS if metric != "lpips" or lpips),
        lpips=Lpips.load("alex", chosen.lpips_variant) if lpips else None,
        lpips_every=chosen.lpips_every,
        device=encode.device,
        precision=encode.precision,
        threads=encode.threads,
        rdo=encode.rdo,
        timed=chosen.jobs == 1,
    )


def _imported(source: str) -> VideoAutoencoder:
    """A model of another project, with published or default scales for the quantiser."""
    from cvcodec.checkpoints.checkpoint import instantiate, make_checkpoint
    from cvcodec.checkpoints.foreign import import_model

    imported = import_model(source)
    for text in imported.notes:
        report.note(f"{source}: {text}")
    checkpoint = make_checkpoint(
        imported.config, imported.state_dict, statistics=imported.statistics, card=imported.card
    )
    return instantiate(checkpoint, name=Path(source.rstrip("/")).name)


def _write(
    rows: list[Row], anchor: str | None, bench: Workbench, clips: dict[str, Any], folder: Path, protocol: str
) -> None:
    """The page, JSON and plots into `folder`."""
    import json
    from importlib.metadata import version

    from cvcodec.bench import summary
    from cvcodec.bench.machine import describe_machine, machine_facts
    from cvcodec.bench.measure import source_key
    from cvcodec.bench.report import draw, page
    from cvcodec.fileio import atomic_output, make_folder
    from cvcodec.system.device import select_device

    machine = machine_facts(select_device(bench.device))
    invocation = shlex.join(["cvcodec", *sys.argv[1:]])
    record = {"machine": machine, "command": invocation, "protocol": protocol, "av": version("av")}
    record |= summary.to_dict(rows, anchor)

    def picture(name: str) -> Path:
        return bench.cache.picture(source_key(clips[name]) if name in clips else name)

    metrics = summary.metrics_of(rows)
    drawn: dict[str | None, bytes] = {}
    files: dict[str, bytes] = {}
    try:
        drawn[None] = draw(rows, metrics, kind="svg")
        # The means show these; a clip shows what is asked for first.
        few = [metric for metric in metrics if metric.key not in ("psnr_y_db", "ssim")]
        drawn |= {clip: draw(rows, few, clip, kind="svg") for clip in summary.clips_of(rows)}
        files |= {f"curves.{kind}": draw(rows, few, kind=kind) for kind in ("png", "svg")}
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
    from cvcodec.bench.report import update_block

    text = summary.quality_table(rows)
    if anchor and not quality_table:
        text = summary.rate_tables(rows, anchor)
    update_block(update, QUALITY_BLOCK if quality_table else RATE_BLOCK, text)
    if json:
        for row in rows:
            report.emit({"command": "bench", **{k: v for k, v in row.to_dict().items() if k != "command"}})
    else:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
