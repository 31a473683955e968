"""`cvcodec models`: add, list, show, remove.

Owns: options, tables and JSON lines.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.measure import Measurement
from rich.table import Table

from cvcodec.cli import options, report
from cvcodec.cli.fields import Fields, Given, with_fields
from cvcodec.codec.options import RunOptions
from cvcodec.errors import CvcodecError, UsageError
from cvcodec.fileio import VIDEO_SUFFIXES
from cvcodec.system.printable import printable

if TYPE_CHECKING:
    from cvcodec.checkpoints.checkpoint import Checkpoint, CheckpointSummary
    from cvcodec.checkpoints.foreign import Imported
    from cvcodec.checkpoints.registry import ModelEntry

app = typer.Typer(no_args_is_help=True, help="Add, list, inspect and remove models.")

_PRECISIONS = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}

_Confirmed = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class StoredType(StrEnum):
    """Types that weights can be stored as; without one, the source's."""

    fp16 = "fp16"
    fp32 = "fp32"


@app.command("add")
@with_fields
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A weights file (.safetensors, .ckpt, .pt, .bin), a diffusers-style folder, or "
            "hf://OWNER/REPO/SUBFOLDER, for example hf://AILab-CVC/CV-VAE/vae3d_v1-1 (@REVISION goes after REPO).",
        ),
    ],
    more_clips: Annotated[
        list[Path] | None,
        options.argument("[CLIPS]...", "More clips for --calibrate, so that a shell pattern works."),
    ] = None,
    *,
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", metavar="NAME", help="Keep it under this name.", show_default="the source's"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write this .safetensors file instead of keeping it by name."
        ),
    ] = None,
    dtype: Annotated[
        StoredType | None, typer.Option("--dtype", help="Store the weights as this type.", show_default="the source's")
    ] = None,
    image: Annotated[
        bool, typer.Option("--image", help="Keep a 2D VAE as an image model instead of inflating it to video.")
    ] = False,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="CLIPS...",
            help="Measure the latents' statistics for the quantiser on these video files or folders of them.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A config.json, for weights that have none beside them."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            metavar="TEXT",
            help="Licence to record in the model card.",
            show_default="what the source states",
        ),
    ] = None,
    run: Annotated[Given[RunOptions], Fields(only=("device",))],
    yes: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Import weights: official CV-VAE, SD and SD3 image VAEs (inflated to video), or a file of this program."""
    if name is not None and output is not None:
        raise UsageError("--name and --output exclude each other: keep the model by name, or write it to a file")
    if more_clips and not calibrate:
        raise UsageError(
            f"unexpected argument {str(more_clips[0])!r}; clips go with --calibrate, and only one SOURCE at a time"
        )
    clips = _expand_clips([*(calibrate or ()), *(more_clips or ())])
    name = _check_place(source, name, output, overwrite=yes)
    from cvcodec.checkpoints.foreign import import_model

    imported = import_model(source, image=image, config_file=config, licence=licence)
    for note in imported.notes:
        report.note(note)
    checkpoint = _checkpoint(imported, dtype, clips, run.options().device, output)
    entry, new = _keep(checkpoint, name, output, overwrite=yes)
    if as_json:
        report.emit({**_record(entry, entry.summary()), "added": new, "notes": list(imported.notes)})
        return
    what = f"{entry.name}: {checkpoint.config.family}, {checkpoint.config.latent_channels} latent channels"
    ending = f"in {entry.path}" if new else "was already there; nothing changed"
    report.note(f"{what}, latent space {checkpoint.latent_space_id}, {ending}")


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """Show bundled and added models: size, latent channels, identities, licence."""
    from cvcodec.checkpoints.registry import list_models

    records = []
    for entry in list_models():
        try:
            records.append(_record(entry, entry.summary()))
        except CvcodecError as error:
            records.append(_record(entry, None, problem=str(error)))
    if as_json:
        for record in records:
            report.emit(record)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "family", "channels", "params", "size", "latent space", "decoder", "licence", "from"):
        table.add_column(
            heading, justify="right" if heading in ("channels", "params", "size") else "left", no_wrap=True
        )
    problems = []
    for record in records:
        place = "bundled" if record["bundled"] else "added"
        if record["problem"]:
            problems.append(f"{record['name']}: {record['problem']}")
            table.add_row(
                record["name"], "damaged", "", "", report.format_size(record["size_bytes"]), "", "", "", place
            )
            continue
        table.add_row(
            record["name"],
            record["family"],
            str(record["latent_channels"]),
            f"{record['parameters'] / 1e6:.1f} M",
            f"{report.format_size(record['size_bytes'])} {record['dtype']}",
            record["latent_space_id"],
            record["decoder_hash"],
            record["licence"] or "not stated",
            place,
        )
    console = report.stdout_console()
    if not records:
        console.print("no models; add one with: cvcodec models add SOURCE")
        return
    # Names and hashes are there to be copied: on a narrow terminal a row takes two lines rather than lose letters.
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
    console.print(table)
    for problem in problems:
        report.warn(problem)


@app.command("show")
def show(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model's name or a weights file.")],
    as_json: options.Json = False,
) -> None:
    """Everything about one model: card, architecture, default windows; verifies the file against its identities."""
    from cvcodec.checkpoints.checkpoint import load_checkpoint
    from cvcodec.checkpoints.registry import resolve

    entry = resolve(model)
    checkpoint = load_checkpoint(entry.path)
    record = _record(entry, entry.summary())
    details = {
        **record,
        "card": checkpoint.card,
        "config": checkpoint.config.to_dict(),
        "mean": list(_statistics(checkpoint).mean),
        "std": list(_statistics(checkpoint).std),
        "unit_step": list(_statistics(checkpoint).unit_step),
    }
    if as_json:
        report.emit(details)
        return
    _print_card(entry, record, checkpoint)


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Full name of a model you added, version included.")],
    yes: _Confirmed = False,
    as_json: options.Json = False,
) -> None:
    """Delete an added model from this machine."""
    from cvcodec.checkpoints.registry import removable_model, remove_model

    removable_model(name)  # before anything is asked
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"removing {name!r} deletes its file; confirm with -y")
        typer.confirm(f"Delete the weights of {printable(name)}?", abort=True, err=True)
    path = remove_model(name)
    if as_json:
        report.emit({"name": name, "path": path, "removed": True})
    else:
        report.note(f"removed {path}")


# ---------------------------------------------------------------------------------------------------- details


def _check_place(source: str, name: str | None, output: Path | None, *, overwrite: bool) -> str | None:
    """That a model may be kept there; its name, unless it becomes a file."""
    from cvcodec.checkpoints.foreign_files import suggested_name
    from cvcodec.checkpoints.registry import check_new_name
    from cvcodec.fileio import check_output

    if output is not None:
        check_output(output, overwrite=overwrite, inputs=() if source.startswith("hf://") else (source,))
        return None
    name = name or suggested_name(source)
    check_new_name(name)
    return name


def _checkpoint(
    imported: Imported, dtype: StoredType | None, clips: list[Path], device: str, output: Path | None
) -> Checkpoint:
    """What was imported, as it is to be stored, with statistics of the clips if there are any."""
    import torch

    from cvcodec.checkpoints.checkpoint import make_checkpoint
    from cvcodec.codec.calibration import calibrate
    from cvcodec.system.device import select_device

    checkpoint = make_checkpoint(
        imported.config,
        imported.state_dict,
        statistics=imported.statistics,
        card={**imported.card, **({"name": _name_of(output)} if output is not None else {})},
        dtype={None: None, StoredType.fp16: torch.float16, StoredType.fp32: torch.float32}[dtype],
    )
    if not clips:
        return checkpoint
    report.note(f"measuring the latents of {len(clips)} {'clip' if len(clips) == 1 else 'clips'}")
    return calibrate(checkpoint, clips, device=select_device(device))


def _keep(checkpoint: Checkpoint, name: str | None, output: Path | None, *, overwrite: bool) -> tuple[ModelEntry, bool]:
    """By name, or in a file; and whether it is new."""
    from cvcodec.checkpoints.checkpoint import write_checkpoint
    from cvcodec.checkpoints.registry import ModelEntry, add_model

    if output is not None:
        write_checkpoint(output, checkpoint, overwrite=overwrite)
        return ModelEntry(_name_of(output), output, bundled=False), True
    assert name is not None
    return add_model(name, checkpoint)


def _name_of(file: Path) -> str:
    return file.name.removesuffix(".safetensors")


def _expand_clips(paths: list[Path]) -> list[Path]:
    clips: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.suffix.lower() in VIDEO_SUFFIXES)
            if not inside:
                suffixes = " ".join(sorted(VIDEO_SUFFIXES))
                raise UsageError(f"--calibrate {path}: the folder holds no video files ({suffixes})")
            clips += inside
        elif path.is_file():
            clips.append(path)
        else:
            raise UsageError(f"--calibrate {path}: no such file")
    return clips


def _record(entry: ModelEntry, summary: CheckpointSummary | None, problem: str | None = None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": entry.name,
        "bundled": entry.bundled,
        "path": str(entry.path),
        "problem": problem,
        "size_bytes": entry.path.stat().st_size,
    }
    if summary is None:
        return record
    return {
        **record,
        "family": summary.config.family,
        "latent_channels": summary.config.latent_channels,
        "parameters": summary.encoder_parameters + summary.decoder_parameters,
        "encoder_parameters": summary.encoder_parameters,
        "decoder_parameters": summary.decoder_parameters,
        "dtype": "+".join(_PRECISIONS[dtype] for dtype in summary.dtypes),
        "latent_space_id": summary.latent_space_id,
        "decoder_hash": summary.decoder_hash,
        "statistics": "measured" if summary.statistics is not None else "published",
        "licence": summary.card.get("licence"),
    }


def _statistics(checkpoint: Checkpoint) -> Any:
    from cvcodec.checkpoints.checkpoint import default_statistics

    return checkpoint.statistics or default_statistics(checkpoint.config)


def _print_card(entry: ModelEntry, record: dict[str, Any], checkpoint: Checkpoint) -> None:
    config, card = checkpoint.config, checkpoint.card
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows: list[tuple[str, object]] = [
        ("name", entry.name),
        ("file", f"{entry.path} ({report.format_size(record['size_bytes'])}, {record['dtype']})"),
        ("description", card.get("description")),
        ("licence", card.get("licence")),
        ("source", card.get("source")),
        ("data", card.get("data")),
        *((f"quality: {key}", value) for key, value in _items(card.get("quality"))),
        *(
            (key.replace("_", " "), value)
            for key, value in card.items()
            if key not in ("name", "description", "licence", "source", "data", "quality")
        ),
        ("family", f"{config.family}, {'2D+3D' if config.half_3d else 'all-3D'}" if config.is_video else config.family),
        ("widths", "-".join(map(str, config.widths))),
        (
            "latent",
            f"{config.latent_channels} channels, one per {config.temporal_factor if config.is_video else 1}"
            f"x{config.spatial_factor}x{config.spatial_factor} (frames x pixels)",
        ),
        (
            "parameters",
            f"encoder {record['encoder_parameters'] / 1e6:.2f} M, decoder {record['decoder_parameters'] / 1e6:.2f} M",
        ),
        ("scale, shift", f"{config.scaling_factor:g}, {config.shift_factor:g}"),
        ("windows", _windows(checkpoint)),
        (
            "statistics",
            "measured" if checkpoint.statistics else "from the published scale and shift; measure with --calibrate",
        ),
        ("latent space", f"{checkpoint.latent_space_id} (verified)"),
        ("decoder", f"{checkpoint.decoder_hash} (verified)"),
    ]
    for label, value in rows:
        table.add_row(label, "not stated" if value in (None, "") else str(value))
    report.stdout_console().print(table)


def _windows(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    if config.uses_official_windows:
        return f"official: {config.official_chunk_frames} frames, tiles of {config.official_tile_pixels} pixels"
    context = f"context {config.encode_context} to encode, {config.decode_context} to decode"
    return f"{config.window_latents} latents, {context}"


def _items(value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [(str(key), item) for key, item in value.items()]
    return [("measured", value)] if value else []
