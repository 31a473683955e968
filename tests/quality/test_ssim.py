"""SSIM and MS-SSIM against closed forms and against numbers of scikit-image 0.26.0 and pytorch-msssim 1.0.0."""

import pytest
import torch
from torch import Tensor

from cvcodec.quality.psnr import luma
from cvcodec.quality.ssim import ms_ssim, ssim
from tests.pictures import degraded, pattern


def _pair(height: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    image = pattern(height, width, seed)
    pictures = [torch.from_numpy(pixels).to(dtype).permute(2, 0, 1)[None] for pixels in (image, degraded(image, seed))]
    return pictures[0], pictures[1]


# skimage.metrics.structural_similarity(
#     ..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
SKIMAGE_LUMA_48X64 = 0.7222570307362054
SKIMAGE_RGB_48X64 = 0.6444159618240154
SKIMAGE_LUMA_176X192 = 0.662713759959078
# pytorch_msssim.ms_ssim(..., data_range=255), whose window is float32; 176 and 192 halve four times without a remainder
MSSSIM_LUMA_176X192 = 0.9581503608875643


def test_ssim_equals_scikit_image() -> None:
    x, y = _pair(48, 64, 1)
    assert ssim(luma(x), luma(y), peak=255).item() == pytest.approx(SKIMAGE_LUMA_48X64, abs=1e-12)
    assert ssim(x, y, peak=255).item() == pytest.approx(SKIMAGE_RGB_48X64, abs=1e-12)
    x, y = _pair(176, 192, 2)
    assert ssim(luma(x), luma(y), peak=255).item() == pytest.approx(SKIMAGE_LUMA_176X192, abs=1e-12)


def test_single_precision_costs_less_than_a_millionth() -> None:
    x, y = _pair(48, 64, 1, torch.float32)
    assert ssim(luma(x), luma(y), peak=255).item() == pytest.approx(SKIMAGE_LUMA_48X64, abs=1e-6)


def test_ms_ssim_equals_pytorch_msssim() -> None:
    x, y = _pair(176, 192, 2)
    assert ms_ssim(luma(x), luma(y), peak=255).item() == pytest.approx(MSSSIM_LUMA_176X192, abs=1e-6)


def test_flat_pictures_differ_by_the_luminance_term_alone() -> None:
    a, b, c1 = 0.25, 0.75, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    x, y = torch.full((1, 1, 161, 170), a), torch.full((1, 1, 161, 170), b)
    assert ssim(x, y).item() == pytest.approx(expected, rel=1e-5)
    assert ms_ssim(x, y).item() == pytest.approx(expected**0.1333, rel=1e-5)


def test_a_contrast_change_follows_the_structure_term() -> None:
    # A checkerboard's windows all have nearly the same mean and variance, so the map is flat and known.
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1.0
    x, y = 0.5 + 0.2 * board, 0.5 + 0.1 * board
    c2 = 0.03**2
    expected = (2 * 0.2 * 0.1 + c2) / (0.2**2 + 0.1**2 + c2)
    assert ssim(x[None, None], y[None, None]).item() == pytest.approx(expected, rel=1e-4)


def test_identical_pictures_score_exactly_one() -> None:
    x, _ = _pair(170, 163, 5, torch.float32)
    assert ssim(x, x, peak=255).item() == 1.0
    assert ms_ssim(x, x, peak=255).item() == 1.0


def test_inverted_pictures_have_negative_ssim_and_zero_ms_ssim() -> None:
    x = torch.rand(1, 1, 161, 161, generator=torch.Generator().manual_seed(0))
    assert ssim(x, 1 - x).item() < -0.5
    assert ms_ssim(x, 1 - x).item() == 0.0


def test_items_of_a_batch_do_not_see_each_other() -> None:
    pairs = [_pair(40, 50, seed) for seed in (1, 2)]
    both = ssim(torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]), peak=255)
    alone = torch.cat([ssim(*p, peak=255) for p in pairs])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 1, 12, 13, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda a, b: ssim(a, b), (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize(("metric", "side"), [(ssim, 11), (ms_ssim, 161)])
def test_the_smallest_picture_works_and_one_pixel_less_is_refused(metric: type(ssim), side: int) -> None:
    x = torch.rand(1, 1, side, side)
    assert metric(x, x).item() == 1.0
    with pytest.raises(ValueError, match=f"{side}x{side}"):
        metric(x[..., 1:], x[..., 1:])


def test_half_precision_is_computed_in_single() -> None:
    x, y = _pair(48, 64, 1)
    low = (x / 255).bfloat16(), (y / 255).bfloat16()
    assert ssim(*low).dtype == torch.float32
    torch.testing.assert_close(ssim(*low), ssim(low[0].float(), low[1].float()))
