"""`cvcodec decode`: a .cvl file to a video. Owns its options and its report; the work is `codec.decode`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.errors import BitstreamError, UsageError

if TYPE_CHECKING:
    from cvcodec.bitstream import Header
    from cvcodec.model.base import VideoAutoencoder

_VIDEO = "Video"


def decode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN.cvl",
            parser=options.parse_source,
            help="The file to decode; - for standard input.",
            show_default=False,
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="A video (.mp4, .mkv, .mov, .webm, .y4m), an image, or a numbered sequence (frames/%05d.png); "
            "- for standard output, as Matroska unless --format says otherwise.",
            show_default=False,
        ),
    ],
    weights: options.Weights = None,
    codec: Annotated[
        Literal["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "h264_nvenc", "hevc_nvenc"] | None,
        typer.Option(
            "--codec",
            help="Video encoder. ffv1 stores the decoded RGB exactly; _nvenc: on an NVIDIA card. Default: libx264, for "
            "HDR libx265.",
            rich_help_panel=_VIDEO,
        ),
    ] = None,
    crf: Annotated[
        float | None,
        typer.Option(
            "--crf",
            min=0,
            max=63,
            metavar="N",
            help="Its constant rate factor. Default: visually lossless.",
            rich_help_panel=_VIDEO,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Its speed preset.", rich_help_panel=_VIDEO)
    ] = None,
    chroma: Annotated[
        Literal["420", "422", "444"] | None,
        typer.Option("--chroma", help="Chroma format. Default: 420, at odd sizes 444.", rich_help_panel=_VIDEO),
    ] = None,
    container: Annotated[
        Literal["mp4", "mov", "matroska", "webm", "y4m", "raw", "png", "jpeg", "webp"] | None,
        typer.Option("--format", help="Output format. Default: by the extension.", rich_help_panel=_VIDEO),
    ] = None,
    start: options.Start = None,
    end: options.End = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", metavar="TIME", parser=options.parse_time, help="Decode so much, from --start on."),
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, metavar="N", help="Decode at most N frames.")] = None,
    audio: options.Audio = True,
    metadata: options.Metadata = True,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Write a contact sheet (OUT is an image) from the latents, without the decoder; --frames: how many "
            "pictures.",
        ),
    ] = False,
    layers: Annotated[
        Literal["base", "all"],
        typer.Option("--layers", help="base: decode from the base layer alone, of files that have two."),
    ] = "all",
    salvage: Annotated[
        bool,
        typer.Option("--salvage", help="Decode what is intact of a damaged file, and say which frames are lost."),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="With --salvage: exit with code 5 when the file was damaged, after decoding it."),
    ] = False,
    device: options.Device = options.AUTO,
    precision: options.Precision = options.AUTO,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Decode a .cvl file to a video with the source's frames, times, colours and size."""
    from cvcodec.codec import DecodeOptions, WriterOptions, decode_file
    from cvcodec.copied import KINDS
    from cvcodec.device import set_threads
    from cvcodec.fileio import is_standard_stream
    from cvcodec.registry import load_model, load_named_model

    loaded: list[Any] = []

    def model(header: Header) -> VideoAutoencoder:
        loaded.append(load_model(weights) if weights else load_named_model(header.model))
        return loaded[0]  # type: ignore[no-any-return]

    if preview:
        others = {
            "--start": start is not None,
            "--end": end is not None,
            "--duration": duration is not None,
            "--codec": codec is not None,
            "--crf": crf is not None,
            "--preset": preset is not None,
            "--chroma": chroma is not None,
            "--layers": layers != "all",
            "--salvage": salvage,
            "--strict": strict,
            "--device": device != options.AUTO,  # no decoder runs
            "--precision": precision != options.AUTO,
        }
        options.refuse(others, "--preview shows the whole file and writes an image")
        set_threads(threads)
        record = _preview(source, destination, model, frames, container, overwrite=overwrite)
        if json:
            found = {"command": "decode", "source": source, "output": destination, "model": loaded[0].name}
            report.emit({**found, **record}, to_stderr=is_standard_stream(destination))
        elif not quiet:
            report.say(f"{destination}: {record['pictures']} pictures, {record['width']}x{record['height']}")
        return
    chosen = DecodeOptions(
        start=start,
        end=end,
        duration=duration,
        frames=frames,
        device=device,
        precision=precision,
        threads=threads,
        kinds=KINDS if audio else (),
        tags=metadata,
        layers=layers,
        salvage=salvage,
        writer=WriterOptions(codec=codec, crf=crf, preset=preset, chroma=chroma, container=container),
    )
    with report.progress("decode", quiet=quiet) as meter:
        result = decode_file(
            source,
            destination,
            model=model,
            options=chosen,
            overwrite=overwrite,
            on_progress=meter,
            on_notice=report.note,
        )
    if json:
        record = {"command": "decode", "source": source, "output": destination, "model": loaded[0].name}
        report.emit({**record, **result.to_dict()}, to_stderr=is_standard_stream(destination))
    elif not quiet:
        report.say(
            f"{destination}: {result.frames} frames of {result.width}x{result.height}, "
            f"{result.megapixels_per_s:.2f} Mpixel/s"
        )
    if result.damage is not None:
        if strict:
            raise BitstreamError(result.damage)
        report.warn(result.damage)


def _preview(
    source: str,
    destination: str,
    model: Callable[[Header], VideoAutoencoder],
    pictures: int | None,
    container: str | None,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Write the contact sheet; what `--json` says of it."""
    import time
    from fractions import Fraction

    from cvcodec.fileio import atomic_output, check_output, is_standard_stream
    from cvcodec.preview import PICTURES, contact_sheet
    from cvcodec.video import Frame, VideoWriter
    from cvcodec.video.writer import IMAGE_CONTAINERS, container_for

    kind = container or ("png" if is_standard_stream(destination) else container_for(destination))
    if kind not in IMAGE_CONTAINERS:
        raise UsageError(f"--preview writes an image, not {kind}; name it .png, .jpg or .webp")
    if is_standard_stream(source):
        raise UsageError("--preview looks up pictures all over the file, which standard input cannot: give it a file")
    check_output(destination, overwrite=overwrite, inputs=[source])
    begun = time.perf_counter()
    pixels, times = contact_sheet(source, model, pictures=pictures or PICTURES, on_notice=report.note)
    height, width = pixels.shape[:2]
    with (
        atomic_output(destination, overwrite=overwrite, inputs=[source]) as file,
        VideoWriter(file, width=width, height=height, time_base=Fraction(1), container=kind) as writer,
    ):
        writer.write(Frame(pixels, pts=0))
    return {
        "pictures": len(times),
        "times_s": times,
        "width": width,
        "height": height,
        "seconds": time.perf_counter() - begun,
    }
