"""Data sets: many videos to .cvl files, their latents in slices for training loops, and videos as clips to learn from.

latents, stream       `LatentDataset` over .cvl files, `IterableLatentDataset` over tar shards
items, reader         what both give; slices of .cvl files
buckets               batches of one shape (`BucketSampler`)
attached              tensors of a user's own beside clips (`attach`)
index, shards         the JSON lines that describe a folder of .cvl files; the layout of a tar shard
sources, tables       folders, globs and manifests -> clips with their places; CSV and TSV
sidecars              captions beside videos
cuts, cutting         which clips a source is cut into (`cutting_options`), and which are left out; cuts by `scenes`
run                   `cvcodec.batch`: all of it in one call
batch                 a run and its clips: encode or skip, journal, index, failures
local_engine          who does the work: this process, or a Ray cluster (`ray_engine`), with a `shared_encoder`
exporting, importing  latents to and from files of others (`exchange`), as diffusion models want them (`targets`);
                      what an exported folder says of itself (`card`)
media, sampling       videos and photos to learn from, decoded; clips of them, drawn by a key (`keys`)
device_clips, pack    the same clips, made in a device's memory; training files made small enough to travel
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvcodec.dataset.attached import attach
    from cvcodec.dataset.buckets import BucketSampler
    from cvcodec.dataset.index import INDEX_NAME, read_index
    from cvcodec.dataset.latents import LatentDataset
    from cvcodec.dataset.stream import IterableLatentDataset

__all__ = ["INDEX_NAME", "BucketSampler", "IterableLatentDataset", "LatentDataset", "attach", "read_index"]

_HOMES = {
    "INDEX_NAME": "cvcodec.dataset.index",
    "BucketSampler": "cvcodec.dataset.buckets",
    "IterableLatentDataset": "cvcodec.dataset.stream",
    "LatentDataset": "cvcodec.dataset.latents",
    "attach": "cvcodec.dataset.attached",
    "read_index": "cvcodec.dataset.index",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
