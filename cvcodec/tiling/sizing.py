"""`auto`: the config's window and tile, made smaller only when an estimate says they will not fit.

Owns: the estimate and the order in which sizes shrink.
Does not know: how much memory there is (the caller passes it), models, devices. The estimate is deliberately simple,
pixels of one model call times bytes per pixel: the same arguments give the same sizes on every machine.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cvcodec.tiling.backoff import halved
from cvcodec.tiling.specs import TileSpec, WindowSpec
from cvcodec.tiling.timeline import frame_count

LIVE_TENSORS = 6
"""Finest-level activations alive at the peak of a residual block: its input, the normalised copy, the convolution's
padded input and output, the shortcut, and the convolution's workspace."""


@dataclass(frozen=True)
class Fit:
    """What `fit_to_memory` chose."""

    window: WindowSpec
    tile: TileSpec | None
    needed: int
    """Estimated peak, in bytes, of one model call with these sizes."""
    fits: bool
    """False when even the smallest sizes are estimated not to fit."""
    shrunk: bool
    """Whether they differ from what was asked for; worth a warning."""


def activation_bytes_per_pixel(width: int, *, patch_size: int = 1, itemsize: int = 4) -> float:
    """Peak bytes per input pixel of a network with `width` channels behind a pixel-unshuffle by `patch_size`.

    The finest level dominates: the next has four times fewer positions, and at most twice the channels.
    """
    if min(width, patch_size, itemsize) < 1:
        raise ValueError(f"all at least 1 wanted: {width = }, {patch_size = }, {itemsize = }")
    return LIVE_TENSORS * width * itemsize / patch_size**2


def estimate_bytes(
    window: WindowSpec,
    tile: TileSpec | None,
    *,
    height: int,
    width: int,
    bytes_per_pixel: float,
    temporal_factor: int = 4,
    spatial_factor: int = 8,
) -> int:
    """Estimated peak, in bytes, of one model call on a video of `height` x `width` pixels."""
    sides = [-(-side // spatial_factor) for side in (height, width)]
    if tile is not None:
        sides = [min(side, tile.size) for side in sides]
    pixels = frame_count(window.longest(temporal_factor), temporal_factor) * sides[0] * sides[1] * spatial_factor**2
    return round(pixels * bytes_per_pixel)


def fit_to_memory(
    window: WindowSpec,
    tile: TileSpec | None,
    *,
    height: int,
    width: int,
    bytes_per_pixel: float,
    available: int,
    context: int = 0,
    blend: int = 0,
    shrink_window: bool = True,
    temporal_factor: int = 4,
    spatial_factor: int = 8,
) -> Fit:
    """`window` and `tile` as they are when they are estimated to fit `available` bytes, else smaller ones.

    Tiles are halved first, down to four times what they share with their neighbours, because they do not change which
    latents a chunk of a file holds; then, with `shrink_window`, the kept latents, down to 1 or the blend; then tiles
    again, down to the smallest there are. `context` and `blend` (latents) are for tiles that replace None.
    """
    if height < 1 or width < 1 or available < 0 or bytes_per_pixel <= 0:
        raise ValueError(f"no such size: {height = }, {width = }, {available = }, {bytes_per_pixel = }")
    side = -(-max(height, width) // spatial_factor)

    def needed() -> int:
        return estimate_bytes(
            chosen_window,
            chosen_tile,
            height=height,
            width=width,
            bytes_per_pixel=bytes_per_pixel,
            temporal_factor=temporal_factor,
            spatial_factor=spatial_factor,
        )

    def smaller_tile() -> TileSpec | None:
        return halved(chosen_tile, side=side, context=context, blend=blend)

    chosen_window, chosen_tile = window, tile
    while needed() > available:
        smaller = smaller_tile()
        if smaller is None or smaller.size < 4 * max(2 * smaller.context + smaller.blend, 2):
            break
        chosen_tile = smaller
    while shrink_window and needed() > available and chosen_window.kept > max(1, window.blend):
        chosen_window = dataclasses.replace(chosen_window, kept=max(1, window.blend, chosen_window.kept // 2))
    while needed() > available:
        smaller = smaller_tile()
        if smaller is None:
            break
        chosen_tile = smaller
    return Fit(
        window=chosen_window,
        tile=chosen_tile,
        needed=needed(),
        fits=needed() <= available,
        shrunk=(chosen_window, chosen_tile) != (window, tile),
    )
