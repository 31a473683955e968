"""Blockiness of pictures whose grid is known."""

from __future__ import annotations

import numpy as np
import pytest

import floors
import harness
from blocks import Blockiness, over_source
from cvcodec.model.mini import mini_config
from patch_pca import PatchPca
from shorts import Short


def of(*pictures: np.ndarray) -> Blockiness:
    made = Blockiness()
    for picture in pictures:
        made.add(picture)
    return made


def test_it_is_the_step_across_lines_of_the_grid_over_that_across_others() -> None:
    # Every column is one level higher than the one before, and the first of each block of eight three more.
    columns = np.cumsum([0, *(4 if x % 8 == 0 else 1 for x in range(1, 32))])
    ramp = np.repeat(np.tile(columns, (32, 1))[..., None], 3, axis=2).astype(np.uint8)
    # Rows are alike: half of all lines have no step at all, on the grid and elsewhere.
    assert of(ramp).value == pytest.approx(4)
    assert of(ramp, ramp.transpose(1, 0, 2)).value == pytest.approx(4)
    shifted = np.roll(ramp, 3, axis=1)
    assert of(shifted).value < 1, "steps at other places are no grid"


def test_pictures_without_a_grid_have_one_and_a_picture_of_blocks_is_above_its_source() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 80, 3)).astype(np.uint8)
    assert of(*noise).value == pytest.approx(1, abs=0.02)
    clip = list(harness.moving_frames(64, 48, 2))
    blocks = [np.repeat(np.repeat(p[4::8, 4::8], 8, axis=0), 8, axis=1) + p % 4 for p in clip]
    assert over_source(of(*blocks), of(*clip)) > 3
    assert over_source(of(*clip), of(*clip)) == 1
    assert of(np.zeros((32, 32, 3), np.uint8)).value is None
    assert over_source(of(*clip), of(np.zeros((32, 32, 3), np.uint8))) is None


def test_the_floors_have_it_for_every_method() -> None:
    clip = Short("a", np.stack(list(harness.moving_frames(48, 48, 6))))
    model = harness.random_model(mini_config(4, widths=(8, 8, 8)), "tiny")
    scores = list(floors.measure([clip], [model], PatchPca.load(), None, device="cpu", precision="fp32"))
    assert [score.method for score in scores] == ["tiny", "PCA 4"]
    expected = over_source(of(*PatchPca.load().reconstruct(clip.pixels, 4)), of(*clip.pixels))
    assert scores[1].blockiness == pytest.approx(expected)
    assert expected > 1.05, "a PCA of patches has their grid"
    assert scores[0].blockiness is not None
    (verdict,) = floors.judge(scores, [model])
    assert f"| {verdict.mean.blockiness:.2f} |" in floors.markdown([verdict])
