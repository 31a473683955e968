"""`cvcodec info`: what a .cvl file says of itself. Owns its table and JSON; verification is the bitstream reader's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cvcodec.cli import options, report

if TYPE_CHECKING:
    from cvcodec.bitstream import BitstreamReader, Header, Trailer


def info(
    source: Annotated[
        Path,
        options.argument("FILE.cvl", "The file.", options.parse_place),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Read everything as decode does, up to the latents; no model needed.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show what a .cvl file holds: model, quality, size, times, colours, streams, bytes."""
    from cvcodec.bitstream import BitstreamReader
    from cvcodec.fileio import naming_damage, open_input

    with open_input(source) as file, naming_damage(source):
        if check:
            from cvcodec.codec.input import verify

            reader, trailer = verify(file)
        else:
            reader = BitstreamReader(file)
            trailer = reader.trailer or _read_through(reader)
        seconds = 0.0
        if reader.seekable:
            seconds = float(reader.duration())
        record = describe(reader.header, trailer, duration_s=seconds or None)
    record = {"command": "info", "source": str(source), **record, "checked": check}
    if json:
        report.emit(record)
    else:
        _print(record)


def _read_through(reader: BitstreamReader) -> Trailer:
    """The totals of a pipe, which are known when everything has been read."""
    from cvcodec.passthrough.records import COPIED_TYPES

    for _ in reader.records(COPIED_TYPES):
        pass
    assert reader.trailer is not None
    return reader.trailer


def describe(header: Header, trailer: Trailer, *, duration_s: float | None) -> dict[str, Any]:
    """Everything `info --json` prints of a file, units in the keys."""
    from cvcodec.bitstream.format import FOOTER_BYTES, RECORD_OVERHEAD, VERSION
    from cvcodec.passthrough.records import copied_bytes

    stored = sum(total.size for total in trailer.records.values())
    copied = copied_bytes(trailer)
    pixels = header.width * header.height * trailer.frames
    return {
        "format_version": VERSION,
        "tool": header.tool,
        "model": header.model,
        "latent_space_id": header.latent_space_id,
        "decoder_hash": header.decoder_hash,
        "latents": header.latents,
        "latent_kind": header.latent_kind,
        "quality": header.quality,
        "latent_shape": [header.latent_channels, trailer.latents, *header.latent_size],
        "enhancement_channels": header.enhancement_channels,
        "frames": trailer.frames,
        "width": header.width,
        "height": header.height,
        "bit_depth": header.bit_depth,
        "duration_s": duration_s,
        "time_base": str(header.time_base),
        "average_rate_fps": None if header.average_rate is None else str(header.average_rate),
        "sample_aspect_ratio": str(header.sample_aspect_ratio),
        "rotation_degrees": header.rotation,
        "color": {
            "matrix": header.color.matrix,
            "range": header.color.range,
            "primaries": header.color.primaries,
            "transfer": header.color.transfer,
            "guessed": header.color.guessed,
        },
        "windows": header.windows,
        "window_latents": header.encode_window.kept if header.encode_window else None,
        "tile_latents": header.encode_tile.size if header.encode_tile else None,
        "chunks": len(trailer.index),
        "records": {kind: {"count": total.count, "bytes": total.size} for kind, total in trailer.records.items()},
        "chunk_bytes": trailer.chunk_bytes,
        "copied_bytes": copied,
        "stored_bytes_before_trailer": stored,
        "bpp_of_chunks": 8 * trailer.chunk_bytes / pixels,
        "metadata": dict(header.metadata),
        "overhead_bytes_per_record": RECORD_OVERHEAD,
        "footer_bytes": FOOTER_BYTES,
    }


def _print(record: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    channels, count, rows, columns = record["latent_shape"]
    color = record["color"]
    quality = f", quality {record['quality']:g}" if record["quality"] is not None else ""
    above = f", and {record['enhancement_channels']} of an enhancement layer" if record["enhancement_channels"] else ""
    duration = f", {record['duration_s']:.3f} s" if record["duration_s"] else ""
    colours = [color["matrix"], color["range"], color["primaries"] or "-", color["transfer"] or "-"]
    lines = [
        ("file", f"{record['source']}: format {record['format_version']}, written by {record['tool']}"),
        ("model", f"{record['model']} (latent space {record['latent_space_id']}, decoder {record['decoder_hash']})"),
        ("latents", f"{record['latents']}{quality}: {channels} x {count} x {rows} x {columns}{above}"),
        (
            "video",
            f"{record['frames']} frames of {record['width']}x{record['height']}, {record['bit_depth']} bits{duration}",
        ),
        ("rate", f"{record['average_rate_fps'] or '-'} frames/s, time base {record['time_base']} s"),
        ("colour", "/".join(colours) + (" (guessed)" if color["guessed"] else "")),
        (
            "windows",
            f"{record['windows']}: {record['window_latents'] or '-'} latents, tiles of {record['tile_latents'] or '-'}",
        ),
        (
            "chunks",
            f"{record['chunks']}, {report.format_size(record['chunk_bytes'])}, {record['bpp_of_chunks']:.4f} bpp",
        ),
    ]
    if record["sample_aspect_ratio"] != "1":
        lines.append(("pixels", f"aspect ratio {record['sample_aspect_ratio']}"))
    if record["rotation_degrees"]:
        lines.append(("rotation", f"{record['rotation_degrees']} degrees"))
    if isinstance(reading := record["metadata"].get("source_reader"), dict):
        read = "read with " + ", ".join(f"{name} {value}" for name, value in reading.items())
        if isinstance(was := record["metadata"].get("source_video"), dict):
            rate = f" at {was['average_rate_fps']} frames/s" if was.get("average_rate_fps") else ""
            read = f"{was.get('width')}x{was.get('height')}{rate}, {read}"
        lines.append(("source", read))
    if isinstance(clip := record["metadata"].get("clip"), dict):
        lines.append(("clip", f"cut from a longer source, from its frame {clip.get('first_frame')} on"))
    if record["copied_bytes"]:
        lines.append(("copied streams", report.format_size(record["copied_bytes"])))
    if record["checked"]:
        lines.append(("check", "every record intact, every chunk decodes"))
    for name, text in lines:
        table.add_row(name, text)
    report.stdout_console().print(table)
