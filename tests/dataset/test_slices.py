"""The 4n+1 grid, and that chance depends on seed, epoch and place alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvcodec.dataset.keys import epoch_generator
from cvcodec.dataset.reader import draw_slice, slice_at
from tests.model.test_mini import small_model


@given(start=st.integers(0, 1000), length=st.integers(1, 50), factor=st.sampled_from([1, 4]))
def test_a_slice_stands_for_as_many_frames_as_its_latents_decode_to(start: int, length: int, factor: int) -> None:
    chosen = slice_at(start, length, factor)
    assert chosen.end_frame - chosen.first_frame == factor * (length - 1) + 1
    assert chosen.first_frame == factor * start


@torch.no_grad()
def test_a_slice_decodes_to_the_number_of_frames_that_it_says() -> None:
    model = small_model()
    latent = torch.randn(1, 4, 9, 2, 2, generator=torch.Generator().manual_seed(0))
    for start, length in ((0, 1), (0, 3), (4, 5), (8, 1)):
        chosen = slice_at(start, length)
        pixels = model.decode(latent[:, :, chosen.start : chosen.stop])
        assert pixels.shape[2] == chosen.end_frame - chosen.first_frame


def test_every_start_is_drawn_about_as_often_as_any_other() -> None:
    starts = [draw_slice(epoch_generator(7, 0, 1, item), 12, 5).start for item in range(4000)]
    counts = np.bincount(starts, minlength=8)
    assert len(counts) == 8
    # Chi-square with 7 degrees of freedom: 24.3 is passed once in a thousand seeds, and the seed is fixed.
    assert ((counts - 500) ** 2 / 500).sum() < 24.3


def test_seed_epoch_and_place_give_the_numbers_and_each_matters() -> None:
    def numbers(*place: int) -> tuple[int, ...]:
        return tuple(epoch_generator(*place).integers(0, 2**62, 4).tolist())

    places = [(0, 0, 1, 0), (1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 2, 0), (0, 0, 1, 1), (0, 0, 1, 0, 1)]
    assert len({numbers(*place) for place in places}) == len(places)
    assert numbers(3, 4, 1, 5) == numbers(3, 4, 1, 5)


def test_a_slice_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        draw_slice(epoch_generator(0, 0, 1), 4, 5)
    with pytest.raises(ValueError, match="holds something"):
        slice_at(0, 0)
