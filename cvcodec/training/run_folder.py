"""A run folder: what a run goes on with, and the weights that it leaves for others.

Owns: config.toml and how configs differ; state.pt, everything that the next step depends on, its format number and the
smaller form that travels; model.safetensors with its card; the same in pieces that fit through a narrow door (`pieces`:
pieces.json names every piece with its hash and is replaced last). Each appears whole or not at all.
Does not know: what is inside a state, the log.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import pickle
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvcodec.checkpoints.checkpoint import load_checkpoint, make_checkpoint, write_checkpoint
from cvcodec.checkpoints.registry import resolve
from cvcodec.errors import CheckpointError, OutputError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quantization import LatentStatistics
from cvcodec.training.config import TrainConfig, read_config_file

CONFIG_NAME = "config.toml"
STATE_NAME = "state.pt"
WEIGHTS_NAME = "model.safetensors"
PIECES = "pieces"
PIECE_BYTES = 15 << 20
"""At most."""

_FORMAT = 1
_LIST = "pieces.json"
_OF_THE_CALL = ("output", "resume")  # they say how the run is called, not what it does
_NO_LENGTH: dict[str, Any] = {"steps": 0, "minutes": 0.0}


def prepare_folder(folder: Path, config: TrainConfig) -> None:
    """Make it and record the config. UsageError where another run lies there and is not to be resumed."""
    if has_state(folder) and not config.run.resume:
        raise UsageError(f"{folder} already holds a run; give --resume to continue it, or another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"run folder {folder} cannot be written: {reason}; give another --output") from error
    if not config.run.resume:
        write_config(folder, config)


# ---------------------------------------------------------------------------------------------------- config


def write_config(folder: Path, config: TrainConfig) -> None:
    """Record `config`. OutputError when it cannot be written."""
    with atomic_output(folder / CONFIG_NAME, overwrite=True) as file:
        file.write(config.with_values(resume=False).to_toml().encode())


def read_config(folder: Path) -> TrainConfig:
    """What the run recorded. CheckpointError when there is none, UsageError for one of another release.

    Where only its pieces are there, they are joined first.
    """
    path = folder / CONFIG_NAME
    if not path.is_file() and has_pieces(folder):
        write_joined(folder)
    if not path.is_file():
        raise CheckpointError(f"nothing to resume in {folder}: it has no {CONFIG_NAME}; start without --resume")
    return TrainConfig.of(**read_config_file(path))


def resumed_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded values of the run in the output folder of `given`, with those of `given` over them.

    A length in steps takes the place of one in minutes, and the other way round.
    """
    if not given.get("output"):
        raise UsageError("no run to resume: give --output")
    values = read_config(Path(given["output"])).values
    if any(given.get(name) for name in _NO_LENGTH):
        values |= _NO_LENGTH
    return values | dict(given)


def changes(before: TrainConfig, now: TrainConfig) -> list[str]:
    """One text, `name old -> new`, for each setting that decides the run and differs."""
    old = before.values
    return [
        f"{name} {_shown(old[name])} -> {_shown(value)}"
        for name, value in now.values.items()
        if name not in _OF_THE_CALL and old[name] != value
    ]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) and value else repr(value)


# ---------------------------------------------------------------------------------------------------- state


def has_state(folder: Path) -> bool:
    """Whether there is something to resume."""
    return (folder / STATE_NAME).exists() or has_pieces(folder)


def save_state(folder: Path, parts: dict[str, Any]) -> None:
    """Write `parts` (tensors and plain values). OutputError when the disk refuses."""
    with atomic_output(folder / STATE_NAME, overwrite=True) as file:
        torch.save({"format": _FORMAT, **parts}, file)
    if has_pieces(folder):  # of an older state
        (folder / PIECES / _LIST).unlink()
        for path in (folder / PIECES).iterdir():
            path.unlink()
        (folder / PIECES).rmdir()


def save_state_in_pieces(folder: Path, parts: dict[str, Any]) -> None:
    """The same in pieces, with weights and config beside it; the state file, which is older now, goes."""
    whole = io.BytesIO()
    torch.save({"format": _FORMAT, **parts}, whole)
    files = {STATE_NAME: whole.getvalue()} | {
        name: (folder / name).read_bytes() for name in (WEIGHTS_NAME, CONFIG_NAME)
    }
    cut_into_pieces(folder, files, f"{parts['step']:07d}")
    (folder / STATE_NAME).unlink(missing_ok=True)


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


# ---------------------------------------------------------------------------------------------------- weights


def store_weights(
    folder: Path,
    model: VideoAutoencoder,
    config: TrainConfig,
    *,
    statistics: LatentStatistics,
    card: Mapping[str, Any],
) -> None:
    """Write the model's present weights; `card`: what the run knows of them, beside its config.

    A half that was frozen keeps the numbers and the types it was loaded with, so that its identity stays.
    """
    dtype = torch.float16 if config.reports.store == "fp16" else torch.float32
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    original = load_checkpoint(resolve(config.model.init).path).state_dict if frozen and config.model.init else {}
    tensors = {
        name: original[name] if name in frozen and name in original else tensor.detach().to("cpu", dtype)
        for name, tensor in model.state_dict().items()
    }
    whole_card = {
        "name": config.run.name or folder.resolve().name,
        "command": " ".join(["cvcodec", *sys.argv[1:]]),
        "config": config.to_toml(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        **card,
    }
    checkpoint = make_checkpoint(model.config, tensors, statistics=statistics, card=whole_card)
    write_checkpoint(folder / WEIGHTS_NAME, checkpoint, overwrite=True)


# ---------------------------------------------------------------------------------------------------- pieces


def has_pieces(folder: Path) -> bool:
    """Whether a run folder's files lie there in pieces."""
    return (folder / PIECES / _LIST).is_file()


def cut_into_pieces(folder: Path, files: Mapping[str, bytes], label: str) -> None:
    """Write `files` in pieces under a run folder, then forget the pieces of before. OutputError when the disk refuses.

    `label` tells these pieces from those that they replace, which stay whole until the new ones are.
    """
    target = folder / PIECES
    listed: dict[str, list[dict[str, str]]] = {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            listed[name] = []
            for number, start in enumerate(range(0, len(content), PIECE_BYTES)):
                piece = content[start : start + PIECE_BYTES]
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


def join_pieces(folder: Path) -> dict[str, bytes]:
    """The files that `cut_into_pieces` was given. CheckpointError when a piece is missing or damaged."""
    source = folder / PIECES
    try:
        return {name: _joined(source, pieces) for name, pieces in json.loads((source / _LIST).read_bytes()).items()}
    except OSError as error:
        raise CheckpointError(f"cannot join the pieces: {error.filename}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source / _LIST} is damaged: {error}") from error


def _joined(source: Path, pieces: Sequence[Mapping[str, str]]) -> bytes:
    parts = []
    for entry in pieces:
        parts.append((source / entry["piece"]).read_bytes())
        if hashlib.sha256(parts[-1]).hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{source / entry['piece']} is damaged: it is not what {_LIST} names")
    return b"".join(parts)


def write_joined(folder: Path) -> list[Path]:
    """Join the pieces of a run folder into the files they were cut from. CheckpointError where there are none."""
    if not has_pieces(folder):
        raise CheckpointError(f"nothing to join in {folder}: it has no {PIECES}/{_LIST}")
    written = []
    for name, content in join_pieces(folder).items():
        with atomic_output(folder / name, overwrite=True) as file:
            file.write(content)
        written.append(folder / name)
    return written
