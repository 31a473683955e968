"""Frechet and kernel distance against closed forms, sums written out, and torchmetrics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cvcodec.quality.sets.distances import Moments, Sample, frechet_distance, kernel_distance


def moments(features: Tensor, batch: int = 7) -> Moments:
    made = Moments()
    for part in features.split(batch):
        made.add(part)
    return made


def exactly(mean: Tensor, covariance: Tensor) -> Moments:
    """Of 2 D points that have exactly this mean and covariance."""
    size = len(mean)
    root = torch.linalg.cholesky(covariance)
    steps = root.T * math.sqrt((2 * size - 1) / 2)
    return moments(torch.cat([mean + steps, mean - steps]))


def spd(size: int, seed: int) -> Tensor:
    x = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ x.T + 0.1 * torch.eye(size, dtype=torch.float64)


def cloud(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ spd(size, seed + 1) + shift


def test_running_moments_are_those_that_numpy_finds_in_all_samples_far_from_zero_too() -> None:
    features = cloud(50, 6, 0, shift=1e6)
    made = moments(features, batch=3)
    assert made.count == 50 and made.size == 6
    np.testing.assert_allclose(made.mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(made.covariance, np.cov(features.numpy().T), rtol=1e-7)


def test_the_frechet_distance_of_two_gaussians_on_a_line_is_that_of_their_means_and_deviations() -> None:
    first = exactly(torch.tensor([1.0], dtype=torch.float64), torch.tensor([[4.0]], dtype=torch.float64))
    second = exactly(torch.tensor([-2.0], dtype=torch.float64), torch.tensor([[0.25]], dtype=torch.float64))
    assert frechet_distance(first, second) == pytest.approx((1 + 2) ** 2 + (2 - 0.5) ** 2, rel=1e-12)


def test_the_frechet_distance_of_a_gaussian_and_its_image_under_a_positive_map_is_what_the_map_moves() -> None:
    # x -> A x with A symmetric and positive is the optimal transport, so that E |x - A x|^2 is the distance; the two
    # covariances do not commute.
    covariance, a, mean = spd(5, 3), spd(5, 4), torch.arange(5, dtype=torch.float64)
    moved = a - torch.eye(5, dtype=torch.float64)
    expected = float((moved @ covariance @ moved).trace() + (moved @ mean).square().sum())
    first, second = exactly(mean, covariance), exactly(a @ mean, a @ covariance @ a)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(first, exactly(mean, covariance)) == pytest.approx(0, abs=1e-10)


def test_the_frechet_distance_of_fewer_samples_than_features_is_finite_and_that_of_the_space_they_span() -> None:
    # Points on a line in 40 dimensions: the distance is that on the line.
    direction = torch.nn.functional.normalize(torch.ones(40, dtype=torch.float64), dim=0)
    x, y = cloud(6, 1, 0), cloud(5, 1, 9, shift=2.0)
    on_line = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    found = frechet_distance(moments(x * direction), moments(y * direction))
    assert found == pytest.approx(float(on_line), rel=1e-9)


def test_the_frechet_distance_is_that_of_torchmetrics() -> None:
    fid: Any = pytest.importorskip("torchmetrics.image.fid")
    x, y = cloud(60, 8, 0), cloud(45, 8, 5, shift=0.7)
    expected = fid._compute_fid(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(float(expected), rel=1e-8)


def test_the_kernel_distance_is_the_unbiased_sum_over_all_pairs() -> None:
    x, y = cloud(5, 3, 0), cloud(4, 3, 7, shift=0.5)

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    def pairs(z: Tensor) -> float:
        values = [kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return math.fsum(values) / len(values)

    across = math.fsum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    assert kernel_distance(x, y) == pytest.approx(pairs(x) + pairs(y) - 2 * across, rel=1e-10)


def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    kid: Any = pytest.importorskip("torchmetrics.image.kid")
    x, y = cloud(1100, 4, 0), cloud(1100, 4, 5, shift=0.2)  # more than one block of rows
    assert kernel_distance(x, y) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-8)


def test_the_kernel_distance_has_no_bias_for_small_sets() -> None:
    # Of samples of one distribution it is zero on average, where the Frechet distance is not.
    draws = [cloud(4, 3, seed) @ torch.linalg.inv(spd(3, seed + 1)) for seed in range(0, 1600, 2)]
    found = [kernel_distance(x, y) for x, y in zip(draws[::2], draws[1::2], strict=True)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(len(found))
    frechet = [frechet_distance(moments(x), moments(y)) for x, y in zip(draws[:80:2], draws[1:80:2], strict=True)]
    assert np.mean(frechet) > 10 * np.std(frechet) / math.sqrt(len(frechet))


def test_a_sample_keeps_all_of_a_small_set_and_a_random_part_of_a_large_one() -> None:
    rows = torch.arange(1000.0)[:, None]
    small, large = Sample(0, most=2000), Sample(0, most=100)
    for part in rows.split(64):
        small.add(part)
        large.add(part)
    assert torch.equal(small.rows, rows.double())
    kept = large.rows[:, 0]
    assert len(kept) == len(kept.unique()) == 100
    assert abs(float(kept.mean()) - 499.5) < 4 * 288.7 / 10, "each with equal chance"


def test_one_sample_has_neither_distance() -> None:
    one, two = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="two samples or more"):
        kernel_distance(one, two)
    with pytest.raises(ValueError, match="two samples or more"):
        frechet_distance(moments(one), moments(two))
