""".cvl -> safetensors, .npy or WebDataset shards, in the scale and order that a target wants; a file, or a folder.

Owns: what is exported and what is said of it. Does not know: what targets want (`targets`), how files of latents are
written (`exchange`), what the card of an exported folder says (`card`), the way back (`importing`).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cvcodec.bitstream import BitstreamReader, Header
from cvcodec.bitstream.header import dump_header
from cvcodec.codec.headers import open_reader
from cvcodec.codec.layers import latents_of
from cvcodec.dataset.attached import read_attached
from cvcodec.dataset.card import CARD_NAME, describe_set
from cvcodec.dataset.exchange import EXPORT_KEY, HEADER_KEY, Array, write_npy, write_safetensors
from cvcodec.dataset.index import Record, check_one_space, dump_line, parse_lines, read_index
from cvcodec.dataset.reader import ChunkCache
from cvcodec.dataset.shards import (
    DESCRIPTION,
    LATENTS,
    LOGVAR,
    PTS,
    SHARDS_NAME,
    Sample,
    attached_name,
    key_of,
    npy_bytes,
    open_shard,
    sample_bytes,
    write_sample,
)
from cvcodec.dataset.targets import TARGETS, Target, TargetName
from cvcodec.errors import InputError, OutputError, UsageError
from cvcodec.fileio import atomic_output, check_output, make_folder, naming_damage, open_input
from cvcodec.remote import path_of

Format = Literal["safetensors", "npy", "webdataset"]
DType = Literal["auto", "fp32", "fp16", "bf16"]

CLIPS_NAME = "clips.jsonl"
"""Lists the clips of a folder that was exported to a file each: path, source, size, shape, columns of the manifest."""


@dataclass(frozen=True)
class Exported:
    """Which clips an export wrote for which diffusion model, into how many files and bytes."""

    target: Target
    shape: tuple[int, ...]
    """Of the latents of a single file; () for many."""
    clips: int
    size_bytes: int
    """Of the latents' files."""
    files: int
    notices: tuple[str, ...] = ()
    """What a person should be told."""


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: TargetName = "raw",
    format: Format | None = None,
    dtype: DType = "auto",
    shard_bytes: int = 10**9,
    shuffle: int | None = 0,
    overwrite: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Export latents in the scale and order that a diffusion model wants.

    source: a .cvl file, or a folder of `cvcodec.batch`, or its index. output: a file for one clip, for many a folder.
    target: `raw` (as stored: (1, C, t, h, w)), `sd21`, `svd`, `videocrafter2` or `sd3`; others' are refused.
    format: `safetensors`, `npy`, or `webdataset` (tar shards); None: by the name of `output`, webdataset for a folder.
        A folder exported to safetensors or npy gives a folder of files, mirrored, and clips.jsonl.
    dtype: `fp32`, `fp16`, `bf16` (safetensors only), or `auto`: fp16 for unscaled latents of a file that keeps fp16,
        else fp32. shard_bytes: largest size of a shard. shuffle: seed of the random order of clips in shards; None: by
        path. on_clip: is given clips done and their number.
    Beside an export of a folder lies README.md, a card that says what it holds and how to load it.

    Raises InputError, BitstreamError, OutputError, ModelMismatchError, and UsageError for what does not fit together.
    """
    many = is_folder(source)
    kind = format or format_of(output, is_folder=many)
    if kind == "webdataset":
        return export_shards(
            source, output, target=target, dtype=dtype, shard_bytes=shard_bytes, shuffle=shuffle, overwrite=overwrite,
            on_clip=on_clip,
        )  # fmt: skip
    if many:
        return export_clips(source, output, target=target, kind=kind, dtype=dtype, overwrite=overwrite, on_clip=on_clip)
    return export_file(source, output, target=target, kind=kind, dtype=dtype, overwrite=overwrite)


def is_folder(source: str | os.PathLike[str]) -> bool:
    """Whether an export has many clips there: a folder, or an index."""
    path = path_of(source)
    return path.is_dir() or path.suffix == ".jsonl"


def format_of(output: str | os.PathLike[str], *, is_folder: bool) -> Format:
    """Which format an output's name asks for. Raises UsageError."""
    suffix = Path(output).suffix.lower()
    if suffix in (".safetensors", ".npy") and not is_folder:
        return "safetensors" if suffix == ".safetensors" else "npy"
    if is_folder and not suffix:
        return "webdataset"
    raise UsageError(
        f"{os.fspath(output)}: wanted a .safetensors or .npy file for one clip, a folder for many; "
        f"or choose with --format {'|'.join(get_args(Format))}"
    )


