"""`cvcodec export`: .cvl files to safetensors, .npy and shards. Owns its options; the work is `dataset.export_`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from cvcodec.cli import options, report
from cvcodec.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_size(text: str | int) -> int:
    """`500M`, `1G`: bytes, in powers of ten. Raises typer.BadParameter."""
    match = re.fullmatch(r"(\d{1,12})\s*([kmgt]?)b?", str(text).strip().lower())  # typer parses defaults too
    if not match or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is not a size; wanted bytes, such as 500M or 1G")
    return int(match[1]) * _UNITS[match[2]]


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.cvl|DIR",
            parser=options.parse_file,
            help="A .cvl file; for shards a folder or its index.",
            show_default=False,
        ),
    ],
    destination: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A .safetensors or .npy file; for shards a folder.", show_default=False),
    ],
    target: Annotated[
        Literal["raw", "sd21", "svd", "videocrafter2", "sd3"],
        typer.Option(
            "--for", help="Scale, shift and order of axes that a model wants; refused for other VAEs' latents."
        ),
    ] = "raw",
    kind: Annotated[
        Literal["safetensors", "npy", "webdataset"] | None,
        typer.Option("--format", help="Default: by the name of OUT; webdataset for a folder."),
    ] = None,
    dtype: Annotated[
        Literal["auto", "fp32", "fp16"],
        typer.Option("--dtype", help="auto: fp16 for unscaled latents of a file that keeps fp16, else fp32."),
    ] = "auto",
    shard_size: Annotated[
        int | None,
        typer.Option(
            "--shard-size",
            metavar="SIZE",
            parser=parse_size,
            help="Shards: at most so large, such as 500M. Default: 1G.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Shards: of the random order of clips. Default: 0.")
    ] = None,
    shuffle: Annotated[
        bool | None,
        typer.Option("--shuffle/--no-shuffle", help="Shards: clips in random order (the default), or by path."),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export latents to safetensors, .npy or WebDataset shards, scaled and ordered for a diffusion model."""
    from cvcodec.dataset.export_ import export_file, export_shards, format_of

    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    chosen = kind or format_of(destination, is_folder=source.is_dir() or source.suffix == ".jsonl")
    if chosen != "webdataset":
        given = {"--shard-size": shard_size is not None, "--seed": seed is not None}
        given[f"--{'' if shuffle else 'no-'}shuffle"] = shuffle is not None
        options.refuse(given, f"--format {chosen} writes one file, no shards")
    elif shuffle is False:
        options.refuse({"--seed": seed is not None}, "--no-shuffle takes the clips by path")
    with report.progress("export", quiet=quiet) as meter:
        if chosen == "webdataset":
            result = export_shards(
                source,
                destination,
                target=target,
                dtype=dtype,
                shard_bytes=10**9 if shard_size is None else shard_size,
                shuffle=None if shuffle is False else seed or 0,
                overwrite=overwrite,
                on_clip=lambda done, total: meter(done, None, total),
            )
        else:
            result = export_file(source, destination, target=target, kind=chosen, dtype=dtype, overwrite=overwrite)
    for text in result.notices:
        report.note(text)
    if json:
        report.emit(
            {
                "command": "export",
                "source": source,
                "output": destination,
                "format": chosen,
                "target": target,
                "layout": result.target.clip_layout if chosen == "webdataset" else result.target.layout,
                "scaling_factor": result.target.scaling_factor,
                "shift_factor": result.target.shift_factor,
                "shape": list(result.shape) or None,
                "clips": result.clips,
                "files": result.files,
                "size_bytes": result.size_bytes,
                "notices": list(result.notices),
            }
        )
    elif not quiet:
        what = (
            f"{_count(result.clips, 'clip')} in {_count(result.files, 'shard')}"
            if chosen == "webdataset"
            else f"latents {result.shape}"
        )
        report.say(f"{destination}: {what}, for {result.target.name}, {report.format_size(result.size_bytes)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
