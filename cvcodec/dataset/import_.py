"""Latents that were exported, edited or generated -> .cvl, so that everything that reads .cvl can decode them.

Owns: reading latents and what is recorded with them, and the header of a video that never was one.
Does not know: models' insides, what targets want (`targets`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec import tiling
from cvcodec.bitstream import UNKNOWN, BitstreamWriter, Chunk, Header
from cvcodec.bitstream.header_json import load_header
from cvcodec.codec.headers import DEFAULT_QUALITY, LatentsKind, make_header
from cvcodec.data.index import BATCH_KEY
from cvcodec.dataset.export_ import EXPORT_KEY, HEADER_KEY
from cvcodec.dataset.targets import TARGETS, Mode, Target, TargetName
from cvcodec.errors import BitstreamError, InputError, NumericalError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.model.base import VideoAutoencoder
from cvcodec.plan import Plan
from cvcodec.tiling import TileSpec, WindowSpec
from cvcodec.video import Color, VideoInfo

_NAMES = ("latents", "latent", "samples", "z")
_DEFAULT_RATE = Fraction(24)


@dataclass(frozen=True)
class Stored:
    """A file of latents, read."""

    latents: NDArray[Any]
    export: Mapping[str, Any] | None
    """What `cvcodec export` recorded; None for latents of other origin."""
    header: Header | None
    times: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    frames: int
    latents: int
    width: int
    height: int
    mode: Mode
    target: Target
    size_bytes: int
    model: str


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to read latents; None everywhere: as `cvcodec export` recorded it."""

    target: TargetName | None = None
    """Scale and order of the latents; needed where nothing is recorded."""
    mode: Mode | None = None
    """`video`: latents of one video. `image`: each latent is a picture. None: as recorded, or as usual."""
    key: str | None = None
    """Name of the tensor, where a file has several."""
    clip: int = 0
    """Which clip of a batch."""
    rate: Fraction | None = None
    """Frames per second of the video. None: as recorded, or 24."""
    frames: int | None = None
    """Keep so many frames. None: as recorded, or all that the latents stand for."""
    latents: LatentsKind | None = None
    """What to store. None: what the exported file stored, or fp32."""
    quality: float | None = None


def import_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: VideoAutoencoder | None = None,
    options: ImportOptions | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write a .safetensors or .npy file of latents as a .cvl file.

    model: whose latents these are; None only for files of `cvcodec export`, which say so themselves. Raises InputError,
    OutputError, UsageError, NumericalError, and ModelMismatchError where the model's latent space is not the target's.
    """
    options = options or ImportOptions()
    stored = read_latents(source, key=options.key)
    target = _target(stored, options, os.fspath(source))
    clips = target.take_apart(stored.latents)
    if not 0 <= options.clip < len(clips):
        raise UsageError(
            f"clip {options.clip} is not in {os.fspath(source)}, it has {len(clips)} (0 to {len(clips) - 1})"
        )
    latent = clips[options.clip]
    mode = options.mode or (stored.export or {}).get("mode") or target.mode
    header = _header(stored, latent, target, mode, model, options)
    chunks = _chunks(stored, latent, header, options)
    with atomic_output(output, overwrite=overwrite, inputs=[source]) as sink:
        with BitstreamWriter(sink, header) as writer:
            for chunk in chunks:
                writer.write_chunk(chunk)
        size, frames = writer.bytes_written, writer.frames
    return Imported(frames, latent.shape[1], header.width, header.height, mode, target, size, header.model)


def read_latents(source: str | os.PathLike[str], *, key: str | None = None) -> Stored:
    """The latents of a .safetensors or .npy file, in any float type, and what is recorded.

    key: name of the tensor, where a .safetensors file has several. Raises InputError; UsageError for a key in a .npy
    file, which has none.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a file" if path.is_dir() else f"{path}: no such file")
    is_npy = path.suffix.lower() == ".npy"
    if is_npy and key is not None:
        raise UsageError(f"{path}: a .npy file holds one array; leave out --key")
    try:
        if is_npy:
            latents, record, times = _read_npy(path)
        else:
            latents, record, times = _read_safetensors(path, key)
        header = load_header(record[HEADER_KEY].encode()) if HEADER_KEY in record else None
        export = json.loads(record[EXPORT_KEY]) if EXPORT_KEY in record else None
    except (ValueError, OSError, KeyError, BitstreamError) as error:
        raise InputError(f"{path} cannot be read as latents: {error}") from error
    if latents.dtype.kind != "f":
        raise InputError(f"{path} holds {latents.dtype}, latents are floats")
    return Stored(latents, export, header, times)


