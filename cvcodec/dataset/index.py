"""The JSON-lines index of a folder of .cvl files: one object a file, sorted by path.

    path              of the .cvl file, below the folder of the index and relative to it, with forward slashes
    source            the video it was made from
    source_id         identity of that video's content             settings   identity of model and options
    frames, latents   counts                                       shape      [C, t, h, w] of the latents
    width, height     of a frame, in pixels                        time_base  seconds per unit of pts, as a fraction
    first_pts, last_pts   smallest and largest time stamp          size_bytes, sha256   of the .cvl file
    model, latent_space_id   what encoded it                       latents_kind, logvar   what a chunk keeps
    bit_depth         of the source, and of what a decode gives    columns    further columns of the manifest, as text
    decode_errors, concealed_frames   damage of the source         source_bytes, source_mtime_ns   of the video's file
    bucket            WIDTHxHEIGHT: clips that make batches        manifest   that names the video, where one does
    attached          files beside the clip by name, as paths, where there are some (see `attached`)
    first_frame       number of the first frame in the source, at the rate that was asked for; 0 unless it was cut

Lines end in a line feed; other line ends, such as U+2028 in a caption, are part of a value. A run of one shard of many
writes `index-00003-of-00016.jsonl`. Owns: names and reading of these files, and describing a .cvl file in their terms.
Does not know: how they are written during a run (dataset).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cvcodec.codec.headers import first_frame, open_reader
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import PARTIAL_SUFFIX, naming_damage, partial_path
from cvcodec.system.printable import printable

INDEX_NAME = "index.jsonl"
FAILURES_NAME = "failures.jsonl"
"""Lines of `path`, `source` and `error`: the clips that a run could not encode, and of `path`, `source` and `left_out`,
why: those that it was not to encode. It is there if there ever were any."""
CUTS_NAME = "clips.jsonl"
"""Which clips the sources have that were looked through; see `dataset.cuts`."""
SUFFIX = ".cvl"

_RUN_FILE = re.compile(r"(index|failures|clips)(-\d{5}-of-\d{5})?\.jsonl(\.partial)?")
_SHARD_INDEX = re.compile(r"index-(\d{5})-of-(\d{5})\.jsonl")

Record = dict[str, Any]

NEEDED = ("latents", "logvar", "source", "columns")
"""What readers of an index count on, beside the path."""


_TEXT = str | None
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("source", "source_id", "settings", "sha256", "latent_space_id", "manifest"), _TEXT),
    **dict.fromkeys(("time_base", "model", "latents_kind", "bucket"), str),
    **dict.fromkeys(("frames", "latents", "width", "height", "bit_depth", "size_bytes", "samples"), int),
    **dict.fromkeys(("first_pts", "last_pts", "decode_errors", "concealed_frames", "first_frame"), int),
    **dict.fromkeys(("source_bytes", "source_mtime_ns"), int | None),
    "shape": list,
    "logvar": bool,
    "columns": dict,
    "attached": dict,
}
"""Types of a record's values, and of those of a list of shards."""


def shard_name(name: str, shard: tuple[int, int] | None) -> str:
    """`index.jsonl` or `failures.jsonl`, with the shard's number before the suffix where there is one."""
    stem, _, suffix = name.rpartition(".")
    return name if shard is None else f"{stem}-{shard[0]:05d}-of-{shard[1]:05d}.{suffix}"


def is_run_file(name: str) -> bool:
    """Whether runs write a file of this name into their output folder, beside the clips."""
    return _RUN_FILE.fullmatch(name) is not None


def index_files(folder: Path) -> list[Path]:
    """The index files of a folder, those of shards first."""
    found = sorted(path for path in folder.glob("index-*.jsonl") if _SHARD_INDEX.fullmatch(path.name))
    return [*found, *([folder / INDEX_NAME] if (folder / INDEX_NAME).is_file() else [])]


