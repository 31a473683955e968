"""Several threads, one model: batches are full where they can be, nobody waits for ever or fails for another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cvcodec.codec.runner import ModelRunner
from cvcodec.dataset.shared_encoder import SharedEncoder
from cvcodec.errors import NumericalError
from cvcodec.model.base import VideoAutoencoder


def frames(seed: int, count: int = 5, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, count, side, side), generator=generator, dtype=torch.uint8)


def together(encoder: SharedEncoder, clips: list[Tensor]) -> list[Tensor | BaseException]:
    """Encode each clip in a thread of its own, all of them held back until every stream is open."""
    found: list[Any] = [None] * len(clips)
    barrier = threading.Barrier(len(clips))

    def work(number: int) -> None:
        with encoder.stream():
            barrier.wait()
            try:
                found[number] = encoder.encode(clips[number], 8)
            except NumericalError as error:
                found[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def alone(model: VideoAutoencoder, clip: Tensor) -> Tensor:
    return ModelRunner(model, device="cpu", precision="fp32").encode(clip, 8)


def shared(model: VideoAutoencoder, batch: int) -> SharedEncoder:
    return SharedEncoder(model, device="cpu", precision="fp32", batch=batch)


def test_clips_of_equal_shape_run_as_one_batch_and_give_what_each_gives_alone(model: VideoAutoencoder) -> None:
    clips = [frames(seed) for seed in range(4)]
    encoder = shared(model, 4)
    for clip, result in zip(clips, together(encoder, clips), strict=True):
        assert isinstance(result, Tensor)
        torch.testing.assert_close(result, alone(model, clip), atol=1e-5, rtol=1e-5)
    assert encoder.largest == 4


def test_clips_of_other_shapes_are_not_mixed_and_not_forgotten(model: VideoAutoencoder) -> None:
    clips = [frames(0), frames(1, count=9), frames(2), frames(3, side=24), frames(4, count=9)]
    encoder = shared(model, 2)
    for clip, result in zip(clips, together(encoder, clips), strict=True):
        assert isinstance(result, Tensor)
        torch.testing.assert_close(result, alone(model, clip), atol=1e-5, rtol=1e-5)
    assert encoder.largest == 2


def test_a_batch_of_one_is_the_same_to_the_last_bit(model: VideoAutoencoder) -> None:
    clips = [frames(seed) for seed in range(3)]
    encoder = shared(model, 1)
    for clip, result in zip(clips, together(encoder, clips), strict=True):
        assert isinstance(result, Tensor)
        assert torch.equal(result, alone(model, clip))
    assert encoder.largest == 1


def test_a_lonely_call_does_not_wait_for_a_stream_that_never_comes(model: VideoAutoencoder) -> None:
    encoder = shared(model, 8)
    with encoder.stream(), encoder.stream():  # the second one decodes for a long time
        assert torch.equal(encoder.encode(frames(0), 8), alone(model, frames(0)))


def fail_where(condition: Callable[[Tensor], BaseException | None], encoder: SharedEncoder) -> None:
    real = encoder._runner.encode

    def encode(clip: Tensor, depth: int) -> Tensor:
        error = condition(clip)
        if error is not None:
            raise error
        return real(clip, depth)

    encoder._runner.encode = encode  # type: ignore[method-assign]


def test_a_clip_that_fails_does_not_take_the_others_with_it(model: VideoAutoencoder) -> None:
    encoder = shared(model, 3)
    clips = [frames(0), torch.zeros(1, 3, 5, 16, 16, dtype=torch.uint8), frames(2)]
    fail_where(lambda clip: NumericalError("dark") if (clip.amax((1, 2, 3, 4)) == 0).any() else None, encoder)
    good, bad, other = together(encoder, clips)
    assert isinstance(bad, NumericalError)
    assert isinstance(good, Tensor)
    assert isinstance(other, Tensor)


def test_batches_shrink_where_memory_is_short(model: VideoAutoencoder) -> None:
    encoder = shared(model, 4)
    fail_where(lambda clip: RuntimeError("CUDA out of memory") if len(clip) > 2 else None, encoder)
    for _ in range(2):
        results = together(encoder, [frames(seed) for seed in range(4)])
        assert all(isinstance(result, Tensor) for result in results)
    assert encoder._batch == 2


def test_a_batch_holds_something(model: VideoAutoencoder) -> None:
    with pytest.raises(ValueError, match="at least one"):
        shared(model, 0)
