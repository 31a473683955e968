"""Tiles in space: tiled equals untiled, and the weights of neighbours sum to one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvcodec.windows.space import layout, part_weights, tiled
from cvcodec.windows.specs import Tile
from tests.windows.toys import ToyDecoder, ToyEncoder, random_latent, random_video


@st.composite
def tiles(draw: st.DrawFn, context: int = 0) -> Tile:
    context = draw(st.integers(context, context + 2))
    blend = draw(st.integers(0, 4))
    smallest = 2 * context + max(3 * blend, 1)
    return Tile(size=draw(st.integers(smallest, smallest + 8)), context=context, blend=blend)


@given(tile=tiles(), length=st.integers(1, 90), factor=st.sampled_from([1, 8]))
@settings(max_examples=300, deadline=None)
def test_weights_sum_to_one_everywhere_and_context_is_never_used(tile: Tile, length: int, factor: int) -> None:
    parts = layout(length, tile)
    total = torch.zeros(length * factor, dtype=torch.float64)
    covers = torch.zeros(length)
    for index, part in enumerate(parts):
        assert 0 <= part.start <= part.first < part.last <= part.stop <= length
        assert part.stop - part.start == parts[0].stop - parts[0].start <= min(tile.size, length)
        if index:
            assert part.first - part.start >= tile.context
        if index < len(parts) - 1:
            assert part.stop - part.last >= tile.context
        total[part.first * factor : part.last * factor] += part_weights(part, factor).double()
        covers[part.first : part.last] += 1
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
    assert covers.max() <= 2
    assert (parts[0].start, parts[-1].stop) == (0, length)


@given(tile=tiles(), length=st.integers(1, 90))
@settings(max_examples=200, deadline=None)
def test_there_are_no_more_tiles_than_the_length_needs(tile: Tile, length: int) -> None:
    gain = tile.size - 2 * tile.context - tile.blend
    count = 1
    while tile.size + (count - 1) * gain < length:
        count += 1
    assert len(layout(length, tile)) == count


@given(tile=tiles(context=1), height=st.integers(1, 24), width=st.integers(1, 24))
@settings(max_examples=30, deadline=None)
def test_tiled_equals_untiled_when_context_covers_the_receptive_field(tile: Tile, height: int, width: int) -> None:
    encode, decode = ToyEncoder(spread=1, side=2), ToyDecoder(spread=1, side=2)
    clip = random_video(5, height * 2, width * 2)
    torch.testing.assert_close(
        tiled(encode, clip, tile, input_factor=2, output_factor=1), encode(clip), atol=1e-5, rtol=0
    )
    latent = random_latent(2, height, width)
    torch.testing.assert_close(
        tiled(decode, latent, tile, input_factor=1, output_factor=2), decode(latent), atol=1e-5, rtol=0
    )


def test_too_little_context_is_seen() -> None:
    decode, latent = ToyDecoder(spread=2), random_latent(2, 12, 12)
    wrong = tiled(decode, latent, Tile(size=6, context=1), input_factor=1, output_factor=8)
    right = tiled(decode, latent, Tile(size=6, context=2), input_factor=1, output_factor=8)
    whole = decode(latent)
    assert (right - whole).abs().max() < 1e-5 < 1e-2 < (wrong - whole).abs().max()


def test_a_cross_fade_is_linear_between_two_constant_tiles() -> None:
    values = iter([0.0, 1.0])

    def constant(clip: torch.Tensor) -> torch.Tensor:
        return torch.full_like(clip, next(values))

    result = tiled(constant, torch.zeros(1, 1, 1, 1, 17), Tile(size=10, blend=3))
    assert result.flatten().tolist() == pytest.approx([0.0] * 7 + [0.25, 0.5, 0.75] + [1.0] * 7)


def test_a_small_picture_is_one_call_on_the_clip_itself() -> None:
    seen: list[torch.Tensor] = []
    clip = torch.zeros(1, 1, 1, 4, 4)
    tiled(lambda x: seen.append(x) or x, clip, Tile(size=4, blend=1))
    assert seen[0] is clip


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_function_s_dtype_is_kept(dtype: torch.dtype) -> None:
    clip = torch.rand(1, 1, 1, 12, 12).to(dtype)
    result = tiled(lambda x: x, clip, Tile(size=6, context=1, blend=1))
    assert result.dtype == dtype
    torch.testing.assert_close(result, clip)


def test_uint8_frames_reach_the_function_as_they_are() -> None:
    clip = torch.randint(0, 256, (1, 3, 1, 32, 24), dtype=torch.uint8)

    def fn(x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.uint8
        return x.float() / 255

    result = tiled(fn, clip, Tile(size=2), input_factor=8, output_factor=8)
    torch.testing.assert_close(result, clip.float() / 255)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        Tile(size=4, context=2)
    with pytest.raises(ValueError, match=r"tile\.context is -1"):
        Tile(size=4, context=-1)
    with pytest.raises(ValueError, match="not a multiple of 8"):
        tiled(lambda x: x, torch.zeros(1, 1, 1, 12, 8), None, input_factor=8)
    with pytest.raises(ValueError, match="the function returned"):
        tiled(lambda x: x, torch.zeros(1, 1, 1, 32, 32), Tile(size=2), input_factor=8, output_factor=1)
