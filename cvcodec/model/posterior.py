"""The diagonal Gaussian that an encoder gives (spec 1.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)  # clamp of the log-variance, official and diffusers alike (spec 1.6)


@dataclass(frozen=True)
class Posterior:
    """q(latent | pixels): `mean` and `logvar`, both (B, C, t, h, w) float; `logvar` is clamped to [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> Posterior:
        """`moments`: (B, 2C, t, h, w), mean first, unclamped log-variance second."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    @property
    def std(self) -> Tensor:
        """Standard deviation, (B, C, t, h, w)."""
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The mean: what the codec stores."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, (B, C, t, h, w)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats, summed over C, t, h, w: (B,)."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)
