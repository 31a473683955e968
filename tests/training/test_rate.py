"""The rate model: probabilities that sum to one, contexts that a decoder would have."""

from __future__ import annotations

import math

import pytest
import torch

from cvcodec.training.losses import RateModel


def model(channels: int = 2, unit: float = 0.5) -> RateModel:
    """With random context weights."""
    torch.manual_seed(0)
    rate = RateModel(torch.full((channels,), unit))
    with torch.no_grad():
        for parameter in rate.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return rate


@torch.no_grad()
def test_probabilities_of_all_symbols_at_a_position_sum_to_one() -> None:
    rate, step = model(), torch.tensor(0.25)
    base = torch.round(torch.randn(1, 2, 2, 4, 4) / step) * step
    total = torch.zeros(())
    for symbol in range(-120, 121):
        latent = base.clone()
        latent[0, 1, 1, 2, 2] = symbol * step
        total += torch.exp2(-rate(latent, step)[0, 1, 1, 2, 2])
    assert total.item() == pytest.approx(1, abs=2e-3)


def test_bits_depend_only_on_what_was_coded_before() -> None:
    rate = model()
    latent = torch.randn(1, 2, 3, 5, 5, requires_grad=True)
    rate(latent, torch.tensor(0.25))[0, 0, 1, 2, 2].backward()
    assert latent.grad is not None
    touched = latent.grad[0] != 0
    order = torch.arange(3 * 5 * 5).view(3, 5, 5)
    assert touched[1].sum() == 0, "channels do not see each other"
    assert touched[0].sum() > 5
    assert order[touched[0]].max() == order[1, 2, 2]


@torch.no_grad()
def test_an_untrained_model_of_zeros_gives_the_laplacians_bits() -> None:
    unit = 0.5
    rate = RateModel(torch.tensor([unit]))
    step = 0.25
    scale = 0.44 * math.log(2) + 0.05 * step / unit  # in unit steps; residuals of zeros add nothing
    wanted = -math.log2(1 - math.exp(-(step / unit / 2) / scale))
    bits = rate(torch.zeros(1, 1, 1, 3, 3), torch.tensor(step))
    assert bits.flatten().tolist() == pytest.approx([wanted] * 9, rel=1e-5)


def test_coarser_steps_cost_fewer_bits() -> None:
    rate, latent = model(), torch.randn(1, 2, 2, 6, 6)
    fine, coarse = (rate(latent, torch.tensor(step)).sum().item() for step in (0.1, 0.8))
    assert coarse < 0.6 * fine
