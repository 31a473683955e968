"""Means by a frame's position, against numpy on the frames themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

import floors
import harness
import positions
from cvcodec.checkpoints.registry import load_model
from floors import Score, Verdict
from patch_pca import PatchPca
from shorts import Short


def test_positions_count_from_the_frame_behind_the_first() -> None:
    values = [99.0, *(float(10 * group + place) for group in range(3) for place in (1, 2, 3, 4))]
    assert positions.by_position(values, 4) == (11.0, 12.0, 13.0, 14.0)
    assert positions.by_position([5.0, 1.0, 2.0, math.inf, math.nan, 3.0], 4) == (2.0, 2.0, None, None)
    assert positions.by_position([1.0], 4) == (None,) * 4
    assert positions.by_position([7.0, 1.0, 2.0], 1) == (1.5,)


def test_the_spread_is_that_of_the_means_over_clips() -> None:
    means = positions.mean([(30.0, 31.0, None), (32.0, 31.0, 29.0)])
    assert means == (31.0, 31.0, 29.0)
    assert positions.spread(means) == 2.0
    assert positions.relative_spread((0.09, 0.08, 0.045)) == pytest.approx(1.0)
    assert positions.spread((1.0, None)) is None
    assert positions.relative_spread((None, None)) is None


def test_the_table_has_a_row_for_each_metric_that_was_measured() -> None:
    psnr_db, lpips = (29.5, 29.75, 30.0, 30.75), (0.088, 0.082, 0.071, 0.044)
    lines = positions.table({"`m`": (psnr_db, lpips), "`image`": ((30.0,), ())})
    assert lines.splitlines()[2:] == [
        "| `m`, PSNR (RGB) | 29.50 dB | 29.75 dB | 30.00 dB | 30.75 dB | 1.25 dB |",
        "| `m`, LPIPS | 0.0880 | 0.0820 | 0.0710 | 0.0440 | 0.0440 (100%) |",
    ]
    assert positions.table({"`image`": ((30.0,), ())}) == ""


def test_what_is_scored_by_position_is_numpys(tiny_weights: str) -> None:
    pixels = np.stack(list(harness.moving_frames(48, 32, 9)))
    pca = PatchPca.load()
    models = [load_model(tiny_weights)]
    _, score = floors.measure([Short("a", pixels)], models, pca, None, device="cpu", precision="fp32")
    coded = pca.reconstruct(pixels, 4).astype(float)
    errors = [10 * np.log10(255**2 / np.mean((coded[i] - pixels[i]) ** 2)) for i in range(9)]
    wanted = [(errors[place] + errors[place + 4]) / 2 for place in (1, 2, 3, 4)]
    assert score.psnr_db_by_position == pytest.approx(wanted, abs=1e-6)


def test_uneven_groups_miss_a_floor() -> None:
    pca = Score(clip="mean", method="PCA 4", psnr_db=21.0, ssim=0.5, lpips=0.4, bpp=None)

    def missed(psnr_db: tuple[float, ...], lpips: tuple[float, ...]) -> list[str]:
        mean = Score(
            clip="mean", method="m", psnr_db=25.0, ssim=0.5, lpips=0.1, bpp=0.01,
            psnr_db_by_position=psnr_db, lpips_by_position=lpips,
        )  # fmt: skip
        return Verdict(model="m", channels=4, clips=1, mean=mean, pca=pca).missed

    assert missed((24.8, 25.0, 25.2, 25.3), (0.1, 0.11, 0.114, 0.1)) == []
    assert missed((24.6, 25.0, 25.2, 25.3), (0.1, 0.11, 0.12, 0.1)) == [
        "PSNR by position is 0.70 dB apart, more than 0.5",
        "LPIPS by position is 20% apart, more than 15%",
    ]
