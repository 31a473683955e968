"""The data of a run: files to learn from and files to be measured on, one cache for both; where training clips lie.

Owns: putting sources, cache, sampler and loader together, on the CPU or in the device's memory. Does not know: models,
what a step does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvcodec.dataset.device_clips import BatchPlan, DeviceClips, StoredPiece, stored_bytes
from cvcodec.dataset.media import ClipCache, Pixels, Reporter, find_sources, probe, training_files
from cvcodec.dataset.sampling import ClipSampler
from cvcodec.system.device import available_memory, to_device
from cvcodec.training.config import BatchShape, TrainConfig
from cvcodec.training.distributed import Processes
from cvcodec.training.loader import Batch, BatchLoader
from cvcodec.training.validation import validation_clips

_EXTRA = 1 << 61  # first index of clips that are drawn outside training steps
_SHARE_OF_DEVICE = 0.3  # of its free memory, for decoded clips
_MOST_EXTRA = 8  # extra clips in one tensor


class RunData:
    """Finds, opens and samples the files that a config names."""

    def __init__(
        self,
        config: TrainConfig,
        report: Callable[[str], None],
        *,
        processes: Processes | None = None,
        device: torch.device | None = None,
    ) -> None:
        """`report` gets one line for each file left out. InputError when there is nothing to train on."""
        self._config, self._processes = config, processes or Processes()
        self._device = device or torch.device("cpu")
        reporter = Reporter(report)
        sources = find_sources(config.data, config.val_fraction)
        self.files = training_files(sources, reporter)
        self.held_out = probe(sources, "val", reporter)
        stored = self._fits_device()
        limit = int(config.cache_gigabytes * 1e9 / (1 if config.cache else self._processes.count))
        self._cache = ClipCache(
            limit=0 if stored and not config.cache else limit,  # what lies on the device is not kept twice
            short_side=config.cache_side,
            segment_frames=config.segment_frames,
            folder=Path(config.cache) if config.cache else None,
            reporter=reporter,
        )
        settings: dict[str, Any] = {
            "seed": config.seed,
            "strides": config.strides,
            "photo_share": config.photo_share,
            "augment": config.augment,
            "segment_frames": config.segment_frames,
        }
        self._stored: tuple[DeviceClips, ClipSampler[StoredPiece]] | None = None
        if stored:
            clips = DeviceClips(self.files, self._cache.get, segment_frames=config.segment_frames, device=self._device)
            self._stored = clips, ClipSampler(self.files, clips, **settings)
        self._sampler: ClipSampler[Pixels] = ClipSampler(self.files, self._cache, **settings)

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
            "seed": self._config.seed,
            "start": start,
            "rank": self._processes.rank,
            "processes": self._processes.count,
            "workers": self._config.workers,
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

    def validation(self, *, videos: bool) -> list[Tensor]:
        """Held-out clips, see `validation_clips`."""
        config = self._config
        return validation_clips(
            self.held_out,
            self._cache,
            side=config.validation_side,
            frames=config.validation_frames,
            count=config.validation_clips,
            videos=videos,
        )

    def _fits_device(self) -> bool:
        """Whether the training clips are to lie in the device's memory."""
        wanted = self._config.data_on_device
        if wanted != "auto":
            return wanted == "yes"
        if self._device.type == "cpu":
            return False
        free = available_memory(self._device) or 0
        return stored_bytes(self.files, self._config.cache_side) <= _SHARE_OF_DEVICE * free


def _stack(clips: list[Tensor], frames: int, size: int) -> Tensor:
    return torch.stack(clips)