def describe_export(header: Header, target: Target, *, frames: int, latents: int, layout: str) -> dict[str, Any]:
    """What a file of exported latents says of them."""
    return {
        "target": target.name,
        "layout": layout,
        "scaling_factor": target.scaling_factor,
        "shift_factor": target.shift_factor,
        "mode": "video" if header.temporal_factor > 1 else "image",
        "temporal_factor": header.temporal_factor,
        "spatial_factor": header.spatial_factor,
        "latent_kind": header.latent_kind,
        "latents": latents,
        "frames": frames,
        "width": header.width,
        "height": header.height,
        "padding": list(header.padding),
        "time_base": str(header.time_base),
        "average_rate_fps": None if header.average_rate is None else str(header.average_rate),
        "model": header.model,
        "latent_space_id": header.latent_space_id,
        "decoder_hash": header.decoder_hash,
        "own_scaling_factor": header.scaling_factor,
        "own_shift_factor": header.shift_factor,
        "windows": header.windows,
    }


def check_target(header: Header, target: Target, what: str) -> None:
    """ModelMismatchError unless these latents are of the target's space."""
    target.check(
        channels=header.latent_channels,
        scaling_factor=header.scaling_factor,
        shift_factor=header.shift_factor,
        what=f"{what} (model {header.model})",
    )


def export_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: TargetName = "raw",
    kind: Format | None = None,
    dtype: DType = "auto",
    overwrite: bool = False,
) -> Exported:
    """Export one .cvl file to .safetensors or .npy. dtype: `auto` is fp16 for unscaled latents of a file that keeps
    fp16, else fp32: an import then gives the same file again.

    Raises InputError, BitstreamError, OutputError, ModelMismatchError, and UsageError where fp16 cannot hold a value.
    """
    kind = kind or format_of(output, is_folder=False)
    if kind == "webdataset":
        raise UsageError("WebDataset shards come from export_shards, for any number of .cvl files")
    chosen = TARGETS[target]
    _check_dtype(dtype, kind)
    check_output(output, overwrite=overwrite, inputs=[source])
    with open_input(source) as file, naming_damage(source):
        reader = open_reader(file)
        header = reader.header.base_layer()
        check_target(header, chosen, os.fspath(source))
        chunks = list(reader.chunks(base_only=True))  # in order: this also verifies the whole file
        latent = np.concatenate([latents_of(chunk, header) for chunk in chunks], axis=1)
        logvar = _logvar(reader, len(chunks)) if header.logvar else None
    kept = _kept(dtype, header, chosen)
    values = _cast(chosen.arrange(latent), kept)
    tensors: dict[str, Array] = {"latents": values}
    if logvar is not None:
        tensors["logvar"] = _cast(np.ascontiguousarray(chosen.order(_scaled_logvar(logvar, chosen))), kept)
    for name in ("pts", "durations", "flags"):
        tensors[name] = np.concatenate([getattr(chunk, name) for chunk in chunks])
    described = describe_export(
        header, chosen, frames=chunks[-1].end_frame, latents=latent.shape[1], layout=chosen.layout
    ) | {"chunks": [chunk.latent_count for chunk in chunks]}
    metadata = {EXPORT_KEY: json.dumps(described), HEADER_KEY: dump_header(header).decode()}
    write = write_safetensors if kind == "safetensors" else write_npy
    write(output, tensors, metadata, overwrite)
    lost = kind == "npy" and logvar is not None
    notices = (f"{os.fspath(output)} leaves out the log-variance; a .safetensors file keeps it",) if lost else ()
    return Exported(chosen, tuple(values.shape), 1, path_of(output).stat().st_size, 1, notices)


