"""Windows and tiles that memory holds: smaller ones where an estimate says so beforehand, or where it runs out.

Owns: the estimate, the order in which sizes shrink, trying again after running out.

The estimate is deliberately simple, pixels of one model call times bytes per pixel: the same arguments give the same
sizes on every machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from cvcodec.system.device import is_out_of_memory
from cvcodec.windows.specs import Tile, Window
from cvcodec.windows.time import frame_count

S = TypeVar("S")


def halved(tile: Tile | None, *, side: int, context: int, blend: int) -> Tile | None:
    """About half of `tile` for pictures whose longer side is `side` latents; None when nothing smaller is possible.

    `context` and `blend` are those of the tiles that replace None (no tiles).
    """
    size = side if tile is None else min(tile.size, side)
    if tile is not None:
        context, blend = tile.context, tile.blend
    smallest = Tile(size=10**9, context=context, blend=blend).smallest
    new = max(smallest, -(-size // 2))
    return Tile(size=new, context=context, blend=blend) if new < size else None


def with_backoff(
    attempt: Callable[[S], Tensor],
    spec: S,
    smaller: Callable[[S], S | None],
    on_backoff: Callable[[S], None] = lambda spec: None,
) -> tuple[Tensor, S]:
    """`attempt(spec)`, repeated with `smaller(spec)` while memory runs out; the result and the spec that succeeded.

    `on_backoff(spec)` is called before each repetition. MemoryError when `smaller` has nothing left (None).
    """
    while True:
        try:
            return attempt(spec), spec
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).strip().split("\n")[0]
        # Outside the except block, so that the traceback no longer keeps the failed attempt's tensors alive.
        shrunk = smaller(spec)
        if shrunk is None:
            raise MemoryError(
                f"out of memory even with the smallest tiles ({failure}); choose a smaller --window or another --device"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        on_backoff(shrunk)
        spec = shrunk


def estimate_bytes(
    window: Window,
    tile: Tile | None,
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
    window: Window,
    tile: Tile | None,
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
) -> tuple[Window, Tile | None]:
    """`window` and `tile` as they are when they are estimated to fit `available` bytes, else smaller ones.

    Tiles are halved first, down to four times what they share with their neighbours, because they do not change which
    latents a chunk of a file holds; then, with `shrink_window`, the kept latents, down to 1; then tiles again, down to
    the smallest there are, which may still be too large. `context` and `blend` (latents) are for tiles that replace
    None.
    """
    if height < 1 or width < 1 or available < 0 or bytes_per_pixel <= 0:
        raise ValueError(f"no such size: {height = }, {width = }, {available = }, {bytes_per_pixel = }")
    side = -(-max(height, width) // spatial_factor)

    def fits() -> bool:
        needed = estimate_bytes(
            window,
            tile,
            height=height,
            width=width,
            bytes_per_pixel=bytes_per_pixel,
            temporal_factor=temporal_factor,
            spatial_factor=spatial_factor,
        )
        return needed <= available

    def smaller_tile() -> Tile | None:
        return halved(tile, side=side, context=context, blend=blend)

    while (
        not fits() and (smaller := smaller_tile()) and smaller.size >= 4 * max(2 * smaller.context + smaller.blend, 2)
    ):
        tile = smaller
    while shrink_window and not fits() and window.kept > 1:
        window = dataclasses.replace(window, kept=window.kept // 2)
    while not fits() and (smaller := smaller_tile()):
        tile = smaller
    return window, tile
