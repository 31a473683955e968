"""Batches in step order, prepared ahead by threads.

Owns: which sample indices make up a step, on which process, and in which shape; a bounded queue of finished batches.
Does not know: where samples come from, what is done with them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from cvcodec.dataset.keys import numpy_generator
from cvcodec.errors import UsageError
from cvcodec.training.config import BatchShape

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Batch(Generic[T]):
    """One process's share of a step."""

    step: int
    indices: tuple[int, ...]
    """Sample indices, the key of all per-sample randomness."""
    pixels: T
    """(B, 3, T, S, S) float32 in [-1, 1], or what it will be made from on a device."""


def active_shapes(shapes: Sequence[BatchShape], progress: float) -> tuple[BatchShape, ...]:
    """The shapes with the largest start that `progress` in [0, 1] has passed."""
    start = max(shape.start for shape in shapes if shape.start <= progress)
    return tuple(shape for shape in shapes if shape.start == start)


def shape_of_step(shapes: Sequence[BatchShape], seed: int, step: int) -> BatchShape:
    """Drawn by weight, keyed on the step: the same in every process."""
    total = sum(shape.weight for shape in shapes)
    position = numpy_generator(seed, "shape", step).random() * total
    for shape in shapes:
        position -= shape.weight
        if position < 0:
            return shape
    return shapes[-1]


class BatchLoader(Generic[S, T]):
    """Batches of steps `start`, `start + 1`, ...; `steps_ahead` of them are in the making. A context manager.

    sample: (index, frames, size) -> a clip; join: (clips, frames, size) -> what a batch has as its pixels.
    """

    def __init__(
        self,
        sample: Callable[[int, int, int], S],
        join: Callable[[list[S], int, int], T],
        shapes: Sequence[BatchShape],
        *,
        seed: int,
        start: int,
        rank: int = 0,
        processes: int = 1,
        workers: int = 1,
        steps_ahead: int = 4,
    ) -> None:
        for shape in shapes:
            if shape.clips % processes:
                raise UsageError(f"batches of {shape.clips} clips cannot be shared by {processes} processes evenly")
        self._sample, self._join, self._shapes, self._seed = sample, join, tuple(shapes), seed
        self._rank, self._processes = rank, processes
        # Samples of one step must not share indices with another step's, whatever their shapes.
        self._stride = 1 << 16
        self._next = start
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="samples", initializer=_one_thread_each)
        self._pending: deque[Future[Batch[T]]] = deque()
        for _ in range(max(workers, steps_ahead)):
            self._submit()

    def __enter__(self) -> BatchLoader[S, T]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def next(self) -> Batch[T]:
        """The next step's batch; waits for it."""
        batch = self._pending.popleft().result()
        self._submit()
        return batch

    def close(self) -> None:
        """Stop preparing batches; returns when the threads are idle."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        self._pending.append(self._pool.submit(self._make, self._next))
        self._next += 1

    def _make(self, step: int) -> Batch[T]:
        shape = shape_of_step(self._shapes, self._seed, step)
        share = shape.clips // self._processes
        first = step * self._stride + self._rank * share
        indices = tuple(range(first, first + share))
        clips = []
        for index in indices:
            if self._closed.is_set():
                raise RuntimeError("the loader was closed")
            clips.append(self._sample(index, shape.frames, shape.size))
        return Batch(step, indices, self._join(clips, shape.frames, shape.size))


def _one_thread_each() -> None:
    torch.set_num_threads(1)  # per thread for OpenMP; the training step keeps its own
