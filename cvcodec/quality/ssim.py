"""Structural similarity (SSIM) and its multi-scale form (MS-SSIM).

Owns: Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004 (Gaussian window 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03,
population variances, only windows that lie inside the picture, no downsampling first), which scikit-image computes with
`gaussian_weights=True, sigma=1.5, use_sample_covariance=False`; and Wang, Simoncelli and Bovik, Asilomar 2003, with its
five weights.
Does not know: colour (each channel is compared alone and the channels are averaged), files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
K1 = 0.01
K2 = 0.03
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponent of each scale, finest first (Asilomar 2003, section 3.2)."""
MINIMUM_SIDE = WINDOW
"""Smallest height and width for SSIM."""
MS_MINIMUM_SIDE = (WINDOW - 1) * 2 ** (len(MS_WEIGHTS) - 1) + 1
"""Smallest height and width for MS-SSIM, 161: halved four times, rounding up, it still holds one window."""


def ssim(x: Tensor, y: Tensor, *, peak: float = 1.0) -> Tensor:
    """SSIM of each item: (N, C, H, W) float in [0, peak] -> (N,), 1 for identical items; differentiable.

    Half precision is computed in float32. ValueError when H or W is below 11.
    """
    x, y = _checked(x, y, peak, MINIMUM_SIDE, "SSIM")
    luminance, structure = _components(x, y)
    return (luminance * structure).flatten(1).mean(dim=1)


def ms_ssim(x: Tensor, y: Tensor, *, peak: float = 1.0) -> Tensor:
    """MS-SSIM of each item: (N, C, H, W) float in [0, peak] -> (N,), 1 for identical items; differentiable.

    Scales are 2x2 means; an odd last row or column is repeated, as in the authors' implementation. Negative
    contrast-structure means count as zero. ValueError when H or W is below 161.
    """
    x, y = _checked(x, y, peak, MS_MINIMUM_SIDE, "MS-SSIM")
    result = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(MS_WEIGHTS):
        luminance, structure = _components(x, y)
        last = scale == len(MS_WEIGHTS) - 1
        means = (luminance * structure if last else structure).mean(dim=(2, 3))
        result = result * means.clamp_min(0.0) ** weight
        if not last:
            x, y = _halve(x), _halve(y)
    return result.mean(dim=1)


def _checked(x: Tensor, y: Tensor, peak: float, minimum: int, name: str) -> tuple[Tensor, Tensor]:
    """Both inputs scaled to [0, 1] in float32 or float64."""
    if x.shape != y.shape or x.ndim != 4 or not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(
            "two float batches (N, C, H, W) of one shape wanted, "
            f"got {tuple(x.shape)} {x.dtype} and {tuple(y.shape)} {y.dtype}"
        )
    if min(x.shape[-2:]) < minimum:
        raise ValueError(f"{name} needs at least {minimum}x{minimum} pixels, got {x.shape[-1]}x{x.shape[-2]}")
    if peak <= 0:
        raise ValueError(f"peak must be positive, got {peak = }")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype) / peak, y.to(dtype) / peak


def _components(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps, (N, C, H - 10, W - 10), of inputs in [0, 1].

    Written in the sum and the difference of the two pictures: with s = x + y and d = x - y,
    2 mx my = (ms^2 - md^2) / 2 and mx^2 + my^2 = (ms^2 + md^2) / 2, and likewise for the (co)variances. Four maps are
    filtered in place of five, and what separates SSIM from one is a local energy of d, which float32 holds well.
    """
    c1, c2 = K1**2, K2**2
    centred = x + y - 1.0  # about mid-grey, so that the variance below cancels less
    difference = x - y
    maps = torch.cat([centred, difference, centred.square(), difference.square()], dim=1)
    mean_s, mean_d, square_s, square_d = _gaussian(maps).chunk(4, dim=1)
    variance_s = (square_s - mean_s.square()).clamp_min(0.0)
    variance_d = (square_d - mean_d.square()).clamp_min(0.0)
    level = (mean_s + 1.0).square()
    luminance = ((level - mean_d.square()) / 2 + c1) / ((level + mean_d.square()) / 2 + c1)
    structure = ((variance_s - variance_d) / 2 + c2) / ((variance_s + variance_d) / 2 + c2)
    return luminance, structure


def _gaussian(maps: Tensor) -> Tensor:
    """The separable window, without padding: (N, C, H, W) -> (N, C, H - 10, W - 10)."""
    return _gaussian_along(_gaussian_along(maps, 3), 2)


def _gaussian_along(maps: Tensor, axis: int) -> Tensor:
    """The window along one axis, as sums of shifted copies: on a CPU twice as fast as a one-channel convolution."""
    radius = WINDOW // 2
    taps = [math.exp(-(offset**2) / (2 * SIGMA**2)) for offset in range(radius + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    length = maps.shape[axis] - 2 * radius
    result = maps.narrow(axis, radius, length) * (taps[0] / total)
    for offset in range(1, radius + 1):
        pair = maps.narrow(axis, radius - offset, length) + maps.narrow(axis, radius + offset, length)
        result.add_(pair, alpha=taps[offset] / total)
    return result


def _halve(x: Tensor) -> Tensor:
    """2x2 means; (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(x, 2)
