"""Which slice of a clip a training step sees: random, the same for the same seed, epoch and clip, whoever asks.

Owns: the arithmetic of slices on the 4n+1 grid. Does not know: files, tensors.

A slice of n latents, [t, t + n), decodes as a clip of its own to f(n-1) + 1 frames, f being the temporal factor: its
first latent then stands for one frame, the last of the f that it stood for. So slice [t, t + n) is frames ft to
f(t + n - 1) of the video, whatever t is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Slice:
    """Latents [start, stop) and the frames, first and one past the last, that they decode to."""

    start: int
    stop: int
    first_frame: int
    end_frame: int


def slice_at(start: int, length: int, factor: int = 4) -> Slice:
    """The slice of `length` latents from `start` on. ValueError for an empty or a negative one."""
    if start < 0 or length < 1:
        raise ValueError(f"a slice begins at 0 or later and holds something: {start = }, {length = }")
    return Slice(start, start + length, factor * start, factor * (start + length - 1) + 1)


def draw_slice(generator: np.random.Generator, latents: int, length: int | None, factor: int = 4) -> Slice:
    """A slice of `length` of `latents` latents, every start as likely; None for all of them. ValueError if too long."""
    if length is None:
        return slice_at(0, latents, factor)
    if length > latents:
        raise ValueError(f"a slice of {length} latents does not fit a clip of {latents}")
    return slice_at(int(generator.integers(latents - length + 1)), length, factor)


def generator_for(seed: int, epoch: int, *place: int) -> np.random.Generator:
    """The random numbers of a place in an epoch: independent of workers, processes and order. Up to three numbers name
    the place; the first should tell apart what the numbers are for."""
    # Always as many words: SeedSequence takes missing ones for zeros.
    words = (seed, epoch, *place, *(0,) * (3 - len(place)))
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


ITEM, SAMPLE, SHARDS, BUFFER = range(1, 5)
"""What random numbers are for: an item of a map-style data set, a sample of a shard, the order of shards, and that of
samples."""
