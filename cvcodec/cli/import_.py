"""`cvcodec import`: latents, exported or generated, to a .cvl file. Owns its options; `dataset.importing` does it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.cli.fields import Fields, Given, with_fields
from cvcodec.codec import EncodeOptions

if TYPE_CHECKING:
    from cvcodec.dataset.importing import Imported


def parse_rate(text: str) -> Fraction:
    """`24`, `30000/1001`, `23.976`. Raises typer.BadParameter."""
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000 or rate.denominator > 10**6:
        raise typer.BadParameter(f"{text!r} is not a frame rate; wanted a number such as 24 or 30000/1001")
    return rate


@with_fields
def import_latents(
    source: Annotated[
        Path,
        options.argument("LATENTS", "A .safetensors or .npy file of latents.", options.parse_place),
    ],
    destination: Annotated[Path, options.argument("OUT.cvl", "The file to write.", options.parse_place)],
    *,
    target: Annotated[
        Literal["raw", "sd21", "svd", "videocrafter2", "sd3"] | None,
        typer.Option("--from", help="Whose scale and order of axes the latents have. Default: what `export` recorded."),
    ] = None,
    weights: options.Weights = None,
    mode: Annotated[
        Literal["video", "image"] | None,
        typer.Option("--mode", help="Latents of one video (25 give 97 frames), or a picture each. Default: by --from."),
    ] = None,
    rate: Annotated[
        Fraction | None,
        typer.Option("--fps", metavar="N", parser=parse_rate, help="Frames per second. Default: as recorded, or 24."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, metavar="N", help="Of the last latent's four frames, keep fewer.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="NAME", help="Which tensor of the file.")] = None,
    clip: Annotated[int, typer.Option("--clip", min=0, metavar="N", help="Which clip of a batch, from 0.")] = 0,
    latents: Annotated[
        Literal["quantised", "fp16", "fp32"] | None,
        typer.Option("--latents", help="What to store. Default: as the exported file, or fp32."),
    ] = None,
    given: Annotated[Given[EncodeOptions], Fields(only=("quality",))],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a .cvl file of latents, so that generated ones decode to video: 25 of SVD to 97 frames, 16 to 61."""
    from cvcodec.checkpoints.registry import load_model
    from cvcodec.dataset.importing import ImportOptions, import_latents

    options.check_cvl_name(destination, "import")
    options.check_quantiser(latents, given)
    quality = given.values.get("quality")
    result = import_latents(
        source,
        destination,
        model=load_model(weights) if weights is not None else None,
        options=ImportOptions(
            target=target,
            mode=mode,
            key=key,
            clip=clip,
            rate=rate,
            frames=frames,
            latents=latents or ("quantised" if quality is not None else None),
            quality=quality,
        ),
        overwrite=overwrite,
    )
    for text in result.notices:
        report.note(text)
    if json:
        report.emit({"command": "import", "source": source, "output": destination, **_record(result)})
    elif not quiet:
        report.say(
            f"{destination}: {result.latents} latents, {result.frames} frames of {result.width}x{result.height}, "
            f"{report.format_size(result.size_bytes)}"
        )


def _record(result: Imported) -> dict[str, Any]:
    return {
        "target": result.target.name,
        "mode": result.mode,
        "model": result.model,
        "latents": result.latents,
        "frames": result.frames,
        "width": result.width,
        "height": result.height,
        "size_bytes": result.size_bytes,
        "notices": list(result.notices),
    }