def export_clips(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: TargetName = "raw",
    kind: Literal["safetensors", "npy"] = "safetensors",
    dtype: DType = "auto",
    overwrite: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Export a folder of .cvl files (or its index) to a file each, mirrored in the folder `output`, with clips.jsonl,
    which is there when all of them are, and a card. Raises as `export_shards`."""
    records, base, notices = _clips_of(source)
    folder = _new_folder(output, CLIPS_NAME, overwrite=overwrite)
    size = 0
    with atomic_output(folder / CLIPS_NAME, overwrite=overwrite, keep_partial=True) as listing:
        for done, record in enumerate(records, 1):
            path = PurePosixPath(record["path"]).with_suffix(f".{kind}")
            make_folder((folder / path).parent)
            made = export_file(
                base / record["path"], folder / path, target=target, kind=kind, dtype=dtype, overwrite=overwrite
            )
            size += made.size_bytes
            notices.extend(text for text in made.notices if text not in notices)
            kept = {name: record.get(name) for name in ("source", "frames", "width", "height", "columns")}
            listing.write(dump_line({"path": path.as_posix(), "shape": list(made.shape), **kept}))
            on_clip(done, len(records))
    _write_card(folder, records, TARGETS[target], kind, dtype, size=size, files=len(records))
    return Exported(TARGETS[target], (), len(records), size, len(records), tuple(notices))


def export_shards(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: TargetName = "raw",
    dtype: DType = "auto",
    shard_bytes: int = 1 << 30,
    shuffle: int | None = 0,
    overwrite: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Export a folder of .cvl files (or its index) to tar shards in the folder `output`.

    Keys are paths without their suffix, dots in names become underscores; where two paths would have one key, such as
    `a.b.cvl` and `a_b.cvl`, the later one in order of paths has a number behind it (`a_b-2`), and its JSON the path.

    shuffle: seed of a fixed random order, so that every shard is a fair sample; None: by path. shard_bytes: a shard is
    closed before it grows beyond this. Raises as `export_file`; a clip of another latent space than the target's ends
    the export, since a shard with holes would be noticed late; so do clips of several latent spaces (UsageError).
    overwrite: the shards of an older export into this folder are removed once all new ones are there.
    """
    _check_dtype(dtype, "webdataset")
    records, base, notices = _clips_of(source)
    if shuffle is not None:
        order = np.random.Generator(np.random.PCG64(shuffle)).permutation(len(records))
        records = [records[number] for number in order]
    keys = _keys(records)
    folder = _new_folder(output, SHARDS_NAME, overwrite=overwrite)
    older = _listed(folder)
    done = 0
    listing: list[dict[str, Any]] = []
    # Its partial file stays where an export ends early: the mark of shards that are not all there.
    with atomic_output(folder / SHARDS_NAME, overwrite=overwrite, keep_partial=True) as index:
        for number, samples in enumerate(_shards(_samples(records, keys, base, TARGETS[target], dtype), shard_bytes)):
            name = f"shard-{number:06d}.tar"
            count = 0
            with atomic_output(folder / name, overwrite=overwrite) as sink, open_shard(sink) as tar:
                for sample in samples:
                    write_sample(tar, sample)
                    count += 1
                    on_clip(done + count, len(records))
            done += count
            listing.append({"path": name, "samples": count, "size_bytes": (folder / name).stat().st_size})
            index.write(dump_line(listing[-1]))
    for name in older.difference(entry["path"] for entry in listing):
        (folder / name).unlink(missing_ok=True)
    total = sum(entry["size_bytes"] for entry in listing)
    _write_card(folder, records, TARGETS[target], "webdataset", dtype, size=total, files=len(listing))
    return Exported(TARGETS[target], (), len(records), total, len(listing), tuple(notices))


def _clips_of(source: str | os.PathLike[str]) -> tuple[list[Record], Path, list[str]]:
    """The records of a folder or index, all of one latent space, the folder that they are relative to, and notices."""
    root, notices = path_of(source), list[str]()
    records = read_index(root, on_notice=notices.append)
    if not records:
        raise InputError(f"there are no .cvl files in {root}")
    base = root if root.is_dir() else root.parent
    check_one_space((str(base / record["path"]), record) for record in records)
    return records, base, notices


def _new_folder(output: str | os.PathLike[str], listing: str, *, overwrite: bool) -> Path:
    """A folder to export into. OutputError where an export, or somebody's README, is in it already."""
    folder = make_folder(output)
    there = next((folder / name for name in (listing, CARD_NAME) if (folder / name).exists()), None)
    if there is not None and not overwrite:
        raise OutputError(f"{there} exists; use -y to overwrite what was exported here, or name another folder")
    return folder


def _write_card(
    folder: Path, records: Sequence[Record], target: Target, kind: Format, dtype: DType, *, size: int, files: int
) -> None:
    text = describe_set(folder.name, records, target, kind=kind, dtype=dtype, size_bytes=size, files=files)
    with atomic_output(folder / CARD_NAME, overwrite=True) as sink:
        sink.write(text.encode())


def _listed(folder: Path) -> set[str]:
    """The shards of an earlier export into this folder: files that it wrote itself, and no others."""
    listing = folder / SHARDS_NAME
    names = {str(record["path"]) for record in parse_lines(listing.read_bytes() if listing.is_file() else b"")}
    return {name for name in names if re.fullmatch(r"shard-\d{6,}\.tar", name)}


def _samples(
    records: Sequence[dict[str, Any]], keys: Mapping[str, str], base: Path, target: Target, dtype: DType
) -> Iterator[Sample]:
    cache = ChunkCache(open_files=1, cache_bytes=0)
    for record in records:
        path = base / record["path"]
        header, trailer = cache.header(path), cache.trailer(path)
        check_target(header, target, os.fspath(path))
        latent = target.arrange(cache.latents(path, 0, trailer.latents))
        clip = latent if target.layout == "TCHW" else latent[0]
        described = describe_export(
            header, target, frames=trailer.frames, latents=trailer.latents, layout=target.clip_layout
        )
        described |= {"path": record["path"], "source": record["source"], "columns": record["columns"]}
        files = {LATENTS: npy_bytes(np.asarray(_cast(clip, _kept(dtype, header, target))))}
        if header.logvar:
            logvar = target.order(_scaled_logvar(cache.logvar(path, 0, trailer.latents), target))
            files[LOGVAR] = npy_bytes((logvar if target.layout == "TCHW" else logvar[0]).astype(np.float16))
        files[PTS] = npy_bytes(cache.pts(path, 0, trailer.frames))
        files |= {attached_name(name): read_attached(base, record, name) for name in record.get("attached", {})}
        files[DESCRIPTION] = json.dumps(described, sort_keys=True).encode()
        yield Sample(keys[record["path"]], files)


def _shards(samples: Iterator[Sample], limit: int) -> Iterator[Iterator[Sample]]:
    """Samples in groups of at most `limit` bytes, and at least one; each group is to be consumed before the next."""
    waiting = next(samples, None)

    def group() -> Iterator[Sample]:
        nonlocal waiting
        size = 0
        while waiting is not None:
            size += sample_bytes(waiting.files)
            yield waiting
            waiting = next(samples, None)
            if waiting is not None and size + sample_bytes(waiting.files) > limit:
                return

    while waiting is not None:
        yield group()


def _keys(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The key of each path. Of paths that would share one, the first in order of paths has it, the others numbers."""
    paths = sorted(record["path"] for record in records)
    keys: dict[str, str] = {}
    taken = {key_of(path) for path in paths}
    given: set[str] = set()
    for path in paths:
        key = key_of(path)
        if key in given:
            key = next(name for number in itertools.count(2) if (name := f"{key}-{number}") not in taken)
        taken.add(key)
        given.add(key)
        keys[path] = key
    return keys


def _logvar(reader: BitstreamReader, chunks: int) -> NDArray[np.float32]:
    return np.concatenate([reader.read_logvar(number) for number in range(chunks)], axis=1)


def _scaled_logvar(logvar: NDArray[np.float32], target: Target) -> NDArray[np.float32]:
    """Log-variance of the scaled latent: a factor of s adds 2 ln s."""
    return logvar + np.float32(2 * math.log(target.scaling_factor))


def _check_dtype(dtype: DType, kind: Format) -> None:
    if dtype == "bf16" and kind != "safetensors":
        raise UsageError(f"{kind} has no bfloat16; use --dtype fp16 or fp32, or --format safetensors")


def _kept(dtype: DType, header: Header, target: Target) -> Literal["fp32", "fp16", "bf16"]:
    if dtype != "auto":
        return dtype
    # Scaled fp16 latents would be rounded a second time.
    exact = header.latents == "fp16" and target.scaling_factor == 1.0 and target.shift_factor == 0.0
    return "fp16" if exact else "fp32"


def _cast(values: NDArray[np.float32], dtype: Literal["fp32", "fp16", "bf16"]) -> Array:
    """Rounded to the nearest; a tensor for bf16, which NumPy does not have."""
    if dtype == "bf16":
        cast: Array = torch.from_numpy(values).to(torch.bfloat16)
        finite = bool(torch.as_tensor(cast).isfinite().all())
    else:
        with np.errstate(over="ignore"):
            cast = values.astype(np.float16 if dtype == "fp16" else np.float32)
        finite = bool(np.isfinite(cast).all())
    if not finite:
        raise UsageError(f"a latent of {np.abs(values).max():g} does not fit {dtype}; use --dtype fp32")
    return cast
