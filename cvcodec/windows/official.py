"""The tiles of the official CV-VAE inference, reproduced (docs/cv-vae.md, section 3.2).

Owns: the strides and overlaps that follow from a tile's size, sequential in-place blending with neighbours.

Each tile is blended first with the already blended tile above, then with the already blended tile at its left; on
encoding, the moments are blended, log-variance unclamped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cvcodec.windows.space import ClipFunction, cat_all


@dataclass(frozen=True)
class OfficialTiles:
    """The official tiles, and the lengths that follow from their size."""

    pixels: int = 576
    """Side of a tile in pixels; 0: no tiles."""
    overlap: float = 0.2222
    """Share of a tile that overlaps its neighbour."""
    spatial_factor: int = 8

    def __post_init__(self) -> None:
        factor = self.spatial_factor
        if self.pixels and (
            self.pixels != factor * self.latents
            or self.pixel_stride != factor * self.latent_stride
            or self.pixel_overlap != factor * self.latent_overlap
            or self.latent_stride + self.latent_overlap != self.latents
            or not self.latent_overlap <= self.latent_stride
        ):  # the four rounded lengths do not fit together: tiles would leave gaps
            raise ValueError(
                f"official tiles of {self.pixels} pixels with overlap {self.overlap} leave the latent grid (stride "
                f"{self.pixel_stride} pixels, {self.latent_stride} latents; overlap {self.pixel_overlap} pixels, "
                f"{self.latent_overlap} latents); multiples of 72 with 0.2222 work"
            )

    @property
    def latents(self) -> int:
        """Side of a tile in latents (72)."""
        return self.pixels // self.spatial_factor

    @property
    def pixel_stride(self) -> int:
        """Pixels between the starts of tiles, encoding (448)."""
        return round(self.pixels * (1 - self.overlap))

    @property
    def latent_stride(self) -> int:
        """Latents between the starts of tiles, decoding (56)."""
        return round(self.latents * (1 - self.overlap))

    @property
    def pixel_overlap(self) -> int:
        """Pixels blended between tiles, decoding (128)."""
        return round(self.pixels * self.overlap)

    @property
    def latent_overlap(self) -> int:
        """Latents blended between tiles, encoding (16)."""
        return round(self.latents * self.overlap)

    def halved(self, *, side: int) -> OfficialTiles | None:
        """Tiles of about half the size, for pictures of `side` latents; None when no smaller ones fit."""
        current = min(self.latents, side) if self.pixels else side
        for latents in range(-(-current // 2), 0, -1):
            try:
                tiles = dataclasses.replace(self, pixels=latents * self.spatial_factor)
            except ValueError:
                continue
            return tiles if tiles.latent_overlap and latents < current else None
        return None

    def encode(self, encode: ClipFunction, pixels: Tensor) -> Tensor:
        """`encode` on the tiles of one chunk (B, 3, T, H, W), moments blended: (B, 2C, t, h, w).

        Sides that are no multiples of the factor are rounded as `encode` rounds them: `cvvae` down, `cvvae-sd3` up.
        """
        factor = self.spatial_factor
        if min(pixels.shape[3:]) < factor:
            raise ValueError(f"pixels of {pixels.shape[3]} x {pixels.shape[4]} give no latent: pad them to {factor}")
        return _blend_tiles(
            encode,
            pixels,
            tile=self.pixels,
            stride=self.pixel_stride,
            overlap=self.latent_overlap,
            kept=self.latent_stride,
            sides=lambda side: (side // factor, -(-side // factor)),
        )

    def decode(self, decode: ClipFunction, latent: Tensor) -> Tensor:
        """`decode` on the tiles of one chunk (B, C, t, h, w), pixels blended: (B, 3, T, 8h, 8w)."""
        factor = self.spatial_factor
        return _blend_tiles(
            decode,
            latent,
            tile=self.latents,
            stride=self.latent_stride,
            overlap=self.pixel_overlap,
            kept=self.pixel_stride,
            sides=lambda side: (side * factor, side * factor),
        )


def _blend_tiles(
    fn: ClipFunction,
    clip: Tensor,
    *,
    tile: int,
    stride: int,
    overlap: int,
    kept: int,
    sides: Callable[[int], tuple[int, int]],
) -> Tensor:
    """Tiles every `stride` of `clip`, blended over `overlap` samples of the result and cut to `kept`, except the last.

    `sides` says how short and how long a side of the result may be, given that of its piece. Only the strips that later
    tiles blend with stay alive: the bottoms of the row above and the right side of the left tile.
    """
    height, width = clip.shape[3:]
    if not tile or (height <= tile and width <= tile):
        return fn(clip)
    tops, lefts = _starts(height, tile, stride), _starts(width, tile, stride)
    size = (
        kept * (len(tops) - 1) + sides(height - tops[-1])[1],
        kept * (len(lefts) - 1) + sides(width - lefts[-1])[1],
    )
    output: Tensor | None = None
    bottoms: list[Tensor] = []  # of the row above, later of this row, column by column
    y_end = x_end = 0
    for row, top in enumerate(tops):
        right: Tensor | None = None
        for column, left in enumerate(lefts):
            piece = clip[..., top : top + tile, left : left + tile]
            result = fn(piece.contiguous())
            (low_y, high_y), (low_x, high_x) = sides(piece.shape[3]), sides(piece.shape[4])
            if result.ndim != 5 or not (low_y <= result.shape[3] <= high_y and low_x <= result.shape[4] <= high_x):
                raise ValueError(f"the function returned {tuple(result.shape)}; (B, C, T, {low_y}, {low_x}) wanted")
            if row and overlap:
                result = _blend(bottoms[column], result, dim=3)
            if right is not None and overlap:
                result = _blend(right, result, dim=4)
            bottom = result[..., result.shape[3] - overlap :, :].clone()
            if row:
                bottoms[column] = bottom
            else:
                bottoms.append(bottom)
            right = result[..., result.shape[4] - overlap :].clone()
            if output is None:
                output = result.new_empty((*result.shape[:3], *size))
            y, x = row * kept, column * kept
            y_end = y + (kept if row + 1 < len(tops) else result.shape[3])
            x_end = x + (kept if column + 1 < len(lefts) else result.shape[4])
            output[..., y:y_end, x:x_end] = result[..., : y_end - y, : x_end - x]
            del result
    assert output is not None
    return output[..., :y_end, :x_end]


def _starts(length: int, tile: int, stride: int) -> list[int]:
    """Multiples of the stride, up to the first tile that reaches the far edge."""
    return list(range(0, max(length - tile, 0) + stride, stride)) if length > tile else [0]


def _blend(before: Tensor, after: Tensor, *, dim: int) -> Tensor:
    """`after`, its first samples along `dim` mixed with `before`: weight i/n of the new tile at sample i."""
    length = before.shape[dim]
    dtype = torch.promote_types(after.dtype, torch.float32)
    ramp = (torch.arange(length, dtype=torch.float64) / length).to(dtype).to(after.device)
    rest = (1 - torch.arange(length, dtype=torch.float64) / length).to(dtype).to(after.device)
    shape = [-1 if axis == dim else 1 for axis in range(after.ndim)]
    mixed = before * rest.view(shape) + after.narrow(dim, 0, length) * ramp.view(shape)
    return cat_all([mixed.to(after.dtype), after.narrow(dim, length, after.shape[dim] - length)], dim=dim)
