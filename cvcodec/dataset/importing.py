"""Latents that were exported, edited or generated -> .cvl, so that everything that reads .cvl can decode them.

Owns: what of a stored header stays, and the header of a video that never was one. Does not know: models' insides, what
targets want (`targets`), how latents are read (`exchange`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import UNKNOWN, BitstreamWriter, Chunk, Header
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec.headers import choose_plan, info_from_header, make_header, make_quantizer
from cvcodec.codec.options import DEFAULT_QUALITY, LatentsKind
from cvcodec.dataset.exchange import Stored, latents_in_memory, read_latents
from cvcodec.dataset.index import BATCH_KEY
from cvcodec.dataset.targets import TARGETS, Mode, Target, TargetName
from cvcodec.errors import InputError, ModelMismatchError, NumericalError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.video import Color, VideoInfo
from cvcodec.windows.plan import ContextPlan, Plan
from cvcodec.windows.specs import Tile, Window
from cvcodec.windows.time import frame_count, frames_of_latents

StrPath = str | os.PathLike[str]

_DEFAULT_RATE = Fraction(24)


@dataclass(frozen=True)
class Imported:
    """The file that an import made: its extent, and what the latents were taken for."""

    frames: int
    latents: int
    width: int
    height: int
    mode: Mode
    target: Target
    size_bytes: int
    model: str
    notices: tuple[str, ...] = ()
    """What a person should be told."""


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


def import_latents(
    source: StrPath | NDArray[Any] | Tensor,
    output: StrPath,
    *,
    target: TargetName | None = None,
    model: VideoAutoencoder | StrPath | None = None,
    options: ImportOptions | None = None,
    overwrite: bool = False,
) -> Imported:
    """Write latents as a .cvl file, which decodes to a video.

    source: a .safetensors or .npy file, or the latents themselves: floats of any type, finite, in the order of axes of
        `target`, such as (B, T, C, h, w) for `svd`.
    target: whose scale and order of axes they have; None: as `options` say, or as an exported file does itself.
    model: whose latents these are: a loaded model, a name or a weights file; None only for files of `cvcodec export`,
        which say so themselves.
    Raises InputError, OutputError, UsageError, CheckpointError, NumericalError, and ModelMismatchError where the
    model's latent space is not the target's, or, for `raw`, not that of the exported file.
    """
    options = options or ImportOptions()
    if target is not None:
        options = replace(options, target=target)
    if isinstance(source, (str, os.PathLike)):
        name, inputs, stored = os.fspath(source), [source], read_latents(source, key=options.key)
    else:
        name, inputs, stored = "the array", [], latents_in_memory(source)
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model)
    chosen = _target(stored, options, name)
    return _write(stored, chosen, name, output, inputs, model, options, overwrite=overwrite)


def _write(
    stored: Stored,
    target: Target,
    name: str,
    output: StrPath,
    inputs: Sequence[StrPath],
    model: VideoAutoencoder | None,
    options: ImportOptions,
    *,
    overwrite: bool,
) -> Imported:
    """name: of the latents, for messages."""
    clips = target.take_apart(stored.latents)
    if not 0 <= options.clip < len(clips):
        raise UsageError(f"clip {options.clip} is not in {name}, it has {len(clips)} (0 to {len(clips) - 1})")
    latent = clips[options.clip]
    mode: Mode = options.mode or stored.export.mode or target.mode
    if model is not None and not model.config.is_video:
        mode = "image"
    notices = list(stored.notices)
    header = _header(stored, latent, target, mode, model, options, notices.append)
    chunks = _chunks(stored, latent, header, options)
    with atomic_output(output, overwrite=overwrite, inputs=inputs) as sink:
        with BitstreamWriter(sink, header) as writer:
            for chunk in chunks:
                writer.write_chunk(chunk)
        size, frames = writer.bytes_written, writer.frames
    shape = frames, latent.shape[1], header.width, header.height
    return Imported(*shape, mode, target, size, header.model, tuple(notices))


def _target(stored: Stored, options: ImportOptions, what: str) -> Target:
    recorded = stored.export.target
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
    on_notice: Callable[[str], None],
) -> Header:
    """The stored header with what was asked for, where the model (if one is given) is of its latent space; else one
    that is made for the model."""
    channels, _, rows, columns = latent.shape
    recorded = stored.header
    same_mode = mode == stored.export.mode
    if recorded is not None and same_mode:
        ours = model is None or recorded.latent_space_id == model.latent_space_id
        fits = (recorded.latent_channels, *recorded.latent_size) == (channels, rows, columns)
        if ours and fits:
            return _changed(recorded, model, options)
        if model is None:
            raise InputError(
                f"the latents are {latent.shape}, the header recorded with them wants {recorded.chunk_shape(1)}"
            )
    if model is None:
        unsaid = (
            "these latents do not say which model decodes them"
            if recorded is None
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
    if recorded is not None and recorded.latent_space_id != model.latent_space_id:
        both = (
            f"these latents are of latent space {recorded.latent_space_id} of {recorded.model}, {model.name} has "
            f"{model.latent_space_id}"
        )
        if target.channels is None:
            raise ModelMismatchError(f"{both}; leave out --weights, or name the model that they are of")
        on_notice(f"{both}; they are taken for {model.name}'s, since both say that theirs is that of {target.title}")
    return _made(recorded, latent, mode, model, options, keep_times=same_mode)


def _changed(recorded: Header, model: VideoAutoencoder | None, options: ImportOptions) -> Header:
    """The header of the exported file, but for what was asked for."""
    header = recorded.replace(logvar=False, metadata=_metadata(recorded))
    if options.rate is not None:
        header = header.replace(time_base=1 / options.rate, average_rate=options.rate)
    kind = options.latents or header.latents
    if kind == header.latents and options.quality is None:
        return header
    if kind != "quantised":
        return header.replace(latents=kind, quality=None, steps=(), offsets=())
    if model is None:
        raise UsageError("other quantiser steps want the model's statistics; name the model with --weights")
    quality = _quality(header, options)
    quantizer = make_quantizer(model, quality)
    steps, offsets = tuple(quantizer.steps.tolist()), tuple(quantizer.offsets.tolist())
    return header.replace(latents=kind, quality=quality, steps=steps, offsets=offsets)


def _made(
    recorded: Header | None,
    latent: NDArray[np.float32],
    mode: Mode,
    model: VideoAutoencoder,
    options: ImportOptions,
    *,
    keep_times: bool,
) -> Header:
    """A header for the model's latents, with what is recorded of the video."""
    config = model.config
    _, _, rows, columns = latent.shape
    width, height = columns * config.spatial_factor, rows * config.spatial_factor
    if recorded is None:
        rate = options.rate or _DEFAULT_RATE
        color = Color("bt709", "limited", guessed=True)
        info = VideoInfo(width=width, height=height, time_base=1 / rate, average_rate=rate, color=color)
    else:
        info = info_from_header(recorded)
        if recorded.latent_size != (rows, columns) or recorded.spatial_factor != config.spatial_factor:
            info = replace(info, width=width, height=height)
        if options.rate is not None or not keep_times:
            rate = options.rate or recorded.average_rate or _DEFAULT_RATE
            info = replace(info, time_base=1 / rate, average_rate=rate)
    plan = choose_plan(config, height=info.height, width=info.width)
    if mode == "image" and config.is_video:
        plan = image_plan(config)
    header = make_header(
        info,
        model,
        plan,
        latents=options.latents or ("fp32" if recorded is None else cast(LatentsKind, recorded.latents)),
        quality=_quality(recorded, options),
    )
    return header if recorded is None else header.replace(metadata=_metadata(recorded))


