"""The terms of the loss: spec 4.1 to 4.3, the distortions of codec training, and an estimate of the bits.

Owns: the maps psi, the sums and means, the hinge, the adaptive weight, as functions of tensors that tests hold to
numbers worked out by hand; a differentiable estimate of what the entropy coder will spend, used to train and to watch,
not to report file sizes. Does not know: models, data, schedules.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvcodec.training.config import Distortion, Mapping2d

GROUP = 4
"""Frames of a group: rho_t of the paper."""
DB_FLOOR = 3e-5
"""Added to the mean square error before its logarithm: 51 dB, where a clip stops being worth more attention."""
_ADAPTIVE_EPSILON, _ADAPTIVE_LIMIT = 1e-4, 1e4

_LEAST_PROBABILITY = 1e-9  # 30 bits: keeps the gradient of an outlier finite
_INITIAL_SCALE_WEIGHT = -3.0  # softplus gives 0.05 for each of the 13 neighbours
_BIAS_SCALE = 0.44  # of the learned scale floor, in unit steps
_SCALE_PER_STEP = 0.05  # least scale of the Laplacian in quantiser steps


# ---------------------------------------------------------------------------------------------------- psi


def draw_picks(generator: np.random.Generator, groups: int) -> list[int]:
    """The random map's draw: which frame of each group, uniform, one draw for the whole batch (spec 4.2)."""
    return [int(pick) for pick in generator.integers(0, GROUP, groups)]


def map_frames(pixels: Tensor, mapping: Mapping2d, picks: list[int] | None = None) -> Tensor:
    """psi: (B, 3, 4k+1, H, W) -> (B, 3, k+1, H, W); `first` keeps frame 0 alone. `picks`: k numbers for `random`.

    Frame 0 is always kept; group j is frames 4j-3 ... 4j (spec 4.2). ValueError on another number of frames.
    """
    frames = pixels.shape[2]
    if (frames - 1) % GROUP:
        raise ValueError(f"want {GROUP}k+1 frames: {pixels.shape = }")
    first, groups = pixels[:, :, :1], pixels[:, :, 1:].unflatten(2, (-1, GROUP)) if frames > 1 else None
    if mapping == "first" or groups is None:
        return first
    if mapping == "slice":
        mapped = groups[:, :, :, GROUP - 1]
    elif mapping == "average":
        mapped = groups.mean(3)
    else:
        if picks is None or len(picks) != groups.shape[2]:
            raise ValueError(f"the random map wants {groups.shape[2]} picks, got {picks}")
        mapped = torch.stack([groups[:, :, group, pick] for group, pick in enumerate(picks)], 2)
    return torch.cat([first, mapped], 2)


# ---------------------------------------------------------------------------------------------------- distortion


def distortion(kind: Distortion, x: Tensor, y: Tensor, position_power: float = 1.0) -> Tensor:
    """(B, ...) pixels in [-1, 1] -> (B,), per clip. `mse-db`: 10 log10(mse), minus the PSNR but for a constant.

    position_power: see `even_mse`; `l1` takes no notice of it.
    """
    error = (y.float() - x.float()).flatten(1)
    if kind == "l1":
        return error.abs().mean(1)
    mse = error.square().mean(1) if position_power == 1 else even_mse(x, y, position_power)
    if kind == "mse":
        return mse
    if kind == "l1+mse":
        return error.abs().mean(1) + 2 * mse
    return 10 * torch.log10(mse + DB_FLOOR)


def even_mse(x: Tensor, y: Tensor, power: float) -> Tensor:
    """(B, 3, 4k+1, H, W) -> (B,): the mean over frames of squared errors, where a group's four count as their mean of
    that power: (mean of mse ** power) ** (1 / power). The worst frame of a group then counts most."""
    frames = (y.float() - x.float()).square().mean((1, 3, 4))
    groups = frames[:, 1:].unflatten(1, (-1, GROUP)) if frames.shape[1] > 1 else frames[:, :0, None]
    largest = groups.detach().amax(2, keepdim=True).clamp_min(1e-12)  # powers of small numbers underflow
    mean: Tensor = (groups / largest).pow(power).mean(2).pow(1 / power) * largest[:, :, 0]
    return (frames[:, 0] + GROUP * mean.sum(1)) / frames.shape[1]


# ---------------------------------------------------------------------------------------------------- official sums


def reconstruction_error(
    target: Tensor, output: Tensor, perceptual: Callable[[Tensor, Tensor], Tensor] | None, weight: float
) -> Tensor:
    """|x - x'| per element plus `weight` times each frame's LPIPS on all its pixels: (B*T, 3, H, W) (spec 4.3, 1)."""
    x, y = fold_frames(target.float()), fold_frames(output.float())
    error = (x - y).abs()
    if perceptual is not None and weight:
        error = error + weight * perceptual(x, y).float().view(-1, 1, 1, 1)
    return error


