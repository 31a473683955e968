"""Latents for training loops: what `cvcodec batch` and `cvcodec export` wrote, read in random slices.

    LatentDataset            map-style, over .cvl files                     (`latents`)
    IterableLatentDataset    iterable, over WebDataset tar shards           (`stream`)

    index     the JSON lines that describe a folder of .cvl files           slices    which slice, from a seed
    clips     .cvl files opened, mapped and cached, per process             shards    the layout of a tar shard
    posterior sampling, and the factors of a diffusion model

Nothing here loads a model, except for `pixels="decoded"`.
"""

from cvcodec.data.index import INDEX_NAME, read_index
from cvcodec.data.latents import LatentDataset
from cvcodec.data.stream import IterableLatentDataset

__all__ = ["INDEX_NAME", "IterableLatentDataset", "LatentDataset", "read_index"]
