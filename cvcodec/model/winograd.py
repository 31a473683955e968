"""Winograd's F(4x4, 3x3) for convolutions at stride 1: four times fewer multiplications in space.

Owns: the three transforms and the matrix products between them (Lavin and Gray, arXiv 1509.09308).
Does not know: modules, norms, padding, time (it is given the frames and the kernels that belong to them).

For float32 on CPUs, where multiplications are what convolutions wait for. The temporal taps of a 3x3x3 kernel are added
up in the transformed domain, so that each frame is transformed once. Rounding errors are a few times those of a direct
convolution: of the order of 1e-6 of the output's size.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

TILE = 4  # output pixels per tile side
PATCH = TILE + 2  # input pixels per tile side
POINTS = PATCH**2
_ONES_POINT = PATCH + 1  # a constant added at this transformed point comes out as that constant at every pixel

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


@functools.cache
def _both_axes(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """The transform along height and width as one matrix, float32."""
    matrix = torch.tensor(rows, dtype=torch.float64, device="cpu")
    return torch.kron(matrix, matrix).float()


def transform_kernel(weight: Tensor) -> Tensor:
    """(O, I, taps, 3, 3) -> (36, taps, O, I)."""
    outputs, inputs, taps = weight.shape[:3]
    flat = weight.permute(3, 4, 2, 0, 1).reshape(9, -1)
    return (_both_axes(_KERNEL) @ flat).view(POINTS, taps, outputs, inputs)


def transform_input(padded: Tensor) -> Tensor:
    """Frames (T, B, 4y+2, 4x+2, C) -> (T, 36, B*y*x, C): cut into overlapping 6x6 patches and transformed.

    In memory the 36 points are outermost, so that neighbouring frames make one matrix.
    """
    patches = padded.unfold(2, PATCH, TILE).unfold(3, PATCH, TILE)  # (T, B, y, x, C, 6, 6), a view
    count, batch, rows, columns, channels = patches.shape[:5]
    points = patches.permute(5, 6, 0, 1, 2, 3, 4).reshape(POINTS, -1)
    transformed = torch.mm(_both_axes(_INPUT), points)
    return transformed.view(POINTS, count, batch * rows * columns, channels).transpose(0, 1)


def multiply(sources: list[Tensor], kernels: list[Tensor]) -> Tensor:
    """The sum over sources of frames (T, 36, P, I) times a kernel (36, O, I) -> (36, T*P, O)."""
    total: Tensor | None = None
    for source, kernel in zip(sources, kernels, strict=True):
        pixels = source.transpose(0, 1).flatten(1, 2)
        if total is None:
            total = torch.bmm(pixels, kernel.transpose(1, 2))
        else:
            total.baddbmm_(pixels, kernel.transpose(1, 2))
    assert total is not None
    return total


def transform_output(products: Tensor, bias: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """(36, T*B*y*x, O) -> pixels as a view (T, B, y, 4, x, 4, O); `shape`: T, B, y, x. Adds to `products` in place."""
    products[_ONES_POINT] += bias
    pixels = torch.mm(_both_axes(_OUTPUT), products.flatten(1))
    return pixels.view(TILE, TILE, *shape, -1).permute(2, 3, 4, 0, 5, 1, 6)
