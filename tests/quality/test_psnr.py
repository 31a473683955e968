"""PSNR and luma against closed forms and standards' numbers."""

import math

import numpy as np
import pytest
import torch

from cvcodec.quality.psnr import LUMA_COEFFICIENTS, luma, matrix_name, mse, psnr, psnr_of_mse


def test_a_constant_offset_has_the_psnr_of_its_closed_form() -> None:
    x = torch.full((2, 3, 4, 5), 100, dtype=torch.uint8)
    y = torch.stack([x[0] + 1, x[1] + 16])
    expected = [20 * math.log10(255), 20 * math.log10(255 / 16)]
    assert psnr(x, y, peak=255).tolist() == pytest.approx(expected, abs=1e-12)


def test_differences_of_uint8_do_not_wrap_around() -> None:
    black, white = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert mse(black, white).item() == 255**2
    assert psnr(black, white, peak=255).item() == 0.0


def test_sixteen_bit_errors_are_summed_exactly() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 65536, size=(2, 1, 3, 64, 64))
    exact = sum(int(d) ** 2 for d in (a - b).ravel()) / a.size
    assert mse(torch.from_numpy(a.astype(np.int32)), torch.from_numpy(b.astype(np.int32))).item() == exact


def test_identical_pictures_have_infinite_psnr() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert psnr(x, x, peak=1.0).item() == math.inf


def test_psnr_depends_on_the_ratio_to_the_peak_alone() -> None:
    x, y = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(psnr(x, y, peak=1.0), psnr(2 * x - 1, 2 * y - 1, peak=2.0))


def test_wrong_shapes_and_peaks_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        mse(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(ValueError, match="peak"):
        psnr_of_mse(torch.ones(1), 0.0)


@pytest.mark.parametrize(
    ("matrix", "primaries"),
    [("bt709", (0.2126, 0.7152, 0.0722)), ("smpte170m", (0.299, 0.587, 0.114)), ("bt2020nc", (0.2627, 0.678, 0.0593))],
)
def test_luma_of_each_primary_is_its_published_coefficient(matrix: str, primaries: tuple[float, ...]) -> None:
    pixels = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    assert luma(pixels, matrix).flatten().tolist() == pytest.approx(primaries, abs=1e-15)


def test_grey_is_its_own_luma_in_every_matrix() -> None:
    grey = torch.full((1, 3, 1, 1), 137.0, dtype=torch.float64)
    for matrix in LUMA_COEFFICIENTS:
        assert luma(grey, matrix).item() == pytest.approx(137.0, abs=1e-9)


def test_a_matrix_without_luma_is_refused() -> None:
    assert matrix_name("rgb") is None
    with pytest.raises(ValueError, match="no luma coefficients"):
        luma(torch.zeros(1, 3, 2, 2), "rgb")
