"""`cvcodec export`: .cvl files to safetensors, .npy and shards. Owns its options; the work is `dataset.exporting`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.cli.fields import Given, with_fields
from cvcodec.errors import InputError
from cvcodec.options import option

if TYPE_CHECKING:
    from cvcodec.dataset.exporting import Exported

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_size(text: str | int) -> int:
    """`500M`, `1G`: bytes, in powers of ten. Raises typer.BadParameter."""
    match = re.fullmatch(r"(\d{1,12})\s*([kmgt]?)b?", str(text).strip().lower())  # typer parses defaults too
    if not match or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is not a size; wanted bytes, such as 500M or 1G")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """For whom, and in which form."""

    target: Literal["raw", "sd21", "svd", "videocrafter2", "sd3"] = option(
        "raw",
        "Scale, shift and order of axes that a model wants; refused for other VAEs' latents.",
        flags=("--for",),
    )
    format: Literal["safetensors", "npy", "webdataset"] | None = option(
        None, "Default: by the name of OUT; webdataset (tar shards) for a folder, others give a file for each clip."
    )
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto", "bf16: safetensors only. auto: fp16 for unscaled latents of a file that keeps fp16, else fp32."
    )
    shard_size: int = option(
        10**9,
        "Shards: at most so large, such as 500M. Default: 1G.",
        metavar="SIZE",
        syntax=parse_size,
        shown=False,
    )
    seed: int = option(0, "Shards: of the random order of clips. Default: 0.", least=0, shown=False)
    shuffle: bool = option(
        True,
        "Shards: clips in random order (the default), or by path.",
        flags=("--shuffle/--no-shuffle",),
        shown=False,
    )


@with_fields
def export(
    source: Annotated[
        Path,
        options.argument("FILE.cvl|DIR", "A .cvl file, or a folder of them or its index.", options.parse_place),
    ],
    destination: Annotated[
        Path,
        options.argument("OUT", "A .safetensors or .npy file; of a folder a folder.", options.parse_place),
    ],
    *,
    given: Given[ExportOptions],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export latents to safetensors, .npy or WebDataset shards, scaled and ordered for a diffusion model."""
    from cvcodec.dataset.exporting import export as run_export
    from cvcodec.dataset.exporting import format_of, is_folder

    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    chosen, many = given.options(), is_folder(source)
    kind = chosen.format or format_of(destination, is_folder=many)
    if kind != "webdataset":
        given.refuse(f"--format {kind} writes a file for each clip, no shards", "shard_size", "seed", "shuffle")
    elif not chosen.shuffle:
        given.refuse("--no-shuffle takes the clips by path", "seed")
    with report.progress("export", quiet=quiet, unit="clips/s") as meter:
        result = run_export(
            source,
            destination,
            target=chosen.target,
            format=kind,
            dtype=chosen.dtype,
            shard_bytes=chosen.shard_size,
            shuffle=chosen.seed if chosen.shuffle else None,
            overwrite=overwrite,
            on_clip=lambda done, total: meter(done, None, total),
        )
    for text in result.notices:
        report.note(text)
    if json:
        made = {"command": "export", "source": source, "output": destination, "format": kind, "target": chosen.target}
        report.emit({**made, **_record(result, sharded=kind == "webdataset")})
    elif not quiet:
        what = (
            f"{_count(result.clips, 'clip')} in {_count(result.files, 'shard' if kind == 'webdataset' else 'file')}"
            if many
            else f"latents {result.shape}"
        )
        report.say(f"{destination}: {what}, for {result.target.name}, {report.format_size(result.size_bytes)}")


def _record(result: Exported, *, sharded: bool) -> dict[str, Any]:
    return {
        "layout": result.target.clip_layout if sharded else result.target.layout,
        "scaling_factor": result.target.scaling_factor,
        "shift_factor": result.target.shift_factor,
        "shape": list(result.shape) or None,
        "clips": result.clips,
        "files": result.files,
        "size_bytes": result.size_bytes,
        "notices": list(result.notices),
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
