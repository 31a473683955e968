"""Smaller and smaller until it fits: what to do when a device runs out of memory.

Owns: releasing what the failed attempt held, trying again with a smaller spec.
Does not know: what a spec is, beyond the tiles of `TileRunner`; where the use of a smaller one is recorded (the
caller's `on_backoff` does that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from cvcodec.device import is_out_of_memory
from cvcodec.errors import DeviceError
from cvcodec.tiling.space import ClipFunction, tiled
from cvcodec.tiling.specs import TileSpec

S = TypeVar("S")


def with_backoff(
    attempt: Callable[[S], Tensor],
    spec: S,
    smaller: Callable[[S], S | None],
    on_backoff: Callable[[S, S], None] | None = None,
) -> tuple[Tensor, S]:
    """`attempt(spec)`, repeated with `smaller(spec)` while memory runs out; the result and the spec that succeeded.

    `on_backoff(old, new)` is called before each repetition. DeviceError when `smaller` has nothing left (None).
    """
    while True:
        failure = ""
        try:
            return attempt(spec), spec
        except (RuntimeError, MemoryError, DeviceError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).strip().split("\n")[0]
        # Outside the except block, so that the traceback no longer keeps the failed attempt's tensors alive.
        shrunk = smaller(spec)
        if shrunk is None:
            raise DeviceError(
                f"out of memory even with the smallest tiles ({failure}); choose a smaller --window or another --device"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if on_backoff is not None:
            on_backoff(spec, shrunk)
        spec = shrunk


class TileRunner:
    """Calls a function tile by tile, and halves the tiles, for this call and all later ones, when memory runs out.

    `tile` is what is in use now (None: whole clips); `context` and `blend` are for tiles that a run without any falls
    back to.
    """

    def __init__(
        self,
        tile: TileSpec | None,
        *,
        context: int = 0,
        blend: int = 0,
        on_backoff: Callable[[TileSpec | None, TileSpec], None] | None = None,
    ) -> None:
        self.tile = tile
        self._context = tile.context if tile else context
        self._blend = tile.blend if tile else blend
        self._on_backoff = on_backoff

    def __call__(self, fn: ClipFunction, clip: Tensor, *, input_factor: int, output_factor: int) -> Tensor:
        """`tiled(fn, clip, self.tile, ...)`. DeviceError when even the smallest tiles do not fit."""
        side = -(-max(clip.shape[3:]) // input_factor)

        def attempt(tile: TileSpec | None) -> Tensor:
            return tiled(fn, clip, tile, input_factor=input_factor, output_factor=output_factor)

        def smaller(tile: TileSpec | None) -> TileSpec | None:
            return halved(tile, side=side, context=self._context, blend=self._blend)

        def report(old: TileSpec | None, new: TileSpec | None) -> None:
            assert new is not None
            if self._on_backoff is not None:
                self._on_backoff(old, new)

        result, self.tile = with_backoff(attempt, self.tile, smaller, report)
        return result


def halved(tile: TileSpec | None, *, side: int, context: int, blend: int) -> TileSpec | None:
    """About half of `tile` for pictures whose longer side is `side` latents; None when nothing smaller is possible.

    `context` and `blend` are those of the tiles that replace None (no tiles).
    """
    size = side if tile is None else min(tile.size, side)
    if tile is not None:
        context, blend = tile.context, tile.blend
    smallest = TileSpec(size=10**9, context=context, blend=blend).smallest
    new = max(smallest, -(-size // 2))
    return TileSpec(size=new, context=context, blend=blend) if new < size else None