def merge_records(folder: Path, files: Mapping[Path, Iterable[Record]]) -> dict[str, Record]:
    """The records of several index files of a folder, one a path.

    Of those that differ, one whose `size_bytes` is that of the .cvl file rules; of several such, or none, that of the
    index file that was written last, and of files as old as each other the last one.
    """
    merged: dict[str, Record] = {}
    for _, records in sorted(files.items(), key=lambda item: item[0].stat().st_mtime_ns):
        for record in records:
            known = merged.setdefault(record["path"], record)
            if known != record and (_fits(record, folder) or not _fits(known, folder)):
                merged[record["path"]] = record
    return merged


def _fits(record: Record, folder: Path) -> bool:
    try:
        size = (folder / record["path"]).stat().st_size
    except OSError:
        return False
    return bool(size == record.get("size_bytes"))


def _warn(text: str) -> None:
    warnings.warn(printable(text), stacklevel=4)  # at the caller of `read_index`


def read_index(
    path: Path, *, needed: Collection[str] = NEEDED, on_notice: Callable[[str], None] = _warn
) -> list[Record]:
    """The records of an index file, of all index files of a folder, or, where it has none, of its .cvl files; of a
    .cvl file, its own.

    needed: keys that every record must have. on_notice: is given what a person should know; else Python warns of it.
    Sorted by path; each path once, see `merge_records`. Raises InputError for what is missing, for a line that is no
    record, and for what is not all there: a batch that goes on or was interrupted, and shards of which some have left
    no index.
    """
    _check_finished(path)
    if path.is_dir():
        files = index_files(path)
        _check_shards(path, files, on_notice)
        if not files:
            found = sorted(file for file in path.rglob(f"*{SUFFIX}") if not file.name.startswith("."))
            return [describe(file, path, checksum=False) for file in found]
    elif path.is_file() and path.suffix == SUFFIX:
        return [describe(path, path.parent, checksum=False)]
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{path}: no such folder or index")
    folder = path if path.is_dir() else path.parent
    records = merge_records(folder, {file: _read_records(file, needed) for file in files})
    return [records[name] for name in sorted(records)]


