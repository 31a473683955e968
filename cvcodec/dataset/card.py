"""The card of an exported data set: README.md with counts, shapes, model and sources, and how to load it.

Its first lines are what Hugging Face's `datasets` reads of such a file: which files are rows, so that
`datasets.load_dataset(FOLDER)` opens shards by its webdataset reader, and a folder of files by its clips.jsonl.
Owns: the text. Does not know: how clips are exported (`exporting`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cvcodec import __version__
from cvcodec.dataset.index import Record
from cvcodec.dataset.targets import Target

CARD_NAME = "README.md"

_ROWS = {"webdataset": "shard-*.tar", "safetensors": "clips.jsonl", "npy": "clips.jsonl"}
"""By format, the files of which `datasets` makes rows."""

_SHOWN = 12  # shapes; buckets are hardly more

_LOADING = {
    "webdataset": """    from datasets import load_dataset

    rows = load_dataset("{folder}", split="train")       # rows["latents.npy"], rows["json"]: what is said of a clip

    from cvcodec.dataset import IterableLatentDataset

    slices = IterableLatentDataset("{folder}", latents=5)  # random slices, for a DataLoader
""",
    "safetensors": """    from datasets import load_dataset
    from safetensors.torch import load_file

    rows = load_dataset("{folder}", split="train")       # path, shape, columns of each clip
    latents = load_file("{folder}/" + rows[0]["path"])["latents"]
""",
    "npy": """    import numpy as np
    from datasets import load_dataset

    rows = load_dataset("{folder}", split="train")       # path, shape, columns of each clip
    latents = np.load("{folder}/" + rows[0]["path"])
""",
}


def describe_set(
    folder: str, records: Sequence[Record], target: Target, *, kind: str, dtype: str, size_bytes: int, files: int
) -> str:
    """The card. records: of the index, of all clips."""
    frames = sum(int(record.get("frames") or 0) for record in records)
    shapes = Counter("x".join(map(str, record.get("shape") or ())) or "unknown" for record in records)
    columns = sorted({name for record in records for name in record.get("columns") or {}})
    facts = {
        "clips": f"{len(records)}, {frames} frames, in {files} files of {kind}, {size_bytes / 1e6:.1f} MB",
        "latents": f"for {target.name} ({target.title}): axes {_layout(target, kind)}, {_scale(target)}, type {dtype}",
        "shapes (C x t x h x w, as stored)": _listed(
            f"{shape} ({count})" for shape, count in sorted(shapes.items(), key=lambda item: -item[1])
        ),
        "model": _of(records, "model"),
        "latent space": _of(records, "latent_space_id"),
        "stored before as": _of(records, "latents_kind"),
        "log-variance": "kept" if records and all(record.get("logvar") for record in records) else "not kept",
        "pictures": _listed(sorted({f"{record.get('width')}x{record.get('height')}" for record in records})),
        "bits of the sources": _of(records, "bit_depth"),
        "damaged sources": sum(bool(r.get("decode_errors") or r.get("concealed_frames")) for r in records),
        "columns": _listed(columns) or "none",
    }
    head = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {_ROWS[kind]!r}\n---\n"
    lines = [f"* {name}: {value}" for name, value in facts.items()]
    return (
        f"{head}# {folder}\n\nLatents of videos, exported by cvcodec {__version__}.\n\n"
        + "\n".join(lines)
        + "\n\nA latent stands for four frames, the first of a clip for one. To load them:\n\n"
        + _LOADING[kind].format(folder=folder)
    )


def _layout(target: Target, kind: str) -> str:
    return target.clip_layout if kind == "webdataset" else target.layout


def _scale(target: Target) -> str:
    if target.scaling_factor == 1.0 and target.shift_factor == 0.0:
        return "not scaled"
    return f"(latent - {target.shift_factor:g}) * {target.scaling_factor:g}"


def _of(records: Iterable[Record], name: str) -> str:
    """The values of a key, each once."""
    values: set[Any] = {record.get(name) for record in records} - {None}
    return _listed(sorted(map(str, values))) or "unknown"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
