"""Lists of videos in files -> rows, each with the line it came from.

Owns: the formats of lists, and what may stand in them. Does not know: folders, globs, where outputs go in the end.

A manifest is a .csv or .tsv file with a header, or .jsonl with an object a line: column `path` (or `file`, where there
is no `path`) names the video, relative to the manifest; `output` its place if it shall not be mirrored; every other
column is carried over to the index. Values of a .csv file may be quoted, then commas and line ends belong to them; in a
.tsv file quotes are text. A .txt file has one path a line, and comments that begin with `#`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cvcodec.data.index import SUFFIX
from cvcodec.errors import InputError

MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".txt"})

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
    columns: Mapping[str, str]


def read_manifest(manifest: Path) -> Iterator[Row]:
    """The rows of a manifest, in order. Raises InputError, which names the line, for what cannot be meant."""
    for number, values in _lines(manifest):
        where = f"{manifest.name}, line {number}"
        name = PATH if PATH in values else FILE
        text = values.get(name, "").strip()
        if not text:
            raise InputError(f"{where}: no {PATH}; a manifest has a column `{PATH}`")
        path = Path(text).expanduser()
        if path.name in ("", ".."):
            raise InputError(f"{where}: {name} {text!r} is a folder; wanted a video")
        columns = {column: value for column, value in values.items() if column not in (name, OUTPUT)}
        yield Row(where, path, _output(values.get(OUTPUT, "").strip(), where), columns)


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
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{manifest} cannot be read: {error}") from error
    kind = manifest.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from _table(text, manifest.name, tabs=kind == ".tsv")
        return
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also end lines at U+2028 in a caption
        if not line.strip():
            continue
        if kind == ".jsonl":
            yield number, _object(line, f"{manifest.name}, line {number}")
        elif not line.lstrip().startswith("#"):
            yield number, {PATH: line}


def _table(text: str, name: str, *, tabs: bool) -> Iterator[tuple[int, dict[str, str]]]:
    file = io.StringIO(text, newline="")  # quoted values keep their line ends
    reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file, strict=True)
    header: list[str] = []
    number = 1
    try:
        for fields in reader:
            if header and fields:
                if len(fields) > len(header):
                    way = "a value cannot hold a tab" if tabs else "quote values that contain commas"
                    raise InputError(
                        f"{name}, line {number}: {len(fields)} fields, the header has {len(header)}; {way}"
                    )
                fields += [""] * (len(header) - len(fields))
                yield number, {column: value for column, value in zip(header, fields, strict=True) if column}
            elif fields:
                header = _header(fields, name)
            number = reader.line_num + 1
    except csv.Error as error:
        way = "" if tabs else "; close the quotes that open there, and double those inside a quoted value"
        raise InputError(f"{name}, line {number} cannot be read: {error}{way}") from error


def _header(fields: list[str], name: str) -> list[str]:
    if PATH not in fields and FILE not in fields:
        raise InputError(f"{name} has no column `{PATH}` (nor `{FILE}`); it has {', '.join(fields)}")
    twice = next((field for field in fields if field and fields.count(field) > 1), None)
    if twice is not None:
        raise InputError(f"{name} has two columns `{twice}`; rename one of them")
    return fields


def _object(line: str, where: str) -> dict[str, str]:
    try:
        values = json.loads(line)
    except ValueError as error:
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
