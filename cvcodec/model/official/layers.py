"""The parts between the convolutions: GroupNorm over clips, residual blocks, attention (spec 1.2, 1.9).

Owns: their parameters (official names and shapes) and how little memory they need without gradients. Everything works
on frames (T, B, H, W, C), see `convolution`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvcodec.model.convolution import FrameConv, PointConv, Prepare, UpsampleConv, spans


class ClipNorm(nn.Module):
    """GroupNorm with one statistic per clip: over T, H, W and the channels of a group (spec 1.2)."""

    def __init__(self, width: int, *, groups: int, eps: float) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(
                f"{width} channels do not divide into {groups} norm groups; choose widths or norm_groups that fit"
            )
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, frames: Tensor, *, silu: bool = False) -> Tensor:
        """`frames` (T, B, H, W, C), normalised over each clip; with `silu` the activation as well."""
        if torch.is_grad_enabled():
            normed = F.group_norm(frames.permute(1, 4, 0, 2, 3), self.groups, self.weight, self.bias, self.eps)
            normed = normed.permute(2, 0, 3, 4, 1).contiguous()
            return F.silu(normed) if silu else normed
        return self.prepared(frames, silu=silu)(frames)

    def prepared(self, frames: Tensor, *, silu: bool) -> Prepare:
        """The same for any piece of `frames`, after one look at all of them. Without gradients only."""
        mean, variance = self._statistics(frames)
        weight, bias = self.weight.to(mean.dtype), self.bias.to(mean.dtype)

        def normalise(piece: Tensor) -> Tensor:
            clips = [
                F.batch_norm(piece[:, clip].permute(0, 3, 1, 2), mean[clip], variance[clip], weight, bias, eps=self.eps)
                for clip in range(piece.shape[1])
            ]  # batch norm with given statistics: one pass, in the precision of the statistics, channels last
            normed = (clips[0].unsqueeze(1) if len(clips) == 1 else torch.stack(clips, 1)).permute(0, 1, 3, 4, 2)
            return F.silu(normed, inplace=True) if silu else normed

        return normalise

    def _statistics(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each clip's groups, spread to channels: two of (B, C), in float32 or better.

        Every frame's channels first, then their combination (Chan et al.): a large mean costs no precision, and no copy
        larger than a run of frames is made.
        """
        means, squares = [], []
        for span in spans(frames, frames.shape[4]):
            mean, square = _frame_moments(frames[span].flatten(2, 3))
            means.append(mean)
            squares.append(square)
        per_frame = torch.cat(means)  # (T, B, C)
        count, batch, channels = per_frame.shape
        grouped = per_frame.view(count, batch, self.groups, -1)
        mean = grouped.mean((0, 3), keepdim=True)
        inside = torch.cat(squares).view_as(grouped).mean((0, 3)) / frames.shape[2:4].numel()
        variance = inside + (grouped - mean).square().mean((0, 3))
        spread = channels // self.groups
        return mean.view(batch, -1).repeat_interleave(spread, 1), variance.repeat_interleave(spread, 1)


def _frame_moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(T, B, H*W, C) to the mean and the sum of squared deviations of each frame's channels, (T, B, C) each."""
    if pixels.device.type == "cpu" and pixels.dtype in (torch.bfloat16, torch.float16):
        # What a batch norm would keep of the frame: read twice where it lies, added up in float32. It is four times as
        # fast as a copy in float32; for float32 itself its sums are less exact than those below.
        kept = torch.zeros(pixels.shape[3]), torch.ones(pixels.shape[3])
        each = [torch.batch_norm_update_stats(frame.T[None, :, :, None], *kept, 0.1) for frame in pixels.flatten(0, 1)]
        mean, variance = (torch.stack(part).view(*pixels.shape[:2], -1) for part in zip(*each, strict=True))
        return mean, variance * pixels.shape[2]
    pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    mean = pixels.mean(2)
    centred = pixels - mean.unsqueeze(2)
    return mean, centred.mul_(centred).sum(2)


def norm_silu_conv(norm: ClipNorm, conv: FrameConv, frames: Tensor) -> Tensor:
    """GroupNorm, SiLU, convolution; without gradients the normalised clip exists only a few frames at a time."""
    grads = torch.is_grad_enabled()
    out: Tensor = conv(norm(frames, silu=True)) if grads else conv(frames, before=norm.prepared(frames, silu=True))
    return out


