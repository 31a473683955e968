"""The adversarial terms of a step, with a discriminator whose gradients can be written down."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cvcodec.training.config import TrainConfig
from cvcodec.training.discriminator import Adversary
from cvcodec.training.distributed import Processes
from cvcodec.training.objective import Judged

LEAST: dict[str, Any] = {"output": "run", "data": ("folder",), "steps": 10, "batches": ("2x5x32",)}


class Slope(nn.Module):
    """Logits a * mean of each clip; a = 2 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0))

    def forward(self, clips: Tensor) -> Tensor:
        return self.a * clips.flatten(1).mean(1)


def adversary(**changes: Any) -> tuple[Adversary, Slope]:
    settings = {**LEAST, "loss": "paper", "discriminator_width": 32, **changes}
    made = Adversary(TrainConfig.of(**settings), torch.device("cpu"), Processes(), contextlib.nullcontext)
    slope = Slope()
    made.discriminator = slope  # type: ignore[assignment]
    made._trained = [slope.a]
    made._optimizer = torch.optim.AdamW([slope.a], lr=0.1, betas=(0.5, 0.9), weight_decay=0.0)
    return made, slope


def judged(last_layer: Tensor) -> Judged:
    """Targets of 0.25 and outputs of `last_layer` * 0.5 everywhere; the reconstruction loss is 3 * `last_layer`."""
    target = torch.full((2, 3, 1, 4, 4), 0.25)
    output = last_layer * torch.full((2, 3, 1, 4, 4), 0.5)
    return Judged(
        loss=torch.zeros(()), reconstruction_loss=3 * last_layer.sum(), target=target, output=output, terms={}
    )


@pytest.mark.parametrize(("adaptive", "weight"), [(True, 3 / (1 + 1e-4)), (False, 1.0)])
def test_the_generators_term_is_half_the_adaptive_weight_times_minus_the_mean_logit(
    adaptive: bool, weight: float
) -> None:
    made, slope = adversary(adaptive_weight=adaptive)
    w = torch.ones(1, requires_grad=True)
    batch = judged(w)
    term = made.generator_term(batch, w)
    # -mean logit = -2 * 0.5 w: its gradient has norm 1, the reconstruction's 3.
    assert batch.terms["generator"] == pytest.approx(-1.0)
    assert batch.terms["adaptive_weight"] == pytest.approx(weight)
    assert term.item() == pytest.approx(0.5 * weight * -1.0)
    term.backward()
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(-0.5 * weight)
    assert slope.a.grad is None, "the generator's term must not train the discriminator"
    assert slope.a.requires_grad


def test_the_discriminator_learns_from_the_hinge_and_leaves_the_generator_alone() -> None:
    made, slope = adversary()
    w = torch.ones(1, requires_grad=True)
    hinge = made.learn(judged(w))
    made.update()
    # real logits 0.5, fake logits 1: 0.5 * (relu(1 - 0.5) + relu(1 + 1)); d/da = 0.5 * (-0.25 + 0.5) > 0
    assert hinge == pytest.approx(0.5 * (0.5 + 2.0))
    assert slope.a.item() == pytest.approx(2.0 - 0.1, abs=1e-6), "AdamW's first step is its rate against the gradient"
    assert w.grad is None
    assert slope.a.grad is None, "nothing is left over for the next step"


def test_adversarial_losses_begin_at_the_step_that_was_asked_for() -> None:
    made, _ = adversary(adversarial_start=3)
    assert [made.takes_part(step) for step in range(4)] == [False, False, True, True]
    made, _ = adversary()
    assert made.takes_part(0)
