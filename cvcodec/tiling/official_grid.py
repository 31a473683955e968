"""The official grid in time and space, and the official blending of tiles (spec 3.1, 3.2).

Owns: chunk and tile sizes, the strides that follow, sequential in-place blending with neighbours, smaller grids when
memory runs out.
Does not know: models beyond a config's numbers, streams, files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cvcodec.tiling.backoff import with_backoff
from cvcodec.tiling.padding import cat_all
from cvcodec.tiling.space import ClipFunction

ROUND_UP_FAMILIES = ("cvvae-sd3",)  # latent side = ceil(pixels / 8); the others floor (spec 1.5, 1.9)


class OfficialConfig(Protocol):
    """What the grid needs of a model's config (`cvcodec.model.config.ModelConfig`)."""

    @property
    def family(self) -> str: ...
    @property
    def official_chunk_frames(self) -> int | None: ...
    @property
    def official_tile_pixels(self) -> int: ...
    @property
    def official_tile_overlap(self) -> float: ...
    @property
    def temporal_factor(self) -> int: ...
    @property
    def spatial_factor(self) -> int: ...


@dataclass(frozen=True)
class OfficialGrid:
    """The official chunk and tile sizes, and the strides that follow from them."""

    chunk_frames: int | None = 16
    """New frames per chunk, a multiple of `temporal_factor`; None: no chunks in time."""
    tile_pixels: int = 576
    """Side of a tile in pixels; 0: no tiles."""
    overlap: float = 0.2222
    """Share of a tile that overlaps its neighbour."""
    round_up: bool = False
    """Whether the model's latent side is ceil(pixels / 8) (cvvae-sd3) or floor (cvvae)."""
    temporal_factor: int = 4
    spatial_factor: int = 8

    def __post_init__(self) -> None:
        if self.chunk_frames is not None and (self.chunk_frames < 1 or self.chunk_frames % self.temporal_factor):
            raise ValueError(
                f"official chunk of {self.chunk_frames} frames is not a multiple of {self.temporal_factor}"
            )
        if self.tile_pixels < 0 or not 0 <= self.overlap < 1:
            raise ValueError(f"no official tile: {self.tile_pixels = }, {self.overlap = }")

    @classmethod
    def from_config(cls, config: OfficialConfig) -> OfficialGrid:
        """The grid that a model's config names."""
        return cls(
            chunk_frames=config.official_chunk_frames,
            tile_pixels=config.official_tile_pixels,
            overlap=config.official_tile_overlap,
            round_up=config.family in ROUND_UP_FAMILIES,
            temporal_factor=config.temporal_factor,
            spatial_factor=config.spatial_factor,
        )

    @property
    def chunk_latents(self) -> int | None:
        """New latents per chunk (4); the first chunk has one more."""
        return None if self.chunk_frames is None else self.chunk_frames // self.temporal_factor

    @property
    def tile_latents(self) -> int:
        """Side of a tile in latents (72)."""
        return self.tile_pixels // self.spatial_factor

    @property
    def pixel_stride(self) -> int:
        """Pixels between the starts of tiles, encoding (448)."""
        return round(self.tile_pixels * (1 - self.overlap))

    @property
    def latent_stride(self) -> int:
        """Latents between the starts of tiles, decoding (56)."""
        return round(self.tile_latents * (1 - self.overlap))

    @property
    def pixel_overlap(self) -> int:
        """Pixels blended between tiles, decoding (128)."""
        return round(self.tile_pixels * self.overlap)

    @property
    def latent_overlap(self) -> int:
        """Latents blended between tiles, encoding (16)."""
        return round(self.tile_latents * self.overlap)

    def latent_side(self, pixels: int) -> int:
        """Latents that the model makes of a side of `pixels`."""
        return -(-pixels // self.spatial_factor) if self.round_up else pixels // self.spatial_factor

    def check_tiles(self) -> None:
        """ValueError when the four rounded lengths do not fit together, so that tiles would leave gaps (spec 3.2)."""
        factor, tile = self.spatial_factor, self.tile_pixels
        if (
            tile != factor * self.tile_latents
            or self.pixel_stride != factor * self.latent_stride
            or self.pixel_overlap != factor * self.latent_overlap
            or self.latent_stride + self.latent_overlap != self.tile_latents
            or not self.latent_overlap <= self.latent_stride
        ):
            raise ValueError(
                f"official tiles of {tile} pixels with overlap {self.overlap} leave the latent grid (stride "
                f"{self.pixel_stride} pixels, {self.latent_stride} latents; overlap {self.pixel_overlap} pixels, "
                f"{self.latent_overlap} latents); multiples of 72 with 0.2222 work"
            )

    def halved(self, *, side: int) -> OfficialGrid | None:
        """The grid with tiles of about half the size, for pictures of `side` pixels; None when no smaller one fits."""
        current = min(self.tile_pixels, side) if self.tile_pixels else side
        for latents in range(-(-current // (2 * self.spatial_factor)), 0, -1):
            grid = dataclasses.replace(self, tile_pixels=latents * self.spatial_factor)
            try:
                grid.check_tiles()
            except ValueError:
                continue
            return grid if grid.latent_overlap and grid.tile_pixels < current else None
        return None


class OfficialRunner:
    """Calls a function on the tiles of an official grid.

    With `may_shrink`, tiles are halved, for this call and all later ones, when memory runs out: the result then
    differs from the official one, so the caller records `grid` (`on_backoff(old, new)` tells when).
    """

    def __init__(
        self,
        grid: OfficialGrid,
        *,
        may_shrink: bool = False,
        on_backoff: Callable[[OfficialGrid, OfficialGrid], None] | None = None,
    ) -> None:
        self.grid = grid
        self._may_shrink = may_shrink
        self._on_backoff = on_backoff

    def moments(self, fn: ClipFunction, clip: Tensor) -> Tensor:
        """`fn` on the pixel tiles of (B, 3, T, H, W), its results blended."""
        return self._run(encode_tiles, fn, clip, max(clip.shape[3:]))

    def pixels(self, fn: ClipFunction, latent: Tensor) -> Tensor:
        """`fn` on the latent tiles of (B, C, t, h, w), its results blended."""
        return self._run(decode_tiles, fn, latent, max(latent.shape[3:]) * self.grid.spatial_factor)

    def _run(
        self, tiles: Callable[[ClipFunction, Tensor, OfficialGrid], Tensor], fn: ClipFunction, clip: Tensor, side: int
    ) -> Tensor:
        if not self._may_shrink:
            return tiles(fn, clip, self.grid)
        result, self.grid = with_backoff(
            lambda grid: tiles(fn, clip, grid), self.grid, lambda grid: grid.halved(side=side), self._on_backoff
        )
        return result


def encode_tiles(encode: ClipFunction, pixels: Tensor, grid: OfficialGrid) -> Tensor:
    """`encode` on the official tiles of one chunk (B, 3, T, H, W), moments blended: (B, 2C, t, h, w)."""
    if grid.latent_side(min(pixels.shape[3:])) < 1:
        raise ValueError(
            f"pixels of {pixels.shape[3]} x {pixels.shape[4]} give no latent: pad them to {grid.spatial_factor}"
        )
    return _blend_tiles(
        encode,
        pixels,
        grid,
        tile=grid.tile_pixels,
        stride=grid.pixel_stride,
        overlap=grid.latent_overlap,
        kept=grid.latent_stride,
        result_side=grid.latent_side,
    )


def decode_tiles(decode: ClipFunction, latent: Tensor, grid: OfficialGrid) -> Tensor:
    """`decode` on the official tiles of one chunk (B, C, t, h, w), pixels blended: (B, 3, T, 8h, 8w)."""
    return _blend_tiles(
        decode,
        latent,
        grid,
        tile=grid.tile_latents,
        stride=grid.latent_stride,
        overlap=grid.pixel_overlap,
        kept=grid.pixel_stride,
        result_side=lambda side: side * grid.spatial_factor,
    )


def _blend_tiles(
    fn: ClipFunction,
    clip: Tensor,
    grid: OfficialGrid,
    *,
    tile: int,
    stride: int,
    overlap: int,
    kept: int,
    result_side: Callable[[int], int],
) -> Tensor:
    """Tiles every `stride` of `clip`, blended over `overlap` samples of the result and cut to `kept`, except the last.

    Only the strips that later tiles blend with stay alive: the bottoms of the row above and the right side of the
    left tile.
    """
    height, width = clip.shape[3:]
    if not tile or (height <= tile and width <= tile):
        return fn(clip)
    grid.check_tiles()
    tops, lefts = _starts(height, tile, stride), _starts(width, tile, stride)
    size = (
        kept * (len(tops) - 1) + result_side(height - tops[-1]),
        kept * (len(lefts) - 1) + result_side(width - lefts[-1]),
    )
    output: Tensor | None = None
    bottoms: list[Tensor] = []  # of the row above, later of this row, column by column
    for row, top in enumerate(tops):
        right: Tensor | None = None
        for column, left in enumerate(lefts):
            piece = clip[..., top : top + tile, left : left + tile]
            result = fn(piece.contiguous())
            wanted = (result_side(piece.shape[3]), result_side(piece.shape[4]))
            if result.ndim != 5 or tuple(result.shape[3:]) != wanted:
                raise ValueError(
                    f"the function returned {tuple(result.shape)}; (B, C, T, {wanted[0]}, {wanted[1]}) wanted"
                )
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
            y_end = y + (kept if row + 1 < len(tops) else wanted[0])
            x_end = x + (kept if column + 1 < len(lefts) else wanted[1])
            output[..., y:y_end, x:x_end] = result[..., : y_end - y, : x_end - x]
            del result
    assert output is not None
    return output


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
