"""Mean squared error, peak signal-to-noise ratio, and the luma that they may be taken of.

Owns: MSE in float64, whatever the input (a difference of uint8 in uint8 wraps around); PSNR = 10 log10(peak^2 / MSE);
Y' = Kr R' + Kg G' + Kb B' in full range, on the scale of the RGB code values (ITU-R BT.601-7, BT.709-6, BT.2020-2).
Does not know: which planes are compared, how frames are averaged, limited range, files.
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


LUMA_COEFFICIENTS: dict[str, tuple[float, float, float]] = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
    "bt2020": (0.2627, 0.6780, 0.0593),
    "smpte240m": (0.212, 0.701, 0.087),
    "fcc": (0.30, 0.59, 0.11),
}
"""(Kr, Kg, Kb) by matrix name; each sums to one."""

MATRIX_ALIASES = {
    "bt2020c": "bt2020",
    "smpte170m": "bt601",
    "bt470bg": "bt601",
    "itu601": "bt601",
    "itu709": "bt709",
    "bt2020nc": "bt2020",
    "bt2020ncl": "bt2020",
    "bt2020_ncl": "bt2020",
}
"""Other names of the same coefficients, as ffmpeg spells them."""


def matrix_name(matrix: str) -> str | None:
    """The name in LUMA_COEFFICIENTS for `matrix` or an alias of it; None for one without (RGB, YCgCo, ICtCp)."""
    name = MATRIX_ALIASES.get(matrix, matrix)
    return name if name in LUMA_COEFFICIENTS else None


def luma(rgb: Tensor, matrix: str = "bt709") -> Tensor:
    """(N, 3, H, W) RGB, float, any scale -> (N, 1, H, W) luma on the same scale and in the same dtype.

    ValueError on another shape or dtype, or a matrix without luma coefficients.
    """
    if rgb.ndim != 4 or rgb.shape[1] != 3 or not rgb.is_floating_point():
        raise ValueError(f"RGB must be (N, 3, H, W) float, got {tuple(rgb.shape)} {rgb.dtype}")
    name = matrix_name(matrix)
    if name is None:
        raise ValueError(f"no luma coefficients for {matrix = }; known: {', '.join(LUMA_COEFFICIENTS)}")
    weights = torch.tensor(LUMA_COEFFICIENTS[name], dtype=rgb.dtype, device=rgb.device)
    return (rgb * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
