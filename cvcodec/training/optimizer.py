"""Which parameter is moved by what: Muon for wide convolution kernels, AdamW for the rest, and a moving average.

Owns: the groups, Muon, the schedule's factor, gradient clipping. Does not know: losses, models beyond parameter names.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): Nesterov momentum, then the update
is replaced by the nearest (semi-)orthogonal matrix, found by Newton-Schulz iterations; kernels are flattened to
(out, everything else). On the mini models it passes PCA quality within 300 steps where AdamW stays at it for 700.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cvcodec.training.config import OptimiserSettings

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: singular values end in about [0.7, 1.2] after five."""
LEAST_WIDTH = 64
"""Kernels with fewer inputs or outputs stay with AdamW: they are maps to and from pixels or latents."""


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, for weights of at least two dimensions."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, iterations: int = 5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # losses are not re-evaluated here
        """One update."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum"] for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter, update in zip(parameters, updates, strict=True):
                matrix = update.flatten(1)
                by_shape[matrix.shape[0], matrix.shape[1]].append((parameter, matrix))
            for (rows, columns), pairs in by_shape.items():  # small matrices are quicker in one batch
                directions = orthogonalize(torch.stack([update for _, update in pairs]), group["iterations"])
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                steps = [
                    direction.reshape(parameter.shape).to(parameter.dtype)
                    for (parameter, _), direction in zip(pairs, directions, strict=True)
                ]
                torch._foreach_add_([parameter for parameter, _ in pairs], steps, alpha=-rate)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(k, m, n) -> (k, m, n) float32 with all singular values near 1 and the same singular vectors.

    The iteration x <- (a + b g + c g^2) x with g = x x^T is run on the small Gram matrix alone, as all its factors are
    polynomials of the first one and commute; the wide matrix is multiplied twice instead of ten times.
    """
    a, b, c = NEWTON_SCHULZ
    transposed = matrices.shape[1] > matrices.shape[2]
    x = matrices.float().mT if transposed else matrices.float()
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    gram = x @ x.mT
    identity = torch.eye(gram.shape[1], device=x.device)
    total = identity.expand_as(gram)
    for index in range(iterations):
        factor = torch.baddbmm(b * gram + a * identity, gram, gram, alpha=c)
        total = factor @ total
        if index < iterations - 1:
            gram = factor @ gram @ factor
    result: Tensor = total @ x
    return result.mT if transposed else result


class Optimizers:
    """All optimisers of the generator side, stepped and scheduled as one."""

    def __init__(self, model: nn.Module, auxiliary: Sequence[Tensor], settings: OptimiserSettings) -> None:
        """`auxiliary`: parameters outside the model (rate model, log-variances)."""
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        shortcuts = [parameter for name, parameter in named if _is_shortcut(name)]
        kernels = [p for name, p in named if settings.optimizer == "muon" and _suits_muon(name, p)]
        taken = {id(parameter) for parameter in (*shortcuts, *kernels)}
        rest = [parameter for _, parameter in named if id(parameter) not in taken]
        groups = [
            {"params": rest, "lr": settings.rate},
            {"params": shortcuts, "lr": min(settings.shortcut_rate, settings.rate)},
            {"params": list(auxiliary), "lr": settings.auxiliary_rate, "weight_decay": 0.0},
        ]
        self._clipped = rest + shortcuts
        self._clip = settings.gradient_clip
        adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
        self._optimizers: list[torch.optim.Optimizer] = [adamw]
        if kernels:
            self._optimizers.append(Muon(kernels, lr=settings.muon_rate))
        self._base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]
        self.parameters = [
            parameter
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    def step(self, factor: float) -> None:
        """Clip, then update with learning rates times `factor`, then forget the gradients."""
        if self._clip > 0:  # Muon's updates have a fixed size; its gradients need no limit
            torch.nn.utils.clip_grad_norm_(self._clipped, self._clip)
        for optimizer, base in zip(self._optimizers, self._base, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each optimiser."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Inverse of `state_dict`."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def schedule(step: int, progress: float, settings: OptimiserSettings) -> float:
    """Factor of the learning rates: linear warm-up in steps; by progress a cosine down to `final_rate`, or one until
    the cooldown, a straight line down to it."""
    warmup = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = 1 - min(1.0, progress)
    if settings.schedule == "constant":
        height = min(1.0, left / settings.cooldown) if settings.cooldown else 1.0
    else:
        height = 0.5 * (1 - math.cos(math.pi * left))
    return warmup * (settings.final_rate + (1 - settings.final_rate) * height)


def _suits_muon(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 4 and min(parameter.shape[:2]) >= LEAST_WIDTH and not _is_shortcut(name)


def _is_shortcut(name: str) -> bool:
    """Linear maps between patches and latents: they carry the picture, and are moved with care."""
    return any(part in ("shortcut", "project", "restore") for part in name.split("."))


class MovingAverage:
    """An exponential moving average of a model's parameters; young averages follow faster."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = list(model.parameters())
        self.average = [parameter.detach().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step number `step` (from 0)."""
        decay = min(self._decay, (step + 1) / (step + 10)) if self._decay else 0.0
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self._live], 1 - decay)

    @torch.no_grad()
    def load(self, average: Sequence[Tensor]) -> None:
        """Take over a stored average."""
        for mine, stored in zip(self.average, average, strict=True):
            mine.copy_(stored)

    def swap(self) -> None:
        """Exchange the model's weights and the average; call it twice."""
        for live, average in zip(self._live, self.average, strict=True):
            live.data, average.data = average.data, live.data
