"""Folders, globs, files and manifests -> the clips of a run, each with its place in the output folder.

Owns: what counts as a video, lists of them and what may stand there, the mirrored names, the share of one shard of
many, and what a person may not expect of what was found. Does not know: whether a file really is a video.

A manifest is a .csv or .tsv file with a header, or .jsonl with an object a line: column `path` (or the first of `PATHS`
that is there) names the video, relative to the manifest; `output` its place if it shall not be mirrored; every other
column is carried over to the index. A .txt file has one path a line, and comments that begin with `#`. Tables are read
by `tables`, captions beside a video by `sidecars`.

A picture is a clip of one frame. In a folder that is searched, one that is called like a video beside it is taken for
that video's thumbnail, and left out.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from cvcodec.dataset.cutting import Piece
from cvcodec.dataset.index import SUFFIX, is_run_file
from cvcodec.dataset.sidecars import column_text, sidecars_of
from cvcodec.dataset.tables import TABLE_SUFFIXES, read_table, read_text
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import IMAGE_SUFFIXES, PARTIAL_SUFFIX, VIDEO_SUFFIXES, refuse_address
from cvcodec.remote import is_remote, path_of

MANIFEST_SUFFIXES = TABLE_SUFFIXES | {".jsonl", ".txt"}

PATHS = ("path", "file", "video", "video_path", "file_name")
"""Columns that may name the video; the first that a row has does."""
OUTPUT = "output"

_OF_A_VIDEO = frozenset({".srt", ".vtt"})
_OF_A_FOLDER = TABLE_SUFFIXES | {".jsonl"}
_LIKE_PATHS = (*PATHS, "videos", "video_file", "filename")
_MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_EXAMPLES = 3


@dataclass(frozen=True)
class Clip:
    """One video of a run."""

    source: str
    """Its path, absolute."""
    output: str
    """Where its .cvl file goes, relative to the output folder, with forward slashes."""
    columns: Mapping[str, str] | None = None
    """Further columns of the manifest; None: no manifest that could have some names the video."""
    manifest: str | None = None
    """The manifest that names the video, absolute; None: none does."""
    sidecars: tuple[str, ...] = ()
    """Files beside the video that hold its caption, see `sidecars`."""
    piece: Piece | None = None
    """The part of the video that it is; None: all of it."""


def cut_place(output: str, first_frame: int) -> str:
    """Where a clip goes that is cut from a source: `name.cvl` -> `name/000065.cvl`, by its first frame's number."""
    return (PurePosixPath(output).with_suffix("") / f"{first_frame:06d}{SUFFIX}").as_posix()


def cut_from(output: str) -> str:
    """`name/000065.cvl` -> `name.cvl`, where its source would go as a whole."""
    return PurePosixPath(output).parent.as_posix() + SUFFIX


@dataclass(frozen=True)
class _Found:
    """A clip with a place that may still change, and the row of a manifest that named it."""

    clip: Clip
    row: Row | None = None

    @property
    def chosen(self) -> str:
        """The place that a row chose; empty where it is mirrored."""
        return "" if self.row is None else self.row.output


def find_clips(sources: Sequence[str | os.PathLike[str]]) -> list[Clip]:
    """All clips that `sources` name, in an order that does not depend on the file system: each video once, unless rows
    of manifests give it several outputs.

    What lies in one folder keeps its path below that folder; with several folders, below the folders' names. Clips
    whose places would be the same keep the suffix of their video (`a.mp4.cvl`, `a.mov.cvl`). What a manifest says of a
    video rules over a folder or a glob that also names it. Raises InputError for what is missing or empty and for rows
    that contradict each other, and UsageError where two clips want one place, or one outside the output folder, or one
    in a folder where a file will be.
    """
    folders = [Path(source).resolve() for source in sources if Path(source).is_dir()]
    clips: dict[str, list[_Found]] = {}
    for given in sources:
        source, empty = os.fspath(given), True
        for found in _expand(source, named=len(folders) > 1):
            empty = False
            _add(clips.setdefault(found.clip.source, []), found)
        if empty and is_manifest(Path(source)):
            raise InputError(f"{source} lists no clips; wanted a row for each video")
        if empty:
            raise InputError(f"{source}: no videos or pictures are there; wanted {' '.join(sorted(_MEDIA_SUFFIXES))}")
    clear = _distinct(found for same in clips.values() for found in same)
    given_files = {os.path.realpath(source) for source in sources}
    return [replace(clip, sidecars=sidecars_of(clip.source, but=given_files)) for clip in clear]


