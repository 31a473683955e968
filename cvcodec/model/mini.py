"""`cvvae-mini` and its 2D twin `image-vae-mini`: CV-VAE's idea at a size that a CPU can run and train.

Owns: the mini architecture. A causal encoder and a symmetric decoder of 2D+3D residual blocks between pixels and a
4x8x8 latent, like the paper's (section 3.2), with four changes that make it cheap on a CPU:

* Pixel-unshuffle at the input: a group of four frames and `patch_size` x `patch_size` pixels becomes channels, so that
  every layer runs at a quarter of the frame rate. The first frame stands alone: it is repeated to fill its group.
* Normalisation per position (LayerNorm over channels), so that the receptive field is finite and a window with enough
  context gives exactly what the whole clip gives.
* A linear 4x8x8 patch transform runs beside encoder and decoder (a shortcut). Their last convolutions start at zero,
  so that a model whose transform is a PCA of patches starts at the quality of that PCA.
* Only some blocks look along time (`encoder_temporal`, `decoder_temporal`): one more latent of reach for each, two
  for each all-3D block.

A video model may have a second, *enhancement* layer: E more channels on the same grid, which hold what the decoder
leaves over of the source, x - D(z), as coefficients of 4x8x8 patches. Making it needs the decoder (a closed loop);
with it the decoder adds the patches back. Its decoder may also be told the quality that the latent was quantised with,
and may have a *tail* of its own for each frame of a group.

The 2D twin is the same network with every temporal kernel of size 1: it encodes each frame alone.

Everything runs as 2D convolutions on (B*T, C, H, W) in channels_last memory: a 3x3x3 convolution is a 2D convolution
over the channel-concatenation of three neighbouring frames. That is the only layout in which bf16 is fast on CPUs.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cvcodec.model.base import RGB, VideoAutoencoder, check_latent
from cvcodec.model.config import ModelConfig
from cvcodec.model.convolution import conv2d
from cvcodec.model.patches import coarser, finer, patches_of, pixels_of, reordered, strips

Side = Literal["causal", "symmetric"]

_QUALITY_FEATURES = 32


def mini_config(latent_channels: int = 16, *, video: bool = True, **changes: object) -> ModelConfig:
    """The bundled mini models' config; `video=False` gives the 2D twin. `changes` replace fields.

    `encode_context` and `decode_context` follow from the temporal blocks, so that windows give what the whole clip
    gives whatever these are, unless `changes` say otherwise.
    """
    config = ModelConfig(
        family="cvvae-mini" if video else "image-vae-mini",
        latent_channels=latent_channels,
        widths=(64, 128, 256),
        encoder_blocks=(1, 2, 2),
        decoder_blocks=(2, 3, 3),
        encoder_temporal=(1, 1, 1) if video else (0, 0, 0),
        decoder_temporal=(0, 1, 1) if video else (0, 0, 0),
        patch_size=2,
        norm_eps=1e-5,
        mid_attention=False,
        window_latents=16,
        tile_latents=96,
        tile_context=6,
        tile_blend=4,
    )
    config = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    if "encode_context" not in changes:
        config = dataclasses.replace(config, encode_context=_reach(config.encoder_temporal, config))
    if "decode_context" not in changes:
        config = dataclasses.replace(config, decode_context=_reach(config.decoder_temporal, config))
    return config


def _reach(temporal_blocks: tuple[int, ...], config: ModelConfig) -> int:
    """Latents that a half of the network looks back (the decoder: to each side): one for every temporal convolution."""
    return sum(temporal_blocks) * (1 if config.half_3d else 2)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each position, (N, C, H, W); free of copies in channels_last memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TemporalConv(nn.Module):
    """3D convolution on frames folded into the batch, 3x3 in space.

    In time, `causal` has two taps (the latent before and this one; a third would double the reach and with it the work
    that windows throw away), `symmetric` three. Time is padded by repetition, space with zeros.
    The weight is stored as a 3D kernel (out, in, taps, 3, 3).
    """

    def __init__(self, channels_in: int, channels_out: int, side: Side) -> None:
        super().__init__()
        reference = nn.Conv3d(channels_in, channels_out, (2 if side == "causal" else 3, 3, 3))
        self.weight, self.bias = reference.weight, reference.bias
        self.side = side

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x: (B*T, C, H, W) with T = `frames`."""
        # Joined with channels last, where these views are contiguous: with channels second, torch.cat would bring five
        # dimensions into another layout, at several times the cost.
        clips = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))  # B, T, H, W, C
        neighbours = [torch.cat([clips[:, :1], clips[:, :-1]], 1), clips]
        if self.side == "symmetric":
            neighbours.append(torch.cat([clips[:, 1:], clips[:, -1:]], 1))
        stacked = torch.cat(neighbours, -1).flatten(0, 1).permute(0, 3, 1, 2)
        kernel = self.weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        return F.conv2d(stacked, kernel, self.bias, padding=1)