def _read_npy(path: Path) -> tuple[NDArray[Any], dict[str, str], dict[str, NDArray[np.int64]]]:
    latents: NDArray[Any] = np.load(path, allow_pickle=False)
    sidecar = Path(f"{path}.json")
    if not sidecar.is_file():
        return latents, {}, {}
    beside = json.loads(sidecar.read_text(encoding="utf-8"))
    times = {name: np.array(beside[name], np.int64) for name in ("pts", "durations", "flags")}
    return latents, {name: json.dumps(beside[name]) for name in (EXPORT_KEY, HEADER_KEY)}, times


def _read_safetensors(path: Path, key: str | None) -> tuple[NDArray[Any], dict[str, str], dict[str, NDArray[np.int64]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # torch, since numpy has no bfloat16
            names = list(file.keys())
            name = key or next((name for name in _NAMES if name in names), names[0] if len(names) == 1 else "")
            if name not in names:
                raise InputError(f"{path} has no tensor {name!r}; name one of {', '.join(names)} with --key")
            tensor = file.get_tensor(name)
            latents: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
            times = {
                part: file.get_tensor(part).numpy().astype(np.int64)
                for part in ("pts", "durations", "flags")
                if part in names
            }
            return latents, dict(file.metadata() or {}), times
    except SafetensorError as error:
        raise ValueError(f"no safetensors file: {error}") from error


def _target(stored: Stored, options: ImportOptions, what: str) -> Target:
    recorded = (stored.export or {}).get("target")
    name = options.target or recorded
    if name is None:
        raise UsageError(f"{what} does not say what its latents are; use --from {'|'.join(TARGETS)}")
    if name not in TARGETS:
        raise InputError(f"{what} was exported for {name!r}, which this release does not know")
    if recorded is not None and name != recorded:
        raise UsageError(f"{what} was exported for {recorded}, not for {name}; leave out --from")
    return TARGETS[name]


def _header(
    stored: Stored,
    latent: NDArray[np.float32],
    target: Target,
    mode: Mode,
    model: VideoAutoencoder | None,
    options: ImportOptions,
) -> Header:
    channels, _, rows, columns = latent.shape
    if stored.header is not None and model is None and mode == (stored.export or {}).get("mode"):
        metadata = {name: value for name, value in stored.header.metadata.items() if name != BATCH_KEY}
        header = stored.header.replace(logvar=False, metadata=metadata)
        if options.rate is not None:
            header = header.replace(time_base=1 / options.rate, average_rate=options.rate)
        if header.latent_channels != channels or header.latent_size != (rows, columns):
            raise InputError(
                f"the latents are {latent.shape}, the header recorded with them wants {header.chunk_shape(1)}"
            )
        kind = options.latents or header.latents
        if kind == header.latents and options.quality is None:
            return header
        if kind == "quantised":
            raise UsageError("other quantiser steps want the model's statistics; name the model with --weights")
        return header.replace(latents=kind, quality=None, steps=(), offsets=())
    if model is None:
        unsaid = (
            "these latents do not say which model decodes them"
            if stored.header is None
            else f"these latents were exported as another mode than {mode}, which wants the model itself"
        )
        raise UsageError(f"{unsaid}; name it with --weights")
    config = model.config
    if channels != config.latent_channels:
        raise UsageError(f"the latents have {channels} channels, {model.name} has {config.latent_channels}")
    target.check(
        channels=config.latent_channels,
        scaling_factor=config.scaling_factor,
        shift_factor=config.shift_factor,
        what=f"model {model.name}",
    )
    recorded = stored.header
    width, height = columns * config.spatial_factor, rows * config.spatial_factor
    if recorded is not None and recorded.latent_size == (rows, columns):
        width, height = recorded.width, recorded.height
    rate = options.rate or (recorded.average_rate if recorded is not None else None) or _DEFAULT_RATE
    info = VideoInfo(
        width=width,
        height=height,
        time_base=1 / rate,
        average_rate=rate,
        color=Color("bt709", "limited", guessed=True),
    )
    plan = Plan.choose(config, height=height, width=width)
    if mode == "image" and config.is_video:
        plan = image_plan(plan, model)
    return make_header(
        info,
        model,
        plan,
        latents=options.latents or "fp32",
        quality=DEFAULT_QUALITY if options.quality is None else options.quality,
    )


def image_plan(plan: Plan, model: VideoAutoencoder) -> Plan:
    """Every latent a picture of its own: a video model decodes a single latent to a single frame."""
    config = model.config
    tile = TileSpec(config.tile_latents, config.tile_context, config.tile_blend) if config.tile_latents else None
    alone = WindowSpec(1)
    return Plan(1, plan.spatial_factor, encode_window=alone, decode_window=alone, encode_tile=tile, decode_tile=tile)


def _chunks(stored: Stored, latent: NDArray[np.float32], header: Header, options: ImportOptions) -> list[Chunk]:
    """The latents in chunks as long as they were, or as the model's windows are, with times."""
    latents = latent.shape[1]
    most = tiling.frame_count(latents, header.temporal_factor)
    fewest = most - header.temporal_factor + 1 if latents > 1 else 1
    own = header.time_base == (stored.header.time_base if stored.header is not None else None)
    recorded = len(stored.times.get("pts", ())) if own and options.rate is None else 0
    frames = options.frames or recorded or int((stored.export or {}).get("frames", most))
    if not fewest <= frames <= most:
        raise UsageError(
            f"{latents} latents stand for {fewest} to {most} frames, not for {frames}; cut the latents first"
        )
    times = stored.times if recorded >= frames else _even_times(frames, header)
    lengths = _lengths((stored.export or {}).get("chunks"), latents, header)
    values = _stored_values(latent, header)
    chunks: list[Chunk] = []
    first = 0
    for index, length in enumerate(lengths):
        begin, end = tiling.frames_of_latents(first, first + length, header.temporal_factor)
        end = min(end, frames)
        chunks.append(
            Chunk(
                index=index,
                first_latent=first,
                latent_count=length,
                first_frame=begin,
                pts=times["pts"][begin:end],
                durations=times["durations"][begin:end],
                flags=times["flags"][begin:end].astype(np.uint8),
                symbols=values[:, first : first + length],
            )
        )
        first += length
    return chunks


def _even_times(frames: int, header: Header) -> dict[str, NDArray[np.int64]]:
    rate = header.average_rate or 1 / header.time_base
    step = 1 / rate / header.time_base
    pts = np.array([round(number * step) for number in range(frames)], np.int64)
    durations = np.full(frames, round(step) if step.denominator == 1 else UNKNOWN, np.int64)
    return {"pts": pts, "durations": durations, "flags": np.zeros(frames, np.int64)}


def _lengths(recorded: Any, latents: int, header: Header) -> list[int]:
    """How many latents each chunk has."""
    if (
        isinstance(recorded, list)
        and recorded
        and all(type(n) is int and n > 0 for n in recorded)
        and sum(recorded) == latents
    ):
        return recorded
    if header.encode_window is not None and header.temporal_factor > 1:
        kept = header.encode_window.kept
    elif header.official is not None and header.official.chunk_frames is not None:
        kept = header.official.chunk_frames // header.temporal_factor
    else:
        kept = 16
    return [min(kept, latents - start) for start in range(0, latents, kept)]


def _stored_values(latent: NDArray[np.float32], header: Header) -> NDArray[Any]:
    if header.quantizer is not None:
        try:
            return header.quantizer.quantize(latent)
        except ValueError as error:
            raise NumericalError(str(error)) from error
    values = latent.astype(header.latent_dtype)
    if not np.isfinite(values).all():
        raise NumericalError(f"a latent of {np.abs(latent).max():g} does not fit {header.latents}; use --latents fp32")
    return values
