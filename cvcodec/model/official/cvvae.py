"""The SD2.1-compatible video model, official class CVVAEModel (spec 1.1 to 1.6, keys in 2.1).

Owns: which layers, with which paddings, under which names.
"""

from __future__ import annotations

from torch import Tensor, nn

from cvcodec.model.base import RGB, VideoAutoencoder, from_frames, latent_frames, pixel_frames
from cvcodec.model.config import ModelConfig
from cvcodec.model.convolution import FrameConv, SpacePadding, TimePadding, UpsampleConv
from cvcodec.model.official.layers import (
    ClipNorm,
    LdmAttention,
    LdmSpatioTemporalAttention,
    Level,
    Resampler,
    ResidualBlock,
    norm_silu_conv,
)


class CVVAE(VideoAutoencoder):
    """Official architecture, official state dict; a size that is no multiple of 8 loses its remainder (spec 1.5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 2C, (T-1)//4 + 1, H//8, W//8). ValueError for other ranks or channels, or H, W < 8."""
        return from_frames(self.encoder(pixel_frames(pixels, smallest=self.config.spatial_factor)))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, t, h, w) -> (B, 3, 4(t-1)+1, 8h, 8w). ValueError for another rank or channel count."""
        return from_frames(self.decoder(latent_frames(latent, self.config.latent_channels)))


def _block(config: ModelConfig, inputs: int, outputs: int, time: TimePadding) -> ResidualBlock:
    return ResidualBlock(
        inputs,
        outputs,
        groups=config.norm_groups,
        eps=config.norm_eps,
        conv1=FrameConv(inputs, outputs, time=time),
        conv2=FrameConv(outputs, outputs, time=None if config.half_3d else time),
        shortcut=("nin_shortcut", 3),
    )


def _middle(config: ModelConfig, time: TimePadding, attention: type[LdmAttention]) -> Level:
    width = config.widths[-1]
    return Level(
        block_1=_block(config, width, width, time),
        attn_1=attention(width, groups=config.norm_groups, eps=config.norm_eps) if config.mid_attention else None,
        block_2=_block(config, width, width, time),
    )


class Encoder(nn.Module):
    """Frames (T, B, H, W, 3) -> moments (t, B, h, w, 2C); causal in its convolutions, not in its norms (spec 1.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        time = TimePadding.CAUSAL
        width = config.widths[0]
        self.conv_in = FrameConv(RGB, width, time=time)
        self.down = nn.ModuleList()
        for level, outputs in enumerate(config.widths):
            blocks = nn.ModuleList()
            for _ in range(config.encoder_blocks[level]):
                blocks.append(_block(config, width, outputs, time))
                width = outputs
            resampler = None
            if level < len(config.widths) - 1:
                time_stride = 2 if level % 2 == 0 else 1
                resampler = Resampler(
                    FrameConv(width, width, time=time, space=SpacePadding.ZERO_END, stride=2, time_stride=time_stride)
                )
            self.down.append(Level(block=blocks, downsample=resampler))
        self.mid = _middle(config, time, LdmAttention)
        self.norm_out = ClipNorm(width, groups=config.norm_groups, eps=config.norm_eps)
        self.conv_out = FrameConv(width, 2 * config.latent_channels, time=time)

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.conv_in(frames)
        for level in self.down:
            frames = level(frames)
        return norm_silu_conv(self.norm_out, self.conv_out, self.mid(frames))


class Decoder(nn.Module):
    """Latent frames (t, B, h, w, C) -> pixels (T, B, H, W, 3).

    `up` is indexed by level, finest first, and runs from its last entry to its first.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        time = TimePadding.ZERO
        width = config.widths[-1]
        self.conv_in = FrameConv(config.latent_channels, width, time=time)
        self.mid = _middle(config, time, LdmSpatioTemporalAttention if config.temporal_attention else LdmAttention)
        levels = []
        for level, outputs in reversed(list(enumerate(config.widths))):
            blocks = nn.ModuleList()
            for _ in range(config.decoder_blocks[level]):
                blocks.append(_block(config, width, outputs, time))
                width = outputs
            resampler = None
            if level > 0:
                doubles_time = level % 2 == 1
                resampler = Resampler(UpsampleConv(width, width, time=TimePadding.REPLICATE, doubles_time=doubles_time))
            levels.append(Level(block=blocks, upsample=resampler))
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = ClipNorm(width, groups=config.norm_groups, eps=config.norm_eps)
        self.conv_out = FrameConv(width, RGB, time=time)

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.mid(self.conv_in(frames))
        for level in reversed(self.up):
            frames = level(frames)
        return norm_silu_conv(self.norm_out, self.conv_out, frames)
