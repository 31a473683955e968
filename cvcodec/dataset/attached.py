"""Tensors of a user's own that belong to clips, such as the embedding of a caption: a file each, beside the .cvl file.

    cats/1.cvl   cats/1.text.safetensors     attached as `text`: one tensor of that name, or several of their own names

Owns: these files, their names, and the index's word of them. Does not know: what the tensors are.

A file says what its clip's source and columns were when it was made, so that a run that was interrupted goes on, and
one after a caption has changed makes that clip's alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from cvcodec.dataset.index import Record, dump_line, index_files, parse_lines, read_index
from cvcodec.dataset.items import RESERVED
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.remote import fetched, path_of

SUFFIX = ".safetensors"

_MADE_OF = "cvcodec.made_of"
"""Where a file keeps the identity of source and columns."""

Values = Any
"""A tensor, an array or a list of numbers, or a mapping of names to these; None: nothing for this clip."""


def attach(
    folder: str | os.PathLike[str],
    name: str,
    values: Mapping[str, Values] | Callable[[Record], Values],
    *,
    overwrite: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Store what belongs to each clip of a folder of `cvcodec batch`, and return for how many it was made now.

    values: by `path` of the index, or a function of a clip's record in the index (`path`, `source`, `columns`, ...).
    overwrite: make also what is there and was made from the same source and columns; a mapping's are always written.

    Both data sets give it with `attached=[name]`, and `cvcodec export --format webdataset` puts it into the shards.
    Raises UsageError for a name or values that cannot be meant, InputError for a folder that has no finished index.
    """
    root = path_of(folder)
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name in RESERVED:
        raise UsageError(f"{name!r} cannot be a name; wanted letters and digits, and none of {', '.join(RESERVED)}")
    records = read_index(root) if root.is_dir() else []
    if not (root.is_dir() and index_files(root)):
        raise InputError(f"{root} has no index to note it in; name the folder of a `cvcodec batch`")
    if not callable(values):
        unknown = sorted(values.keys() - {record["path"] for record in records})
        if unknown:
            raise UsageError(f"{unknown[0]!r} is no path of the index of {root} ({len(unknown)} are not)")
    noted: dict[str, str] = {}
    made = 0
    for done, record in enumerate(records, 1):
        place = PurePosixPath(record["path"]).with_suffix(f".{name}{SUFFIX}").as_posix()
        identity = made_of(record)
        if callable(values) and not overwrite and _is_current(root / place, identity):
            noted[record["path"]] = place
        else:
            found = values(record) if callable(values) else values.get(record["path"])
            if found is not None:
                _write(root / place, name, found, identity)
                noted[record["path"]] = place
                made += 1
        on_clip(done, len(records))
    _note(root, name, noted)
    return made


def load_attached(data: bytes, name: str, what: str) -> Tensor | dict[str, Tensor]:
    """The tensor of a file's bytes, or its tensors by name. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{what} is no .safetensors file: {error}; attach {name!r} again") from error
    return tensors[name] if tensors.keys() == {name} else tensors


def read_attached(folder: Path, record: Record, name: str) -> bytes:
    """The bytes of the file that a record names. UsageError where nothing is attached by that name, InputError where
    the file is gone."""
    attached = record.get("attached", {})
    if name not in attached:
        raise UsageError(
            f"{record['path']} has nothing attached as {name!r}, it has {', '.join(attached) or 'nothing'}; "
            "cvcodec.dataset.attach makes what is missing"
        )
    path = path_of(folder) / str(attached[name])
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def made_of(record: Record) -> str:
    """16 hex digits: what the source and the columns of a clip are."""
    text = json.dumps([record.get("source_id"), record.get("columns")], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_current(path: Path, identity: str) -> bool:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(fetched(path), "pt") as file:
            return bool((file.metadata() or {}).get(_MADE_OF) == identity)
    except (SafetensorError, OSError):
        return False


def _write(path: Path, name: str, values: Values, identity: str) -> None:
    from safetensors.torch import save

    given = values if isinstance(values, Mapping) else {name: values}
    tensors = {}
    for key, value in given.items():
        try:
            tensor = torch.as_tensor(value).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{path.name}: {key} is {type(value).__name__}, wanted a tensor or an array") from error
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UsageError(f"{path.name}: {key} holds NaN or infinity")
        tensors[key] = tensor.contiguous().clone()  # the file refuses tensors that share their memory
    with atomic_output(path, overwrite=True) as sink:
        sink.write(save(tensors, {_MADE_OF: identity}))


def _note(root: Path, name: str, places: Mapping[str, str]) -> None:
    """Write into every index file what is attached now."""
    read_index(root)  # refuses a folder that a batch has begun to write since
    for file in index_files(root):
        records = parse_lines(file.read_bytes())
        for record in records:
            others = {known: place for known, place in record.get("attached", {}).items() if known != name}
            here = {name: places[record["path"]]} if record["path"] in places else {}
            record["attached"] = others | here
        with atomic_output(file, overwrite=True) as sink:
            sink.writelines(map(dump_line, records))
