"""`cvcodec eval`: quality of a reconstruction. Owns its options, table and files; `evaluation.sources` compares."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from cvcodec.cli import eval_set, options, report
from cvcodec.cli.fields import Fields, Given, with_fields
from cvcodec.codec import DEFAULT_MODEL, EncodeOptions
from cvcodec.errors import UsageError
from cvcodec.options import option

if TYPE_CHECKING:
    from cvcodec.quality.lpips import Lpips
    from cvcodec.quality.pictures import ComparisonVideo
    from cvcodec.quality.report import Report

_METRICS = ("psnr", "ssim", "ssim_rgb", "ms_ssim", "lpips")
_LPIPS = "LPIPS"
_CODING = ("quality", "latents", "window", "tile")
_VIDEOS = ("mp4", "mov", "matroska", "webm")


def parse_metrics(text: str) -> tuple[str, ...]:
    """`psnr,ssim,lpips` to names. Raises typer.BadParameter."""
    names = tuple(name.strip().lower().replace("-", "_") for name in text.split(",") if name.strip())
    unknown = sorted(set(names) - set(_METRICS + eval_set.METRICS))
    if unknown or not names:
        of_sets = f"or with --set of {','.join(eval_set.METRICS)}"
        raise typer.BadParameter(f"{text!r} is not a list of metrics; wanted some of {','.join(_METRICS)}, {of_sets}")
    return names


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """The metrics, and which frames belong together."""

    metrics: tuple[str, ...] = option(
        ("psnr", "ssim", "lpips"),
        f"Some of {','.join(_METRICS)}.",
        flags=("--metrics", "-m"),
        metavar="LIST",
        syntax=parse_metrics,
        shown="psnr,ssim,lpips",
    )
    align: Literal["pts", "start"] = option(
        "pts", "Match frames by their times, or by their distance from the first frame."
    )
    lpips_net: Literal["alex", "vgg", "squeeze"] = option("alex", "Its network.", panel=_LPIPS)
    lpips_variant: Literal["auto", "standard", "shift-tolerant"] = option(
        "auto",
        "standard v0.1 needs torchvision's backbone file; shift-tolerant does not. auto: standard if here.",
        panel=_LPIPS,
    )
    lpips_backbone: Path | None = option(None, "The backbone file.", panel=_LPIPS, metavar="FILE")
    download: bool = option(False, "Fetch the backbone file if it is not here.", panel=_LPIPS)


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What is written beside the table."""

    csv: Path | None = option(None, "Write one row a frame.", metavar="FILE")
    picture: Path | None = option(
        None,
        "Reference, reconstruction and error map side by side: of the worst frame (.png, .jpg, .webp), or of "
        "all frames (.mp4, .mkv, .webm, .mov).",
        metavar="FILE",
    )
    frame: int | None = option(None, "For --picture: frame N instead of the worst.", metavar="N", least=0)


