"""Keyed random numbers: distribution, independence, and where they are the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cvcodec.dataset.keys import _splitmix, normal, sample_keys, uniform


def test_keys_come_from_splitmix64() -> None:
    # First outputs of the reference program (Vigna, splitmix64.c) for the seeds 0 and 1234567.
    assert _splitmix(np.array([0, 1234567], np.uint64)).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]


def test_a_samples_numbers_depend_on_its_key_alone() -> None:
    together = uniform(sample_keys(3, "noise", range(70000, 70006)), (2, 5, 3))
    for place, index in enumerate(range(70000, 70006)):
        alone = uniform(sample_keys(3, "noise", [index]), (2, 5, 3))
        assert torch.equal(together[place], alone[0])
    others = [sample_keys(4, "noise", [7]), sample_keys(3, "crop", [7]), sample_keys(3, "noise", [8])]
    numbers = {float(uniform(keys, (1,))) for keys in (sample_keys(3, "noise", [7]), *others)}
    assert len(numbers) == 4


@pytest.mark.parametrize("draw", [uniform, normal])
def test_numbers_are_distributed_as_named_and_do_not_hang_together(draw: object) -> None:
    numbers = draw(sample_keys(0, "noise", range(64)), (4096,)).double()  # type: ignore[operator]
    ordered = numbers.flatten().sort().values
    cumulative = ordered if draw is uniform else 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    ranks = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    assert (cumulative - ranks).abs().max() < 1.95 / math.sqrt(len(ordered)), "Kolmogorov and Smirnov, at 0.1 %"
    centred = (numbers - numbers.mean()) / numbers.std()
    bound = 5 / math.sqrt(numbers.numel())
    for one, other in (
        (centred[:, 1:], centred[:, :-1]),
        (centred[1:], centred[:-1]),
        (centred[:, 64:], centred[:, :-64]),
    ):
        assert abs((one * other).mean()) < bound