def _add(known: list[_Found], new: _Found) -> None:
    """Put one more naming of a video beside those that are known, unless it says nothing new."""
    row = new.row
    if row is None:
        if not known:
            known.append(new)
        return
    if known and known[0].row is None:
        plain = known.pop().clip
        new = new if new.chosen else replace(new, clip=replace(new.clip, output=plain.output))
    for found in known:
        mirrored = not new.chosen and not found.chosen
        if not mirrored and _replaced(found.clip.output) != _replaced(new.clip.output):
            continue
        assert found.row is not None
        if found.clip.columns != new.clip.columns:
            raise InputError(
                f"{found.row.where} and {row.where} both name {new.clip.source}, with different columns; "
                f"give it one row, or each row another `{OUTPUT}`"
            )
        return
    known.append(new)


def shard_of(clips: Sequence[Clip], shard: tuple[int, int] | None) -> list[Clip]:
    """Every n-th clip from the i-th on, for shard (i, n), counted from 0; all for None."""
    return list(clips if shard is None else clips[shard[0] :: shard[1]])


def parse_shard(text: str) -> tuple[int, int]:
    """`3/16` -> (3, 16). Raises UsageError unless 0 <= 3 < 16."""
    first, slash, second = text.partition("/")
    if slash and first.strip().isdecimal() and second.strip().isdecimal() and int(first) < int(second):
        return int(first), int(second)
    raise UsageError(f"{text!r} is no shard; wanted i/n with i from 0 to n - 1, such as 0/16")


def is_manifest(path: Path) -> bool:
    """Whether it is a file that is taken for a list of videos."""
    return path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file()


def _expand(source: str, *, named: bool) -> Iterator[_Found]:
    if not source:  # which a path takes for the current folder
        raise InputError("'' names no source; wanted a video, a folder, a glob or a manifest")
    path = Path(source)
    if is_remote(source):
        yield from _from_address(source)
    elif path.is_dir():
        yield from _from_folder(path.resolve(), named=named)
    elif is_manifest(path):
        yield from _from_manifest(path.resolve())
    elif path.is_file():
        yield _Found(Clip(_located(path), path.name))
    elif glob.has_magic(source):
        yield from _from_glob(source)
    else:
        raise InputError(f"{source}: no such file or folder")


def _from_address(source: str) -> Iterator[_Found]:
    """Videos and pictures below an address, those that a glob names, or a single one."""
    path = path_of(source)
    if is_manifest(path):
        raise InputError(f"{source}: a manifest is read on this machine; download it, with the videos that it names")
    root, pattern = path, "**/*"
    if glob.has_magic(source):
        fixed = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
        root, pattern = path.parents[len(path.parts) - fixed - 1], "/".join(path.parts[fixed:])
    elif path.is_file():
        yield _Found(Clip(str(path), path.name))
        return
    for file in root.glob(pattern):
        inside = file.relative_to(root)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and file.suffix.lower() in _MEDIA_SUFFIXES:
            yield _Found(Clip(str(file), inside.as_posix()))


def _from_folder(folder: Path, *, named: bool) -> Iterator[_Found]:
    place = PurePosixPath(folder.name) if named else PurePosixPath()
    for parent, files in walk(folder):
        videos = {Path(name).stem for name in files if Path(name).suffix.lower() in VIDEO_SUFFIXES}
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            picture = suffix in IMAGE_SUFFIXES and Path(name).stem not in videos
            if (suffix in VIDEO_SUFFIXES or picture) and not name.startswith("."):
                file = parent / name
                yield _Found(Clip(str(file), (place / file.relative_to(folder).as_posix()).as_posix()))


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below with its files, through symbolic links too, but each once: links may lead in circles.

    Links come last, so that what also lies here under its own name keeps it.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        for parent, folders, files in os.walk(waiting.pop(0), onerror=_refuse):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [Path(parent, name) for name in folders if os.path.islink(os.path.join(parent, name))]
            yield Path(parent), files


