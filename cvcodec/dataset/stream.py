"""`IterableLatentDataset`: slices of the latents in tar shards, in one pass over each shard.

Owns: which shard goes to which worker, and the order. Does not know: the layout of a shard (`shards`).
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from cvcodec.dataset.checks import check_choice, check_columns, check_latents, check_one_space, check_whole
from cvcodec.dataset.index import read_index
from cvcodec.dataset.posterior import Posterior, values_of
from cvcodec.dataset.shards import LATENTS, LOGVAR, SHARDS_NAME, Sample, read_samples
from cvcodec.dataset.slices import BUFFER, SAMPLE, SHARDS, draw_slice, generator_for
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import partial_path

StrPath = str | os.PathLike[str]

RESERVED = ("latents", "first_latent", "first_frame", "key")
"""What an item has besides columns."""


class IterableLatentDataset(IterableDataset[dict[str, Any]]):
    """Random slices of latents from the shards of `cvcodec export --format webdataset`.

    source: a folder of .tar shards (those that its shards.jsonl lists, if there is one), or a list of shards.
    latents: length of a slice; None: whole clips. Clips that are shorter are skipped; InputError if all are.
    seed: the same seed and epoch give the same slices, whatever the number of workers and processes; their order
        depends on that number.
    shuffle: samples held to be given in random order, each worker for itself; 0: shards and samples in stored order.
    posterior: `mean`, or `sample`, which draws from the posterior; that wants shards with log-variances.
    rank, world_size: of this process among those that share the shards; None: what torch.distributed says, else alone.
    columns: of the manifest, to be given as text; none may be called like something else that an item has.
    endless: go on with the next epoch instead of ending, so that workers never stand still between epochs.
    transform: applied to the finished item.

    An item is a dict: `latents` (C, n, h, w) float32, in the space and order that the shard was written for (so
    (n, C, h, w) where that is its layout); `first_latent`, `first_frame`, `key`; and the columns.

    Shards are dealt out whole, so there should be several times more of them than workers; with fewer, some workers get
    nothing, which is warned of once. Call `set_epoch` before each epoch. Raises InputError, UsageError.
    """

    def __init__(
        self,
        source: StrPath | Sequence[StrPath],
        *,
        latents: int | None = None,
        seed: int = 0,
        shuffle: int = 1000,
        posterior: Posterior = "mean",
        rank: int | None = None,
        world_size: int | None = None,
        columns: Sequence[str] = (),
        endless: bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        check_latents(latents)
        check_whole("seed", seed, least=0)
        check_whole("shuffle", shuffle, least=0)
        check_choice("posterior", posterior, Posterior)
        if (rank is None) != (world_size is None) or (rank is not None and not 0 <= rank < (world_size or 0)):
            raise UsageError(f"rank = {rank} of world_size = {world_size} is no place among processes")
        self.shards = _find(source)
        self._length, self._seed, self._shuffle, self._posterior = latents, seed, shuffle, posterior
        self._rank, self._world_size = rank, world_size
        self._columns, self._endless, self._transform = check_columns(columns, RESERVED), endless, transform
        # In shared memory, as workers that live on see a later `set_epoch`, and those of every epoch what was said.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._first: tuple[str, dict[str, Any]] | None = None
        self._warned = torch.zeros((), dtype=torch.bool).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw the slices and the order of this epoch; to be called before the loader is iterated."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        items = self._epochs()
        return items if self._transform is None else map(self._transform, items)

    def _epochs(self) -> Iterator[dict[str, Any]]:
        for epoch in itertools.count(int(self._epoch)):
            anything = False
            for item in self._items(epoch):
                anything = True
                yield item
            if not anything:
                self._check_lengths()
            if not (self._endless and anything):
                return

    def _items(self, epoch: int) -> Iterator[dict[str, Any]]:
        order = list(range(len(self.shards)))
        if self._shuffle:
            generator_for(self._seed, epoch, SHARDS).shuffle(order)
        worker, workers = self._place()
        if worker == 0:
            self._warn_of_idle(workers)
        mine = order[worker::workers]
        drawn = (
            item
            for number in mine
            for place, sample in enumerate(self._samples(self.shards[number]))
            if (item := self._item(sample, generator_for(self._seed, epoch, SAMPLE, number, place))) is not None
        )
        if not (self._shuffle and mine):
            return drawn
        return self._shuffled(drawn, generator_for(self._seed, epoch, BUFFER, mine[0]))

    def _shuffled(self, items: Iterator[dict[str, Any]], generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        held: list[dict[str, Any]] = []
        for item in items:
            if len(held) < self._shuffle:
                held.append(item)
                continue
            place = int(generator.integers(len(held)))
            held[place], item = item, held[place]
            yield item
        generator.shuffle(held)
        yield from held

    def _item(self, sample: Sample, generator: np.random.Generator) -> dict[str, Any] | None:
        described = sample.description
        array = sample.array(LATENTS)
        axis = _time_axis(described)
        latents = array.shape[axis]
        if self._length is not None and latents < self._length:
            return None
        chosen = draw_slice(generator, latents, self._length, int(described["temporal_factor"]))
        cut = [slice(None)] * array.ndim
        cut[axis] = slice(chosen.start, chosen.stop)
        values = array[tuple(cut)].astype(np.float32)
        if self._posterior == "sample":
            if LOGVAR not in sample.files:
                raise UsageError(
                    f"{sample.shard}: sample {sample.key} keeps no log-variance; encode with --store-logvar"
                )
            values = values_of(values, sample.array(LOGVAR)[tuple(cut)].astype(np.float32), generator)
        item: dict[str, Any] = {
            "latents": torch.from_numpy(values),
            "first_latent": chosen.start,
            "first_frame": chosen.first_frame,
            "key": sample.key,
        }
        for column in self._columns:
            try:
                item[column] = str(described["columns"][column])
            except KeyError:
                raise UsageError(f"{sample.shard}: sample {sample.key} has no column {column!r}") from None
        return item

    def _samples(self, shard: Path) -> Iterator[Sample]:
        """Those of a shard. UsageError where one is of another latent space than the first sample of all, which every
        worker compares with, whatever shards it reads."""
        for sample in read_samples(shard):
            if self._first is None:
                self._first = next(
                    (f"{other}: {first.key}", first.description)
                    for other in self.shards
                    for first in read_samples(other)
                )
            check_one_space([self._first, (f"{shard}: {sample.key}", sample.description)])
            yield sample

    def _check_lengths(self) -> None:
        """InputError where no clip is as long as a slice. All shards are asked, so that every worker says the same."""
        longest = 0
        for shard in self.shards:
            for sample in read_samples(shard):
                longest = max(longest, _length_of(sample))
                if longest >= (self._length or 0):
                    return
        if longest:
            raise InputError(
                f"none of the clips in {len(self.shards)} shards has {self._length} latents, "
                f"the longest has {longest}; ask for shorter slices"
            )

    def _warn_of_idle(self, workers: int) -> None:
        if workers > len(self.shards) and not self._warned:
            self._warned.fill_(True)
            warnings.warn(
                f"{len(self.shards)} shards are fewer than {workers} workers, in all processes together: "
                f"{workers - len(self.shards)} of them yield nothing; take fewer, or export with less --shard-size",
                stacklevel=2,
            )

    def _place(self) -> tuple[int, int]:
        """This worker's number among all workers of all processes, and how many there are."""
        rank, world = self._rank, self._world_size
        if rank is None or world is None:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if distributed else 0
            world = torch.distributed.get_world_size() if distributed else 1
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        return rank * workers + (0 if worker is None else worker.id), world * workers


def _time_axis(description: Mapping[str, Any]) -> int:
    return str(description["layout"]).index("T")


def _length_of(sample: Sample) -> int:
    """How many latents a sample has."""
    return int(sample.array(LATENTS).shape[_time_axis(sample.description)])


def _find(source: StrPath | Sequence[StrPath]) -> list[Path]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        listing = path / SHARDS_NAME
        if partial_path(listing).exists():
            raise InputError(f"the export into {path} is not finished; run it again with -y if it was interrupted")
        if listing.is_file():
            found = [path / str(record["path"]) for record in read_index(listing, needed=())]
        else:
            found = sorted(path.glob("[!.]*.tar")) if path.is_dir() else [path]
    else:
        found = [Path(entry) for entry in source]
    if not found:
        raise InputError(f"there are no .tar shards in {source!r}")
    missing = next((path for path in found if not path.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing}: no such file")
    return found
