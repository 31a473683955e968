"""Encoder and decoder under diffusers names, for the SD3 video model and the 2D image models (spec 2.2, 2.3).

Owns: the order of the layers and their names. Does not know: paddings and kernels (a `Parts` builds them), families.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from cvcodec.model.config import ModelConfig
from cvcodec.model.convolution import FrameConv, UpsampleConv
from cvcodec.model.frames import RGB
from cvcodec.model.layers import ClipNorm, DiffusersAttention, Level, Resampler, ResidualBlock, norm_silu_conv


class Parts(Protocol):
    """The convolutions of one family; `level` counts from the finest."""

    def conv(self, inputs: int, outputs: int) -> FrameConv:
        """First and last convolution, and the first one of a residual block."""

    def second_conv(self, width: int) -> FrameConv:
        """The second convolution of a residual block."""

    def downsample(self, width: int, level: int) -> FrameConv:
        """From `level` to `level` + 1."""

    def upsample(self, width: int, level: int) -> UpsampleConv:
        """From `level` to `level` - 1."""


def _block(config: ModelConfig, parts: Parts, inputs: int, outputs: int) -> ResidualBlock:
    return ResidualBlock(
        inputs,
        outputs,
        groups=config.norm_groups,
        eps=config.norm_eps,
        conv1=parts.conv(inputs, outputs),
        conv2=parts.second_conv(outputs),
        shortcut=("conv_shortcut", 2),
    )


class _Middle(nn.Module):
    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        width = config.widths[-1]
        self.attentions = nn.ModuleList()
        if config.mid_attention:
            self.attentions.append(DiffusersAttention(width, groups=config.norm_groups, eps=config.norm_eps))
        self.resnets = nn.ModuleList(_block(config, parts, width, width) for _ in range(2))

    def forward(self, frames: Tensor) -> Tensor:
        first, second = self.resnets
        frames = first(frames)
        for attention in self.attentions:
            frames = attention(frames)
        last: Tensor = second(frames)
        return last


class Encoder(nn.Module):
    """Frames (T, B, H, W, 3) -> moments (t, B, h, w, 2C)."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        width = config.widths[0]
        self.conv_in = parts.conv(RGB, width)
        self.down_blocks = nn.ModuleList()
        for level, outputs in enumerate(config.widths):
            blocks = nn.ModuleList()
            for _ in range(config.encoder_blocks[level]):
                blocks.append(_block(config, parts, width, outputs))
                width = outputs
            last = level == len(config.widths) - 1
            samplers = None if last else nn.ModuleList([Resampler(parts.downsample(width, level))])
            self.down_blocks.append(Level(resnets=blocks, downsamplers=samplers))
        self.mid_block = _Middle(config, parts)
        self.conv_norm_out = ClipNorm(width, groups=config.norm_groups, eps=config.norm_eps)
        self.conv_out = parts.conv(width, 2 * config.latent_channels)

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.conv_in(frames)
        for level in self.down_blocks:
            frames = level(frames)
        return norm_silu_conv(self.conv_norm_out, self.conv_out, self.mid_block(frames))


class Decoder(nn.Module):
    """Latent frames (t, B, h, w, C) -> pixels (T, B, H, W, 3). `up_blocks` are in order of execution."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        width = config.widths[-1]
        self.conv_in = parts.conv(config.latent_channels, width)
        self.mid_block = _Middle(config, parts)
        self.up_blocks = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(config.widths))):
            blocks = nn.ModuleList()
            for _ in range(config.decoder_blocks[level]):
                blocks.append(_block(config, parts, width, outputs))
                width = outputs
            samplers = nn.ModuleList([Resampler(parts.upsample(width, level))]) if level > 0 else None
            self.up_blocks.append(Level(resnets=blocks, upsamplers=samplers))
        self.conv_norm_out = ClipNorm(width, groups=config.norm_groups, eps=config.norm_eps)
        self.conv_out = parts.conv(width, RGB)

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.mid_block(self.conv_in(frames))
        for level in self.up_blocks:
            frames = level(frames)
        return norm_silu_conv(self.conv_norm_out, self.conv_out, frames)
