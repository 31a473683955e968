"""Data sets: many videos to .cvl files, their latents in slices for training loops, and videos as clips to learn from.

latents, stream    `LatentDataset` over .cvl files, `IterableLatentDataset` over tar shards
reader, slices     .cvl files opened, mapped and cached; which slice, from a seed
index, shards      the JSON lines that describe a folder of .cvl files; the layout of a tar shard
sources, work      folders, globs and manifests -> clips with their places; one clip, once: encode or skip
batch, engines     a run: journal, index, failures; who does the work: this process, or a Ray cluster
targets            what diffusion models want: factors, shift, order of axes
export_, import_   files of latents; stored, recorded: those files, read
media, sampling    videos and photos to learn from, decoded; clips of them, drawn by a key (`keys`)
device_clips       the same clips, made in a device's memory; pack: training files made small enough to travel
"""

from cvcodec.dataset.index import INDEX_NAME, read_index
from cvcodec.dataset.latents import IterableLatentDataset, LatentDataset

__all__ = ["INDEX_NAME", "IterableLatentDataset", "LatentDataset", "read_index"]
