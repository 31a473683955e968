"""Tables of text: .csv and .tsv files with a header -> rows, each with the number of its line.

Owns: quoting, headers, and what may be wrong with them. Does not know: what columns mean.

Values of a .csv file may be quoted, then commas and line ends belong to them; in a .tsv file quotes are text. Both are
UTF-8, with or without a byte order mark. An empty line is no row, a short one has empty values at its end, and an empty
file has no rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from cvcodec.errors import InputError

TABLE_SUFFIXES = frozenset({".csv", ".tsv"})


def read_text(path: Path) -> str:
    """A UTF-8 file without its byte order mark. Raises InputError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # quoted values keep their line ends
            return file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_table(path: Path, one_of: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, values by column) of each row. one_of: columns of which the table must have one.

    Raises InputError, which names the line, for what cannot be meant."""
    text, tabs = read_text(path), path.suffix.lower() == ".tsv"
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file, strict=True)
    header: list[str] = []
    number = 1
    try:
        for fields in reader:
            if header and fields:
                if len(fields) > len(header):
                    way = "a value cannot hold a tab" if tabs else "quote values that contain commas"
                    raise InputError(
                        f"{path.name}, line {number}: {len(fields)} fields, the header has {len(header)}; {way}"
                    )
                fields += [""] * (len(header) - len(fields))
                yield number, {column: value for column, value in zip(header, fields, strict=True) if column}
            elif fields:
                header = _header(fields, path.name, one_of)
            number = reader.line_num + 1
    except csv.Error as error:
        way = "" if tabs else "; close the quotes that open there, and double those inside a quoted value"
        raise InputError(f"{path.name}, line {number} cannot be read: {error}{way}") from error


def _header(fields: list[str], name: str, one_of: Sequence[str]) -> list[str]:
    if not any(column in fields for column in one_of):
        wanted = f"`{one_of[0]}`" + "".join(f" (nor `{column}`)" for column in one_of[1:])
        raise InputError(f"{name} has no column {wanted}; it has {', '.join(fields)}")
    twice = next((field for field in fields if field and fields.count(field) > 1), None)
    if twice is not None:
        raise InputError(f"{name} has two columns `{twice}`; rename one of them")
    return fields
