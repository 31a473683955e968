"""Muon, the groups, the schedule and the moving average."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.training.config import TrainConfig
from cvcodec.training.optimizer import MovingAverage, Muon, Optimizers, orthogonalize, schedule


def config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"output": "x", "data": ("y",), "steps": 100, "batches": ("1x1x8",)}
    return TrainConfig.of(**{**values, **changes})


@pytest.mark.parametrize("shape", [(16, 64), (48, 16), (20, 20)])
def test_orthogonalising_keeps_singular_vectors_and_evens_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    for before, after in zip(matrices, orthogonalize(matrices), strict=True):
        u, s, v = torch.linalg.svd(before, full_matrices=False)
        values = (u.T @ after @ v.T).diagonal()
        assert (values[s > 0.2 * s.max()] > 0.6).all()
        assert (values < 1.3).all()
        torch.testing.assert_close(u @ torch.diag(values) @ v, after, atol=1e-3, rtol=0)


def test_the_short_iteration_equals_the_textbook_one_in_float64() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(24, 80, dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrix[None].float())[0].double(), x, atol=1e-3, rtol=1e-3)


def test_muon_moves_by_its_rate_whatever_the_gradients_size() -> None:
    moves = []
    for gain in (1e-4, 1e4):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(64, 64, 3, 3))
        before = weight.detach().clone()
        weight.grad = gain * torch.randn(64, 64, 3, 3)
        Muon([weight], lr=0.1).step()
        moves.append((weight.detach() - before).flatten(1))
    torch.testing.assert_close(moves[0], moves[1], atol=1e-4, rtol=1e-3)
    assert torch.linalg.matrix_norm(moves[0], 2).item() == pytest.approx(0.1, rel=0.3)


def test_wide_kernels_go_to_muon_and_the_rest_to_adamw() -> None:
    model = MiniAutoencoder(mini_config(4, widths=(64, 64, 64)))
    extra = nn.Parameter(torch.zeros(3))
    optimizers = Optimizers(model, [extra], config().optimiser)
    adamw, muon = optimizers._optimizers
    by_muon = {id(parameter) for parameter in muon.param_groups[0]["params"]}
    named = dict(model.named_parameters())
    assert id(named["encoder.levels.0.0.conv1.weight"]) in by_muon
    for name in (
        "encoder.shortcut.weight",
        "decoder.shortcut.weight",
        "encoder.conv_out.weight",
        "encoder.conv_in.bias",
    ):
        assert id(named[name]) not in by_muon, name
    rates = {id(p): group["lr"] for group in adamw.param_groups for p in group["params"]}
    assert rates[id(named["encoder.shortcut.weight"])] == 2e-4
    assert rates[id(extra)] == 3e-3
    assert len(optimizers.parameters) == len(named) + 1


def test_frozen_parameters_are_left_out() -> None:
    model = MiniAutoencoder(mini_config(4, widths=(8, 8, 8)))
    model.encoder.requires_grad_(False)
    moved = {id(parameter) for parameter in Optimizers(model, [], config().optimiser).parameters}
    assert moved == {id(parameter) for parameter in model.decoder.parameters()}


def test_the_schedule_warms_up_and_falls_as_a_cosine() -> None:
    settings = config(warmup_steps=10, final_rate=0.1).optimiser
    assert schedule(0, 0.0, settings) == pytest.approx(0.1)
    assert schedule(4, 0.0, settings) == pytest.approx(0.5)
    assert schedule(50, 0.5, settings) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule(50, 0.25, settings) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.sqrt(0.5)))
    assert schedule(99, 1.0, settings) == pytest.approx(0.1)
    assert schedule(300, 3.0, settings) == pytest.approx(0.1), "the official cosine would rise again"


def test_the_moving_average_follows_and_swaps() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = MovingAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update(0)  # decay min(0.5, 1/10)
    assert average.average[0].item() == pytest.approx(0.9)
    average.update(100)
    assert average.average[0].item() == pytest.approx(0.95)
    average.swap()
    assert model.weight.item() == pytest.approx(0.95)
    average.swap()
    assert model.weight.item() == 1.0


def test_a_constant_schedule_falls_in_a_straight_line_at_its_end() -> None:
    settings = config(schedule="constant", cooldown=0.25, warmup_steps=0, final_rate=0.1).optimiser
    factors = [schedule(100, progress, settings) for progress in (0.0, 0.5, 0.75, 0.875, 1.0)]
    assert factors == pytest.approx([1, 1, 1, 0.55, 0.1])
