"""Files of latents, read: .safetensors and .npy, of `cvcodec export` or of any other origin.

Owns: finding the tensor, and what is recorded with it. Does not know: what the latents are for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import Header
from cvcodec.bitstream.header import load_header
from cvcodec.dataset.export_ import EXPORT_KEY, HEADER_KEY
from cvcodec.dataset.recorded import TIMES, Export, read_export, read_json, read_times
from cvcodec.errors import BitstreamError, InputError, UsageError
from cvcodec.fileio import VIDEO_SUFFIXES, open_input

_NAMES = ("latents", "latent", "samples", "z")
_NPY_MAGIC = b"\x93NUMPY"

_SAVE_ANEW = "save the tensor with safetensors.torch.save_file, or its array with numpy.save"
_OTHERS = (
    (b"\x89CVL", "a .cvl file already; decode it: cvcodec decode"),
    (b"\x89HDF", f"HDF5; {_SAVE_ANEW}"),
    (b"\x80", f"a Python pickle, which could run code when it is loaded; {_SAVE_ANEW}"),
    (b"PK\x03\x04", f"a zip, as torch.save and numpy.savez write, and pickles in it could run code; {_SAVE_ANEW}"),
)
"""What other files begin with, what they are, and the way out."""


@dataclass(frozen=True)
class Stored:
    """A file of latents, read."""

    latents: NDArray[Any]
    export: Export
    """What `cvcodec export` recorded; nothing for latents of other origin."""
    header: Header | None
    times: Mapping[str, NDArray[np.int64]]
    notices: tuple[str, ...] = ()


def read_latents(source: str | os.PathLike[str], *, key: str | None = None) -> Stored:
    """The latents of a .safetensors or .npy file, in any float type, and what is recorded.

    key: name of the tensor, where a .safetensors file has several. Raises InputError; UsageError for a key in a .npy
    file, which has none.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a file" if path.is_dir() else f"{path}: no such file")
    with open_input(path) as file:
        head = file.read(len(_NPY_MAGIC))
    is_npy = head == _NPY_MAGIC or path.suffix.lower() == ".npy"
    if is_npy and key is not None:
        raise UsageError(f"{path}: a .npy file holds one array; leave out --key")
    notices: list[str] = []
    try:
        if is_npy:
            latents, record, found = _read_npy(path, notices)
        else:
            latents, record, found = _read_safetensors(path, key)
        header = load_header(record[HEADER_KEY].encode()) if HEADER_KEY in record else None
        export = read_export(record[EXPORT_KEY]) if EXPORT_KEY in record else Export()
        times = read_times(found)
    except (ValueError, EOFError, OSError, BitstreamError) as error:
        # Asked last: a .safetensors file begins with a length, which may look like anything.
        other = next((what for magic, what in _OTHERS if head.startswith(magic)), None)
        if other is None and path.suffix.lower() in VIDEO_SUFFIXES:
            other = "a video; encode it: cvcodec encode"
        if other is not None:
            raise InputError(f"{path} holds no latents that can be read, it is {other}") from error
        raise InputError(f"{path} cannot be read as latents, wanted .safetensors or .npy: {error}") from error
    if latents.dtype.kind != "f":
        raise InputError(f"{path} holds {latents.dtype}, latents are floats")
    return Stored(latents, export, header, times, tuple(notices))


def _read_npy(path: Path, notices: list[str]) -> tuple[NDArray[Any], dict[str, str], dict[str, Any]]:
    latents: NDArray[Any] | Mapping[str, Any] = np.load(path, allow_pickle=False)
    if not isinstance(latents, np.ndarray):
        raise ValueError("it holds several arrays")
    sidecar = Path(f"{path}.json")
    if not sidecar.is_file():
        return latents, {}, {}
    beside = _object(sidecar)
    if not {EXPORT_KEY, HEADER_KEY} & beside.keys():
        notices.append(f"{sidecar} beside the latents is not of `cvcodec export`: it is not read")
        return latents, {}, {}
    if missing := [name for name in (EXPORT_KEY, HEADER_KEY, *TIMES) if name not in beside]:
        raise ValueError(f"{sidecar.name} beside it has no {', '.join(missing)}; remove it, or export again")
    record = {name: json.dumps(beside[name]) for name in (EXPORT_KEY, HEADER_KEY)}
    return latents, record, {name: beside[name] for name in TIMES}


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where a file holds none."""
    try:
        return read_json(path.read_text(encoding="utf-8"), path.name)
    except ValueError:
        return {}


def _read_safetensors(path: Path, key: str | None) -> tuple[NDArray[Any], dict[str, str], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # torch, since numpy has no bfloat16
            names = list(file.keys())
            name = key or next((name for name in _NAMES if name in names), names[0] if len(names) == 1 else "")
            if name not in names:
                raise InputError(f"{path} has no tensor {name!r}; name one of {', '.join(names)} with --key")
            tensor = file.get_tensor(name)
            times = {part: _as_numpy(file.get_tensor(part)) for part in TIMES if part in names}
            return _as_numpy(tensor), dict(file.metadata() or {}), times
    except SafetensorError as error:
        raise ValueError(f"no safetensors file: {error}") from error


def _as_numpy(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array
