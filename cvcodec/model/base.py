"""The surface that every model shows: moments, encode, decode; tensors in, tensors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from cvcodec.model.config import ModelConfig
from cvcodec.model.frames import check_pixels
from cvcodec.model.posterior import Posterior


class VideoAutoencoder(nn.Module, ABC):
    """A model between pixels (B, 3, T, H, W) float in [-1, 1] and a latent (B, C, t, h, w) float.

    T = 4k+1 gives t = k+1 (2D families: t = T). H and W are multiples of `config.spatial_factor`.
    The encoder lives under `self.encoder`, the decoder under `self.decoder` (the state dict's first name part),
    so that the latent-space id and the decoder hash can tell them apart.

    What loading a weights file adds; a model that was only built has none of it:
    """

    name: str | None = None
    """The registered name, or the file's."""
    latent_space_id: str | None = None
    """16 hex digits: encoder and normalisation. Latents of another id are not for this model's decoder."""
    decoder_hash: str | None = None
    """16 hex digits: two models of one latent-space id and decoder hash give the same pixels."""
    statistics: Any = None
    """Per-channel mean, deviation and unit step of the latents (quantization.LatentStatistics)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def moments(self, pixels: Tensor) -> Tensor:
        """Mean and unclamped log-variance, (B, 2C, t, h, w), and behind them the E channels of an enhancement layer, if
        the model has one. ValueError on a shape the model cannot take."""

    def encode(self, pixels: Tensor) -> Posterior:
        """The posterior over latents, without windows or tiles. ValueError for what cannot be meant as pixels."""
        check_pixels(pixels)
        return Posterior.from_moments(self.moments(pixels), self.config.enhancement_channels)

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W), unclamped, without windows or tiles."""