@with_fields
def evaluate(
    reference: Annotated[
        Path | None,
        options.argument("[REF | IN | FILE.cvl]", "A video, or a .cvl file.", options.parse_file),
    ] = None,
    reconstruction: Annotated[
        Path | None,
        options.argument("[RECON]", "A video to compare with REF.", options.parse_file),
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="IN",
            parser=options.parse_file,
            help="The video that FILE.cvl was made from.",
            show_default=False,
        ),
    ] = None,
    *,
    measure: Given[MeasureOptions],
    files: Given[FileOptions],
    weights: options.Weights = None,
    given: Annotated[
        Given[EncodeOptions],
        Fields(
            only=(
                *("quality", "latents", "window", "tile", "start", "end", "frames", "size", "crop", "fps"),
                *("device", "precision", "threads"),
            ),
            help={
                "latents": "As for encode, when IN is encoded here.",
                "frames": "At most N frames.",
                "size": "Resize REF or IN as encode does. What a FILE.cvl says is done to its reference anyway.",
                "fps": "Take frames of REF or IN as encode does.",
            },
            panel={"frames": None},
        ),
    ],
    sets: Given[eval_set.SetOptions],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure quality: REF against RECON, a FILE.cvl against --reference, IN encoded and decoded here, or two folders.

    Without a file, the default model is measured on a built-in synthetic clip, to check an installation.
    Metrics see the model's own output, before any output codec, unless RECON is a video file. Y of two videos is what
    both store, where that can be compared; else it comes from RGB.
    """
    chosen, encode = files.options(), given.options()
    if _are_sets(sets, measure):
        _evaluate_sets(reference, reconstruction, original, sets, measure, files, weights, given, json, quiet)
        return
    inputs = [path for path in (reference, reconstruction, original) if path is not None]
    kind = _check_paths(inputs, chosen, overwrite)
    is_cvl = reference is not None and _is_cvl(reference)
    _check_form(reference, reconstruction, original, is_cvl)
    if reconstruction is not None:
        given.refuse("two videos are compared as they are", *_CODING, others={"--weights": weights is not None})
    elif is_cvl:
        given.refuse(f"{reference} is encoded already", *_CODING, "size", "crop", "fps")
    options.check_quantiser(encode.latents, given)
    arguments = _measuring(measure.options(), encode.device)
    with ExitStack() as stack:
        arguments["on_progress"] = stack.enter_context(report.progress("eval", quiet=quiet))
        if chosen.picture is not None and kind in _VIDEOS:
            arguments["on_pair"] = stack.enter_context(_comparison(chosen.picture, kind, overwrite)).add
        elif chosen.picture is not None:
            arguments["keep"] = "worst" if chosen.frame is None else chosen.frame
        result = _compare(reference, reconstruction or original, is_cvl, weights, encode, arguments)
    if json:
        report.emit({"command": "eval", **result.to_dict()})
    else:
        _print(result)
    _write_files(result, chosen.csv, chosen.picture if "keep" in arguments else None, overwrite=overwrite)


def _are_sets(sets: Given[eval_set.SetOptions], measure: Given[MeasureOptions]) -> bool:
    """Whether --set was given. UsageError where it was not, and something that only sets have was."""
    if sets.options().set:
        return True
    sets.refuse("only folders that are compared with --set have these", *sets.values)
    if of_sets := sorted(set(measure.options().metrics) & set(eval_set.METRICS)):
        raise UsageError(f"{', '.join(of_sets)} compares folders: cvcodec eval --set REAL/ FAKE/")
    return False


def _evaluate_sets(
    reference: Path | None,
    reconstruction: Path | None,
    original: Path | None,
    sets: Given[eval_set.SetOptions],
    measure: Given[MeasureOptions],
    files: Given[FileOptions],
    weights: str | None,
    given: Given[EncodeOptions],
    json: bool,
    quiet: bool,
) -> None:
    """Refuse what sets have no use for, and compare them."""
    from cvcodec.codec import DecodeOptions

    why = "--set compares the first --set-frames frames of clips as they are"
    given.refuse(why, *_CODING, "start", "end", "frames", others={"--reference": original is not None})
    measure.refuse(why, "align")
    files.refuse(why, "csv", "picture", "frame")
    encode = given.options()
    eval_set.evaluate_sets(
        reference,
        reconstruction,
        sets.options(),
        measure.values.get("metrics"),
        weights=weights,
        lpips=lambda: _lpips(measure.options()),
        decode=DecodeOptions(device=encode.device, precision=encode.precision, threads=encode.threads),
        json=json,
        quiet=quiet,
    )


def _picture_kind(chosen: FileOptions) -> str | None:
    """The format of `--picture`. UsageError for one that is no picture, and for a frame of what has none to choose."""
    from cvcodec.video.writer import IMAGE_CONTAINERS, container_for

    picture, frame = chosen.picture, chosen.frame
    if picture is None:
        if frame is not None:
            raise UsageError("--frame chooses the frame of --picture; name an image with it, or leave --frame out")
        return None
    kind = container_for(picture)
    if kind not in (*_VIDEOS, *IMAGE_CONTAINERS):
        raise UsageError(f"--picture writes an image or a video with times, not {kind}; name it .png or .mp4")
    if kind in _VIDEOS and frame is not None:
        raise UsageError(f"--frame chooses one frame, {picture} gets all; name an image, or leave --frame out")
    return kind


def _measuring(chosen: MeasureOptions, device: str) -> dict[str, Any]:
    """What all comparisons are told of metrics, as arguments of `evaluate`."""
    from cvcodec.system.device import select_device

    where = select_device(device)
    lpips = _lpips(chosen) if "lpips" in chosen.metrics else None
    return {"metrics": chosen.metrics, "lpips": lpips, "device": where, "align": chosen.align}


def _lpips(chosen: MeasureOptions) -> Lpips:
    from cvcodec.quality.lpips import Lpips

    try:
        return Lpips.load(
            chosen.lpips_net, chosen.lpips_variant, backbone=chosen.lpips_backbone, download=chosen.download
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _compare(
    reference: Path | None,
    other: Path | None,
    is_cvl: bool,
    weights: str | None,
    encode: EncodeOptions,
    arguments: dict[str, Any],
) -> Report:
    """What stands on both sides; `other` is RECON, or for a .cvl file what it was made from."""
    from cvcodec.checkpoints.registry import load_model, load_named_model
    from cvcodec.codec import DecodeOptions
    from cvcodec.quality import sources

    reader = encode.reader
    run: dict[str, Any] = {"device": encode.device, "precision": encode.precision, "threads": encode.threads}
    shared = sources.Comparison(
        measure=arguments,
        reader=reader,
        decode=DecodeOptions(start=reader.start, end=reader.end, frames=reader.frames, **run),
        on_notice=report.note,
    )
    if is_cvl:
        assert reference is not None and other is not None
        return sources.compare_file(
            reference, other, lambda header: load_model(weights) if weights else load_named_model(header.model), shared
        )
    if other is not None:
        assert reference is not None
        return sources.compare_videos(reference, other, shared)
    with nullcontext(reference) if reference is not None else sources.selfcheck_clip() as clip:
        return sources.round_trip(clip, load_model(weights or DEFAULT_MODEL), encode, shared)


@contextmanager
def _comparison(path: Path, container: str | None, overwrite: bool) -> Iterator[ComparisonVideo]:
    from cvcodec.fileio import atomic_path
    from cvcodec.quality.pictures import ComparisonVideo

    assert container is not None
    with atomic_path(path, overwrite=overwrite) as temporary, ComparisonVideo(temporary, container) as video:
        yield video


def _is_cvl(path: Path) -> bool:
    from cvcodec.bitstream.format import MAGIC
    from cvcodec.fileio import open_input
    from cvcodec.video.source import is_sequence

    if is_sequence(str(path)) or path.is_fifo():  # what is read from a pipe is gone
        return False
    with open_input(path) as file:
        return file.read(len(MAGIC)) == MAGIC


def _check_paths(inputs: list[Path], chosen: FileOptions, overwrite: bool) -> str | None:
    """The format of `--picture`. Raises UsageError, OutputError."""
    from cvcodec.fileio import check_output, is_standard_stream

    for path in (chosen.csv, chosen.picture):
        if path is not None:
            check_output(path, overwrite=overwrite, inputs=inputs)
    kind = _picture_kind(chosen)
    if any(is_standard_stream(path) for path in inputs):
        raise UsageError("eval reads files, and standard input is none; write what comes there to a file first")
    return kind


def _check_form(reference: Path | None, reconstruction: Path | None, original: Path | None, is_cvl: bool) -> None:
    if is_cvl and original is None:
        raise UsageError(f"{reference} is a .cvl file: name the video it was made from with --reference")
    if original is not None and not is_cvl:
        raise UsageError("--reference goes with a .cvl file; two videos are compared as: cvcodec eval REF RECON")
    if is_cvl and reconstruction is not None:
        raise UsageError(f"{reference} is a .cvl file, which --reference is compared with; leave {reconstruction} out")
    if reconstruction is not None and _is_cvl(reconstruction):
        raise UsageError(f"{reconstruction} is a .cvl file; use: cvcodec eval {reconstruction} --reference {reference}")


def _write_files(result: Report, csv: Path | None, picture: Path | None, *, overwrite: bool) -> None:
    from cvcodec.fileio import atomic_output
    from cvcodec.video.writer import write_image

    if picture is not None and result.kept is None:
        raise UsageError(f"--frame is out of range: frames 0 to {result.frames - 1} were compared")
    if csv is not None:
        text = io.StringIO(newline="")
        result.write_csv(text)
        with atomic_output(csv, overwrite=overwrite) as file:
            file.write(text.getvalue().encode())
    if picture is not None:
        assert result.kept is not None
        write_image(picture, result.kept.picture((result.reference, result.test)), overwrite=overwrite)


def _print(result: Report) -> None:
    table = Table(title=f"{result.compared}", title_justify="left", box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    values = result.to_dict()
    luma = {"planes": "stored planes", "rgb": f"{result.matrix}, from RGB"}.get(result.luma_source, "partly from RGB")
    for label, key, form in (
        ("PSNR, RGB (mean over frames)", "psnr_db", "{:.3f} dB"),
        ("PSNR, RGB (of the mean error)", "psnr_global_db", "{:.3f} dB"),
        ("PSNR, RGB (worst frame)", "psnr_min_db", "{:.3f} dB"),
        (f"PSNR, Y ({luma})", "psnr_y_db", "{:.3f} dB"),
        (f"SSIM, Y ({luma})", "ssim", "{:.5f}"),
        ("SSIM, RGB", "ssim_rgb", "{:.5f}"),
        (f"MS-SSIM, Y ({luma})", "ms_ssim", "{:.5f}"),
        (f"LPIPS ({result.lpips_name})", "lpips", "{:.5f}"),
        ("bits per pixel", "bpp", "{:.5f}"),
        ("bitrate", "bitrate_bps", "{:,.0f} bit/s"),
        ("bytes", "size_bytes", "{:,}"),
        ("bytes of copied streams, not counted", "copied_bytes", "{:,}"),
        ("bytes of user data, not counted", "user_data_bytes", "{:,}"),
    ):
        if values[key] or (values[key] is not None and key not in ("copied_bytes", "user_data_bytes")):
            table.add_row(label, form.format(values[key]))
    frames = f"{result.frames} of {result.width}x{result.height}"
    table.add_row("frames compared", frames + (", all identical" if values["identical"] else ""))
    for side, count in (("reference", result.unmatched_reference), ("reconstruction", result.unmatched_test)):
        if count:
            table.add_row(f"frames only in the {side}", str(count))
    report.stdout_console().print(table)
    for text in result.notes:
        report.note(text)
