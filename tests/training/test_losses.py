"""Each term against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cvcodec.training import losses


def numbered(frames: int) -> torch.Tensor:
    """(1, 3, T, 1, 2): every pixel of frame t is t."""
    return torch.arange(frames, dtype=torch.float32).view(1, 1, frames, 1, 1).expand(1, 3, frames, 1, 2)


@pytest.mark.parametrize(
    ("mapping", "picks", "wanted"),
    [
        ("first", None, [0]),
        ("slice", None, [0, 4, 8]),
        ("average", None, [0, 2.5, 6.5]),
        ("random", [0, 3], [0, 1, 8]),
        ("random", [2, 1], [0, 3, 6]),
    ],
)
def test_the_maps_take_these_frames_of_nine(mapping: str, picks: list[int] | None, wanted: list[float]) -> None:
    mapped = losses.map_frames(numbered(9), mapping, picks)  # type: ignore[arg-type]
    assert mapped.shape == (1, 3, len(wanted), 1, 2)
    assert mapped[0, 0, :, 0, 0].tolist() == wanted


@pytest.mark.parametrize("mapping", ["first", "slice", "average", "random"])
def test_an_image_is_mapped_to_itself(mapping: str) -> None:
    image = torch.rand(2, 3, 1, 4, 4)
    assert torch.equal(losses.map_frames(image, mapping, []), image)  # type: ignore[arg-type]


def test_the_random_map_draws_each_frame_of_a_group_equally_often() -> None:
    picks = losses.draw_picks(np.random.default_rng(0), 8000)
    counts = np.bincount(picks, minlength=4)
    assert counts.sum() == 8000
    assert all(abs(count - 2000) < 150 for count in counts)  # four deviations of the binomial


def test_maps_refuse_what_they_cannot_map() -> None:
    with pytest.raises(ValueError, match=r"4k\+1"):
        losses.map_frames(numbered(8), "slice")
    with pytest.raises(ValueError, match="2 picks"):
        losses.map_frames(numbered(9), "random", [1])


def test_distortions_of_a_constant_error() -> None:
    x = torch.zeros(2, 3, 1, 2, 2)
    y = torch.stack([torch.full((3, 1, 2, 2), 0.5), torch.full((3, 1, 2, 2), 0.1)])
    assert losses.distortion("l1", x, y).tolist() == pytest.approx([0.5, 0.1])
    assert losses.distortion("mse", x, y).tolist() == pytest.approx([0.25, 0.01])
    assert losses.distortion("l1+mse", x, y).tolist() == pytest.approx([1.0, 0.12])
    wanted = [10 * math.log10(0.25 + 3e-5), 10 * math.log10(0.01 + 3e-5)]
    assert losses.distortion("mse-db", x, y).tolist() == pytest.approx(wanted)


def test_reconstruction_error_adds_a_frames_perceptual_distance_to_all_its_elements() -> None:
    x = torch.zeros(1, 3, 2, 1, 1)
    y = torch.tensor([0.1, -0.3]).view(1, 1, 2, 1, 1).expand(1, 3, 2, 1, 1)
    error = losses.reconstruction_error(x, y, lambda a, b: torch.tensor([1.0, 2.0]), 0.5)
    assert error.shape == (2, 3, 1, 1)
    assert error[0].flatten().tolist() == pytest.approx([0.6] * 3)
    assert error[1].flatten().tolist() == pytest.approx([1.3] * 3)


def test_nll_is_a_sum_over_elements_divided_by_frames() -> None:
    error = torch.full((2, 3, 1, 4), 0.5)  # 2 frames of 12 elements
    at_zero = losses.negative_log_likelihood(error, torch.tensor(0.0))
    assert at_zero.item() == pytest.approx(12 * 0.5)
    s = math.log(2)
    assert losses.negative_log_likelihood(error, torch.tensor(s)).item() == pytest.approx(12 * (0.25 + s), rel=1e-6)


def test_nll_is_least_where_the_log_variance_is_the_log_of_the_mean_error() -> None:
    s = torch.tensor(math.log(0.5), requires_grad=True)
    losses.negative_log_likelihood(torch.full((2, 3, 1, 4), 0.5), s).backward()
    assert s.grad is not None
    assert s.grad.item() == pytest.approx(0, abs=1e-5)


def test_kl_is_summed_over_a_clip_and_averaged_over_clips() -> None:
    mean = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1).expand(2, 4, 3, 1, 1)
    logvar = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 4, 3, 1, 1)
    wanted = (12 * 0.5 * 1.0 + 12 * 0.5 * (math.e - 2)) / 2
    assert losses.kl_divergence(mean, logvar).item() == pytest.approx(wanted, rel=1e-6)


def test_hinge_of_four_logits() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert losses.discriminator_hinge(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert losses.generator_loss(fake).item() == pytest.approx(1.5)


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, generator = (3 * w[0] + 4 * w[1]), 0.5 * w[0]  # gradient norms 5 and 0.5
    assert losses.adaptive_weight(reconstruction, generator, w).item() == pytest.approx(5 / 0.5001)
    assert losses.adaptive_weight(reconstruction, 0 * w[0], w).item() == pytest.approx(1e4)  # 5 / 1e-4, clamped


def test_the_adaptive_weight_uses_the_gradients_mean_over_processes() -> None:
    w = torch.tensor([1.0], requires_grad=True)
    weight = losses.adaptive_weight(3 * w[0], 2 * w[0], w, lambda gradient: gradient + 1)
    assert weight.item() == pytest.approx(4 / 3.0001)


def test_even_errors_count_the_worst_frame_of_a_group_most_and_equal_ones_as_ever() -> None:
    x = torch.zeros(1, 3, 9, 2, 2)
    y = torch.zeros_like(x)
    for frame, error in enumerate([1, 1, 2, 3, 4, 2, 2, 2, 2]):
        y[:, :, frame] = error**0.5
    first, second, third = 1.0, ((1 + 8 + 27 + 64) / 4) ** (1 / 3), 2.0
    wanted = (first + 4 * second + 4 * third) / 9
    assert losses.even_mse(x, y, 3).item() == pytest.approx(wanted, rel=1e-5)
    assert losses.even_mse(x, y, 1).item() == pytest.approx((x - y).square().mean().item(), rel=1e-5)
    assert losses.even_mse(x[:, :, :1], y[:, :, :1], 3).item() == pytest.approx(1.0)
    db = losses.distortion("mse-db", x, y, 3)
    assert db.item() == pytest.approx(10 * math.log10(wanted + losses.DB_FLOOR), rel=1e-5)
    assert bool(torch.isfinite(losses.even_mse(x, x, 8)).all())
