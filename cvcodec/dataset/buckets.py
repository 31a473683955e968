"""Batches of one shape from clips of many: which items go together, in which order, on which process.

Owns: `BucketSampler`. Does not know: what an item is, beyond the shape that its data set says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch.utils.data import Sampler

from cvcodec.dataset.items import BATCHES, check_whole, process_place
from cvcodec.dataset.keys import epoch_generator
from cvcodec.errors import UsageError

Batch = list[int]


class _Shaped(Protocol):
    def __len__(self) -> int: ...

    def shape_of(self, item: int) -> tuple[int, ...]: ...

    def set_epoch(self, epoch: int) -> None: ...


class BucketSampler(Sampler[Batch]):
    """Batches of items that have one shape: `DataLoader(data, batch_sampler=BucketSampler(data, 8))`.

    data: a `LatentDataset`. batch_size: of a batch; the last ones of a bucket are smaller, unless `drop_last`.
    shuffle: items and batches in the order of seed and epoch; else by number, bucket by bucket.
    rank, world_size: of this process; None: what torch.distributed says, else alone. Others that share batches out,
        such as accelerate, want (0, 1).

    Every item is in one batch of one process, once, and all processes have as many batches: where these do not divide,
    some are cut in two; with `drop_last`, they and smaller ones are left out. At most steps all processes have batches
    of the same shape, so that none waits for another. Raises UsageError where batches of one item do not divide.
    """

    def __init__(
        self,
        data: _Shaped,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        check_whole("batch_size", batch_size, least=1)
        check_whole("seed", seed, least=0)
        process_place(rank, world_size)
        # No attribute `batch_size`: accelerate fills up or leaves out batches that are smaller than it says.
        self._most, self.drop_last = batch_size, drop_last
        self._data, self._shuffle, self._seed, self._epoch = data, shuffle, seed, 0
        self._rank, self._world_size = rank, world_size
        self.buckets: dict[tuple[int, ...], Batch] = {}
        """The items of each shape."""
        for item in range(len(data)):
            self.buckets.setdefault(data.shape_of(item), []).append(item)
        self._lengths: dict[int, int] = {}

    def set_epoch(self, epoch: int) -> None:
        """Give the order of this epoch, and have the data set draw its slices."""
        self._epoch = epoch
        self._data.set_epoch(epoch)

    def __len__(self) -> int:
        """Batches of this process, the same in every epoch and on every process."""
        _, world = process_place(self._rank, self._world_size)
        if world not in self._lengths:
            self._lengths[world] = len(self._steps(0, world))
        return self._lengths[world]

    def __iter__(self) -> Iterator[Batch]:
        rank, world = process_place(self._rank, self._world_size)
        return (step[rank] for step in self._steps(self._epoch, world))

    def _steps(self, epoch: int, world: int) -> list[list[Batch]]:
        """A batch for each process, step by step."""
        generator = epoch_generator(self._seed, epoch, BATCHES)
        steps: list[list[Batch]] = []
        rest: list[Batch] = []  # of buckets whose batches do not divide among the processes
        for items in self.buckets.values():
            order = generator.permutation(items).tolist() if self._shuffle else items
            batches = [order[start : start + self._most] for start in range(0, len(order), self._most)]
            if self.drop_last and len(batches[-1]) < self._most:
                batches.pop()
            shared = len(batches) - len(batches) % world
            steps += _groups(batches[:shared], world)
            rest += batches[shared:]
        if self.drop_last:
            if self._shuffle:
                generator.shuffle(rest)  # not always the same bucket's are left out
            del rest[len(rest) - len(rest) % world :]
        else:
            _divide(rest, steps, world)
        steps += _groups(rest, world)
        if self._shuffle:
            generator.shuffle(steps)
        return steps


def _groups(batches: list[Batch], size: int) -> list[list[Batch]]:
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def _divide(rest: list[Batch], steps: list[list[Batch]], world: int) -> None:
    """Cut the largest batches in two until their number is a multiple of `world`; `steps` give theirs where all of
    `rest` are of one item."""
    while len(rest) % world:
        place = max(range(len(rest)), key=lambda number: len(rest[number]))
        batch = rest[place]
        if len(batch) > 1:
            rest[place : place + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        elif steps:
            rest += steps.pop()
        else:
            raise UsageError(
                f"{len(rest)} batches of one item cannot be shared by {world} processes evenly; take drop_last=True, "
                "a larger batch_size, or other repeats="
            )