class ResidualBlock(nn.Module):
    """norm1, SiLU, conv1, norm2, SiLU, conv2, plus the input (through a 1x1 convolution where the width changes).

    `shortcut`: the official name of that convolution and the number of its kernel's axes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        eps: float,
        conv1: FrameConv,
        conv2: FrameConv,
        shortcut: tuple[str, int],
    ) -> None:
        super().__init__()
        self.norm1 = ClipNorm(inputs, groups=groups, eps=eps)
        self.conv1 = conv1
        self.norm2 = ClipNorm(outputs, groups=groups, eps=eps)
        self.conv2 = conv2
        self._shortcut, axes = shortcut
        if inputs != outputs:
            self.add_module(self._shortcut, PointConv(inputs, outputs, axes=axes))

    def forward(self, frames: Tensor) -> Tensor:
        """(T, B, H, W, inputs) -> (T, B, H, W, outputs)."""
        shortcut = self._modules.get(self._shortcut) or nn.Identity()
        hidden = norm_silu_conv(self.norm1, self.conv1, frames)
        if torch.is_grad_enabled():
            total: Tensor = shortcut(frames) + norm_silu_conv(self.norm2, self.conv2, hidden)
            return total
        if self.conv2.time is not None:
            hidden = norm_silu_conv(self.norm2, self.conv2, hidden)
            for span in spans(frames, hidden.shape[4]):
                hidden[span] += shortcut(frames[span])
            return hidden
        # A 2D convolution needs no neighbouring frames: the result takes the place of what it was made from.
        normalise = self.norm2.prepared(hidden, silu=True)
        for span in spans(frames, hidden.shape[4], runs=4):
            torch.add(self.conv2(hidden[span], before=normalise), shortcut(frames[span]), out=hidden[span])
        return hidden


class Resampler(nn.Module):
    """A down- or upsampling convolution under its official name, `conv`."""

    def __init__(self, conv: FrameConv | UpsampleConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, frames: Tensor) -> Tensor:
        """Frames to frames of another size."""
        resampled: Tensor = self.conv(frames)
        return resampled


class Level(nn.Module):
    """The residual blocks of one resolution and what leads to the next, under given names, one after the other."""

    def __init__(self, **parts: nn.Module | None) -> None:
        super().__init__()
        for name, part in parts.items():
            if part is not None:
                self.add_module(name, part)

    def forward(self, frames: Tensor) -> Tensor:
        for part in self.children():
            for layer in part if isinstance(part, nn.ModuleList) else (part,):
                frames = layer(frames)
        return frames


# ---------------------------------------------------------------------------------------------------- attention


def one_clip_per_frame(frames: Tensor) -> Tensor:
    """(T, B, H, W, C) -> (1, T*B, H, W, C), so that a norm looks at each frame alone."""
    return frames.flatten(0, 1).unsqueeze(0)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Single-head attention over the axis before the last, scale width ** -0.5: three of (N, L, C) -> (N, L, C)."""
    query, key, value = (part.unsqueeze(1) for part in (query, key, value))
    mixed: Tensor = F.scaled_dot_product_attention(query, key, value)
    return mixed.squeeze(1)


class LdmAttention(nn.Module):
    """Spatial attention inside each frame under ldm names ("vanilla-xformers"): `norm`, `q`, `k`, `v`, `proj_out`."""

    def __init__(self, width: int, *, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = ClipNorm(width, groups=groups, eps=eps)
        self.q, self.k, self.v, self.proj_out = (PointConv(width, width) for _ in range(4))

    def spatial(self, frames: Tensor) -> Tensor:
        """The attention without a residual, frames to frames."""
        pixels = self.norm(one_clip_per_frame(frames)).flatten(2, 3).squeeze(0)
        mixed: Tensor = self.proj_out(_attend(self.q(pixels), self.k(pixels), self.v(pixels)))
        return mixed.view(frames.shape)

    def forward(self, frames: Tensor) -> Tensor:
        return frames + self.spatial(frames)


class LdmSpatioTemporalAttention(LdmAttention):
    """Spatial attention, then attention of each position over all latents of the clip, then one residual around both.

    "spatial-temporal-xformer" (spec 1.2): no mask, no position code, and no path around the temporal half.
    """

    def __init__(self, width: int, *, groups: int, eps: float) -> None:
        super().__init__(width, groups=groups, eps=eps)
        self.norm_t = nn.LayerNorm(width)
        self.q_t, self.k_t, self.v_t, self.proj_out_t = (nn.Linear(width, width) for _ in range(4))

    def forward(self, frames: Tensor) -> Tensor:
        count, *position, width = frames.shape
        series = self.norm_t(self.spatial(frames).view(count, -1, width).transpose(0, 1))  # (B*H*W, T, C)
        mixed: Tensor = self.proj_out_t(_attend(self.q_t(series), self.k_t(series), self.v_t(series)))
        return frames + mixed.transpose(0, 1).reshape(count, *position, width)


class DiffusersAttention(nn.Module):
    """Spatial attention inside each frame under diffusers names: `group_norm`, `to_q`, `to_k`, `to_v`, `to_out.0`."""

    def __init__(self, width: int, *, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = ClipNorm(width, groups=groups, eps=eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, frames: Tensor) -> Tensor:
        pixels = self.group_norm(one_clip_per_frame(frames)).flatten(2, 3).squeeze(0)
        mixed: Tensor = self.to_out[0](_attend(self.to_q(pixels), self.to_k(pixels), self.to_v(pixels)))
        return frames + mixed.view(frames.shape)