def _quality(recorded: Header | None, options: ImportOptions) -> float:
    known = None if recorded is None else recorded.quality
    return next((value for value in (options.quality, known) if value is not None), DEFAULT_QUALITY)


def _metadata(recorded: Header) -> dict[str, Any]:
    """Of the exported file, without what says from which source and with which settings it was made."""
    return {name: value for name, value in recorded.metadata.items() if name != BATCH_KEY}


def image_plan(config: ModelConfig) -> Plan:
    """Every latent a picture of its own: a video model decodes a single latent to a single frame."""
    tile = Tile(config.tile_latents, config.tile_context, config.tile_blend) if config.tile_latents else None
    alone = Window(1)
    return ContextPlan(1, config.spatial_factor, alone, alone, tile, tile)


def _chunks(stored: Stored, latent: NDArray[np.float32], header: Header, options: ImportOptions) -> list[Chunk]:
    """The latents in chunks as long as they were, or as the model's windows are, with times."""
    latents = latent.shape[1]
    most = frame_count(latents, header.temporal_factor)
    fewest = most - header.temporal_factor + 1 if latents > 1 else 1
    before = stored.header
    # Of latents that become pictures, or were some, neither the number of frames nor their times say anything.
    own = before is not None and header.temporal_factor == before.temporal_factor
    known = own and before is not None and header.time_base == before.time_base and options.rate is None
    recorded = len(stored.times.get("pts", ())) if known else 0
    frames = options.frames or recorded or (stored.export.frames if own else None) or most
    if not fewest <= frames <= most:
        what = "cut the latents first" if options.frames else f"they were cut, so name how many with --frames {most}"
        raise UsageError(f"{latents} latents stand for {fewest} to {most} frames, not for {frames}; {what}")
    times = stored.times if recorded >= frames else _even_times(frames, header)
    lengths = _lengths(stored.export.chunks, latents, header)
    values = _stored_values(latent, header)
    chunks: list[Chunk] = []
    first = 0
    for index, length in enumerate(lengths):
        begin, end = frames_of_latents(first, first + length, header.temporal_factor)
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


def _lengths(recorded: Sequence[int] | None, latents: int, header: Header) -> Sequence[int]:
    """How many latents each chunk has."""
    if recorded and sum(recorded) == latents:
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
