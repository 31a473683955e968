"""Per-channel statistics of a model's latents over training clips, for the quantiser.

Owns: running sums in float64. Does not know: files, where clips come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from cvcodec.model.base import VideoAutoencoder
from cvcodec.quantization import LatentStatistics

_LEAST_STD = 1e-6  # of a channel that a model does not use


@torch.no_grad()
def measure_statistics(
    model: VideoAutoencoder, clips: Iterable[Tensor], *, arithmetic: Callable[[], AbstractContextManager[object]]
) -> LatentStatistics:
    """Mean and deviation of the posterior mean over clips (B, 3, T, H, W); unit steps are the deviations."""
    count = 0
    total = square = torch.zeros(model.config.latent_channels, dtype=torch.float64)
    for clip in clips:
        with arithmetic():
            mean = model.encode(clip).mean
        values = mean.double().cpu().transpose(0, 1).flatten(1)
        count += values.shape[1]
        total = total + values.sum(1)
        square = square + values.square().sum(1)
    if not count:
        raise ValueError("no clips to measure statistics on")
    mean = total / count
    std = (square / count - mean.square()).clamp_min(0).sqrt().clamp_min(_LEAST_STD)
    return LatentStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
