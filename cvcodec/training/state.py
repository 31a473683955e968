"""The state of a run on disk: everything that the next step depends on, whole or not at all.

Owns: the file, its atomic replacement, its format number. Does not know: what is inside the parts.
"""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from cvcodec.errors import CheckpointError, OutputError
from cvcodec.fileio import replacing

STATE_NAME = "state.pt"
_FORMAT = 1


def save_state(folder: Path, parts: dict[str, Any]) -> None:
    """Write `parts` (tensors and plain values) to the folder's state file. OutputError when the disk refuses."""
    try:
        with replacing(folder / STATE_NAME) as file:
            torch.save({"format": _FORMAT, **parts}, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"cannot save the state in {folder}: {error.strerror or error}") from error


def load_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU. CheckpointError when there is none or it is damaged."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise CheckpointError(f"nothing to resume in {folder}: it has no {STATE_NAME}; start without --resume")
    try:
        with warnings.catch_warnings(action="ignore"):
            parts: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0][:200]}") from error
    if parts.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has state format {parts.get('format')}; this release reads {_FORMAT}")
    return parts
