"""`cvcodec encode`: a video to a .cvl file. Owns its options and its report; the work is `codec.encode`."""

from __future__ import annotations

import dataclasses
import re
from contextlib import ExitStack
from typing import Annotated, Any, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.errors import InputError, UsageError

_INPUT = "Input"

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_target(text: str) -> tuple[str, float]:
    """`psnr=32`, `lpips=0.15`, `size=2M` (bytes) or `bitrate=200k` (bits per second) to a kind and a number, with k, M
    and G for thousands and Ki, Mi and Gi for 1024s. Raises typer.BadParameter."""
    found = re.fullmatch(r"\s*(psnr|lpips|size|bitrate)\s*=\s*(\d+\.?\d*|\.\d+)\s*([kmg]i?)?\s*", text.lower())
    if not found or (found[3] and found[1] in ("psnr", "lpips")) or not float(found[2]):
        raise typer.BadParameter(
            f"{text!r} is not a target; wanted psnr=32 (dB), lpips=0.15, size=2M (bytes) or bitrate=200k (bit/s)"
        )
    return found[1], float(found[2]) * _UNITS[found[3] or ""]


def encode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", parser=options.parse_source, help="A video; - for standard input.", show_default=False
        ),
    ],
    destination: Annotated[
        str, typer.Argument(metavar="OUT.cvl", help="The file to write; - for standard output.", show_default=False)
    ],
    weights: options.Weights = None,
    quality: options.Quality = None,
    latents: Annotated[
        Literal["quantised", "fp16", "fp32"],
        typer.Option("--latents", help="Store quantised latents, or the latents themselves, for caching."),
    ] = "quantised",
    store_logvar: Annotated[
        bool,
        typer.Option("--store-logvar", help="Keep the posterior's log-variance, for training on samples of it."),
    ] = False,
    target: Annotated[
        Any,
        typer.Option(
            "--target",
            metavar="psnr=DB|lpips=X|size=BYTES|bitrate=BPS",
            parser=parse_target,
            help="Choose the quality by what comes out, tried on short pieces of the video.",
            show_default=False,
        ),
    ] = None,
    layers: options.Layers = "auto",
    rdo: options.Rdo = None,
    windows: Annotated[
        Literal["auto", "context", "official"],
        typer.Option("--windows", help="official: chunks and tiles of the official CV-VAE code. auto: by model."),
    ] = "auto",
    window: options.Window = None,
    tile: options.Tile = None,
    start: options.Start = None,
    end: options.End = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", metavar="TIME", parser=options.parse_time, help="Encode so much, from --start on."),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, metavar="N", help="Encode at most N frames.", rich_help_panel=_INPUT),
    ] = None,
    stream: Annotated[
        int | None,
        typer.Option(
            "--stream",
            min=0,
            metavar="N",
            help="Which video stream, from 0. Default: the first.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    rotate: Annotated[
        bool,
        typer.Option(
            "--rotate/--no-rotate",
            help="Turn frames upright, or keep them as stored, with their tag.",
            rich_help_panel=_INPUT,
        ),
    ] = True,
    deinterlace: Annotated[
        bool,
        typer.Option(
            "--deinterlace/--no-deinterlace",
            help="Pass frames flagged interlaced through bwdif.",
            rich_help_panel=_INPUT,
        ),
    ] = True,
    audio: options.Audio = True,
    metadata: options.Metadata = True,
    device: options.Device = options.AUTO,
    precision: options.Precision = options.AUTO,
    threads: options.Threads = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with OUT.cvl.partial where an interrupted encode left it, and keep it when interrupted.",
            rich_help_panel="Output",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with code 3 when the source was damaged; the file is complete all the same.",
            rich_help_panel=_INPUT,
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode a video: any container, size, frame count and colour; no frame is dropped, nothing is resized."""
    from cvcodec.codec import DEFAULT_MODEL, DEFAULT_QUALITY, EncodeOptions, ReaderOptions, encode_file
    from cvcodec.codec.notices import Notices
    from cvcodec.copied import KINDS
    from cvcodec.fileio import check_output, is_standard_stream, open_input
    from cvcodec.registry import load_model
    from cvcodec.target import Target, encode_to_target

    piped_in, piped_out = is_standard_stream(source), is_standard_stream(destination)
    check_output(destination, overwrite=overwrite, inputs=[] if piped_in else [source])
    options.check_cvl_name(destination, "encode")
    if target is not None and quality is not None:
        raise UsageError("--target chooses the quality: it and --quality exclude each other")
    options.check_quantiser(latents, quality=quality, rdo=rdo)
    if target is not None and piped_in:
        raise UsageError("--target reads the video more than once, which standard input cannot: give it a file")
    if target is not None and resume:
        raise UsageError("--target chooses the quality anew: it and --resume exclude each other, give --quality")
    goal = None if target is None else Target(*target)
    name = weights or DEFAULT_MODEL
    model = load_model(name)
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
        device=device,
        precision=precision,
        threads=threads,
        kinds=KINDS if audio else (),
        tags=metadata,
        reader=ReaderOptions(
            start=start,
            end=end,
            duration=duration,
            frames=frames,
            stream=stream,
            rotate=rotate,
            deinterlace=deinterlace,
        ),
    )
    with ExitStack() as stack:
        opened: Any = stack.enter_context(open_input(source)) if piped_in else source
        meter = stack.enter_context(report.progress("encode", quiet=quiet))
        common: dict[str, Any] = {"overwrite": overwrite, "on_progress": meter, "on_notice": Notices(report.note)}
        if goal is None:
            result = encode_file(opened, destination, model=model, options=chosen, resume=resume, **common)
            if result.resumed_frames:
                report.note(f"{result.resumed_frames} frames were taken over from the interrupted encode")
        else:
            result, found = encode_to_target(source, destination, goal, model=model, options=chosen, **common)
            chosen = dataclasses.replace(chosen, quality=found.quality)
    if json:
        record: dict[str, Any] = {
            "command": "encode",
            "source": source,
            "output": destination,
            "model": getattr(model, "name", name),
        }
        quality = chosen.quality if latents == "quantised" else None
        wanted = {} if goal is None else {"target": goal.kind, "target_value": goal.value}
        report.emit(
            {**record, "latents": latents, "quality": quality, **wanted, **result.to_dict()}, to_stderr=piped_out
        )
    elif not quiet:
        if goal is not None:
            report.say(
                f"quality {found.quality:g}: {goal.describe(found.predicted)} expected, {goal.describe()} wanted"
            )
        report.say(
            f"{destination}: {result.frames} frames of {result.width}x{result.height}, "
            f"{report.format_size(result.size_bytes)}, {result.bpp:.4f} bpp, {result.megapixels_per_s:.2f} Mpixel/s"
        )
        if result.source_bytes and result.size_to_source is not None:
            source_size = report.format_size(result.source_bytes)
            report.say(f"{result.size_to_source:.2f} times the source's video, {source_size}")
    if strict and result.damage is not None:
        raise InputError(f"{result.damage}; {destination} was written, --strict asks to fail")
