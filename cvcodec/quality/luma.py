"""Luma from RGB code values: the matrix coefficients, by name.

Owns: Y' = Kr R' + Kg G' + Kb B' in full range, on the scale of the RGB code values (ITU-R BT.601-7, BT.709-6,
BT.2020-2).
Does not know: limited range, chroma, files.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
