"""The 2D image autoencoder of Stable Diffusion, diffusers' AutoencoderKL (spec 2.3), applied to each frame alone.

Owns: its paddings and the 1x1 convolutions around the latent. Does not know: the order of the layers, inflation, files.
"""

from __future__ import annotations

from torch import Tensor

from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.model.convolution import FrameConv, PointConv, SpacePadding, UpsampleConv
from cvcodec.model.diffusers_layout import Decoder, Encoder
from cvcodec.model.frames import from_frames, latent_frames, pixel_frames


class _Parts:
    def conv(self, inputs: int, outputs: int) -> FrameConv:
        return FrameConv(inputs, outputs, time=None)

    def second_conv(self, width: int) -> FrameConv:
        return FrameConv(width, width, time=None)

    def downsample(self, width: int, level: int) -> FrameConv:
        return FrameConv(width, width, time=None, space=SpacePadding.ZERO_END, stride=2)

    def upsample(self, width: int, level: int) -> UpsampleConv:
        return UpsampleConv(width, width, time=None)


class ImageVAE(VideoAutoencoder):
    """SD1.x, SD2.x (z = 4, with quant convs) and SD3 (z = 16, without): every frame is an image of its own, t = T."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels = config.latent_channels
        self.encoder = Encoder(config, _Parts())
        self.decoder = Decoder(config, _Parts())
        if config.quant_conv:
            self.quant_conv = PointConv(2 * channels, 2 * channels)
            self.post_quant_conv = PointConv(channels, channels)

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 2C, T, H//8, W//8). ValueError for another rank or channel count or H, W < 8."""
        frames = pixel_frames(pixels, smallest=self.config.spatial_factor)
        moments: Tensor = self.encoder(_as_images(frames))
        moments = moments.view(*frames.shape[:2], *moments.shape[2:])
        return from_frames(self.quant_conv(moments) if self.config.quant_conv else moments)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, T, 8h, 8w). ValueError for another rank or channel count."""
        frames = latent_frames(latent, self.config.latent_channels)
        if self.config.quant_conv:
            frames = self.post_quant_conv(frames)
        pixels: Tensor = self.decoder(_as_images(frames))
        return from_frames(pixels.view(*frames.shape[:2], *pixels.shape[2:]))


def _as_images(frames: Tensor) -> Tensor:
    """(T, B, H, W, C) -> (1, T*B, H, W, C): a norm's statistics are those of one frame."""
    return frames.flatten(0, 1).unsqueeze(0)
