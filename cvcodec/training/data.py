"""The data of a run: files to learn from and files to be measured on, one cache for both; batches in step order.

Owns: putting sources, cache and sampler together, on the CPU or in the device's memory; which sample indices make up a
step, on which process, and in which shape; a bounded queue of batches that threads prepare ahead.
Does not know: models, what a step does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from cvcodec.dataset.device_clips import BatchPlan, DeviceClips, StoredPiece, stored_bytes
from cvcodec.dataset.keys import numpy_generator
from cvcodec.dataset.media import ClipCache, Pixels, Reporter, find_sources, probe, training_files
from cvcodec.dataset.sampling import ClipSampler
from cvcodec.errors import UsageError
from cvcodec.system.device import available_memory, to_device
from cvcodec.training.config import BatchShape, TrainConfig
from cvcodec.training.distributed import Processes

_EXTRA = 1 << 61  # first index of clips that are drawn outside training steps
_SHARE_OF_DEVICE = 0.3  # of its free memory, for decoded clips
_MOST_EXTRA = 8  # extra clips in one tensor
_INDICES_OF_STEP = 1 << 16  # no two steps share a sample, whatever their shapes

S = TypeVar("S")
T = TypeVar("T")


class RunData:
    """Finds, opens and samples the files that a config names."""

    def __init__(
        self, config: TrainConfig, report: Callable[[str], None], *, processes: Processes, device: torch.device
    ) -> None:
        """`report` gets one line for each file left out. InputError when there is nothing to train on."""
        self._config, self._processes, self._device = config, processes, device
        settings, reporter = config.data, Reporter(report)
        check_shares(settings.batch_shapes, processes.count, settings.accumulate)
        sources = find_sources(settings.data, settings.val_fraction)
        self.files = training_files(sources, reporter)
        self.held_out = probe(sources, "val", reporter)
        stored = self._fits_device()
        limit = int(settings.cache_gigabytes * 1e9 / (1 if settings.cache else processes.count))
        self.cache = ClipCache(
            limit=0 if stored and not settings.cache else limit,  # what lies on the device is not kept twice
            short_side=settings.cache_side,
            segment_frames=settings.segment_frames,
            folder=Path(settings.cache) if settings.cache else None,
            reporter=reporter,
        )
        drawing: dict[str, Any] = {
            "seed": config.run.seed,
            "strides": settings.strides,
            "photo_share": settings.photo_share,
            "augment": settings.augment,
            "segment_frames": settings.segment_frames,
        }
        self._stored: tuple[DeviceClips, ClipSampler[StoredPiece]] | None = None
        if stored:
            clips = DeviceClips(self.files, self.cache.get, segment_frames=settings.segment_frames, device=device)
            self._stored = clips, ClipSampler(self.files, clips, **drawing)
        self._sampler: ClipSampler[Pixels] = ClipSampler(self.files, self.cache, **drawing)

    def describe(self) -> str:
        """One line for people."""
        photos = sum(file.is_image for file in self.files)
        where = f", {self._stored[0].bytes_held / 1e9:.2f} GB of them on {self._device}" if self._stored else ""
        return (
            f"{len(self.files) - photos} videos and {photos} photos to train on{where}, "
            f"{len(self.held_out)} files held out"
        )

    def loader(self, shapes: tuple[BatchShape, ...], *, start: int) -> BatchLoader[Any, Any]:
        """Batches from step `start` on, for `on_device`."""
        settings: dict[str, Any] = {
            "seed": self._config.run.seed,
            "start": start,
            "rank": self._processes.rank,
            "processes": self._processes.count,
            "workers": self._config.data.workers,
        }
        if self._stored is not None:
            return BatchLoader(self._stored[1].draw, BatchPlan.of, shapes, **settings)
        return BatchLoader(self._sampler.sample, _stack, shapes, **settings)

    def on_device(self, batch: Batch[Any]) -> Batch[Tensor]:
        """A batch of `loader` with its pixels on the device; the host does not wait for them."""
        if self._stored is not None:
            return Batch(batch.step, batch.indices, self._stored[0].render(batch.pixels))
        return Batch(batch.step, batch.indices, to_device(batch.pixels, self._device))

    def extra_clips(self, count: int, shape: BatchShape) -> Iterator[Tensor]:
        """`count` training clips of their own numbering, for PCA and statistics: (B, 3, T, S, S), a few at a time."""
        if self._stored is None:
            for index in range(_EXTRA, _EXTRA + count):
                yield self._sampler.sample(index, shape.frames, shape.size)[None].to(self._device)
            return
        clips, sampler = self._stored
        drawn = [sampler.draw(index, shape.frames, shape.size) for index in range(_EXTRA, _EXTRA + count)]
        for start in range(0, count, _MOST_EXTRA):
            yield clips.render(BatchPlan.of(drawn[start : start + _MOST_EXTRA], shape.frames, shape.size))

    def _fits_device(self) -> bool:
        """Whether the training clips are to lie in the device's memory."""
        wanted = self._config.data.data_on_device
        if wanted != "auto":
            return wanted == "yes"
        if self._device.type == "cpu":
            return False
        free = available_memory(self._device) or 0
        return stored_bytes(self.files, self._config.data.cache_side) <= _SHARE_OF_DEVICE * free


