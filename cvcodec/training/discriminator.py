"""The 3D PatchGAN of CV-VAE (spec 4.4) and its part in training: a term in the generator's loss, and its own updates.

Owns: the network, with the state-dict layout of the official training checkpoints, and its initialisation; its
optimiser, whose rate is constant, as the official one's; when it takes part. Does not know: the other terms.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvcodec.training import losses
from cvcodec.training.config import TrainConfig
from cvcodec.training.distributed import Processes
from cvcodec.training.objective import Arithmetic, Judged

_TIMESTEP_WIDTH = 512  # of a projection that is in the official state dict and never used
_GROUPS = 32
_EPS = 1e-5
_BETAS = (0.5, 0.9)


class DiscriminatorBlock(nn.Module):
    """norm, SiLU, conv, [pool by 2], norm, SiLU, conv, plus the [pooled] input through a 1x1x1 where widths differ."""

    def __init__(self, channels_in: int, channels_out: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.norm1 = nn.GroupNorm(_GROUPS, channels_in, eps=_EPS)
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, padding=1)
        self.temb_proj = nn.Linear(_TIMESTEP_WIDTH, channels_out).requires_grad_(False)
        self.norm2 = nn.GroupNorm(_GROUPS, channels_out, eps=_EPS)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv3d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.silu(self.norm1(x)))
        if self.pool:
            x, y = _halve(x), _halve(y)
        y = self.conv2(F.silu(self.norm2(y)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return x + y


class Discriminator(nn.Module):
    """Clips (B, 3, T, H, W) in [-1, 1] to patch logits (B, 1, t, H/8, W/8), t = 1, 1, 2, 3 for T = 1, 5, 9, 17.

    H and W at least 8. `width` 64 is the official network: 29,015,041 parameters in 58 tensors.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        if width < _GROUPS or width % _GROUPS:
            raise ValueError(f"discriminator width {width} is not a multiple of {_GROUPS}")
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        layers: list[nn.Module] = [nn.Conv3d(3, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index, (channels_in, channels_out) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [
                DiscriminatorBlock(channels_in, channels_out, pool=index < 2),
                nn.GroupNorm(_GROUPS, channels_out, eps=_EPS),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv3d(widths[-1], 1, 3, padding=1))
        self.main = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.main(clips)
        return logits


def _halve(x: Tensor) -> Tensor:
    if x.shape[2] % 2:
        x = torch.cat([x[:, :, :1], x], 2)
    return F.avg_pool3d(x, 2)


class Adversary:
    """One for a run with an adversarial weight."""

    def __init__(self, config: TrainConfig, device: torch.device, processes: Processes, arithmetic: Arithmetic) -> None:
        torch.manual_seed(config.run.seed)
        self._settings, self._device, self._processes, self._arithmetic = config.loss, device, processes, arithmetic
        self.discriminator = Discriminator(config.loss.discriminator_width).to(device)
        self._trained = [parameter for parameter in self.discriminator.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=config.optimiser.discriminator_rate, betas=_BETAS, weight_decay=0.0
        )

    def takes_part(self, step: int) -> bool:
        """Whether step number `step` (from 0) has adversarial losses."""
        return step + 1 >= self._settings.adversarial_start

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
        if self._settings.adaptive_weight and last_layer.requires_grad:
            weight = losses.adaptive_weight(judged.reconstruction_loss, generator, last_layer, self._processes.average)
        judged.terms |= {"generator": generator.detach(), "adaptive_weight": weight}
        return self._settings.resolved_adversarial_weight * weight * generator

    def learn(self, judged: Judged, share: float = 1.0) -> Tensor:
        """Add `share` of the gradients of the same clips to those of the next update; returns their hinge loss."""
        with self._arithmetic():
            real = self.discriminator(judged.target)
            fake = self.discriminator(judged.output.detach())
        hinge = losses.discriminator_hinge(real, fake)
        (share * hinge).backward()
        return hinge.detach()

    def update(self) -> None:
        """One step by the gradients of all that was learned since the last."""
        self._processes.average_gradients(self._trained)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])
