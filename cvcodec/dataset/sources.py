"""Folders, globs, files and manifests -> the clips of a run, each with its place in the output folder.

Owns: what counts as a video, the mirrored names, manifests, the share of one shard of many.
Does not know: whether a file really is a video.

A manifest is a .csv or .tsv file with a header, or .jsonl with an object a line: column `path` names the video
(relative to the manifest), `output` its place if it shall not be mirrored; every other column is carried over to the
index. A .txt file has one path a line.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from cvcodec.data.index import SUFFIX
from cvcodec.errors import InputError, UsageError

_SUFFIXES = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .mts .flv .ogv .wmv .3gp .y4m .gif .apng .mxf .vob"
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())
"""Which files of a folder are taken for videos; a file that is named itself may be called anything."""

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".txt"})

PATH, OUTPUT = "path", "output"


@dataclass(frozen=True)
class Clip:
    """One video of a run."""

    source: str
    """Its path, absolute."""
    output: str
    """Where its .cvl file goes, relative to the output folder, with forward slashes."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the manifest."""


def find_clips(sources: Sequence[str | os.PathLike[str]]) -> list[Clip]:
    """All clips that `sources` name, each video once, in an order that does not depend on the file system.

    What lies in one folder keeps its path below that folder; with several folders, below the folders' names. Clips
    whose places would be the same keep the suffix of their video (`a.mp4.cvl`, `a.mov.cvl`). Raises InputError for what
    is missing or empty, and UsageError where two clips want one place in spite of that.
    """
    folders = [Path(source).resolve() for source in sources if Path(source).is_dir()]
    clips: dict[str, Clip] = {}
    for source in sources:
        found = list(_expand(os.fspath(source), named=len(folders) > 1))
        if not found:
            raise InputError(f"{os.fspath(source)}: no videos are there; wanted {' '.join(sorted(VIDEO_SUFFIXES))}")
        for clip in found:
            clips.setdefault(clip.source, clip)
    return _distinct(clips.values())


def shard_of(clips: Sequence[Clip], shard: tuple[int, int] | None) -> list[Clip]:
    """Every n-th clip from the i-th on, for shard (i, n), counted from 0; all for None."""
    return list(clips if shard is None else clips[shard[0] :: shard[1]])


def parse_shard(text: str) -> tuple[int, int]:
    """`3/16` -> (3, 16). Raises UsageError unless 0 <= 3 < 16."""
    first, slash, second = text.partition("/")
    if slash and first.strip().isdecimal() and second.strip().isdecimal() and int(first) < int(second):
        return int(first), int(second)
    raise UsageError(f"{text!r} is no shard; wanted i/n with i from 0 to n - 1, such as 0/16")


def _expand(source: str, *, named: bool) -> Iterator[Clip]:
    path = Path(source)
    if path.is_dir():
        yield from _from_folder(path.resolve(), named=named)
    elif path.is_file():
        if path.suffix.lower() in MANIFEST_SUFFIXES:
            yield from _from_manifest(path.resolve())
        else:
            yield _clip(path.resolve(), path.name)
    elif glob.has_magic(source):
        yield from _from_glob(source)
    else:
        raise InputError(f"{source}: no such file or folder")


def _from_folder(folder: Path, *, named: bool) -> Iterator[Clip]:
    place = PurePosixPath(folder.name) if named else PurePosixPath()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                file = Path(parent) / name
                yield _clip(file, (place / file.relative_to(folder).as_posix()).as_posix())


def _from_glob(pattern: str) -> Iterator[Clip]:
    """Files keep their path below the last folder that the pattern names in full."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]).resolve()
    for name in sorted(glob.glob(pattern, recursive=True)):
        file = Path(name)
        if file.is_file():
            yield _clip(file.resolve(), Path(os.path.relpath(file.absolute(), root)).as_posix())


def _from_manifest(manifest: Path) -> Iterator[Clip]:
    for number, row in _rows(manifest):
        where = f"{manifest.name}, line {number}"
        text = row.get(PATH, "").strip()
        if not text:
            raise InputError(f"{where}: no {PATH}; a manifest has a column `{PATH}`")
        given = Path(text).expanduser()
        columns = {name: value for name, value in row.items() if name not in (PATH, OUTPUT)}
        output = row.get(OUTPUT, "").strip()
        if output:
            place = PurePosixPath(output.replace(os.sep, "/"))
            if place.is_absolute() or ".." in place.parts:
                raise InputError(f"{where}: {OUTPUT} {output!r} leads out of the output folder")
            output = output if place.suffix == SUFFIX else output + SUFFIX
        clip = _clip(Path(os.path.abspath(manifest.parent / given)), _relative(given), columns)
        yield replace(clip, output=output) if output else clip


def _relative(path: Path) -> str:
    """A place for a path from a list: without its root, and without steps upwards."""
    parts = [part for part in path.parts if part not in (path.anchor, "..", ".")]
    return PurePosixPath(*parts).as_posix()


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{manifest} cannot be read: {error}") from error
    lines = text.split("\n")  # splitlines() would also end lines at U+2028 and others, which captions contain
    kind = manifest.suffix.lower()
    if kind == ".txt":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, {PATH: line}
    elif kind == ".jsonl":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _object(line, f"{manifest.name}, line {number}")
    else:
        file = io.StringIO(text, newline="")  # quoted values keep their line ends
        reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",", restkey="", restval="")
        try:
            if PATH not in (reader.fieldnames or ()):
                raise InputError(
                    f"{manifest.name} has no column `{PATH}`; it has {', '.join(reader.fieldnames or ['none'])}"
                )
            for row in reader:
                yield reader.line_num, {name: value for name, value in row.items() if name and isinstance(value, str)}
        except csv.Error as error:
            raise InputError(f"{manifest.name}, line {reader.line_num} cannot be read: {error}") from error


def _object(line: str, where: str) -> dict[str, str]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} is no JSON object")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _clip(source: Path, place: str, columns: Mapping[str, str] | None = None) -> Clip:
    return Clip(str(source), place, dict(columns or {}))


def _distinct(clips: Iterable[Clip]) -> list[Clip]:
    """The clips with their final places: suffix replaced, or kept where two would meet."""
    clips = list(clips)
    short = [_replaced(clip.output) for clip in clips]
    counts = Counter(short)
    named = [
        replace(clip, output=place if counts[place] == 1 or clip.output.endswith(SUFFIX) else clip.output + SUFFIX)
        for clip, place in zip(clips, short, strict=True)
    ]
    taken: dict[str, Clip] = {}
    for clip in named:
        other = taken.setdefault(clip.output, clip)
        if other is not clip:
            raise UsageError(
                f"{other.source} and {clip.source} would both become {clip.output}; encode them in two runs, "
                f"or give a manifest with a column `{OUTPUT}`"
            )
    return named


def _replaced(place: str) -> str:
    return PurePosixPath(place).with_suffix(SUFFIX).as_posix()
