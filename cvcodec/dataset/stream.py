"""`IterableLatentDataset`: random slices of latents from tar shards, in one pass over each.

Owns: its options, which shard goes to which worker, order, batches of one shape. Does not know: what an item is
(`items`), the layout of a shard (`shards`).
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
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from cvcodec.dataset.attached import load_attached
from cvcodec.dataset.index import check_one_space, read_index
from cvcodec.dataset.items import (
    BUFFER,
    SAMPLE,
    SHARDS,
    Layout,
    Lengths,
    Posterior,
    Slices,
    Start,
    check_whole,
    draw_posterior,
    process_place,
)
from cvcodec.dataset.shards import LATENTS, LOGVAR, PTS, SHARDS_NAME, Sample, attached_name, read_samples
from cvcodec.errors import InputError, UsageError
from cvcodec.fileio import partial_path
from cvcodec.remote import path_of

StrPath = str | os.PathLike[str]


class IterableLatentDataset(Slices, IterableDataset[dict[str, Any]]):
    """Random slices of latents from the shards of `cvcodec export --format webdataset`.

    source: a folder of .tar shards (those that its shards.jsonl lists, if there is one), or a list of shards.
    latents, start, layout, columns, transform: as for `LatentDataset`. Clips that are too short are skipped; InputError
        if all are.
    seed: the same seed and epoch give the same slices, whatever the number of workers and processes; their order
        depends on that number.
    shuffle: samples held to be given in random order, each worker for itself; 0: shards and samples in stored order.
    posterior: `mean`, or `sample`, which draws from the posterior; that wants shards with log-variances.
    rank, world_size: of this process among those that share the shards; None: what torch.distributed says, else alone.
    attached: names of what `attach` had stored beside the clips before they were exported.
    batch_size: give batches of one shape instead of items, each worker from what it reads, for DataLoader(data,
        batch_size=None); the last ones of an epoch may be smaller.
    drop_last: leave those out.
    endless: go on with the next epoch instead of ending, so that workers never stand still between epochs.

    An item is a dict, see `items`, without pixels. Its latents are scaled as the shard was written. Shards of exports
    that kept no times give no `pts`.

    Shards are dealt out whole, so there should be several times more of them than workers; with fewer, some workers get
    nothing, which is warned of once. Call `set_epoch` before each epoch. Raises InputError, UsageError.
    """

    def __init__(
        self,
        source: StrPath | Sequence[StrPath],
        *,
        latents: Lengths = None,
        start: Start = "random",
        seed: int = 0,
        shuffle: int = 1000,
        posterior: Posterior = "mean",
        layout: Layout = "CTHW",
        rank: int | None = None,
        world_size: int | None = None,
        columns: Sequence[str] = (),
        attached: Sequence[str] = (),
        batch_size: int | None = None,
        drop_last: bool = False,
        endless: bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        super().__init__(
            latents=latents,
            start=start,
            seed=seed,
            posterior=posterior,
            layout=layout,
            columns=columns,
            attached=attached,
            transform=transform,
        )
        check_whole("shuffle", shuffle, least=0)
        if batch_size is not None:
            check_whole("batch_size", batch_size, least=1, otherwise=", or None for items")
        process_place(rank, world_size)
        self.shards = _find_shards(source)
        self._shuffle, self._rank, self._world_size, self._endless = shuffle, rank, world_size, endless
        self._batch_size, self._drop_last = batch_size, drop_last
        self._first: tuple[str, dict[str, Any]] | None = None
        self._warned = torch.zeros((), dtype=torch.bool).share_memory_()  # by a worker of any epoch

    def __iter__(self) -> Iterator[Any]:
        return self._epochs()

    def _epochs(self) -> Iterator[Any]:
        for epoch in itertools.count(int(self._epoch)):
            anything = False
            items = self._items(epoch)
            for made in map(self._finished, items) if self._batch_size is None else self._batches(items):
                anything = True
                yield made
            if not anything:
                self._check_lengths()
            if not (self._endless and anything):
                return

    def _batches(self, items: Iterator[dict[str, Any]]) -> Iterator[Any]:
        waiting: dict[tuple[int, ...], list[Any]] = {}
        for item in items:
            shape = tuple(item["latents"].shape)
            alike = waiting.setdefault(shape, [])
            alike.append(self._finished(item))
            if len(alike) == self._batch_size:
                yield default_collate(waiting.pop(shape))
        if not self._drop_last:
            yield from map(default_collate, waiting.values())

    def _items(self, epoch: int) -> Iterator[dict[str, Any]]:
        order = list(range(len(self.shards)))
        if self._shuffle:
            self._generator(epoch, SHARDS).shuffle(order)
        worker, workers = self._place()
        if worker == 0:
            self._warn_of_idle(workers)
        mine = order[worker::workers]
        drawn = (
            item
            for number in mine
            for place, sample in enumerate(self._samples(self.shards[number]))
            if (item := self._drawn(sample, self._generator(epoch, SAMPLE, number, place))) is not None
        )
        if not (self._shuffle and mine):
            return drawn
        return self._shuffled(drawn, self._generator(epoch, BUFFER, mine[0]))

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

    def _drawn(self, sample: Sample, generator: np.random.Generator) -> dict[str, Any] | None:
        """An item of a sample; None where it is too short."""
        described, what = sample.description, f"{sample.shard}: sample {sample.key}"
        values = _channels_first(sample.array(LATENTS), described)
        if values.shape[1] < self._shortest:
            return None
        factor = int(described["temporal_factor"])
        chosen = self._slice(generator, values.shape[1], factor)
        values = values[:, chosen.start : chosen.stop].astype(np.float32)
        if self._posterior == "sample":
            if LOGVAR not in sample.files:
                raise UsageError(f"{what} keeps no log-variance; encode with --store-logvar")
            logvar = _channels_first(sample.array(LOGVAR), described)[:, chosen.start : chosen.stop]
            values = draw_posterior(values, logvar.astype(np.float32), generator)
        pts = sample.array(PTS) if PTS in sample.files else None
        item = self._item(
            values,
            None if pts is None else pts[chosen.first_frame : chosen.end_frame].astype(np.int64),
            chosen,
            str(described.get("path", sample.key)),
        )
        item |= self._named(described.get("columns", {}), what)
        for name in self._attached:
            data = sample.files.get(attached_name(name))
            if data is None:
                raise UsageError(
                    f"{what} has nothing attached as {name!r}; attach it to the folder, and export it again"
                )
            item[name] = load_attached(data, name, f"{what}: {name}")
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
                longest = max(longest, _channels_first(sample.array(LATENTS), sample.description).shape[1])
                if longest >= self._shortest:
                    return
        if longest:
            raise InputError(
                f"none of the clips in {len(self.shards)} shards has {self._shortest} latents, "
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
        rank, world = process_place(self._rank, self._world_size)
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        return rank * workers + (0 if worker is None else worker.id), world * workers


def _channels_first(array: NDArray[Any], description: Mapping[str, Any]) -> NDArray[Any]:
    """(C, t, h, w) of what a shard keeps in an order of its own."""
    return array.swapaxes(0, 1) if str(description["layout"]).startswith("T") else array


def _find_shards(source: StrPath | Sequence[StrPath]) -> list[Path]:
    if isinstance(source, (str, os.PathLike)):
        path = path_of(source)
        listing = path / SHARDS_NAME
        if partial_path(listing).exists():
            raise InputError(f"the export into {path} is not finished; run it again with -y if it was interrupted")
        if listing.is_file():
            found = [path / str(record["path"]) for record in read_index(listing, needed=())]
        else:
            found = sorted(path.glob("[!.]*.tar")) if path.is_dir() else [path]
    else:
        found = [path_of(entry) for entry in source]
    if not found:
        raise InputError(f"there are no .tar shards in {source!r}")
    missing = next((path for path in found if not path.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing}: no such file")
    return found
