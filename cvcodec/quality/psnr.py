"""Mean squared error and peak signal-to-noise ratio.

Owns: MSE in float64, whatever the input (a difference of uint8 in uint8 wraps around), and
PSNR = 10 log10(peak^2 / MSE).
Does not know: which planes are compared, how frames are averaged, files.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each item: (N, ...) integer or float, on any common scale -> (N,) float64.

    Exact for integers of up to 16 bits: differences and sums stay below 2^53.
    """
    if x.shape != y.shape or x.ndim < 2:
        raise ValueError(f"two batches of one shape (N, ...) wanted, got {tuple(x.shape)} and {tuple(y.shape)}")
    difference = x.to(torch.float64) - y.to(torch.float64)
    return difference.square().flatten(1).mean(dim=1)


def psnr_of_mse(error: Tensor, peak: float) -> Tensor:
    """PSNR in dB of mean squared errors on a scale whose largest value is `peak`; infinite where the error is zero."""
    if peak <= 0:
        raise ValueError(f"peak must be positive, got {peak = }")
    return 10.0 * torch.log10(peak**2 / error.to(torch.float64))


def psnr(x: Tensor, y: Tensor, *, peak: float) -> Tensor:
    """PSNR of each item in dB: (N, ...) code values -> (N,) float64; infinite for identical items.

    `peak` is the largest code value: 255 for 8 bits, 2^b - 1 for b bits, 1 for values in [0, 1], 2 for [-1, 1].
    """
    return psnr_of_mse(mse(x, y), peak)
