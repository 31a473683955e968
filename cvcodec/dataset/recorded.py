"""What `cvcodec export` records beside latents, read back: anybody may have written or changed it.

Owns: which fields and times can be meant. Does not know: files, what an import makes of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import UNKNOWN
from cvcodec.bitstream.format import MAX_CHUNK_LATENTS, MAX_COUNT
from cvcodec.dataset.targets import Mode

TIMES = ("pts", "durations", "flags")

_INT64 = np.iinfo(np.int64)
_RANGES = {"pts": (_INT64.min, _INT64.max), "durations": (UNKNOWN, _INT64.max), "flags": (0, 255)}


@dataclass(frozen=True)
class Export:
    """The fields that an import goes by; None where nothing is recorded."""

    target: str | None = None
    mode: Mode | None = None
    frames: int | None = None
    chunks: tuple[int, ...] | None = None
    """Latents of each chunk of the exported file, which an import cuts at the same places."""


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