def _refuse(error: OSError) -> NoReturn:
    """A folder that may not be read is no empty one."""
    raise InputError(f"{error.filename} cannot be read: {error.strerror}; allow it, or name what is to be encoded")


def _located(path: Path) -> str:
    """A path by which a file is known again, however its folder was reached. A link to a file stays what it is, as it
    does below a folder: two links to one video are two clips."""
    return str(path.parent.resolve() / path.name)


def _from_glob(pattern: str) -> Iterator[_Found]:
    """Files keep their path below the last folder that the pattern names in full."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    # Where the pattern leads through a link, the link's name is part of the place.
    root = Path(*parts[:fixed]).absolute()
    for name in sorted(glob.glob(pattern, recursive=True)):
        file = Path(name)
        if file.is_file():
            yield _Found(Clip(_located(file), Path(os.path.relpath(file.absolute(), root)).as_posix()))


def _from_manifest(manifest: Path) -> Iterator[_Found]:
    for row in read_manifest(manifest):
        source = os.path.abspath(manifest.parent / row.path)
        clip = Clip(source, row.output or _relative(row.path), row.columns, manifest=str(manifest))
        yield _Found(clip, row)


def _relative(path: Path) -> str:
    """A place for a path from a list: without its root, and without steps upwards."""
    parts = [part for part in path.parts if part not in (path.anchor, "..", ".")]
    return PurePosixPath(*parts).as_posix()


def _distinct(found: Iterable[_Found]) -> list[Clip]:
    """The clips with their final places: suffix replaced, or kept where two would meet."""
    found = list(found)
    short = [_replaced(each.clip.output) for each in found]
    counts = Counter(short)
    named = [
        replace(each.clip, output=place if counts[place] == 1 or each.chosen else each.clip.output + SUFFIX)
        for each, place in zip(found, short, strict=True)
    ]
    taken: dict[str, Clip] = {}
    for clip in named:
        if ".." in PurePosixPath(clip.output).parts or PurePosixPath(clip.output).is_absolute():
            raise UsageError(
                f"{clip.source} would become {clip.output}, outside the output folder; name the folder it lies in, "
                f"or give a manifest with a column `{OUTPUT}`"
            )
        other = taken.setdefault(clip.output, clip)
        if other is not clip:
            raise UsageError(
                f"{other.source} and {clip.source} would both become {clip.output}; encode them in two runs, "
                f"or give a manifest with a column `{OUTPUT}`"
            )
    for clip in named:
        _check_folders(clip, taken)
    return named


def _check_folders(clip: Clip, taken: Mapping[str, Clip]) -> None:
    """UsageError where a folder that `clip` goes into has the name of a file: of the run's, or of another clip."""
    for folder in PurePosixPath(clip.output).parents:
        name = folder.as_posix()
        other = taken.get(name.removesuffix(PARTIAL_SUFFIX))
        whose = f"the output of {other.source}" if other else "a list that the run writes" if is_run_file(name) else ""
        if whose:
            raise UsageError(
                f"{clip.source} would become {clip.output}, but {name} is {whose} and no folder; give another name in "
                f"a manifest's column `{OUTPUT}`"
            )


def _replaced(place: str) -> str:
    return PurePosixPath(place).with_suffix(SUFFIX).as_posix()


@dataclass(frozen=True)
class Row:
    """One video of a manifest."""

    where: str
    """Name of the manifest and number of the line, for messages."""
    name: str
    """Of the video, as given."""
    output: str
    """The place that the row gives its .cvl file; empty: it gives none."""
    columns: Mapping[str, str] | None
    """The other columns; None in a .txt file, which can have none."""

    @property
    def path(self) -> Path:
        """Relative to the manifest, if it is relative."""
        return Path(os.path.expanduser(self.name))


