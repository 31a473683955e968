"""Smaller tiles when memory runs out, and smaller sizes when an estimate says that it will."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cvcodec.errors import DeviceError
from cvcodec.system.device import is_out_of_memory
from cvcodec.windows.memory import estimate_bytes, fit_to_memory, halved, with_backoff
from cvcodec.windows.plan import ContextPlan, Plan
from cvcodec.windows.space import pad_space
from cvcodec.windows.specs import Tile, Window
from cvcodec.windows.time import pad_time
from tests.windows.toys import ToyEncoder, context_plan, encode_stream, random_video


class Scarce:
    """A toy encoder on a device that holds at most `limit` latents on a side."""

    def __init__(self, limit: int, error: BaseException) -> None:
        self.encode, self.limit, self.error = ToyEncoder(reach=1), limit, error
        self.failures = 0

    def __call__(self, clip: Tensor) -> Tensor:
        if max(clip.shape[3:]) > 8 * self.limit:
            self.failures += 1
            raise self.error
        return self.encode(clip)


def test_the_same_window_is_repeated_with_smaller_tiles_and_equals_the_whole() -> None:
    scarce, changes = Scarce(14, torch.OutOfMemoryError("CUDA out of memory")), []
    plan, video = context_plan(Window(kept=2, context_before=1)), random_video(14, 160, 200)

    def note(smaller: Plan, text: str) -> None:
        assert isinstance(smaller, ContextPlan)
        changes.append((smaller.encode_tile, smaller.decode_tile, text))

    encoded = torch.cat(list(plan.encode(scarce, [video], note)), 2)
    torch.testing.assert_close(encoded, scarce.encode(pad_space(pad_time(video))), atol=1e-5, rtol=0)
    said = "the device ran out of memory: going on with tiles of {} latents"
    assert changes == [(Tile(14, 4, 2), None, said.format(14))]
    assert scarce.failures == 1  # later windows start with the size that worked


def test_tiles_are_halved_until_they_fit_and_keep_their_context_and_blend() -> None:
    scarce, sizes = Scarce(7, torch.OutOfMemoryError("CUDA out of memory")), []
    plan, video = context_plan(Window(kept=2, context_before=1), Tile(20, 1, 1)), random_video(14, 160, 60)
    encoded = torch.cat(list(plan.encode(scarce, [video], lambda smaller, text: sizes.append(smaller.encode_tile))), 2)
    torch.testing.assert_close(encoded, scarce.encode(pad_space(pad_time(video))), atol=1e-5, rtol=0)
    assert sizes == [Tile(10, 1, 1), Tile(5, 1, 1)]
    assert scarce.failures == 2


def test_other_errors_pass_through_at_once() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("no"), DeviceError("no such device: cuda:7")):
        scarce = Scarce(0, error)
        with pytest.raises(type(error), match=str(error)):
            list(encode_stream(scarce, [random_video(1)], window=Window(kept=2)))
        assert scarce.failures == 1


def test_running_out_at_the_smallest_size_is_one_clear_line() -> None:
    scarce = Scarce(1, torch.OutOfMemoryError("CUDA out of memory.\nmore lines"))
    with pytest.raises(MemoryError, match="smallest tiles") as caught:
        list(encode_stream(scarce, [random_video(1, 99, 99)], window=Window(kept=2), tile=Tile(8, 1, 1)))
    assert "\n" not in str(caught.value)


def test_what_the_failed_attempt_held_is_released_before_the_next() -> None:
    held: list[weakref.ref[Tensor]] = []

    def attempt(size: int) -> Tensor:
        activation = torch.zeros(size)
        if held:
            gc.collect()
            assert held[-1]() is None
        held.append(weakref.ref(activation))
        if size > 2:
            raise torch.OutOfMemoryError("no")
        return activation

    result, size = with_backoff(attempt, 8, lambda size: size // 2)
    assert (size, result.shape[0], len(held)) == (2, 2, 3)


def test_halving_ends_at_the_smallest_tile() -> None:
    sizes: list[int] = []
    tile: Tile | None = None
    while (tile := halved(tile, side=90, context=2, blend=1)) is not None:
        assert (tile.context, tile.blend) == (2, 1)
        sizes.append(tile.size)
    assert sizes == [45, 23, 12, 7]
    assert halved(Tile(64), side=10, context=0, blend=0) == Tile(5)
    assert halved(None, side=1, context=0, blend=0) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["cuda", "mps", "cpu", "python"],
)
def test_every_backend_s_way_of_saying_out_of_memory_is_understood(error: BaseException) -> None:
    scarce = Scarce(4, error)
    plan = context_plan(Window(kept=2), Tile(8))
    (result,) = plan.encode(scarce, [random_video(1, 8, 64)])
    assert (scarce.failures, result.shape[4]) == (1, 8)


def test_only_memory_counts_as_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(DeviceError("no CUDA device; choose --device cpu"))
    assert not is_out_of_memory(KeyboardInterrupt())


WINDOW = Window(kept=16, context_before=3, context_after=1)


def test_the_estimate_is_pixels_of_one_call_times_bytes_per_pixel() -> None:
    # 1 latent read as one frame + 3 of context + 16 kept + 1 of context behind = 21 latents = 81 frames
    assert estimate_bytes(WINDOW, None, height=719, width=1280, bytes_per_pixel=10) == 81 * 720 * 1280 * 10
    assert estimate_bytes(WINDOW, Tile(32), height=720, width=100, bytes_per_pixel=1) == 81 * 256 * 104
    assert estimate_bytes(WINDOW, None, height=8, width=8, bytes_per_pixel=1, temporal_factor=1) == 20 * 64


@given(
    kept=st.integers(1, 40),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    size=st.none() | st.integers(10, 200),
    available=st.integers(0, 10**10),
    shrink_window=st.booleans(),
)
def test_sizes_change_only_when_they_must_and_only_as_far_as_allowed(
    kept: int, height: int, width: int, size: int | None, available: int, shrink_window: bool
) -> None:
    window = Window(kept=kept, context_before=2)
    tile = None if size is None else Tile(size, 2, 1)
    sides: dict[str, Any] = {"height": height, "width": width, "bytes_per_pixel": 100}
    fitted, tiles = fit_to_memory(
        window, tile, **sides, available=available, context=2, blend=1, shrink_window=shrink_window
    )
    asked, needed = estimate_bytes(window, tile, **sides), estimate_bytes(fitted, tiles, **sides)
    assert needed <= asked
    if asked <= available:
        assert (fitted, tiles) == (window, tile)
    if not shrink_window:
        assert fitted == window
    if needed > available:
        assert not shrink_window or fitted.kept == 1
        assert tiles is None or tiles.size <= max(7, size or 0)
        assert tiles is None or min(tiles.size, -(-max(height, width) // 8)) <= 7


def test_tiles_shrink_before_the_window_does() -> None:
    def fit(available: int) -> tuple[int, int | None]:
        sides: dict[str, Any] = {"height": 720, "width": 1280, "bytes_per_pixel": 100}
        window, tile = fit_to_memory(WINDOW, None, **sides, available=available, context=2, blend=1)
        assert estimate_bytes(window, tile, **sides) <= available
        return window.kept, tile.size if tile else None

    assert fit(81 * 720 * 1280 * 100) == (16, None)
    assert fit(81 * 720 * 1280 * 100 - 1) == (16, 80)
    assert fit(81 * 160 * 160 * 100) == (16, 20)
    assert fit(81 * 160 * 160 * 100 - 1) == (8, 20)
    assert fit(21 * 160 * 160 * 100 - 1) == (1, 10)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="no such size"):
        fit_to_memory(WINDOW, None, height=0, width=1, bytes_per_pixel=1, available=1)
