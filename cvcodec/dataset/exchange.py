"""Files of latents as programs exchange them: .safetensors and .npy, of `cvcodec export` or of any other origin.

Owns: writing them, finding the tensor, and which of the recorded fields and times can be meant, since anybody may have
written or changed them. Does not know: what the latents are for, what an import makes of them.

A safetensors file holds `latents`, `logvar` where the source keeps it, and `pts`, `durations` and `flags` of the
frames; its metadata `cvcodec.export` (JSON) says target, layout, factors and mode, and `cvcodec.header` is the header
of the .cvl file, so that importing it again decodes to the same video. A .npy file has the same beside it, as
`NAME.npy.json`, but for the log-variance, which it leaves out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import UNKNOWN, Header
from cvcodec.bitstream.format import MAX_CHUNK_LATENTS, MAX_COUNT
from cvcodec.bitstream.header import load_header
from cvcodec.dataset.shards import npy_bytes
from cvcodec.dataset.targets import Mode
from cvcodec.errors import BitstreamError, InputError, UsageError
from cvcodec.fileio import VIDEO_SUFFIXES, atomic_output, check_output, open_input
from cvcodec.remote import fetched, path_of

EXPORT_KEY, HEADER_KEY = "cvcodec.export", "cvcodec.header"
"""Where a file keeps what an export said, and the header of its .cvl file."""
Array = NDArray[Any] | Tensor
"""A tensor where NumPy has no such type (bfloat16)."""
TIMES = ("pts", "durations", "flags")

_INT64 = np.iinfo(np.int64)
_RANGES = {"pts": (_INT64.min, _INT64.max), "durations": (UNKNOWN, _INT64.max), "flags": (0, 255)}
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
class Export:
    """The fields that an import goes by; None where nothing is recorded."""

    target: str | None = None
    mode: Mode | None = None
    frames: int | None = None
    chunks: tuple[int, ...] | None = None
    """Latents of each chunk of the exported file, which an import cuts at the same places."""


@dataclass(frozen=True)
class Stored:
    """A file of latents, read."""

    latents: NDArray[Any]
    export: Export
    """What `cvcodec export` recorded; nothing for latents of other origin."""
    header: Header | None
    times: Mapping[str, NDArray[np.int64]]
    notices: tuple[str, ...] = ()


def write_safetensors(
    output: str | os.PathLike[str], tensors: dict[str, Array], metadata: dict[str, str], overwrite: bool
) -> None:
    """Arrays and what is recorded of them in one file."""
    from safetensors.torch import save

    with atomic_output(output, overwrite=overwrite) as sink:
        sink.write(save({name: torch.as_tensor(values) for name, values in tensors.items()}, metadata))


def write_npy(
    output: str | os.PathLike[str], tensors: dict[str, Array], metadata: dict[str, str], overwrite: bool
) -> None:
    """The latents alone; the times of their frames and what is recorded in `NAME.npy.json` beside them."""
    sidecar = path_of(f"{os.fspath(output)}.json")
    check_output(sidecar, overwrite=overwrite)
    beside = {EXPORT_KEY: json.loads(metadata[EXPORT_KEY]), HEADER_KEY: json.loads(metadata[HEADER_KEY])}
    beside |= {name: tensors[name].tolist() for name in TIMES}
    with atomic_output(output, overwrite=overwrite) as sink:
        sink.write(npy_bytes(np.asarray(tensors["latents"])))
    with atomic_output(sidecar, overwrite=overwrite) as sink:
        sink.write(json.dumps(beside, sort_keys=True).encode() + b"\n")


def latents_in_memory(values: Array) -> Stored:
    """Latents of which nothing is recorded. InputError for what is no float."""
    array = _as_numpy(values.detach().cpu()) if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind != "f":
        raise InputError(f"the array holds {array.dtype}, latents are floats")
    return Stored(array, Export(), None, {})


def read_latents(source: str | os.PathLike[str], *, key: str | None = None) -> Stored:
    """The latents of a .safetensors or .npy file, in any float type, and what is recorded.

    key: name of the tensor, where a .safetensors file has several. Raises InputError; UsageError for a key in a .npy
    file, which has none.
    """
    path = path_of(source)
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
    latents: NDArray[Any] | Mapping[str, Any] = np.load(fetched(path), allow_pickle=False)
    if not isinstance(latents, np.ndarray):
        raise ValueError("it holds several arrays")
    sidecar = path_of(f"{path}.json")
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
        return read_json(path.read_bytes().decode("utf-8"), path.name)
    except ValueError:
        return {}


def _read_safetensors(path: Path, key: str | None) -> tuple[NDArray[Any], dict[str, str], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(fetched(path), framework="pt") as file:  # torch, since numpy has no bfloat16
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


def read_export(text: str) -> Export:
    """From its JSON. ValueError for what no export writes."""
    values = read_json(text, "its description")
    chunks = values.get("chunks")
    if chunks is not None and not (
        isinstance(chunks, list) and all(_is_count(count, MAX_CHUNK_LATENTS) for count in chunks)
    ):
        raise ValueError(f"its description says chunks = {ascii(chunks)[:40]}, wanted a list of numbers of latents")
    _check(values, "target", isinstance(values.get("target", ""), str), "text")
    _check(values, "mode", values.get("mode", "video") in get_args(Mode), " or ".join(get_args(Mode)))
    _check(values, "frames", _is_count(values.get("frames", 1), MAX_COUNT), f"a whole number from 1 to {MAX_COUNT}")
    return Export(
        values.get("target"), values.get("mode"), values.get("frames"), None if chunks is None else tuple(chunks)
    )


def read_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object. ValueError for anything else, nested beyond measure too."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError(f"{what} nests too deep") from None
    except ValueError as error:
        raise ValueError(f"{what} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{what} is {type(values).__name__}, wanted an object")
    return values


def read_times(found: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """`pts`, `durations` and `flags` of the frames, one of each a frame, from arrays or lists; nothing where none is
    there. ValueError for other shapes, types and values."""
    if not found:
        return {}
    times: dict[str, NDArray[np.int64]] = {}
    for name in TIMES:
        if name not in found:
            raise ValueError(f"it has {', '.join(found)} without {name}, wanted {', '.join(TIMES)}")
        values = np.asarray(found[name])
        low, high = _RANGES[name]
        if values.ndim != 1 or not values.size or values.dtype.kind not in "iu":
            raise ValueError(f"its {name} are {values.shape} {values.dtype}, wanted (frames,) integers")
        if values.min() < low or values.max() > high:
            raise ValueError(f"its {name} reach from {values.min()} to {values.max()}, wanted {low} to {high}")
        times[name] = values.astype(np.int64)
    counts = {name: len(values) for name, values in times.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "it has " + ", ".join(f"{count} {name}" for name, count in counts.items()) + ", wanted as many"
        )
    return times


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _check(values: Mapping[str, Any], name: str, fits: bool, wanted: str) -> None:
    if name in values and not fits:
        raise ValueError(f"its description says {name} = {ascii(values[name])[:40]}, wanted {wanted}")