def read_manifest(manifest: Path) -> Iterator[Row]:
    """The rows of a manifest, in order. Raises InputError, which names the line, for what cannot be meant."""
    for number, values in _lines(manifest):
        where = f"{manifest.name}, line {number}"
        name = _path_column(values)
        if name not in values:
            has = ", ".join(values)[:200]
            raise InputError(f"{where} names no video: no `{PATHS[0]}` (nor {', '.join(PATHS[1:])}); it has {has}")
        text = values[name].strip()
        if not text:
            raise InputError(f"{where}: its `{name}` is empty; wanted the path of a video, or no such row")
        try:
            refuse_address(text)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if Path(text).name in ("", ".."):
            raise InputError(f"{where}: {name} {text!r} is a folder; wanted a video")
        columns = {column: value for column, value in values.items() if column not in (name, OUTPUT)}
        said = None if manifest.suffix.lower() == ".txt" else columns
        yield Row(where, text, _output(values.get(OUTPUT, "").strip(), where), said)


def _path_column(values: Mapping[str, object]) -> str:
    """The column that names the video, whether it is there or not."""
    return next((column for column in PATHS if column in values), PATHS[0])


def _output(given: str, where: str) -> str:
    if not given:
        return ""
    given = given.replace(os.sep, "/")
    place = PurePosixPath(given)
    if place.is_absolute() or ".." in place.parts:
        raise InputError(f"{where}: {OUTPUT} {given!r} leads out of the output folder")
    # What begins with a dot is hidden: from shells, and from those who read the output folder.
    if given.endswith("/") or not place.parts or any(part.startswith(".") for part in place.parts):
        raise InputError(
            f"{where}: {OUTPUT} {given!r} names no file; wanted one such as dogs/1{SUFFIX}, with no dot before a name"
        )
    return place.as_posix() if place.suffix == SUFFIX else place.as_posix() + SUFFIX


def _lines(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    kind = manifest.suffix.lower()
    if kind in TABLE_SUFFIXES:
        yield from read_table(manifest, PATHS)
        return
    # splitlines() would also end lines at U+2028 in a caption
    for number, line in enumerate(re.split("\r?\n", read_text(manifest)), 1):
        if not line.strip():
            continue
        if kind == ".jsonl":
            yield number, _object(line, f"{manifest.name}, line {number}")
        elif not line.lstrip().startswith("#"):
            yield number, {PATHS[0]: line}


def _object(line: str, where: str) -> dict[str, str]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} is no JSON object")
    for name in (_path_column(values), OUTPUT):
        if not isinstance(values.get(name), str | None):
            raise InputError(f"{where}: {name} is {json.dumps(values[name])}, wanted text")
    return {name: column_text(value) for name, value in values.items()}


def overlooked(clips: Sequence[Clip], sources: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """What a person may not expect, a sentence for each kind: of what was found, and of what is not read. `sources`:
    what `find_clips` was given, for a list that is named is read."""
    columns = {column for clip in clips for column in clip.columns or ()}
    if named := [column for column in _LIKE_PATHS if column in columns]:
        yield f"kept in the index and not read: column {_few(named)}; videos come from the first of {', '.join(PATHS)}"
    pictures = [clip for clip in clips if clip.manifest is None and Path(clip.source).suffix.lower() in IMAGE_SUFFIXES]
    if pictures and len(pictures) < len(clips):
        some = _few([Path(clip.source).name for clip in pictures])
        yield f"{len(pictures)} pictures become clips of one frame ({some}); a glob such as '**/*.mp4' leaves them out"
    if files := list(_beside(clips, {os.path.realpath(source) for source in sources})):
        yield (
            f"{len(files)} files beside videos are not read ({_few(files)}); captions are a .txt or .json called like "
            f"the video, or columns of a manifest, which is a source that is named: a .csv with `{PATHS[0]}`, or .jsonl"
        )


def _beside(clips: Sequence[Clip], given: set[str]) -> Iterator[str]:
    """Names of files in the clips' folders that are called as a clip is, or are a table."""
    stems: dict[Path, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.columns is None:
            stems[Path(clip.source).parent].add(Path(clip.source).stem)
    for folder, known in stems.items():
        for entry in sorted(os.listdir(folder)) if folder.is_dir() else ():
            name, suffix = os.path.splitext(entry)
            mine = suffix.lower() in _OF_A_FOLDER or (suffix.lower() in _OF_A_VIDEO and name in known)
            if mine and os.path.realpath(folder / entry) not in given:
                yield entry


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