class MiniBlock(nn.Module):
    """Residual block: norm, SiLU, conv (3x3x3 if temporal, else 3x3), norm, SiLU, conv 3x3, plus the input."""

    def __init__(self, channels: int, *, side: Side | None, all_3d: bool, eps: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels, eps=eps)
        self.conv1 = TemporalConv(channels, channels, side) if side else nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = LayerNorm2d(channels, eps=eps)
        self.conv2 = (
            TemporalConv(channels, channels, side) if side and all_3d else nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor, frames: int) -> Tensor:
        in_place = not torch.is_grad_enabled()  # halves the peak of memory, where no backward pass needs the inputs
        y = F.silu(self.norm1(x), inplace=in_place)
        y = self.conv1(y, frames) if isinstance(self.conv1, TemporalConv) else self.conv1(y)
        y = F.silu(self.norm2(y), inplace=in_place)
        y = self.conv2(y, frames) if isinstance(self.conv2, TemporalConv) else self.conv2(y)
        result: Tensor = y.add_(x) if in_place else x + y
        return result


def _make_level(channels: int, blocks: int, temporal: int, side: Side, config: ModelConfig) -> nn.ModuleList:
    """`blocks` residual blocks, of which the first `temporal` look along time."""
    return nn.ModuleList(
        MiniBlock(channels, side=side if index < temporal else None, all_3d=not config.half_3d, eps=config.norm_eps)
        for index in range(blocks)
    )


class _MiniStack(nn.Module):
    """What encoder and decoder share: running a level's blocks, with or without gradient checkpointing."""

    gradient_checkpointing = False

    def run_level(self, level: nn.Module, x: Tensor, frames: int) -> Tensor:
        assert isinstance(level, nn.ModuleList)
        for block in level:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, frames, use_reentrant=False)
            else:
                x = block(x, frames)
        return x


