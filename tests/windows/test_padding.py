"""Padding by repetition against torch's and numpy's own edge padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cvcodec.windows.space import cat_all, crop_space, pad_space, padded_size
from cvcodec.windows.time import pad_time


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (9, 16), (121, 161), (15, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int32])
def test_space_is_padded_at_the_bottom_and_right_by_repeating_the_edge(
    height: int, width: int, dtype: torch.dtype
) -> None:
    clip = (torch.rand(1, 3, 2, height, width) * 200).to(dtype)
    padded = pad_space(clip)
    bottom, right = -height % 8, -width % 8
    wanted = np.pad(clip.numpy(), ((0, 0),) * 3 + ((0, bottom), (0, right)), mode="edge")
    assert padded.dtype == dtype
    np.testing.assert_array_equal(padded.numpy(), wanted)
    assert torch.equal(crop_space(padded, height, width), clip)


@pytest.mark.parametrize("frames", range(1, 11))
def test_time_is_padded_to_four_k_plus_one_by_repeating_the_last_frame(frames: int) -> None:
    clip = torch.rand(1, 3, frames, 2, 2)
    wanted = np.pad(clip.numpy(), ((0, 0), (0, 0), (0, (1 - frames) % 4), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(pad_time(clip).numpy(), wanted)


def test_nothing_is_copied_when_nothing_is_missing() -> None:
    clip = torch.rand(1, 3, 5, 8, 8)
    assert pad_time(clip) is clip
    assert pad_space(clip) is clip


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="B, C, T, H, W"):
        pad_space(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="cannot crop"):
        crop_space(torch.zeros(1, 3, 1, 8, 8), 9, 8)
    with pytest.raises(ValueError, match="at least 1"):
        padded_size(0)


def test_joining_keeps_the_memory_layout_of_the_first_piece() -> None:
    pieces = [torch.rand(1, count, 6, 5, 3).permute(0, 4, 1, 2, 3) for count in (2, 3, 1)]  # colour innermost
    joined = cat_all(pieces, dim=2)
    assert torch.equal(joined, torch.cat(pieces, 2))
    assert joined.permute(0, 2, 3, 4, 1).is_contiguous()
    assert cat_all(pieces[:1], dim=2) is pieces[0]
