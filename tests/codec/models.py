"""Small models with random weights, saved as the files that the commands load."""

from __future__ import annotations

from pathlib import Path

import torch

from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.model import build_model
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.model.mini import mini_config
from cvcodec.quantization import LatentStatistics

CHANNELS = 4


def tiny_mini(
    *, seed: int = 0, decoder_seed: int | None = None, video: bool = True, **changes: object
) -> VideoAutoencoder:
    """A mini of a few thousand weights, all random; windows of 3 latents. `decoder_seed`: another decoder only;
    `changes`: other fields of the config."""
    config = mini_config(
        CHANNELS,
        video=video,
        widths=(4, 6, 8),
        encoder_blocks=(1, 1, 1),
        decoder_blocks=(1, 1, 1),
        encoder_temporal=(1, 1, 0) if video else (0, 0, 0),
        decoder_temporal=(0, 1, 0) if video else (0, 0, 0),
        window_latents=3,
        encode_context=2 if video else 0,
        decode_context=1 if video else 0,
        **changes,
    )
    return _randomised(config, seed, decoder_seed)


def tiny_official(*, seed: int = 0) -> VideoAutoencoder:
    """A z=4 official model with base width 4 and official tiles of 72 pixels."""
    config = ModelConfig(
        family="cvvae",
        latent_channels=CHANNELS,
        widths=(4, 4, 8, 8),
        encoder_blocks=(1, 1, 1, 1),
        decoder_blocks=(1, 1, 1, 1),
        norm_groups=2,
        temporal_attention=True,
        scaling_factor=0.5,
        official_chunk_frames=16,
        official_tile_pixels=72,
    )
    return _randomised(config, seed, None)


def _randomised(config: ModelConfig, seed: int, decoder_seed: int | None) -> VideoAutoencoder:
    model = build_model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    other = generator if decoder_seed is None else torch.Generator().manual_seed(decoder_seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source = other if name.startswith("decoder.") else generator
            values = torch.randn(parameter.shape, generator=source)
            if name.endswith(".basis"):
                parameter.copy_(torch.linalg.qr(values.T)[0].T)
            elif parameter.ndim > 1:
                # Half of what keeps the variance: pixels stay between black and white, so that differences show.
                parameter.copy_(values * 0.5 * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(values * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model


def save_model(path: Path, model: VideoAutoencoder) -> Path:
    """The weights file of a model, with statistics about right for it."""
    channels = model.config.coded_channels
    statistics = LatentStatistics((0.0,) * channels, (0.3,) * channels, (0.1,) * channels)
    save_checkpoint(path, model, statistics=statistics, card={"name": path.stem, "licence": "Apache-2.0"})
    return path
