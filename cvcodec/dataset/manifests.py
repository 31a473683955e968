"""Lists of videos in files -> rows, each with the line it came from.

Owns: the formats of lists, and what may stand in them. Does not know: folders, globs, where outputs go in the end.

A manifest is a .csv or .tsv file with a header, or .jsonl with an object a line: column `path` (or `file`, where there
is no `path`) names the video, relative to the manifest; `output` its place if it shall not be mirrored; every other
column is carried over to the index. A .txt file has one path a line, and comments that begin with `#`. Tables are read
by `cvcodec.dataset.tables`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cvcodec.dataset.index import SUFFIX
from cvcodec.dataset.tables import TABLE_SUFFIXES, read_table, read_text
from cvcodec.errors import InputError
from cvcodec.fileio import refuse_address

MANIFEST_SUFFIXES = TABLE_SUFFIXES | {".jsonl", ".txt"}

PATH, FILE, OUTPUT = "path", "file", "output"


@dataclass(frozen=True)
class Row:
    """One video of a manifest."""

    where: str
    """Name of the manifest and number of the line, for messages."""
    path: Path
    """As given; relative to the manifest, if it is relative."""
    output: str
    """The place that the row gives its .cvl file; empty: it gives none."""
    columns: Mapping[str, str] | None
    """The other columns; None in a .txt file, which can have none."""


def read_manifest(manifest: Path) -> Iterator[Row]:
    """The rows of a manifest, in order. Raises InputError, which names the line, for what cannot be meant."""
    for number, values in _lines(manifest):
        where = f"{manifest.name}, line {number}"
        name = PATH if PATH in values else FILE
        text = values.get(name, "").strip()
        if not text:
            others = ", ".join(column for column in values if column not in (PATH, FILE))
            has = f"; it has {others[:200]}" if others else ""
            raise InputError(f"{where}: no {PATH}; a manifest has a column `{PATH}`{has}")
        try:
            refuse_address(text)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        path = Path(os.path.expanduser(text))
        if path.name in ("", ".."):
            raise InputError(f"{where}: {name} {text!r} is a folder; wanted a video")
        columns = {column: value for column, value in values.items() if column not in (name, OUTPUT)}
        said = None if manifest.suffix.lower() == ".txt" else columns
        yield Row(where, path, _output(values.get(OUTPUT, "").strip(), where), said)


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
        yield from read_table(manifest, (PATH, FILE))
        return
    # splitlines() would also end lines at U+2028 in a caption
    for number, line in enumerate(re.split("\r?\n", read_text(manifest)), 1):
        if not line.strip():
            continue
        if kind == ".jsonl":
            yield number, _object(line, f"{manifest.name}, line {number}")
        elif not line.lstrip().startswith("#"):
            yield number, {PATH: line}


def _object(line: str, where: str) -> dict[str, str]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} is no JSON object")
    for name in (PATH if PATH in values else FILE, OUTPUT):
        if not isinstance(values.get(name), str | None):
            raise InputError(f"{where}: {name} is {json.dumps(values[name])}, wanted text")
    return {name: _text(value) for name, value in values.items()}


def _text(value: object) -> str:
    """A JSON value as the text of a column; null is what an empty field of a table is."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