def negative_log_likelihood(error: Tensor, log_variance: Tensor) -> Tensor:
    """sum(error / exp(s) + s) / frames for errors (B*T, 3, H, W) and a learned scalar s (spec 4.3, 2 and 3)."""
    total: Tensor = (error / log_variance.exp() + log_variance).sum()
    return total / error.shape[0]


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """0.5 sum(mean^2 + var - 1 - log var) over C, t, h, w, averaged over clips (spec 4.3, 4)."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()


def fold_frames(clips: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> (B*T, 3, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


# ---------------------------------------------------------------------------------------------------- adversarial


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """0.5 (mean relu(1 - real) + mean relu(1 + fake)) of logits (spec 4.3, 6)."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """-mean(logits of reconstructions) (spec 4.3, 5)."""
    return -fake.float().mean()


def adaptive_weight(
    reconstruction: Tensor, generator: Tensor, last_layer: Tensor, average: Callable[[Tensor], Tensor] = lambda g: g
) -> Tensor:
    """|grad reconstruction| / (|grad generator| + 1e-4) at the decoder's last weight, at most 1e4 (spec 4.3, 5).

    `average` takes a gradient's mean over processes, so that the norms are those of the whole batch.
    """
    of_reconstruction = average(torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0])
    of_generator = average(torch.autograd.grad(generator, last_layer, retain_graph=True)[0])
    ratio = of_reconstruction.float().norm() / (of_generator.float().norm() + _ADAPTIVE_EPSILON)
    weight: Tensor = ratio.clamp(0.0, _ADAPTIVE_LIMIT).detach()
    return weight


# ---------------------------------------------------------------------------------------------------- rate


class RateModel(nn.Module):
    """Bits per symbol of latents (B, C, t, h, w) quantised with some step, by a small context model: each is Laplacian
    around a prediction from its causal neighbours of the same channel (3x3 in the latent before, four already coded in
    this one), with a scale from what those were wrong by."""

    unit_step: Tensor
    causal: Tensor

    def __init__(self, unit_step: Tensor) -> None:
        """`unit_step`: (C,), the scale in which the model thinks."""
        super().__init__()
        channels = unit_step.numel()
        self.register_buffer("unit_step", unit_step.detach().clone().view(1, channels, 1, 1, 1))
        mask = torch.zeros(3, 3)
        mask[0] = 1
        mask[1, 0] = 1
        self.register_buffer("causal", mask, persistent=False)
        self.mean_before = nn.Parameter(torch.zeros(channels, 1, 3, 3))
        self.mean_beside = nn.Parameter(torch.zeros(channels, 1, 3, 3))
        self.scale_before = nn.Parameter(torch.full((channels, 1, 3, 3), _INITIAL_SCALE_WEIGHT))
        self.scale_beside = nn.Parameter(torch.full((channels, 1, 3, 3), _INITIAL_SCALE_WEIGHT))
        self.scale_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, latent: Tensor, step: Tensor) -> Tensor:
        """Bits of each element of `latent` (B, C, t, h, w), quantised or noisy; `step`: broadcastable to it."""
        y, width = latent / self.unit_step, step / self.unit_step
        error = (y - self._context(y, self.mean_before, self.mean_beside)).abs()
        scale = self._context(error, F.softplus(self.scale_before), F.softplus(self.scale_beside))
        scale = scale + _BIAS_SCALE * F.softplus(self.scale_bias).view(1, -1, 1, 1, 1) + _SCALE_PER_STEP * width
        probability = _laplace_cdf((width / 2 - error) / scale) - _laplace_cdf((-width / 2 - error) / scale)
        return -torch.log2(probability.clamp_min(_LEAST_PROBABILITY))

    def _context(self, y: Tensor, before: Tensor, beside: Tensor) -> Tensor:
        batch, channels, latents = y.shape[:3]
        earlier = torch.cat([torch.zeros_like(y[:, :, :1]), y[:, :, :-1]], 2)
        gathered = F.conv2d(earlier.transpose(1, 2).flatten(0, 1), before, padding=1, groups=channels)
        gathered = gathered + F.conv2d(
            y.transpose(1, 2).flatten(0, 1), beside * self.causal, padding=1, groups=channels
        )
        unfolded: Tensor = gathered.unflatten(0, (batch, latents))
        return unfolded.transpose(1, 2)


def _laplace_cdf(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.5 * torch.exp(x.clamp(max=0)), 1 - 0.5 * torch.exp(-x.clamp(min=0)))
