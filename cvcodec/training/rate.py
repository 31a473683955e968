"""An estimate of the bits that the entropy coder will spend, differentiable, for the rate term of the loss.

Owns: a small context model: each symbol is Laplacian around a prediction from its causal neighbours of the same channel
(3x3 in the latent before, four neighbours already coded in this one), with a scale from what those were wrong by.
Does not know: the real coder. Its number is an estimate, used to train and to watch, not to report file sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_PROBABILITY = 1e-9  # 30 bits: keeps the gradient of an outlier finite
_INITIAL_SCALE_WEIGHT = -3.0  # softplus gives 0.05 for each of the 13 neighbours
_BIAS_SCALE = 0.44  # of the learned scale floor, in unit steps
_SCALE_PER_STEP = 0.05  # least scale of the Laplacian in quantiser steps


class RateModel(nn.Module):
    """Bits per symbol of latents (B, C, t, h, w) quantised with some step."""

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