def _stack(clips: list[Tensor], frames: int, size: int) -> Tensor:
    return torch.stack(clips)


# ---------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Batch(Generic[T]):
    """One process's share of a step."""

    step: int
    indices: tuple[int, ...]
    """Sample indices, the key of all per-sample randomness."""
    pixels: T
    """(B, 3, T, S, S) float32 in [-1, 1], or what it will be made from on a device."""


def parts_of(batch: Batch[Tensor], count: int) -> list[Batch[Tensor]]:
    """`count` batches of equal size, of the same clips in the same order."""
    size = len(batch.indices) // count
    return [
        Batch(batch.step, batch.indices[first : first + size], batch.pixels[first : first + size])
        for first in range(0, count * size, size)
    ]


def check_shares(shapes: Sequence[BatchShape], processes: int, parts: int) -> None:
    """UsageError unless processes, and the parts of a step in each, get equally many clips of every shape."""
    for shape in shapes:
        if shape.clips % (processes * parts):
            among = f"{processes} processes" if parts == 1 else f"{processes} processes in {parts} parts (--accumulate)"
            raise UsageError(f"batches of {shape.clips} clips cannot be shared by {among} evenly")


def active_shapes(shapes: Sequence[BatchShape], progress: float) -> tuple[BatchShape, ...]:
    """The shapes with the largest start that `progress` in [0, 1] has passed."""
    start = max(shape.start for shape in shapes if shape.start <= progress)
    return tuple(shape for shape in shapes if shape.start == start)


def shape_of_step(shapes: Sequence[BatchShape], seed: int, step: int) -> BatchShape:
    """Drawn by weight, keyed on the step: the same in every process."""
    position = numpy_generator(seed, "shape", step).random() * sum(shape.weight for shape in shapes)
    for shape in shapes:
        position -= shape.weight
        if position < 0:
            return shape
    return shapes[-1]


class BatchLoader(Generic[S, T]):
    """Batches of steps `start`, `start + 1`, ...; `steps_ahead` of them are in the making.

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
        self._sample, self._join, self._shapes, self._seed = sample, join, tuple(shapes), seed
        self._rank, self._processes = rank, processes
        self._next = start
        self._closed = threading.Event()
        # A thread's own number of threads: the training step keeps its.
        self._pool = ThreadPoolExecutor(workers, "samples", initializer=torch.set_num_threads, initargs=(1,))
        self._pending: deque[Future[Batch[T]]] = deque()
        for _ in range(max(workers, steps_ahead)):
            self._submit()

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
        first = step * _INDICES_OF_STEP + self._rank * share
        indices = tuple(range(first, first + share))
        clips = []
        for index in indices:
            if self._closed.is_set():
                raise RuntimeError("the loader was closed")
            clips.append(self._sample(index, shape.frames, shape.size))
        return Batch(step, indices, self._join(clips, shape.frames, shape.size))


class Batches:
    """The next step's batch, on the device; begins a new loader where the schedule of shapes moves on."""

    def __init__(
        self,
        data: RunData,
        shapes: Sequence[BatchShape],
        *,
        start: int,
        on_shapes: Callable[[Sequence[BatchShape]], None],
    ) -> None:
        """`on_shapes` is told which shapes come next, while their first batches are prepared."""
        self._data, self._all_shapes, self._step, self._on_shapes = data, shapes, start, on_shapes
        self._shapes: tuple[BatchShape, ...] = ()
        self._loader: BatchLoader[Any, Any] | None = None
        self.waited = 0.0
        """Seconds, for the last batch."""

    def next(self, progress: float) -> Batch[Tensor]:
        """That of the next step, at `progress` in [0, 1] of the run."""
        shapes = active_shapes(self._all_shapes, progress)
        if self._loader is None or shapes != self._shapes:
            self.close()
            self._shapes = shapes
            self._loader = self._data.loader(shapes, start=self._step)
            self._on_shapes(shapes)
        began = time.monotonic()
        batch = self._loader.next()
        self.waited = time.monotonic() - began
        self._step += 1
        return self._data.on_device(batch)

    def close(self) -> None:
        """Stop the threads."""
        if self._loader is not None:
            self._loader.close()
