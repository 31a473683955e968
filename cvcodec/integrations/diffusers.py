"""A model with the surface of diffusers' `AutoencoderKL`, so that it drops into pipelines.

    vae = DiffusersVAE.from_pretrained("my-sd-compatible-model", torch_dtype=torch.float16)
    pipeline = StableVideoDiffusionPipeline.from_pretrained(..., vae=vae)

Images (B, 3, H, W) and their latents (B, C, h, w) are single frames, each coded alone ("image mode"), so that image
pipelines, and video pipelines that decode frame by frame, work as they are. Videos (B, 3, T, H, W) and (B, C, t, h, w)
are coded as videos: T = 4(t-1) + 1. For a video pipeline's latents in video mode (25 of SVD to 97 frames) ask it for
`output_type="latent"`, and decode `latents.transpose(1, 2) / vae.config.scaling_factor`, or give `num_frames`.

As in diffusers, `encode` and `decode` neither scale nor shift: the pipeline does, with `config`. Only a model that was
made compatible with the pipeline's own VAE gives sensible pictures. A pipeline that is loaded takes only modules with
diffusers' own base class, so this one has it too, and torch's where diffusers is not installed.
Owns: this surface. Does not know: pipelines.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, ItemsView, Iterator, KeysView, Sequence, ValuesView
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from cvcodec import tiling
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.model.posterior import Posterior
from cvcodec.plan import Plan
from cvcodec.registry import load_model

if TYPE_CHECKING:
    _Base = nn.Module
else:
    try:
        from diffusers import ModelMixin as _Base
    except (ImportError, RuntimeError):  # RuntimeError: it is there, but something that it needs is not
        _Base = nn.Module


class VAEConfig(SimpleNamespace):
    """What pipelines read of `vae.config`: attributes that are also items, as in diffusers' frozen dict."""

    @classmethod
    def of(cls, config: ModelConfig) -> VAEConfig:
        """The numbers of a model. `block_out_channels` is as long as pipelines compute the spatial factor from it."""
        levels = config.spatial_factor.bit_length()
        widths = (config.widths[0],) * (levels - len(config.widths)) + config.widths
        return cls(
            in_channels=3,
            out_channels=3,
            latent_channels=config.latent_channels,
            block_out_channels=widths[-levels:],
            scaling_factor=config.scaling_factor,
            shift_factor=config.shift_factor or None,
            latents_mean=None,
            latents_std=None,
            force_upcast=True,
            sample_size=(config.tile_latents or 64) * config.spatial_factor,
            use_quant_conv=config.quant_conv,
            use_post_quant_conv=config.quant_conv,
            temporal_compression_ratio=config.temporal_factor if config.is_video else 1,
            spatial_compression_ratio=config.spatial_factor,
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
        """As of a dict."""
        return vars(self).get(name, default)

    def keys(self) -> KeysView[str]:
        """As of a dict."""
        return vars(self).keys()

    def values(self) -> ValuesView[Any]:
        """As of a dict."""
        return vars(self).values()

    def items(self) -> ItemsView[str, Any]:
        """As of a dict."""
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
    """What `encode` gives."""

    latent_dist: LatentDistribution


@dataclasses.dataclass
class DecoderOutput(_Output):
    """What `decode` gives."""

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


class DiffusersVAE(_Base):
    """See the module. `model` is the model itself, in whatever dtype `to` was given."""

    def __init__(self, model: VideoAutoencoder) -> None:
        super().__init__()
        self.model = model
        self.config = VAEConfig.of(model.config)
        self.use_tiling = False
        self.use_slicing = False

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, torch_dtype: torch.dtype = torch.float32
    ) -> DiffusersVAE:
        """A model by name or weights file, as for `--weights`. Raises InputError or CheckpointError."""
        return cls(load_model(name_or_path, dtype=torch_dtype)).eval()

    def save_pretrained(self, *args: Any, **options: Any) -> NoReturn:
        """UsageError: diffusers' own would write what nothing reads."""
        raise UsageError(
            "a saved pipeline cannot hold a cvcodec model: save it with its own VAE, and give this one again with "
            "from_pretrained(..., vae=vae)"
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of what `encode` and `decode` give."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.model.parameters()).device

    def enable_tiling(self, use_tiling: bool = True) -> None:
        """Windows in time and tiles in space, as the config names them: any length and size in bounded memory."""
        self.use_tiling = use_tiling

    def disable_tiling(self) -> None:
        """Whole clips again."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """One clip of a batch at a time."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Whole batches again."""
        self.use_slicing = False

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """x: pixels in [-1, 1], (B, 3, H, W) or (B, 3, T, H, W); sides and T are padded by repetition to what the model
        takes. Gives an `EncoderOutput`, or a tuple with the distribution. ValueError for other shapes."""
        videos = self._as_videos(x, 3)
        padded = tiling.pad_space(videos, self.model.config.spatial_factor)
        if self.model.config.is_video:
            padded = tiling.pad_time(padded, self.model.config.temporal_factor)
        moments = self._each(self._tiled_encode if self.use_tiling else self._encode, padded)
        distribution = LatentDistribution(moments[:, :, 0] if x.ndim == 4 else moments)
        return EncoderOutput(distribution) if return_dict else (distribution,)

    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        *,
        num_frames: int | None = None,
    ) -> Any:
        """z: latents, (B, C, h, w) or (B, C, t, h, w), unscaled. num_frames: take every so many of (B, C, h, w) for the
        latents of one video; its frames then follow each other along the batch. generator: of no use here, as in
        diffusers. Gives a `DecoderOutput`, or a tuple with the pixels, unclamped. ValueError for other shapes."""
        channels = self.model.config.latent_channels
        if num_frames is None:
            latents = self._as_videos(z, channels)
        elif z.ndim == 4 and num_frames > 0 and len(z) % num_frames == 0:
            latents = z.unflatten(0, (-1, num_frames)).transpose(1, 2)
        else:
            raise ValueError(f"num_frames = {num_frames} wants (B * num_frames, C, h, w), got {tuple(z.shape)}")
        pixels = self._each(self._tiled_decode if self.use_tiling else self._decode, latents)
        if z.ndim == 4:
            pixels = pixels.transpose(1, 2).flatten(0, 1)
        return DecoderOutput(pixels) if return_dict else (pixels,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Encode and decode."""
        found: LatentDistribution = self.encode(sample).latent_dist
        return self.decode(found.sample(generator) if sample_posterior else found.mode(), return_dict)

    def _as_videos(self, x: Tensor, channels: int) -> Tensor:
        if x.ndim not in (4, 5) or x.shape[1] != channels:
            raise ValueError(f"want (B, {channels}, H, W) or (B, {channels}, T, H, W), got {tuple(x.shape)}")
        videos = x.unsqueeze(2) if x.ndim == 4 else x
        return videos.to(self.device, self.dtype)

    def _each(self, function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """The function of the whole batch, or of one clip after another."""
        alone = (self.use_slicing or self.use_tiling) and len(batch) > 1
        return torch.cat([function(clip) for clip in batch.split(1)]) if alone else function(batch)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.model.moments(pixels).to(self.dtype)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).to(self.dtype)

    def _plan(self, height: int, width: int) -> Plan:
        return Plan.choose(self.model.config, height=height, width=width)

    def _tiled_encode(self, pixels: Tensor) -> Tensor:
        parts = self._plan(*pixels.shape[3:]).encode(self._encode, [pixels], lambda plan, text: None)
        return torch.cat(list(parts), dim=2)

    def _tiled_decode(self, latents: Tensor) -> Tensor:
        factor = self.model.config.spatial_factor
        plan = self._plan(latents.shape[3] * factor, latents.shape[4] * factor)
        total = latents.shape[2]
        parts = plan.decode(
            self._decode, lambda start, stop: latents[:, :, start:stop], (0, total), total, lambda plan, text: None
        )
        return torch.cat(list(parts), dim=2)
