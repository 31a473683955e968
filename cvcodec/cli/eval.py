"""`cvcodec eval`: quality of a reconstruction. Owns its options, table and files; `evaluation.sources` compares."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from cvcodec.cli import options, report
from cvcodec.errors import UsageError

if TYPE_CHECKING:
    from cvcodec.evaluation.picture_video import ComparisonVideo
    from cvcodec.evaluation.report import Report

_METRICS = ("psnr", "ssim", "ssim_rgb", "ms_ssim", "lpips")
_LPIPS = "LPIPS"


def parse_metrics(text: str) -> tuple[str, ...]:
    """`psnr,ssim,lpips` to names. Raises typer.BadParameter."""
    names = tuple(name.strip().lower().replace("-", "_") for name in text.split(",") if name.strip())
    unknown = sorted(set(names) - set(_METRICS))
    if unknown or not names:
        raise typer.BadParameter(f"{text!r} is not a list of metrics; wanted some of {','.join(_METRICS)}")
    return names


def evaluate(
    reference: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REF | IN | FILE.cvl]",
            parser=options.parse_file,
            help="A video, or a .cvl file.",
            show_default=False,
        ),
    ] = None,
    reconstruction: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECON]", parser=options.parse_file, help="A video to compare with REF.", show_default=False
        ),
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
    metrics: Annotated[
        Any,
        typer.Option(
            "--metrics",
            "-m",
            metavar="LIST",
            parser=parse_metrics,
            help=f"Some of {','.join(_METRICS)}.",
            show_default="psnr,ssim,lpips",
        ),
    ] = None,
    align: Annotated[
        Literal["pts", "start"],
        typer.Option("--align", help="Match frames by their times, or by their distance from the first frame."),
    ] = "pts",
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write one row a frame.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            metavar="FILE",
            help="Reference, reconstruction and error map side by side: of the worst frame (.png, .jpg, .webp), or of "
            "all frames (.mp4, .mkv, .webm, .mov).",
        ),
    ] = None,
    frame: Annotated[
        int | None, typer.Option("--frame", min=0, metavar="N", help="For --picture: frame N instead of the worst.")
    ] = None,
    lpips_net: Annotated[
        Literal["alex", "vgg", "squeeze"], typer.Option("--lpips-net", help="Its network.", rich_help_panel=_LPIPS)
    ] = "alex",
    lpips_variant: Annotated[
        Literal["auto", "standard", "shift-tolerant"],
        typer.Option(
            "--lpips-variant",
            help="standard v0.1 needs torchvision's backbone file; shift-tolerant does not. auto: standard if here.",
            rich_help_panel=_LPIPS,
        ),
    ] = "auto",
    lpips_backbone: Annotated[
        Path | None, typer.Option("--lpips-backbone", metavar="FILE", help="The backbone file.", rich_help_panel=_LPIPS)
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the backbone file if it is not here.", rich_help_panel=_LPIPS)
    ] = False,
    weights: options.Weights = None,
    quality: options.Quality = None,
    latents: Annotated[
        Literal["quantised", "fp16", "fp32"], typer.Option("--latents", help="As for encode, when IN is encoded here.")
    ] = "quantised",
    window: options.Window = None,
    tile: options.Tile = None,
    start: options.Start = None,
    end: options.End = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, metavar="N", help="At most N frames.")] = None,
    device: options.Device = options.AUTO,
    precision: options.Precision = options.AUTO,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure quality: REF against RECON, a FILE.cvl against --reference, or IN encoded and decoded here.

    Without a file, the default model is measured on a built-in synthetic clip, to check an installation.
    Metrics see the model's own output, before any output codec, unless RECON is a video file. Y of two videos is what
    both store, where that can be compared; else it comes from RGB.
    """
    from cvcodec.codec import DEFAULT_MODEL, DEFAULT_QUALITY, DecodeOptions, EncodeOptions, ReaderOptions
    from cvcodec.device import select_device
    from cvcodec.evaluation import sources
    from cvcodec.fileio import check_output, is_standard_stream
    from cvcodec.metrics.lpips import Lpips
    from cvcodec.registry import load_model, load_named_model
    from cvcodec.video.writer import IMAGE_CONTAINERS, container_for

    inputs = [path for path in (reference, reconstruction, original) if path is not None]
    for path in (csv, picture):
        if path is not None:
            check_output(path, overwrite=overwrite, inputs=inputs)
    kind = None if picture is None else container_for(picture)
    video = picture if kind in ("mp4", "mov", "matroska", "webm") else None
    if picture is not None and video is None and kind not in IMAGE_CONTAINERS:
        raise UsageError(f"--picture writes an image or a video with times, not {kind}; name it .png or .mp4")
    if video is not None and frame is not None:
        raise UsageError(f"--frame chooses one frame, {video} gets all; name an image, or leave --frame out")
    if frame is not None and picture is None:
        raise UsageError("--frame chooses the frame of --picture; name an image with it, or leave --frame out")
    if any(is_standard_stream(path) for path in inputs):
        raise UsageError("eval reads files, and standard input is none; write what comes there to a file first")
    is_cvl = reference is not None and _is_cvl(reference)
    _check_form(reference, reconstruction, original, is_cvl)
    idle = {"--quality": quality is not None, "--latents": latents != "quantised"}
    idle |= {"--window": window is not None, "--tile": tile is not None}
    if reconstruction is not None:
        options.refuse(idle | {"--weights": weights is not None}, "two videos are compared as they are")
    elif is_cvl:
        options.refuse(idle, f"{reference} is encoded already")
    options.check_quantiser(latents, quality=quality)
    chosen = metrics or ("psnr", "ssim", "lpips")
    where = select_device(device)
    lpips = None
    if "lpips" in chosen:
        try:
            lpips = Lpips.load(lpips_net, lpips_variant, backbone=lpips_backbone, download=download)
        except ValueError as error:
            raise UsageError(str(error)) from error
    trim = ReaderOptions(start=start, end=end, frames=frames)
    with ExitStack() as stack:
        meter = stack.enter_context(report.progress("eval", quiet=quiet))
        shared = sources.Comparison(
            measure={
                "metrics": chosen,
                "lpips": lpips,
                "device": where,
                "align": align,
                "keep": ("worst" if frame is None else frame) if picture and video is None else None,
                "on_progress": meter,
                "on_pair": None if video is None else stack.enter_context(_comparison(video, kind, overwrite)).add,
            },
            reader=trim,
            decode=DecodeOptions(
                start=start, end=end, frames=frames, device=device, precision=precision, threads=threads
            ),
            on_notice=report.note,
        )
        if reconstruction is not None:
            assert reference is not None
            result = sources.compare_videos(reference, reconstruction, shared)
        elif is_cvl:
            assert reference is not None and original is not None
            result = sources.compare_file(
                reference,
                original,
                lambda header: load_model(weights) if weights else load_named_model(header.model),
                shared,
            )
        else:
            encode = EncodeOptions(
                quality=DEFAULT_QUALITY if quality is None else quality,
                latents=latents,
                window=window,
                tile=tile,
                device=device,
                precision=precision,
                threads=threads,
                reader=trim,
            )
            clip = reference or stack.enter_context(sources.selfcheck_clip())
            result = sources.round_trip(clip, load_model(weights or DEFAULT_MODEL), encode, shared)
    if json:
        report.emit({"command": "eval", **result.to_dict()})
    else:
        _print(result)
    _write_files(result, csv, None if video else picture, overwrite=overwrite)


@contextmanager
def _comparison(path: Path, container: str | None, overwrite: bool) -> Iterator[ComparisonVideo]:
    from cvcodec.evaluation.picture_video import ComparisonVideo
    from cvcodec.fileio import atomic_path

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
    from fractions import Fraction

    from cvcodec.fileio import atomic_output
    from cvcodec.video import Frame, VideoWriter
    from cvcodec.video.writer import container_for

    if picture is not None and result.kept is None:
        raise UsageError(f"--frame is out of range: frames 0 to {result.frames - 1} were compared")
    if csv is not None:
        text = io.StringIO(newline="")
        result.write_csv(text)
        with atomic_output(csv, overwrite=overwrite) as file:
            file.write(text.getvalue().encode())
    if picture is not None:
        assert result.kept is not None
        with atomic_output(picture, overwrite=overwrite) as file:
            pixels = result.kept.picture((result.reference, result.test))
            height, width = pixels.shape[:2]
            container = container_for(picture)
            with VideoWriter(file, width=width, height=height, time_base=Fraction(1), container=container) as writer:
                writer.write(Frame(pixels, pts=0))


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
