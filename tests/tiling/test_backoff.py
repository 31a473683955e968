"""Backing off to smaller tiles when memory runs out."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from cvcodec.device import is_out_of_memory
from cvcodec.errors import DeviceError
from cvcodec.tiling import (
    TileRunner,
    TileSpec,
    WindowSpec,
    encode_stream,
    halved,
    pad_space,
    pad_time,
    with_backoff,
)
from tests.tiling.toys import ToyEncoder, random_video


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


def device_error() -> DeviceError:
    error = DeviceError("out of memory")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    return error


def test_the_same_window_is_repeated_with_smaller_tiles_and_equals_the_whole() -> None:
    scarce, changes = Scarce(7, torch.OutOfMemoryError("CUDA out of memory")), []
    runner = TileRunner(None, context=1, blend=1, on_backoff=lambda old, new: changes.append((old, new)))
    video = random_video(14, 160, 60)
    window = WindowSpec(kept=2, context_before=1)
    encoded = torch.cat(list(encode_stream(scarce, [video], window=window, tile=runner)), 2)
    torch.testing.assert_close(encoded, scarce.encode(pad_space(pad_time(video))), atol=1e-5, rtol=0)
    tens, fives = TileSpec(10, 1, 1), TileSpec(5, 1, 1)
    assert changes == [(None, tens), (tens, fives)]
    assert runner.tile == fives
    assert scarce.failures == 2  # later windows start with the size that worked


def test_other_errors_pass_through_at_once() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("no"), DeviceError("no such device: cuda:7")):
        scarce = Scarce(0, error)
        with pytest.raises(type(error), match=str(error)):
            list(encode_stream(scarce, [random_video(1)], window=WindowSpec(kept=2), tile=TileRunner(None)))
        assert scarce.failures == 1


def test_running_out_at_the_smallest_size_is_one_clear_line() -> None:
    runner = TileRunner(TileSpec(8, 1, 1))
    scarce = Scarce(1, torch.OutOfMemoryError("CUDA out of memory.\nmore lines"))
    with pytest.raises(DeviceError, match="smallest tiles") as caught:
        list(encode_stream(scarce, [random_video(1, 99, 99)], window=WindowSpec(kept=2), tile=runner))
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
    tile: TileSpec | None = None
    while (tile := halved(tile, side=90, context=2, blend=1)) is not None:
        assert (tile.context, tile.blend) == (2, 1)
        sizes.append(tile.size)
    assert sizes == [45, 23, 12, 7]
    assert halved(TileSpec(64), side=10, context=0, blend=0) == TileSpec(5)
    assert halved(None, side=1, context=0, blend=0) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
        device_error(),
    ],
    ids=["cuda", "mps", "cpu", "python", "ours"],
)
def test_every_backend_s_way_of_saying_out_of_memory_is_understood(error: BaseException) -> None:
    scarce = Scarce(1, error)
    runner = TileRunner(None)
    result = runner(scarce, random_video(1, 8, 16), input_factor=8, output_factor=1)
    assert (runner.tile, scarce.failures, result.shape[4]) == (TileSpec(1), 1, 2)


def test_only_memory_counts_as_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(DeviceError("no CUDA device; choose --device cpu"))
    assert not is_out_of_memory(KeyboardInterrupt())
