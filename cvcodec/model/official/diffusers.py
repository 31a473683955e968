"""The models whose tensors have diffusers' names: the SD3 video model and the 2D image models (spec 1.9, 2.2, 2.3).

Owns: the order of their layers and their names, and which kernels and paddings each family has.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cvcodec.model.base import RGB, VideoAutoencoder, from_frames, latent_frames, pixel_frames
from cvcodec.model.config import ModelConfig
from cvcodec.model.convolution import FrameConv, PointConv, SpacePadding, TimePadding, UpsampleConv
from cvcodec.model.official.layers import (
    ClipNorm,
    DiffusersAttention,
    Level,
    Resampler,
    ResidualBlock,
    norm_silu_conv,
    one_clip_per_frame,
)


@dataclass(frozen=True)
class Kernels:
    """The convolutions of one half of a model; `level` counts from the finest.

    SD3: every 3D kernel replicates on all three axes, the 2D second convolution of a block pads with zeros.
    """

    time: TimePadding | None
    """None: 2D kernels alone."""
    down: SpacePadding
    """Of kernels that halve the size; 3D kernels have it everywhere."""
    half_3d: bool = True

    def conv(self, inputs: int, outputs: int) -> FrameConv:
        """First and last convolution, and the first one of a residual block."""
        return FrameConv(inputs, outputs, time=self.time, space=self._space)

    def second_conv(self, width: int) -> FrameConv:
        """The second convolution of a residual block."""
        return FrameConv(width, width, time=None) if self.half_3d else self.conv(width, width)

    def downsample(self, width: int, level: int) -> FrameConv:
        """From `level` to `level` + 1."""
        time_stride = 2 if self.time is not None and level % 2 == 0 else 1
        return FrameConv(width, width, time=self.time, space=self.down, stride=2, time_stride=time_stride)

    def upsample(self, width: int, level: int) -> UpsampleConv:
        """From `level` to `level` - 1."""
        doubles_time = self.time is not None and level % 2 == 1
        return UpsampleConv(width, width, time=self.time, space=self._space, doubles_time=doubles_time)

    @property
    def _space(self) -> SpacePadding:
        return SpacePadding.ZERO if self.time is None else self.down


def _block(config: ModelConfig, kernels: Kernels, inputs: int, outputs: int) -> ResidualBlock:
    return ResidualBlock(
        inputs,
        outputs,
        groups=config.norm_groups,
        eps=config.norm_eps,
        conv1=kernels.conv(inputs, outputs),
        conv2=kernels.second_conv(outputs),
        shortcut=("conv_shortcut", 2),
    )


class _Middle(nn.Module):
    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        width = config.widths[-1]
        self.attentions = nn.ModuleList()
        if config.mid_attention:
            self.attentions.append(DiffusersAttention(width, groups=config.norm_groups, eps=config.norm_eps))
        self.resnets = nn.ModuleList(_block(config, kernels, width, width) for _ in range(2))

    def forward(self, frames: Tensor) -> Tensor:
        first, second = self.resnets
        frames = first(frames)
        for attention in self.attentions:
            frames = attention(frames)
        last: Tensor = second(frames)
        return last


class Encoder(nn.Module):
    """Frames (T, B, H, W, 3) -> moments (t, B, h, w, 2C)."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        width = config.widths[0]
        self.conv_in = kernels.conv(RGB, width)
        self.down_blocks = nn.ModuleList()
        for level, outputs in enumerate(config.widths):
            blocks = nn.ModuleList()
            for _ in range(config.encoder_blocks[level]):
                blocks.append(_block(config, kernels, width, outputs))
                width = outputs
            last = level == len(config.widths) - 1
            samplers = None if last else nn.ModuleList([Resampler(kernels.downsample(width, level))])
            self.down_blocks.append(Level(resnets=blocks, downsamplers=samplers))
        self.mid_block = _Middle(config, kernels)
        self.conv_norm_out = ClipNorm(width, groups=config.norm_groups, eps=config.norm_eps)
        self.conv_out = kernels.conv(width, 2 * config.latent_channels)

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.conv_in(frames)
        for level in self.down_blocks:
            frames = level(frames)
        return norm_silu_conv(self.conv_norm_out, self.conv_out, self.mid_block(frames))


class Decoder(nn.Module):
    """Latent frames (t, B, h, w, C) -> pixels (T, B, H, W, 3). `up_blocks` are in order of execution."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        width = config.widths[-1]
        self.conv_in = kernels.conv(config.latent_channels, width)
        self.mid_block = _Middle(config, kernels)
        self.up_blocks = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(config.widths))):
            blocks = nn.ModuleList()
            for _ in range(config.decoder_blocks[level]):
                blocks.append(_block(config, kernels, width, outputs))
                width = outputs
            samplers = nn.ModuleList([Resampler(kernels.upsample(width, level))]) if level > 0 else None
            self.up_blocks.append(Level(resnets=blocks, upsamplers=samplers))
        self.conv_norm_out = ClipNorm(width, groups=config.norm_groups, eps=config.norm_eps)
        self.conv_out = kernels.conv(width, RGB)

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.mid_block(self.conv_in(frames))
        for level in self.up_blocks:
            frames = level(frames)
        return norm_silu_conv(self.conv_norm_out, self.conv_out, frames)


class CVVAESD3(VideoAutoencoder):
    """Official architecture with the official state dict; sizes that are no multiples of 8 round up (spec 1.9)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, Kernels(TimePadding.CAUSAL, SpacePadding.REPLICATE, half_3d=config.half_3d))
        self.decoder = Decoder(config, Kernels(TimePadding.REPLICATE, SpacePadding.REPLICATE, half_3d=config.half_3d))

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 2C, (T-1)//4 + 1, ceil(H/8), ceil(W/8)). ValueError for another rank or channels."""
        return from_frames(self.encoder(pixel_frames(pixels, smallest=1)))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, t, h, w) -> (B, 3, 4(t-1)+1, 8h, 8w). ValueError for another rank or channel count."""
        return from_frames(self.decoder(latent_frames(latent, self.config.latent_channels)))


class ImageVAE(VideoAutoencoder):
    """SD1.x, SD2.x (z = 4, with quant convs) and SD3 (z = 16, without): every frame is an image of its own, t = T."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels = config.latent_channels
        self.encoder = Encoder(config, Kernels(None, SpacePadding.ZERO_END))
        self.decoder = Decoder(config, Kernels(None, SpacePadding.ZERO))
        if config.quant_conv:
            self.quant_conv = PointConv(2 * channels, 2 * channels)
            self.post_quant_conv = PointConv(channels, channels)

    def moments(self, pixels: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 2C, T, H//8, W//8). ValueError for another rank or channel count or H, W < 8."""
        frames = pixel_frames(pixels, smallest=self.config.spatial_factor)
        moments: Tensor = self.encoder(one_clip_per_frame(frames))
        moments = moments.view(*frames.shape[:2], *moments.shape[2:])
        return from_frames(self.quant_conv(moments) if self.config.quant_conv else moments)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, T, 8h, 8w). ValueError for another rank or channel count."""
        frames = latent_frames(latent, self.config.latent_channels)
        if self.config.quant_conv:
            frames = self.post_quant_conv(frames)
        pixels: Tensor = self.decoder(one_clip_per_frame(frames))
        return from_frames(pixels.view(*frames.shape[:2], *pixels.shape[2:]))