class MiniEncoder(_MiniStack):
    """Clip (B, 3, T, H, W), T = group * k + 1, to moments (B*t, 2C, h, w)."""

    def __init__(self, config: ModelConfig, group: int) -> None:
        super().__init__()
        widths, patch = config.widths, config.patch_size
        self.group, self.patch, self.spatial_factor = group, patch, config.spatial_factor
        self.conv_in = nn.Conv2d(3 * group * patch**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            _make_level(width, blocks, temporal, "causal", config)
            for width, blocks, temporal in zip(widths, config.encoder_blocks, config.encoder_temporal, strict=True)
        )
        self.downs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.norm_out = LayerNorm2d(widths[-1], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(
            3 * group, config.latent_channels, config.spatial_factor, stride=config.spatial_factor
        )
        nn.init.zeros_(self.conv_out.weight)
        with torch.no_grad():  # the posterior starts narrow, so that sampling does not drown the transform
            assert self.conv_out.bias is not None
            self.conv_out.bias.zero_()
            self.conv_out.bias[config.latent_channels :] = -6.0

    def forward(self, pixels: Tensor) -> Tensor:
        kernel = reordered(self.conv_in.weight, dim=1, group=self.group, size=self.patch, inner=self.patch)
        height, width = pixels.shape[3:]
        latents = (pixels.shape[2] - 1) // self.group + 1
        size = (len(pixels) * latents, height // self.patch, width // self.patch, kernel.shape[1])
        stem, transformed = pixels.new_empty(size, dtype=kernel.dtype), []
        shortcut = self._shortcut_kernel()
        for rows in strips(pixels, height, self.spatial_factor, len(pixels) * latents * self.group * width):
            patches = patches_of(pixels[:, :, :, rows], self.group, self.patch)  # (B*t, h, w, channels)
            stem[:, rows.start // self.patch : rows.stop // self.patch] = patches
            transformed.append(self._transform(patches, *shortcut))
        del patches
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        x = F.conv2d(stem.permute(0, 3, 1, 2), kernel, self.conv_in.bias, padding=1)
        del stem
        for index, level in enumerate(self.levels):
            x = self.run_level(level, x, latents)
            if index < len(self.downs):
                down = self.downs[index]
                assert isinstance(down, nn.Conv2d)
                x = conv2d(x, down.weight, down.bias, stride=2, padding=1)
        mean, logvar = self.conv_out(F.silu(self.norm_out(x))).float().chunk(2, dim=1)
        return torch.cat([mean + torch.cat(transformed, dim=2), logvar], dim=1)

    def _shortcut_kernel(self) -> tuple[Tensor, Tensor]:
        assert self.shortcut.bias is not None
        weight = self.shortcut.weight.float().flatten(1)
        kernel = reordered(weight, dim=1, group=self.group, size=self.spatial_factor, inner=self.patch)
        return kernel, self.shortcut.bias.float()

    def _transform(self, patches: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """The linear shortcut, in fp32 whatever the dtype of the rest: bf16 would round away what the codec keeps."""
        with torch.autocast(patches.device.type, enabled=False):
            # Applied to each patch as a vector: a strided 8x8 convolution is several times slower on CPUs.
            vectors = coarser(patches.float(), self.spatial_factor // self.patch)
            return F.linear(vectors, kernel, bias).permute(0, 3, 1, 2)


class EnhancementLayer(nn.Module):
    """Clips of what a decoder left over <-> their coefficients, (B, E, t, h, w), on an orthonormal basis of patches.

    `basis`: (E, values of a patch), in the order of the shortcuts' kernels. In fp32 whatever the dtype of the rest.
    """

    def __init__(self, config: ModelConfig, group: int) -> None:
        super().__init__()
        self.group, self.patch, self.spatial_factor = group, config.patch_size, config.spatial_factor
        self.basis = nn.Parameter(torch.zeros(config.enhancement_channels, RGB * group * config.spatial_factor**2))

    def coefficients(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, T, H, W), T = group * k + 1; the first frame stands for its whole group."""
        basis, batch, height, width = self._reordered(), len(pixels), *pixels.shape[3:]
        latents = (pixels.shape[2] - 1) // self.group + 1
        parts = []
        with torch.autocast(pixels.device.type, enabled=False):
            for rows in strips(pixels, height, self.spatial_factor, batch * latents * self.group * width):
                patches = patches_of(pixels[:, :, :, rows].float(), self.group, self.patch)
                parts.append(F.linear(coarser(patches, self.spatial_factor // self.patch), basis))
        made: Tensor = torch.cat(parts, 1).unflatten(0, (batch, latents)).permute(0, 4, 1, 2, 3)
        return made

    def patches(self, coefficients: Tensor) -> Tensor:
        """(B*t, h, w, E) -> what they stand for, (B*t, h * factor, w * factor, values of a patch of `patch_size`)."""
        with torch.autocast(coefficients.device.type, enabled=False):
            return finer(F.linear(coefficients.float(), self._reordered().T), self.spatial_factor // self.patch)

    def _reordered(self) -> Tensor:
        return reordered(self.basis.float(), dim=1, group=self.group, size=self.spatial_factor, inner=self.patch)


class MiniDecoder(_MiniStack):
    """Latent (B, C, t, h, w), or with the enhancement layer (B, C + E, t, h, w), to clip (B, 3, 4(t-1)+1, H, W); the 2D
    twin: to T = t frames."""

    def __init__(self, config: ModelConfig, group: int) -> None:
        super().__init__()
        widths, patch = config.widths, config.patch_size
        self.group, self.patch, self.spatial_factor = group, patch, config.spatial_factor
        self.channels = config.latent_channels
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.condition = Condition(widths[-1]) if config.quality_aware else None
        self.levels = nn.ModuleList(  # finest first, as in the config; run in reverse
            _make_level(width, blocks, temporal, "symmetric", config)
            for width, blocks, temporal in zip(widths, config.decoder_blocks, config.decoder_temporal, strict=True)
        )
        # 1x1 convolution then pixel shuffle: each fine position learns its own mix, at the coarse level's cost.
        self.ups = nn.ModuleList(
            nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.norm_out = LayerNorm2d(widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], 3 * group * patch**2, 3, padding=1)
        self.tail_in = self.tail_out = None
        if config.decoder_tail:
            tails = group * config.decoder_tail
            self.tail_in = nn.Conv2d(widths[0], tails, 3, padding=1)
            self.tail_out = nn.Conv2d(tails, 3 * group * patch**2, 3, padding=1, groups=group)  # a group is a frame
            nn.init.zeros_(self.tail_out.weight)
            assert self.tail_out.bias is not None
            nn.init.zeros_(self.tail_out.bias)
        self.shortcut = nn.Conv2d(config.latent_channels, 3 * group * config.spatial_factor**2, 1)
        self.enhancement = EnhancementLayer(config, group) if config.enhancement_channels else None
        nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, latent: Tensor, quality: Tensor | None = None) -> Tensor:
        """quality: (B,) or (1,); None: 100."""
        batch, _, latents = latent.shape[:3]
        frames, above = latent.transpose(1, 2).flatten(0, 1).tensor_split([self.channels], dim=1)
        x = self.conv_in(frames.to(self.conv_in.weight.dtype).contiguous(memory_format=torch.channels_last))
        if self.condition is not None:
            x = x + self.condition(latent, quality).repeat_interleave(latents, 0)[:, :, None, None]
        for index in reversed(range(len(self.levels))):
            x = self.run_level(self.levels[index], x, latents)
            if index > 0:
                x = F.pixel_shuffle(self.ups[index - 1](x), 2).contiguous(memory_format=torch.channels_last)
        x = F.silu(self.norm_out(x))
        fine = self._to_patches(self.conv_out, x)
        if self.tail_in is not None:
            assert self.tail_out is not None
            fine = fine + self._to_patches(self.tail_out, F.silu(self.tail_in(x)))
        fine = fine.permute(0, 2, 3, 1)  # (B*t, H/patch, W/patch, channels)
        height, width = (side * self.spatial_factor for side in latent.shape[3:])
        shown = (latents - 1) * self.group + 1
        pixels = latent.new_empty(batch, shown, height, width, RGB, dtype=torch.float32).permute(0, 4, 1, 2, 3)
        shortcut = self.shortcut.weight.float().flatten(1), self.shortcut.bias
        kernel, bias = (self._reordered(part, self.spatial_factor) for part in shortcut)
        coefficients = above.permute(0, 2, 3, 1)
        for rows in strips(latent, height, self.spatial_factor, len(frames) * self.group * width):
            coarse = slice(rows.start // self.spatial_factor, rows.stop // self.spatial_factor)
            patches = self._transform(frames[:, :, coarse], kernel, bias)
            patches += fine[:, rows.start // self.patch : rows.stop // self.patch]
            if self.enhancement is not None and above.shape[1]:
                patches += self.enhancement.patches(coefficients[:, coarse])
            pixels[:, :, :, rows] = pixels_of(patches, batch, self.group, self.patch)
        return pixels

    def _to_patches(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        kernel, bias = (self._reordered(part, self.patch) for part in (layer.weight, layer.bias))
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, kernel, bias, padding=1, groups=layer.groups)

    def _reordered(self, weight: Tensor | None, size: int) -> Tensor:
        assert weight is not None
        return reordered(weight, dim=0, group=self.group, size=size, inner=self.patch)

    def _transform(self, frames: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """The linear shortcut, in fp32 like the encoder's."""
        with torch.autocast(frames.device.type, enabled=False):
            patches = F.linear(frames.float().permute(0, 2, 3, 1), kernel, bias.float())
            return finer(patches, self.spatial_factor // self.patch)


class Condition(nn.Module):
    """The quality that a latent was quantised with, as one vector for each clip that is added to the decoder's first
    features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(_QUALITY_FEATURES, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.quality = nn.Sequential(nn.Linear(1, _QUALITY_FEATURES), nn.SiLU(), last)

    def forward(self, latent: Tensor, quality: Tensor | None) -> Tensor:
        """latent: (B, ...); quality: (B,) or (1,), None: 100 -> (B, width)."""
        told = latent.new_full((1,), 100.0) if quality is None else quality
        made: Tensor = self.quality((told.to(next(self.parameters())) / 50 - 1).view(-1, 1))
        return made.expand(len(latent), -1)


class MiniAutoencoder(VideoAutoencoder):
    """The mini video model (`cvvae-mini`) or its 2D twin (`image-vae-mini`), by `config.family`.

    Takes any float dtype and gives fp32: in bf16 or fp16 only the convolutional paths are rounded, not the shortcut.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        levels = len(config.widths)
        if not levels == len(config.encoder_temporal) == len(config.decoder_temporal):
            raise ValueError(f"one entry per level wanted: {config.encoder_temporal = }, {config.decoder_temporal = }")
        if config.patch_size * 2 ** (levels - 1) != config.spatial_factor:
            raise ValueError(f"{config.patch_size = } and {levels} levels do not make {config.spatial_factor = }")
        if not config.is_video and any(config.encoder_temporal + config.decoder_temporal):
            raise ValueError("the 2D twin has no temporal blocks")
        self.group = config.temporal_factor if config.is_video else 1
        self.encoder = MiniEncoder(config, self.group)
        self.decoder = MiniDecoder(config, self.group)

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute each residual block in the backward pass instead of keeping its activations."""
        self.encoder.gradient_checkpointing = self.decoder.gradient_checkpointing = enabled

    def moments(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, T, H, W), T = 4k+1 (2D twin: any T), H and W multiples of 8 -> (B, 2C, t, h, w)."""
        batch, channels, frames, height, width = pixels.shape
        group, factor = self.group, self.config.spatial_factor
        if channels != 3 or height % factor or width % factor:
            raise ValueError(f"want 3 channels and sides that are multiples of {factor}: {pixels.shape = }")
        if (frames - 1) % group:
            raise ValueError(f"want {group}k+1 frames: {pixels.shape = }")
        moments: Tensor = self.encoder(pixels)
        unfolded: Tensor = moments.unflatten(0, (batch, -1)).transpose(1, 2)
        return unfolded

    def decode(self, latent: Tensor, *, quality: float | Tensor | None = None) -> Tensor:
        """latent (B, C, t, h, w), or with the enhancement layer (B, C + E, t, h, w) -> pixels
        (B, 3, 4(t-1)+1, 8h, 8w), unclamped (2D twin: T = t).

        quality: that the base layer was quantised with, one or (B,); None: it was not.
        """
        base, both = self.config.latent_channels, self.config.coded_channels
        check_latent(latent, both if latent.shape[1:2] == (both,) else base)
        if isinstance(quality, int | float):
            quality = torch.tensor([float(quality)], device=latent.device)
        pixels: Tensor = self.decoder(latent, quality)
        return pixels

    def enhancement(self, left_over: Tensor) -> Tensor:
        """The enhancement layer (B, E, t, h, w) fp32 that holds `left_over` (B, 3, 4k+1, H, W): a clip, in [-1, 1],
        less what `decode` makes of its base layer. ValueError for a model that has none."""
        if self.decoder.enhancement is None:
            raise ValueError(f"{self.name or 'this model'} has no enhancement layer")
        return self.decoder.enhancement.coefficients(left_over)
