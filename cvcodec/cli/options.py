"""What several commands share: the syntax of values, refusals, and options that are fields of no options class."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import VIDEO_SUFFIXES, refuse_address
from cvcodec.remote import is_remote, path_of

if TYPE_CHECKING:
    from cvcodec.cli.fields import Given
    from cvcodec.codec import EncodeOptions

T = TypeVar("T")

_MODEL = "Model"
_REPORT = "Output"


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


def parse_size(text: str) -> str:
    """`512x320`, `short=256` or `area=262144`, as `Size` says it. Raises typer.BadParameter."""
    from cvcodec.video.resize import Size

    return str(_understood(Size.parse, text))


def parse_bucket_area(text: str) -> str:
    """Pixels, or `512x320`, to buckets of about so many, as `Size` says them. Raises typer.BadParameter."""
    from cvcodec.video.resize import Size, bucket_sizes

    return str(bucket_sizes(_understood(Size.parse, f"area={text.strip()}").width))


def parse_fps(text: str) -> str:
    """Frames per second in `8`, `23.976` or `30000/1001`, as a fraction. Raises typer.BadParameter."""
    from cvcodec.video.rate import parse_fps

    return str(_understood(parse_fps, text))


def _understood(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


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
    """What is to be read: a file, an address that fsspec may read, or `-`. Raises typer.BadParameter for one of the web
    (`https://...`), and for one with a password."""
    if is_remote(text):
        return str(parse_place(text))
    try:
        refuse_address(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def parse_file(text: str) -> Path:
    """The path of a file of this machine. Raises typer.BadParameter for an address, which a path would garble."""
    try:
        refuse_address(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    return Path(text)


def parse_place(text: str) -> Path:
    """A path, or an address that fsspec may read. Raises as `parse_source`."""
    try:
        return path_of(text) if is_remote(text) else parse_file(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None


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


def check_quantiser(latents: str | None, given: Given[EncodeOptions]) -> None:
    """UsageError for options of the quantiser where the latents themselves are stored."""
    if latents in ("fp16", "fp32"):
        given.refuse(f"--latents {latents} stores the latents themselves", "quality", "rdo")


def check_cvl_name(destination: str | Path, command: str) -> None:
    """UsageError for an output whose name is that of a video."""
    path = Path(destination)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(f"{command} writes a .cvl file, not {path}; name it {path.stem}.cvl")


def argument(metavar: str, help: str, parser: Callable[[str], Any] | None = None) -> Any:
    """A positional argument of a command, whose help says nothing of a default."""
    return typer.Argument(metavar=metavar, help=help, parser=parser, show_default=False)


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
