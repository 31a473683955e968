"""The state of a run on disk: everything that the next step depends on, whole or not at all.

Owns: the file or its pieces, their atomic replacement, the format number, the smaller form that travels.
Does not know: what is inside the parts.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvcodec.errors import CheckpointError, OutputError
from cvcodec.training.pieces import cut_into_pieces, forget_pieces, has_pieces, join_pieces

STATE_NAME = "state.pt"
_FORMAT = 1


def save_state(folder: Path, parts: dict[str, Any]) -> None:
    """Write `parts` (tensors and plain values) to the folder's state file. OutputError when the disk refuses."""
    part = folder / f"{STATE_NAME}.part"
    try:
        with open(part, "wb") as file:
            torch.save({"format": _FORMAT, **parts}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / STATE_NAME)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"cannot save the state in {folder}: {error.strerror or error}") from error
    forget_pieces(folder)


def save_state_in_pieces(folder: Path, parts: dict[str, Any], others: Sequence[Path]) -> None:
    """The same in pieces, with other files beside it; the state file, which is older now, goes."""
    whole = io.BytesIO()
    torch.save({"format": _FORMAT, **parts}, whole)
    try:
        files = {STATE_NAME: whole.getvalue(), **{path.name: path.read_bytes() for path in others}}
        cut_into_pieces(folder, files, f"{parts['step']:07d}")
        (folder / STATE_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot save the state in {folder}: {error.strerror or error}") from error


def has_state(folder: Path) -> bool:
    """Whether there is something to resume."""
    return (folder / STATE_NAME).exists() or has_pieces(folder)


def load_state(folder: Path) -> dict[str, Any]:
    """What was saved, on the CPU. CheckpointError when there is none or it is damaged."""
    path = folder / STATE_NAME
    source: Path | io.BytesIO = path
    if has_pieces(folder):
        source = io.BytesIO(join_pieces(folder).get(STATE_NAME, b""))
    elif not path.is_file():
        raise CheckpointError(f"nothing to resume in {folder}: it has no {STATE_NAME}; start without --resume")
    try:
        with warnings.catch_warnings(action="ignore"):
            parts: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0][:200]}") from error
    if parts.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has state format {parts.get('format')}; this release reads {_FORMAT}")
    return parts


def halved(value: Any, dtype: torch.dtype) -> Any:
    """`value` with its float32 tensors of more than one number in `dtype`; dictionaries and lists are gone through."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype == torch.float32 and value.ndim else value
    if isinstance(value, dict):
        return {key: halved(entry, dtype) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(halved(entry, dtype) for entry in value)
    return value
