"""The diagonal Gaussian that an encoder gives (spec 1.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cvcodec.model.config import ModelConfig

LOGVAR_RANGE = (-30.0, 20.0)  # clamp of the log-variance, official and diffusers alike (spec 1.6)


@dataclass(frozen=True)
class Posterior:
    """q(latent | pixels): `mean` and `logvar`, both (B, C, t, h, w) float; `logvar` is clamped to [-30, 20].

    Both are of the base layer, whatever else the model has.
    """

    mean: Tensor
    logvar: Tensor
    enhancement: Tensor | None = None
    """(B, E, t, h, w) float: the enhancement layer, of models that have one. It is coded as it is, never sampled."""

    @classmethod
    def from_moments(cls, moments: Tensor, enhancement_channels: int = 0) -> Posterior:
        """`moments`: (B, 2C + E, t, h, w): mean, unclamped log-variance, enhancement layer."""
        channels = (moments.shape[1] - enhancement_channels) // 2
        mean, logvar, enhancement = moments.split([channels, channels, enhancement_channels], dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE), enhancement if enhancement_channels else None)

    @property
    def layers(self) -> Tensor:
        """(B, C + E, t, h, w): the mean and, behind it, the enhancement layer: all that the decoder can read."""
        return self.mean if self.enhancement is None else torch.cat([self.mean, self.enhancement], dim=1)

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


def coded_layers(moments: Tensor, config: ModelConfig) -> Tensor:
    """Moments (B, 2C + E, t, h, w) -> (B, C + E, t, h, w): what a codec keeps of them."""
    return Posterior.from_moments(moments, config.enhancement_channels).layers
