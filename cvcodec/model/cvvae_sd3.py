"""The SD3-compatible video model, official class CVVAESD3Model (spec 1.9, keys in 2.2).

Owns: its paddings and its 3D and 2D kernels. Does not know: the order of the layers (`diffusers_layout`), files.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.model.convolution import FrameConv, SpacePadding, UpsampleConv
from cvcodec.model.diffusers_layout import Decoder, Encoder
from cvcodec.model.frames import from_frames, latent_frames, pixel_frames
from cvcodec.model.schedule import TimePadding


@dataclass(frozen=True)
class _Parts:
    """Every 3D kernel replicates on all three axes; the 2D second convolution of a block pads with zeros."""

    time: TimePadding
    half_3d: bool

    def conv(self, inputs: int, outputs: int) -> FrameConv:
        return FrameConv(inputs, outputs, time=self.time, space=SpacePadding.REPLICATE)

    def second_conv(self, width: int) -> FrameConv:
        return FrameConv(width, width, time=None) if self.half_3d else self.conv(width, width)

    def downsample(self, width: int, level: int) -> FrameConv:
        time_stride = 2 if level % 2 == 0 else 1
        return FrameConv(width, width, time=self.time, space=SpacePadding.REPLICATE, stride=2, time_stride=time_stride)

    def upsample(self, width: int, level: int) -> UpsampleConv:
        return UpsampleConv(width, width, time=self.time, space=SpacePadding.REPLICATE, doubles_time=level % 2 == 1)


class CVVAESD3(VideoAutoencoder):
    """Official architecture with the official state dict; sizes that are no multiples of 8 round up (spec 1.9)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, _Parts(TimePadding.CAUSAL, config.half_3d))
        self.decoder = Decoder(config, _Parts(TimePadding.REPLICATE, config.half_3d))

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 2C, (T-1)//4 + 1, ceil(H/8), ceil(W/8)). ValueError for another rank or channels."""
        return from_frames(self.encoder(pixel_frames(pixels, smallest=1)))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, t, h, w) -> (B, 3, 4(t-1)+1, 8h, 8w). ValueError for another rank or channel count."""
        return from_frames(self.decoder(latent_frames(latent, self.config.latent_channels)))
