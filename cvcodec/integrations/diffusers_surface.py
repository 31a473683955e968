"""The small things that diffusers' pipelines read of a VAE: its config, its outputs, its distribution.

Owns: their names and their arithmetic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import ItemsView, Iterator, KeysView, Sequence, ValuesView
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from cvcodec.model.base import Posterior
from cvcodec.model.config import ModelConfig

_SCALED_TWICE = (4, 12)
"""Latent channels of the pipelines (SDXL's, Mochi's) that divide by the scaling factor *and* multiply by
`latents_std`; all others that read `latents_std` (Wan's, Qwen's) read no scaling factor."""


class VAEConfig(SimpleNamespace):
    """What pipelines read of `vae.config`: attributes that are also items, as in diffusers' frozen dict."""

    @classmethod
    def of(cls, config: ModelConfig) -> VAEConfig:
        """The numbers of a model. `block_out_channels` is as long as pipelines compute the spatial factor from it."""
        levels = config.spatial_factor.bit_length()
        widths = (config.widths[0],) * (levels - len(config.widths)) + config.widths
        channels, temporal = config.latent_channels, config.temporal_factor if config.is_video else 1
        std = 1.0 if channels in _SCALED_TWICE else 1 / config.scaling_factor
        return cls(
            in_channels=3,
            out_channels=3,
            latent_channels=channels,
            z_dim=channels,
            block_out_channels=widths[-levels:],
            scaling_factor=config.scaling_factor,
            shift_factor=config.shift_factor or None,
            latents_mean=[config.shift_factor] * channels,
            latents_std=[std] * channels,
            force_upcast=True,
            sample_size=(config.tile_latents or 64) * config.spatial_factor,
            use_quant_conv=config.quant_conv,
            use_post_quant_conv=config.quant_conv,
            temporal_compression_ratio=temporal,
            spatial_compression_ratio=config.spatial_factor,
            scale_factor_temporal=temporal,
            scale_factor_spatial=config.spatial_factor,
        )

    def __getitem__(self, name: str) -> Any:
        return vars(self)[name]

    def __contains__(self, name: object) -> bool:
        return name in vars(self)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    def get(self, name: str, default: Any = None) -> Any:
        return vars(self).get(name, default)

    def keys(self) -> KeysView[str]:
        return vars(self).keys()

    def values(self) -> ValuesView[Any]:
        return vars(self).values()

    def items(self) -> ItemsView[str, Any]:
        return vars(self).items()


class _Output:
    """A result by attribute, by name and by number, as diffusers' outputs are."""

    def __getitem__(self, key: int | str) -> Any:
        return vars(self)[key] if isinstance(key, str) else tuple(vars(self).values())[key]

    def keys(self) -> KeysView[str]:
        """Names of the fields."""
        return vars(self).keys()

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields in order."""
        return tuple(vars(self).values())


@dataclasses.dataclass
class EncoderOutput(_Output):
    """`encode(x)`: `.latent_dist`, to be sampled or read."""

    latent_dist: LatentDistribution


@dataclasses.dataclass
class DecoderOutput(_Output):
    """`decode(z)`: `.sample`, pixels in [-1, 1]."""

    sample: Tensor


class LatentDistribution:
    """The diagonal Gaussian of an encode, with the surface of diffusers' `DiagonalGaussianDistribution`.

    mean, logvar, std, var: (B, C, h, w) of images, (B, C, t, h, w) of videos.
    """

    def __init__(self, moments: Tensor) -> None:
        """moments: mean and unclamped log-variance along axis 1."""
        self.parameters = moments
        self._posterior = Posterior.from_moments(moments)
        self.mean, self.logvar, self.std = self._posterior.mean, self._posterior.logvar, self._posterior.std
        self.var = self.logvar.exp()

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw. A generator on the CPU serves any device, and gives the same numbers on each."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def kl(self, other: LatentDistribution | None = None) -> Tensor:
        """KL(q || other), or KL(q || N(0, 1)), in nats, summed over all but the batch: (B,)."""
        if other is None:
            return self._posterior.kl()
        terms = ((self.mean - other.mean).square() + self.var) / other.var - 1 - self.logvar + other.logvar
        return 0.5 * terms.flatten(1).sum(1)

    def nll(self, sample: Tensor, dims: Sequence[int] = (1, 2, 3)) -> Tensor:
        """Negative logarithm of the density at `sample`, in nats, summed over `dims`."""
        terms = math.log(2 * math.pi) + self.logvar + (sample - self.mean).square() / self.var
        return 0.5 * terms.sum(tuple(dims))
