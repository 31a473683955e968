"""`cvcodec decode`: a .cvl file to a video. Owns its options and its report; the work is `codec.decode`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvcodec.cli import options, report
from cvcodec.cli.fields import Given, with_fields
from cvcodec.codec import DecodeOptions
from cvcodec.errors import BitstreamError, UsageError

if TYPE_CHECKING:
    from cvcodec.bitstream import Header
    from cvcodec.model.base import VideoAutoencoder

_OF_PREVIEW = ("frames", "container", "kinds", "tags", "threads")
"""Options that mean something for a contact sheet, or nothing for images anyway."""


@with_fields
def decode(
    source: Annotated[
        str,
        options.argument("IN.cvl", "The file to decode; - for standard input.", options.parse_source),
    ],
    destination: Annotated[
        str,
        options.argument(
            "OUT",
            "A video (.mp4, .mkv, .mov, .webm, .y4m), an image, or a numbered sequence (frames/%05d.png); "
            "- for standard output, as Matroska unless --format says otherwise.",
        ),
    ],
    *,
    weights: options.Weights = None,
    given: Given[DecodeOptions],
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Write a contact sheet (OUT is an image) from the latents, without the decoder; --frames: how many "
            "pictures.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="With --salvage: exit with code 5 when the file was damaged, after decoding it."),
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Decode a .cvl file to a video with the source's frames, times, colours and size."""
    from cvcodec.checkpoints.registry import load_model, load_named_model
    from cvcodec.codec import decode_file
    from cvcodec.fileio import is_standard_stream

    loaded: list[VideoAutoencoder] = []

    def model(header: Header) -> VideoAutoencoder:
        loaded.append(load_model(weights) if weights else load_named_model(header.model))
        return loaded[0]

    record: dict[str, Any]
    damage, chosen = None, given.options()
    if preview:
        unused = (name for name in given.values if name not in _OF_PREVIEW)
        given.refuse("--preview shows the whole file and writes an image", *unused, others={"--strict": strict})
        record = _preview(source, destination, model, chosen, overwrite=overwrite)
        done = f"{record['pictures']} pictures, {record['width']}x{record['height']}"
    else:
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
        record, damage = result.to_dict(), result.damage
        done = f"{result.frames} frames of {result.width}x{result.height}, {result.megapixels_per_s:.2f} Mpixel/s"
    if json:
        facts = {"command": "decode", "source": source, "output": destination, "model": loaded[0].name}
        report.emit({**facts, **record}, to_stderr=is_standard_stream(destination))
    elif not quiet:
        report.say(f"{destination}: {done}")
    if damage is not None:
        if strict:
            raise BitstreamError(damage)
        report.warn(damage)


def _preview(
    source: str,
    destination: str,
    model: Callable[[Header], VideoAutoencoder],
    options: DecodeOptions,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Write the contact sheet; what `--json` says of it."""
    import time

    from cvcodec.fileio import check_output, is_standard_stream
    from cvcodec.quality.preview import PICTURES, contact_sheet
    from cvcodec.system.device import set_threads
    from cvcodec.video.writer import IMAGE_CONTAINERS, container_for, write_image

    set_threads(options.threads)
    kind = options.writer.container or ("png" if is_standard_stream(destination) else container_for(destination))
    if kind not in IMAGE_CONTAINERS:
        raise UsageError(f"--preview writes an image, not {kind}; name it .png, .jpg or .webp")
    if is_standard_stream(source):
        raise UsageError("--preview looks up pictures all over the file, which standard input cannot: give it a file")
    check_output(destination, overwrite=overwrite, inputs=[source])
    begun = time.perf_counter()
    pixels, times = contact_sheet(source, model, pictures=options.frames or PICTURES, on_notice=report.note)
    write_image(destination, pixels, container=kind, overwrite=overwrite, inputs=[source])
    return {
        "pictures": len(times),
        "times_s": times,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "seconds": time.perf_counter() - begun,
    }
