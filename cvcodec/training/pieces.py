"""Files of a run cut into pieces that fit through a narrow door, and joined again.

Owns: the folder `pieces` of a run folder: pieces.json, which names every piece with its hash and is replaced last, and
the pieces it names. Does not know: what the files hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvcodec.errors import CheckpointError, OutputError
from cvcodec.fileio import atomic_output

FOLDER = "pieces"
MOST_BYTES = 15 << 20
"""Of a piece."""
_LIST = "pieces.json"


def cut_into_pieces(folder: Path, files: Mapping[str, bytes], label: str) -> None:
    """Write `files` in pieces under a run folder, then forget the pieces of before. OutputError when the disk refuses.

    `label` tells these pieces from those that they replace, which stay whole until the new ones are.
    """
    target = folder / FOLDER
    listed: dict[str, list[dict[str, Any]]] = {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            listed[name] = []
            for number, start in enumerate(range(0, len(content), MOST_BYTES)):
                piece = content[start : start + MOST_BYTES]
                path = target / f"{name}.{label}.{number:02d}"
                path.write_bytes(piece)
                listed[name].append({"piece": path.name, "sha256": hashlib.sha256(piece).hexdigest()})
        with atomic_output(target / _LIST, overwrite=True) as file:
            file.write(json.dumps(listed, indent=1).encode() + b"\n")
        kept = {entry["piece"] for pieces in listed.values() for entry in pieces} | {_LIST}
        for path in target.iterdir():
            if path.name not in kept:
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot write pieces in {target}: {error.strerror or error}") from error


def forget_pieces(folder: Path) -> None:
    """Remove a run folder's pieces, the list first."""
    target = folder / FOLDER
    if has_pieces(folder):
        (target / _LIST).unlink()
        for path in target.iterdir():
            path.unlink()
        target.rmdir()


def has_pieces(folder: Path) -> bool:
    """Whether a run folder's files lie there in pieces."""
    return (folder / FOLDER / _LIST).is_file()


def join_pieces(folder: Path) -> dict[str, bytes]:
    """The files that `cut_into_pieces` was given. CheckpointError when a piece is missing or damaged."""
    source = folder / FOLDER
    try:
        listed = json.loads((source / _LIST).read_bytes())
        files: dict[str, bytes] = {}
        for name, pieces in listed.items():
            parts = []
            for entry in pieces:
                part = (source / entry["piece"]).read_bytes()
                if hashlib.sha256(part).hexdigest() != entry["sha256"]:
                    raise CheckpointError(f"{source / entry['piece']} is damaged: it is not what {_LIST} names")
                parts.append(part)
            files[name] = b"".join(parts)
    except OSError as error:
        raise CheckpointError(f"cannot join the pieces: {error.filename}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source / _LIST} is damaged: {error}") from error
    return files


def write_joined(folder: Path) -> list[Path]:
    """Join the pieces of a run folder into the files they were cut from. CheckpointError where there are none."""
    if not has_pieces(folder):
        raise CheckpointError(f"nothing to join in {folder}: it has no {FOLDER}/{_LIST}")
    written = []
    for name, content in join_pieces(folder).items():
        with atomic_output(folder / name, overwrite=True) as file:
            file.write(content)
        written.append(folder / name)
    return written
