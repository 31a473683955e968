"""The data of a run: files to learn from and files to be measured on, one cache for both.

Owns: putting sources, cache and sampler together. Does not know: models, steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from cvcodec.training.clips import ClipCache
from cvcodec.training.config import BatchShape, TrainConfig
from cvcodec.training.sampling import ClipSampler
from cvcodec.training.sources import Reporter, find_sources, probe, training_files
from cvcodec.training.validation import validation_clips

_EXTRA = 1 << 61  # first index of clips that are drawn outside training steps


class RunData:
    """Finds, opens and samples the files that a config names."""

    def __init__(self, config: TrainConfig, report: Callable[[str], None], *, processes: int = 1) -> None:
        """`report` gets one line for each file left out. InputError when there is nothing to train on."""
        self._config = config
        reporter = Reporter(report)
        sources = find_sources(config.data, config.val_fraction)
        self.files = training_files(sources, reporter)
        self.held_out = probe(sources, "val", reporter)
        self._cache = ClipCache(
            limit=int(config.cache_gigabytes * 1e9 / (1 if config.cache else processes)),
            short_side=config.cache_side,
            segment_frames=config.segment_frames,
            folder=Path(config.cache) if config.cache else None,
            reporter=reporter,
        )
        self.sampler = ClipSampler(
            self.files,
            self._cache,
            seed=config.seed,
            strides=config.strides,
            photo_share=config.photo_share,
            augment=config.augment,
            segment_frames=config.segment_frames,
        )

    def describe(self) -> str:
        """One line for people."""
        photos = sum(file.is_image for file in self.files)
        return f"{len(self.files) - photos} videos and {photos} photos to train on, {len(self.held_out)} files held out"

    def extra_clip(self, index: int, shape: BatchShape) -> Tensor:
        """(3, T, S, S): training clips of their own numbering, for PCA and statistics."""
        return self.sampler.sample(_EXTRA + index, shape)

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
