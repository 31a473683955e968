"""Captions beside a video: `clip.txt` or `clip.caption` with the text, `clip.json` with an object, for `clip.mp4`.

Owns: which files these are, and what they say as columns of the index. Does not know: manifests, whose columns rule
over these.

The text is column `caption`; each field of the object is a column of its name. The text rules over a `caption` of the
object.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from cvcodec.dataset.tables import read_text
from cvcodec.errors import InputError

CAPTION = "caption"

_TEXTS, _OBJECT = (".txt", ".caption"), ".json"
_MOST_BYTES = 1 << 20


def sidecars_of(source: str, *, but: Collection[str] = ()) -> tuple[str, ...]:
    """Those that are there, the object first. but: files that are something else, by their real paths."""
    stem = os.path.splitext(source)[0]
    there = [stem + suffix for suffix in (_OBJECT, *_TEXTS) if os.path.isfile(stem + suffix)]
    mine = [path for path in there if os.path.realpath(path) not in but]
    texts = [path for path in mine if not path.endswith(_OBJECT)]
    return tuple([path for path in mine if path.endswith(_OBJECT)] + texts[:1])


def read_sidecars(paths: Iterable[str]) -> dict[str, str]:
    """The columns of what `sidecars_of` found. Raises InputError for what is no text, no object, or no caption by its
    size."""
    columns: dict[str, str] = {}
    for name in paths:
        path = Path(name)
        text = _read(path)
        columns |= _fields(path, text) if path.suffix == _OBJECT else {CAPTION: text.strip()}
    return columns


def column_text(value: object) -> str:
    """A JSON value as the text of a column; null is what an empty field of a table is."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if size > _MOST_BYTES:
        raise InputError(
            f"{path} has {size} bytes, too many for a caption of the video beside it; give it another name"
        )
    return read_text(path)


def _fields(path: Path, text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}; mend it, or give it another name than the video's") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no JSON object; wanted fields such as `{CAPTION}`, or another name")
    return {name: column_text(value) for name, value in values.items()}
