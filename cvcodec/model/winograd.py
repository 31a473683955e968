"""Winograd's F(4x4, 3x3) for convolutions at stride 1: four times fewer multiplications in space.

Owns: the three transforms and the matrix products between them (Lavin and Gray, arXiv 1509.09308).

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

_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


@functools.cache
def _kernel_matrix() -> Tensor:
    """The kernel's transform along height and width as one matrix, (36, 9) float32."""
    matrix = torch.tensor(_KERNEL, dtype=torch.float64, device="cpu")
    return torch.kron(matrix, matrix).float()


def transform_kernel(weight: Tensor) -> Tensor:
    """(O, I, taps, 3, 3) -> (36, taps, O, I)."""
    outputs, inputs, taps = weight.shape[:3]
    flat = weight.permute(3, 4, 2, 0, 1).reshape(9, -1)
    return (_kernel_matrix() @ flat).view(POINTS, taps, outputs, inputs)


def transform_input(padded: Tensor) -> Tensor:
    """Frames (T, B, 4y+2, 4x+2, C) -> (T, 36, B*y*x, C): overlapping 6x6 patches, transformed.

    In memory the 36 points are outermost, so that neighbouring frames make one matrix.
    """
    count, batch, height, width, channels = padded.shape
    rows, columns = height // TILE, width // TILE
    by_row = padded.new_empty(PATCH, count, batch, rows, width, channels)
    _input_points([padded[:, :, i : i + TILE * rows : TILE] for i in range(PATCH)], by_row)
    points = padded.new_empty(PATCH, PATCH, count, batch, rows, columns, channels)
    _input_points([by_row[..., i : i + TILE * columns : TILE, :] for i in range(PATCH)], points.transpose(0, 1))
    return points.view(POINTS, count, batch * rows * columns, channels).transpose(0, 1)


def _input_points(pixels: list[Tensor], points: Tensor) -> None:
    """Six neighbouring pixels to six points along one axis: the rows of the published matrix, common terms shared."""
    even, odd = torch.sub(pixels[4], pixels[2], alpha=4), torch.sub(pixels[3], pixels[1], alpha=4)
    torch.add(even, odd, out=points[1])  # -4 p1 - 4 p2 + p3 + p4
    torch.sub(even, odd, out=points[2])  # 4 p1 - 4 p2 - p3 + p4
    torch.sub(pixels[4], pixels[2], out=even)
    torch.sub(pixels[3], pixels[1], out=odd)
    torch.add(even, odd, alpha=2, out=points[3])  # -2 p1 - p2 + 2 p3 + p4
    torch.sub(even, odd, alpha=2, out=points[4])  # 2 p1 - p2 - 2 p3 + p4
    torch.sub(pixels[0], pixels[2], out=points[0])
    torch.add(even, points[0], alpha=4, out=points[0])  # 4 p0 - 5 p2 + p4
    torch.sub(pixels[5], pixels[3], out=points[5]).sub_(odd, alpha=4)  # 4 p1 - 5 p3 + p5


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
    points = products.view(PATCH, PATCH, *products.shape[1:])
    by_row = products.new_empty(TILE, *points.shape[1:])
    _output_pixels(points, by_row)
    pixels = products.new_empty(TILE, TILE, *points.shape[2:])
    _output_pixels(by_row.transpose(0, 1), pixels.transpose(0, 1))
    return pixels.view(TILE, TILE, *shape, -1).permute(2, 3, 4, 0, 5, 1, 6)


def _output_pixels(points: Tensor, pixels: Tensor) -> None:
    """Six points to four pixels along one axis, as above."""
    total, difference = points[1] + points[2], points[1] - points[2]
    outer, outer_difference = points[3] + points[4], points[3] - points[4]
    torch.add(total, outer, out=pixels[0]).add_(points[0])
    torch.add(difference, outer_difference, alpha=2, out=pixels[1])
    torch.add(total, outer, alpha=4, out=pixels[2])
    torch.add(difference, outer_difference, alpha=8, out=pixels[3]).add_(points[5])