def check_one_space(described: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse latents of several latent spaces: numbers alike, meanings not. described: what a message calls each clip,
    and what is said of it; clips of which no `latent_space_id` is said pass."""
    first: tuple[str, Mapping[str, Any]] | None = None
    for name, said in described:
        if said.get("latent_space_id") is None:
            continue
        first = first or (name, said)
        if said["latent_space_id"] != first[1]["latent_space_id"]:
            one, other = (
                f"{name} ({said['latent_space_id']} of {said.get('model')})" for name, said in (first, (name, said))
            )
            raise UsageError(f"{one} and {other} hold latents of different latent spaces; read them apart")


def _check_finished(path: Path) -> None:
    """InputError where the index, or one in this folder, is still a journal (see `dataset.batch`)."""
    if path.is_dir():
        journals = [file for file in path.glob(f"index*{PARTIAL_SUFFIX}") if _is_index(file.stem)]
    else:
        journals = [file for file in [partial_path(path)] if _is_index(path.name) and file.exists()]
    if journals:
        raise InputError(
            f"the batch into {journals[0].parent} is not finished, {min(journals).name} is there; run it again, "
            "or remove that file if it is not wanted any more"
        )


def _is_index(name: str) -> bool:
    return name == INDEX_NAME or _SHARD_INDEX.fullmatch(name) is not None


def _check_shards(folder: Path, files: Iterable[Path], on_notice: Callable[[str], None]) -> None:
    """InputError where indexes of shards are missing. Only a notice where another index may stand for all of them: of
    a run without shards, or of another, whole set."""
    sets: dict[int, set[int]] = {}
    others = False
    for file in files:
        if match := _SHARD_INDEX.fullmatch(file.name):
            sets.setdefault(int(match[2]), set()).add(int(match[1]))
        else:
            others = True
    missing = [shard_name(INDEX_NAME, (i, n)) for n, there in sets.items() for i in range(n) if i not in there]
    if not missing:
        return
    others = others or any(len(there) == n for n, there in sets.items())
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    text = f"{folder} has no {', '.join(missing[:3])}{more}: not all shards were encoded"
    if not others:
        raise InputError(f"{text}; run the others too, or name the index of one")
    on_notice(f"{text}, or those that are there are of an older run, and may go")


def _read_records(file: Path, needed: Collection[str]) -> Iterator[Record]:
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            record = _parse(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number} is no index record: {error}") from None
        missing = [name for name in needed if name not in record]
        if missing:
            raise InputError(
                f"{file}, line {number} is no record of an index: no {', '.join(map(repr, missing))}; "
                f"name the {INDEX_NAME} of `cvcodec batch`, or its folder"
            )
        yield record


def parse_lines(text: bytes) -> list[Record]:
    """The records among the lines; anything else, such as the half of a line that a killed run left, is passed over."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(_parse(line))
    return found


def _parse(line: str | bytes) -> Record:
    """The record of a line, which anybody may have written. ValueError for what is no JSON object, has values of other
    types, or names no place below the folder."""
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not isinstance(record, dict):
        raise ValueError(f"it is {type(record).__name__}, wanted an object")
    path = record.get("path")
    if not isinstance(path, str) or not is_place_below(path):
        raise ValueError(f"its path is {ascii(path)[:80]}, wanted a file in the folder of the index")
    for name, value in record.items():
        wanted = _KINDS.get(name)
        if wanted is not None and not (isinstance(value, wanted) and (type(value) is not bool or wanted is bool)):
            raise ValueError(f"its {name} is {ascii(value)[:40]}")
    places = record.get("attached", {}).values()
    if not all(isinstance(place, str) and is_place_below(place) for place in places):
        raise ValueError(f"its attached is {ascii(record['attached'])[:80]}, wanted files in the folder of the index")
    negative = next((name for name in ("latents", "frames") if record.get(name, 1) < 0), None)
    if negative is not None:
        raise ValueError(f"its {negative} is {record[negative]}")
    return record


def is_place_below(path: str) -> bool:
    """Whether a relative path names a file below the folder that it is relative to, on whatever system."""
    parts = re.split(r"[/\\]", path)
    rooted = not parts[0] or Path(path).drive or Path(path).is_absolute()
    return not rooted and ".." not in parts and parts[-1] not in ("", ".") and "\0" not in path


def dump_line(record: Mapping[str, Any]) -> bytes:
    """One line, sorted keys, line end included."""
    try:
        return json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is no Unicode
        return json.dumps(record, sort_keys=True).encode() + b"\n"


def describe(
    path: Path,
    folder: Path,
    *,
    checksum: bool = True,
) -> Record:
    """The record of a complete .cvl file in `folder`: what it says of itself, and its checksum. Who named it says more.

    The identities come from its header, where `cvcodec batch` puts them. Raises InputError or BitstreamError.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        with naming_damage(path):
            reader = open_reader(file)
        header, trailer = reader.header, reader.trailer
        assert trailer is not None
        size = file.seek(0, io.SEEK_END)
        digest = _hash(file) if checksum else None
    made = identities_of(header.metadata)
    return {
        "path": path.relative_to(folder).as_posix(),
        "source": None,
        "source_id": made.get("source_id"),
        "settings": made.get("settings"),
        "frames": trailer.frames,
        "latents": trailer.latents,
        "shape": [header.latent_channels, trailer.latents, *header.latent_size],
        "width": header.width,
        "height": header.height,
        "bucket": f"{header.width}x{header.height}",
        "time_base": str(header.time_base),
        "first_frame": first_frame(header) or 0,
        "first_pts": min(entry.first_pts for entry in trailer.index),
        "last_pts": max(entry.last_pts for entry in trailer.index),
        "size_bytes": size,
        "sha256": digest,
        "model": header.model,
        "latent_space_id": header.latent_space_id,
        "latents_kind": header.latents,
        "logvar": header.logvar,
        "bit_depth": header.bit_depth,
        "decode_errors": trailer.metadata.get("decode_errors", 0),
        "concealed_frames": trailer.metadata.get("concealed_frames", 0),
        "columns": {},
        "attached": {},
    }


BATCH_KEY = "batch"
"""Where a header's metadata keep the identities of `cvcodec batch`."""


def identities_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`source_id` and `settings` of a file that `cvcodec batch` made; nothing for any other."""
    made = metadata.get(BATCH_KEY)
    if not isinstance(made, Mapping):
        return {}
    return {name: value for name, value in made.items() if isinstance(value, str)}


def _hash(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
