"""Data sets: many videos to .cvl files, their latents in slices for training loops, and videos as clips to learn from.

latents, reader       `LatentDataset` over .cvl files, `IterableLatentDataset` over tar shards; slices of .cvl files
index, shards         the JSON lines that describe a folder of .cvl files; the layout of a tar shard
sources, tables       folders, globs and manifests -> clips with their places; CSV and TSV
run                   `cvcodec.batch`: all of it in one call
batch                 a run and its clips: encode or skip, journal, index, failures
local_engine          who does the work: this process, or a Ray cluster (`ray_engine`), with a `shared_encoder`
exporting, importing  latents to and from files of others (`exchange`), as diffusion models want them (`targets`)
media, sampling       videos and photos to learn from, decoded; clips of them, drawn by a key (`keys`)
device_clips, pack    the same clips, made in a device's memory; training files made small enough to travel
"""

from cvcodec.dataset.index import INDEX_NAME, read_index
from cvcodec.dataset.latents import IterableLatentDataset, LatentDataset

__all__ = ["INDEX_NAME", "IterableLatentDataset", "LatentDataset", "read_index"]
