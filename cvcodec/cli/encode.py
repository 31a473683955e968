"""`cvcodec encode`: a video to a .cvl file. Owns its options and its report; the work is `codec.encode`."""

from __future__ import annotations

import dataclasses
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvcodec.cli import options, report
from cvcodec.cli.fields import Given, with_fields
from cvcodec.codec import DEFAULT_MODEL, EncodeOptions
from cvcodec.errors import InputError, UsageError

if TYPE_CHECKING:
    from cvcodec.codec import EncodeResult
    from cvcodec.quality.target import Found, Target

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_target(text: str) -> tuple[str, float]:
    """`psnr=32`, `lpips=0.15`, `size=2M` (bytes) or `bitrate=200k` (bits per second) to a kind and a number, with k, M
    and G for thousands and Ki, Mi and Gi for 1024s. Raises typer.BadParameter."""
    match = re.fullmatch(r"\s*(psnr|lpips|size|bitrate)\s*=\s*(\d+\.?\d*|\.\d+)\s*([kmg]i?)?\s*", text.lower())
    if not match or (match[3] and match[1] in ("psnr", "lpips")) or not float(match[2]):
        raise typer.BadParameter(
            f"{text!r} is not a target; wanted psnr=32 (dB), lpips=0.15, size=2M (bytes) or bitrate=200k (bit/s)"
        )
    return match[1], float(match[2]) * _UNITS[match[3] or ""]


_Target = Annotated[
    Any,
    typer.Option(
        "--target",
        metavar="psnr=DB|lpips=X|size=BYTES|bitrate=BPS",
        parser=parse_target,
        help="Choose the quality by what comes out, tried on short pieces of the video.",
        show_default=False,
    ),
]


@with_fields
def encode(
    source: Annotated[
        str,
        options.argument("IN", "A video; - for standard input.", options.parse_source),
    ],
    destination: Annotated[str, options.argument("OUT.cvl", "The file to write; - for standard output.")],
    *,
    weights: options.Weights = None,
    given: Given[EncodeOptions],
    target: _Target = None,
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
            rich_help_panel="Input",
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode a video: any container, size, frame count and colour; nothing is dropped or resized unless asked for."""
    from cvcodec.checkpoints.registry import load_model
    from cvcodec.codec import encode_file
    from cvcodec.codec.headers import check_layers
    from cvcodec.codec.session import Notices
    from cvcodec.fileio import check_output, is_standard_stream, open_input
    from cvcodec.quality.target import Target, encode_to_target

    chosen, piped = given.options(), is_standard_stream(source)
    check_output(destination, overwrite=overwrite, inputs=[] if piped else [source])
    options.check_cvl_name(destination, "encode")
    _check_target(target, given, piped=piped, resume=resume)
    options.check_quantiser(chosen.latents, given)
    goal, tried = None if target is None else Target(*target), None
    model = load_model(weights or DEFAULT_MODEL)
    check_layers(model, chosen.layers)
    with ExitStack() as stack:
        opened: Any = stack.enter_context(open_input(source)) if piped else source
        meter = stack.enter_context(report.progress("encode", quiet=quiet))
        common: dict[str, Any] = {"overwrite": overwrite, "on_progress": meter, "on_notice": Notices(report.note)}
        if goal is None:
            result = encode_file(opened, destination, model=model, options=chosen, resume=resume, **common)
            if result.resumed_frames:
                report.note(f"{result.resumed_frames} frames were taken over from the interrupted encode")
        else:
            result, tried = encode_to_target(source, destination, goal, model=model, options=chosen, **common)
            chosen = dataclasses.replace(chosen, quality=tried.quality)
    if json:
        record = {"command": "encode", "source": source, "output": destination, "model": model.name}
        stored = {
            "latents": chosen.latents,
            "quality": chosen.quality if chosen.latents == "quantised" else None,
            **({} if goal is None else {"target": goal.kind, "target_value": goal.value}),
        }
        report.emit({**record, **stored, **result.to_dict()}, to_stderr=is_standard_stream(destination))
    elif not quiet:
        _tell(destination, goal, tried, result)
    if strict and result.damage is not None:
        raise InputError(f"{result.damage}; {destination} was written, --strict asks to fail")


def _check_target(target: Any, given: Given[EncodeOptions], *, piped: bool, resume: bool) -> None:
    if target is None:
        return
    if "quality" in given.values:
        raise UsageError("--target chooses the quality: it and --quality exclude each other")
    if piped:
        raise UsageError("--target reads the video more than once, which standard input cannot: give it a file")
    if resume:
        raise UsageError("--target chooses the quality anew: it and --resume exclude each other, give --quality")


def _tell(destination: str, goal: Target | None, tried: Found | None, result: EncodeResult) -> None:
    """What a person reads at the end."""
    if goal is not None and tried is not None:
        report.say(f"quality {tried.quality:g}: {goal.describe(tried.predicted)} expected, {goal.describe()} wanted")
    report.say(
        f"{destination}: {result.frames} frames of {result.width}x{result.height}, "
        f"{report.format_size(result.size_bytes)}, {result.bpp:.4f} bpp, {result.megapixels_per_s:.2f} Mpixel/s"
    )
    if result.source_bytes and result.size_to_source is not None:
        source_size = report.format_size(result.source_bytes)
        report.say(f"{result.size_to_source:.2f} times the source's video, {source_size}")
