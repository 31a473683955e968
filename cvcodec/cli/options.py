"""The options that several commands share: one name, one help text and one parser each.

Owns: their spelling and syntax. Does not know: what they do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import refuse_address
from cvcodec.suffixes import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from cvcodec.model.base import VideoAutoencoder

MOST_THREADS = 1024
"""Of `--threads`: thousands more end in an operating system that starts none."""

_MODEL = "Model"
_HARDWARE = "Hardware"
_REPORT = "Output"
_STREAMS = "Sound and the rest"

AUTO: Literal["auto"] = "auto"
"""Default of `--device` and `--precision`."""


def parse_time(text: str) -> float:
    """Seconds in `12.5`, `90s`, `1:30` or `1:02:03.5`, no more than `MOST_SECONDS`. Raises typer.BadParameter."""
    from cvcodec.video.reader import MOST_SECONDS

    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)s?", text.strip())
    if not match or (match[2] is not None and float(match[3]) >= 60) or (match[1] is not None and int(match[2]) >= 60):
        raise typer.BadParameter(
            f"{text!r} is not a time; wanted seconds (12.5) or [hours:]minutes:seconds (1:02:03.5)"
        )
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total > MOST_SECONDS:
        raise typer.BadParameter(f"{text[:40]!r} is too long a time; wanted at most {MOST_SECONDS} seconds")
    return total


def parse_quality(text: str) -> float:
    """A number in [0, 100]. Raises typer.BadParameter."""
    try:
        quality = float(text)
    except ValueError:
        quality = math.nan
    if not 0 <= quality <= 100:
        raise typer.BadParameter(f"{text!r} is not a quality; wanted a number from 0 to 100")
    return quality


def parse_weights(text: str) -> str:
    """Any name but an empty one, of a variable that is not set. Raises typer.BadParameter."""
    if not text.strip():
        raise typer.BadParameter(f"{text!r} names no model; wanted a name of `cvcodec models list`, or a file")
    return text


def parse_source(text: str) -> str:
    """What is to be read: a file, or `-`. Raises typer.BadParameter for an address (`https://...`)."""
    try:
        refuse_address(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def parse_file(text: str) -> Path:
    """The path of a file to be read. Raises as `parse_source`: a path would garble an address."""
    return Path(parse_source(text))


def parse_latents(text: str) -> int | None:
    """A whole number of latents, at least 1, or None for `auto`. Raises typer.BadParameter."""
    if text.strip().lower() == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", text.strip()) or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is not a number of latents; wanted auto or a whole number from 1")
    return int(text)


def parse_tile(text: str) -> int | None:
    """As `parse_latents`, and 0 for `none`: no tiles. Raises typer.BadParameter."""
    return 0 if text.strip().lower() in ("none", "0") else parse_latents(text)


def refuse(given: Mapping[str, bool], why: str) -> None:
    """UsageError for the options that were given and would change nothing."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"{why}: leave out {', '.join(names)}")


def check_quantiser(latents: str | None, *, quality: float | None, rdo: str | None = None) -> None:
    """UsageError for options of the quantiser where the latents themselves are stored."""
    if latents in ("fp16", "fp32"):
        given = {"--quality": quality is not None, "--rdo": rdo is not None}
        refuse(given, f"--latents {latents} stores the latents themselves")


def check_layers(layers: str, model: VideoAutoencoder) -> None:
    """UsageError for all layers of a model that has one."""
    if layers == "all" and not model.config.enhancement_channels:
        raise UsageError(f"{model.name} has one layer: leave out --layers all, or choose a model with two")


def check_cvl_name(destination: str | Path, command: str) -> None:
    """UsageError for an output whose name is that of a video."""
    path = Path(destination)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(f"{command} writes a .cvl file, not {path}; name it {path.stem}.cvl")


Layers = Annotated[
    Literal["auto", "base", "all"],
    typer.Option(
        "--layers",
        help="Layers of a latent to store, where the model has two. base: what 2D decoders and diffusion models read. "
        "auto: both, but base alone where the quality leaves nothing of the other, and with --latents fp16 and fp32.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="NAME|FILE",
        parser=parse_weights,
        help="A model by name (see `cvcodec models list`) or a .safetensors file.",
        rich_help_panel=_MODEL,
    ),
]
Quality = Annotated[
    float | None,
    typer.Option(
        "--quality",
        "-q",
        metavar="0..100",
        parser=parse_quality,
        help="Precision of the stored latents; 10 more halve the quantiser's steps.",
        rich_help_panel=_MODEL,
    ),
]
Rdo = Annotated[
    Literal["none", "time", "all"] | None,
    typer.Option(
        "--rdo",
        help="Choose symbols by cost and loss where the latent before predicts them (time, the default), everywhere "
        "(all: best PSNR, less texture), or take the nearest ones.",
        rich_help_panel=_MODEL,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="auto|N",
        parser=parse_latents,
        help="Latents kept per temporal window (a latent is 4 frames). auto: the model's, smaller if memory is short.",
        rich_help_panel=_MODEL,
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        metavar="auto|none|N",
        parser=parse_tile,
        help="Side of a spatial tile in latents (a latent is 8 pixels), overlap included; none: whole frames.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:N]|mps",
        help="Where the model runs. auto: CUDA if there is one, else the CPU.",
        rich_help_panel=_HARDWARE,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(
        "--precision",
        help="Arithmetic of the model. auto: bf16 where the hardware multiplies it natively, else fp32.",
        rich_help_panel=_HARDWARE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_THREADS,
        metavar="N",
        help="CPU threads of the model. Default: the processors this process may use.",
        rich_help_panel=_HARDWARE,
    ),
]
Start = Annotated[
    float | None,
    typer.Option("--start", metavar="TIME", parser=parse_time, help="Begin here, in seconds or hours:minutes:seconds."),
]
End = Annotated[
    float | None,
    typer.Option(
        "--end", metavar="TIME", parser=parse_time, help="Stop before here, in seconds or hours:minutes:seconds."
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Overwrite the output if it exists.", rich_help_panel=_REPORT),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object a line on standard output (standard error if that carries data).",
        rich_help_panel=_REPORT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="No progress bar.", rich_help_panel=_REPORT),
]
Audio = Annotated[
    bool,
    typer.Option(
        "--audio/--no-audio",
        help="Copy sound, subtitles and attachments, packet by packet; or leave them out.",
        rich_help_panel=_STREAMS,
    ),
]
Metadata = Annotated[
    bool,
    typer.Option(
        "--metadata/--no-metadata",
        help="Copy chapters and tags; or only languages, dispositions and the names of attachments.",
        rich_help_panel=_STREAMS,
    ),
]
