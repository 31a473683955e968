"""The discriminator in training: its term in the generator's loss, and its own updates.

Owns: the discriminator, its optimiser, when it takes part. Does not know: the other terms, schedules (its rate is
constant, as the official one).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvcodec.training import losses
from cvcodec.training.config import TrainConfig
from cvcodec.training.discriminator import Discriminator
from cvcodec.training.distributed import Processes
from cvcodec.training.objective import Arithmetic, Judged

_BETAS = (0.5, 0.9)


class Adversary:
    """One for a run with an adversarial weight."""

    def __init__(self, config: TrainConfig, device: torch.device, processes: Processes, arithmetic: Arithmetic) -> None:
        torch.manual_seed(config.seed)
        self._config, self._device, self._processes, self._arithmetic = config, device, processes, arithmetic
        self.discriminator = Discriminator(config.discriminator_width).to(device)
        self._trained = [parameter for parameter in self.discriminator.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=config.discriminator_rate, betas=_BETAS, weight_decay=0.0)

    def takes_part(self, step: int) -> bool:
        """Whether step number `step` (from 0) has adversarial losses."""
        return step + 1 >= self._config.adversarial_start

    def generator_term(self, judged: Judged, last_layer: Tensor) -> Tensor:
        """What is added to the loss: weight * adaptive weight * -mean(D(output))."""
        for parameter in self._trained:
            parameter.requires_grad_(False)
        with self._arithmetic():
            logits = self.discriminator(judged.output)
        for parameter in self._trained:
            parameter.requires_grad_(True)
        generator = losses.generator_loss(logits)
        weight = torch.ones((), device=self._device)
        if self._config.adaptive_weight and last_layer.requires_grad:
            weight = losses.adaptive_weight(judged.reconstruction_loss, generator, last_layer, self._processes.average)
        judged.terms |= {"generator": generator.detach(), "adaptive_weight": weight}
        return self._config.resolved_adversarial_weight * weight * generator

    def learn(self, judged: Judged) -> Tensor:
        """One update on the same batch; returns its hinge loss."""
        with self._arithmetic():
            real = self.discriminator(judged.target)
            fake = self.discriminator(judged.output.detach())
        hinge = losses.discriminator_hinge(real, fake)
        hinge.backward()
        self._processes.average_gradients(self._trained)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return hinge.detach()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])
