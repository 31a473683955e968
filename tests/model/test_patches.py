"""Patches against torch's own pixel-unshuffle, whose channel order the weights are stored in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.model.patches import RGB, coarser, finer, patches_of, pixels_of, reordered, strips

BATCH, LATENTS, HEIGHT, WIDTH = 2, 3, 16, 24


def _clip(group: int) -> Tensor:
    frames = group * (LATENTS - 1) + 1
    return torch.arange(BATCH * RGB * frames * HEIGHT * WIDTH, dtype=torch.float32).view(
        BATCH, RGB, frames, HEIGHT, WIDTH
    )


def _unshuffled(clip: Tensor, group: int, size: int) -> Tensor:
    """(B*t, group * 3 * size * size, H/size, W/size): the definition, one clip and latent at a time."""
    groups = [
        clip[b, :, [0] * group] if k == 0 else clip[b, :, group * (k - 1) + 1 : group * k + 1]
        for b in range(BATCH)
        for k in range(LATENTS)
    ]
    frames = torch.stack([part.transpose(0, 1).flatten(0, 1) for part in groups])  # B*t, group * 3, H, W
    return F.pixel_unshuffle(frames, size)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(("size", "inner"), [(2, 2), (8, 2), (8, 8), (4, 1)])
def test_patches_hold_what_pixel_unshuffle_gives_in_the_stated_order(group: int, size: int, inner: int) -> None:
    clip = _clip(group)
    patches = coarser(patches_of(clip, group, inner), size // inner)
    numbers = torch.arange(patches.shape[-1])
    order = reordered(numbers, dim=0, group=group, size=size, inner=inner)
    assert torch.equal(patches.permute(0, 3, 1, 2), _unshuffled(clip, group, size)[:, order])


def test_a_dimension_in_the_middle_is_reordered_too() -> None:
    weight = torch.arange(5 * 4 * RGB * 4 * 7).view(5, 4 * RGB * 4, 7)
    order = reordered(torch.arange(4 * RGB * 4), dim=0, group=4, size=2, inner=2)
    assert torch.equal(reordered(weight, dim=1, group=4, size=2, inner=2), weight[:, order])


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("innermost", [True, False])
def test_pixels_come_back_with_colour_innermost(group: int, innermost: bool) -> None:
    clip = _clip(group)
    if innermost:
        clip = clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    patches = coarser(patches_of(clip, group, 2), 4)
    back = pixels_of(finer(patches, 4), BATCH, group, 2)
    assert torch.equal(back, clip)
    assert back.stride()[1] == 1


def test_strips_cover_every_row_once_in_whole_units_and_are_one_where_gradients_are_recorded() -> None:
    with torch.no_grad():
        rows = list(strips(torch.empty(0), 720, 8, 77 * 1280))
    assert [row.start for row in rows] == [0, *(row.stop for row in rows[:-1])]
    assert rows[-1].stop == 720 and len(rows) > 1 and all(row.start % 8 == 0 for row in rows)
    with torch.enable_grad():
        assert list(strips(torch.empty(0), 720, 8, 77 * 1280)) == [slice(0, 720)]
