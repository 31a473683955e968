"""A reversible model: its latents are the pixels themselves, so that what does not come back is the codec's fault.

A latent of `PatchModel` holds the 4x4x4 patch of pixels it stands for in 192 channels (a format limit of 256 channels
keeps the real 4x8x8 out of reach). The first latent holds the first frame four times, as the real models see it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.quantization import LatentStatistics

FRAMES, SIDE = 4, 4
CHANNELS = 3 * FRAMES * SIDE**2


def patch_config(**changes: object) -> ModelConfig:
    """Windows of 2 latents with context on both sides, and tiles so small that 32 pixels have several."""
    config = ModelConfig(
        family="cvvae-mini",
        latent_channels=CHANNELS,
        widths=(),
        encoder_blocks=(),
        decoder_blocks=(),
        temporal_factor=FRAMES,
        spatial_factor=SIDE,
        window_latents=2,
        encode_context=1,
        decode_context=1,
        tile_latents=6,
        tile_context=1,
        tile_blend=1,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


class PatchModel(VideoAutoencoder):
    """See the module docstring. Counts its calls, and remembers the shapes it was given."""

    def __init__(self, *, unit_step: float = 0.1, **changes: object) -> None:
        super().__init__(patch_config(**changes))
        self.name = "patch-model"
        self.latent_space_id = "0123456789abcdef"
        self.decoder_hash = "fedcba9876543210"
        self.statistics = LatentStatistics((0.0,) * CHANNELS, (1.0,) * CHANNELS, (unit_step,) * CHANNELS)
        self.encoded: list[tuple[int, ...]] = []
        self.decoded: list[tuple[int, ...]] = []

    def moments(self, pixels: Tensor) -> Tensor:
        self.encoded.append(tuple(pixels.shape))
        batch, channels, frames, height, width = pixels.shape
        if channels != 3 or (frames - 1) % FRAMES or height % SIDE or width % SIDE:
            raise ValueError(f"{pixels.shape = }")
        groups = torch.cat([pixels[:, :, :1].expand(-1, -1, FRAMES, -1, -1), pixels[:, :, 1:]], dim=2)
        patches = groups.reshape(batch, 3, -1, FRAMES, height // SIDE, SIDE, width // SIDE, SIDE)
        mean = patches.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    def decode(self, latent: Tensor) -> Tensor:
        self.decoded.append(tuple(latent.shape))
        batch, channels, count, rows, columns = latent.shape
        if channels != CHANNELS:
            raise ValueError(f"{latent.shape = }")
        patches = latent.reshape(batch, 3, FRAMES, SIDE, SIDE, count, rows, columns).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return patches.reshape(batch, 3, count * FRAMES, rows * SIDE, columns * SIDE)[:, :, FRAMES - 1 :]
