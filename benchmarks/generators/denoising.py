"""What a U-Net of a published pipeline learns from: noised latents, what it is told of them, what it should answer.

    text to image, text to video    epsilon, v or the sample, as the scheduler's config says; steps drawn evenly
    Stable Video Diffusion          EDM (Karras et al. 2022, sigma_data = 1); sigmas drawn log-normally

Latents come as they are cached, (B, C, t, h, w), times the model's factor; every clip begins with its first latent,
since that one stands for a single frame.
Owns: noise and targets, conditioning as the pipelines' own calls make it. Does not know: which parameters learn, where
latents come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.dataset.targets import TargetName
from cvcodec.errors import UsageError


@dataclass(frozen=True)
class Noised:
    """What a U-Net is given, and what it should give."""

    sample: Tensor
    """Noised latents, at the scale that the U-Net takes."""
    timestep: Tensor
    """(B,)."""
    target: Tensor


def edm(latents: Tensor, noise: Tensor, sigma: Tensor) -> Noised:
    """latents + sigma * noise, with the preconditioning of EDM.

    The denoiser is D = c_skip x + c_out F with c_skip = 1/(sigma² + 1) and c_out = -sigma/sqrt(sigma² + 1), its loss
    is weighted by (sigma² + 1)/sigma² = 1/c_out². So the weighted loss of D is the plain one of the U-Net F against
    (latents - c_skip x)/c_out = (noise - sigma * latents)/sqrt(sigma² + 1): v.
    """
    wide = sigma.view(-1, *(1,) * (latents.ndim - 1))
    c_in = (wide.square() + 1).rsqrt()
    return Noised((latents + wide * noise) * c_in, sigma.log() / 4, (noise - wide * latents) * c_in)


def discrete(scheduler: Any, latents: Tensor, noise: Tensor, step: Tensor, *, scale: Tensor | None = None) -> Noised:
    """Noise of a step of the schedule, and what the scheduler takes the U-Net's output for.

    scale: what latents are multiplied by at each step, see `videocrafter_scale`. UsageError for a prediction type that
    is none of diffusers'.
    """
    kind = scheduler.config.prediction_type
    shown = latents if scale is None else latents * scale[step].view(-1, *(1,) * (latents.ndim - 1))
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = scheduler.get_velocity(shown, noise, step)
    elif kind == "sample":
        target = latents
    else:
        raise UsageError(f"the scheduler predicts {kind!r}, wanted epsilon, v_prediction or sample")
    return Noised(scheduler.add_noise(shown, noise, step), step, target)


def videocrafter_scale(last: float, *, steps: int = 1000, turn: int = 400) -> Tensor:
    """Factors of VideoCrafter2's latents at each step: from 1 down to `last` (0.7) at step `turn`, then that."""
    return torch.cat([torch.linspace(1, last, turn), torch.full((steps - turn,), last)])


class Objective(Protocol):
    """What is minimised."""

    target: TargetName
    """Whose latents it takes."""

    def loss(self, latents: Tensor, captions: Sequence[str], generator: torch.Generator) -> Tensor:
        """Mean squared error of the U-Net, with its graph, for clips (B, C, t, h, w) and their captions."""


class TextObjective:
    """Of a U-Net that is told a text, for pictures (the first latent of each clip) or videos.

    drop: how often a caption is left out, as guidance at generation wants. scale: of `videocrafter_scale`.
    """

    def __init__(self, pipeline: Any, *, pictures: bool, drop: float, scale: float | None) -> None:
        import diffusers

        self.target: TargetName = "sd21" if pictures else "videocrafter2"
        self._pipeline, self._pictures, self._drop = pipeline, pictures, drop
        self._scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
        self._scale = None if scale is None else videocrafter_scale(scale, steps=len(self._scheduler.alphas_cumprod))

    def loss(self, latents: Tensor, captions: Sequence[str], generator: torch.Generator) -> Tensor:
        """See `Objective`."""
        unet, device = self._pipeline.unet, latents.device
        shown = latents[:, :, 0] if self._pictures else latents
        step = torch.randint(len(self._scheduler.alphas_cumprod), (len(latents),), generator=generator)
        noise = torch.randn(shown.shape, generator=generator)
        noised = discrete(self._scheduler, shown.cpu(), noise, step, scale=self._scale)
        kept = torch.rand(len(captions), generator=generator) >= self._drop
        told = [text if keep else "" for text, keep in zip(captions, kept.tolist(), strict=True)]
        with torch.no_grad():
            words = self._pipeline.encode_prompt(told, device, 1, False)[0]
        sample = noised.sample.to(device, unet.dtype)
        output = unet(sample, step.to(device), encoder_hidden_states=words.to(unet.dtype)).sample
        return F.mse_loss(output.float(), noised.target.to(device))


class PictureObjective:
    """Of Stable Video Diffusion, which is told the first frame: seen by its image encoder, and, noised, encoded.

    The frame is what the VAE makes of the first latent. fps, motion: as for generation. mean, std: of log sigma; SVD's
    own were 0.7 and 1.6. drop: how often nothing is told.
    """

    target: TargetName = "svd"

    def __init__(self, pipeline: Any, *, drop: float, fps: int, motion: int, mean: float, std: float) -> None:
        self._pipeline, self._drop, self._fps, self._motion = pipeline, drop, fps, motion
        self._mean, self._std = mean, std

    def loss(self, latents: Tensor, captions: Sequence[str], generator: torch.Generator) -> Tensor:
        """See `Objective`; captions are not read."""
        unet, device, batch = self._pipeline.unet, latents.device, len(latents)
        videos = latents.transpose(1, 2)  # SVD's order of axes
        sigma = (self._mean + self._std * torch.randn(batch, generator=generator)).exp()
        noised = edm(videos.cpu(), torch.randn(videos.shape, generator=generator), sigma)
        with torch.no_grad():
            seen, encoded, noise = self._told(latents[:, :, 0], generator)
        kept = (torch.rand(batch, generator=generator) >= self._drop).to(device, unet.dtype)
        ids = torch.stack([torch.full((batch,), self._fps - 1.0), torch.full((batch,), float(self._motion)), noise], 1)
        beside = (encoded * kept.view(-1, 1, 1, 1))[:, None].expand(-1, videos.shape[1], -1, -1, -1)
        output = unet(
            torch.cat([noised.sample.to(device, unet.dtype), beside], dim=2),
            noised.timestep.to(device),
            encoder_hidden_states=seen * kept.view(-1, 1, 1),
            added_time_ids=ids.to(device, unet.dtype),
        ).sample
        return F.mse_loss(output.float(), noised.target.to(device))

    def _told(self, first: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Of first latents (B, C, h, w): their pictures as the image encoder sees them, the latents of the noised
        pictures, unscaled as the pipeline has them, and how strong that noise is, (B,)."""
        pipeline, vae, dtype = self._pipeline, self._pipeline.vae, self._pipeline.unet.dtype
        pictures = vae.decode(first / vae.config.scaling_factor).sample.clamp(-1, 1)
        shown = pipeline.video_processor.postprocess(pictures, output_type="pil")
        seen = pipeline._encode_image(shown, first.device, 1, False)
        noise = (-3.0 + 0.5 * torch.randn(len(first), generator=generator)).exp()  # as SVD was taught
        added = noise.view(-1, 1, 1, 1) * torch.randn(pictures.shape, generator=generator)
        encoded = vae.encode(pictures + added.to(pictures)).latent_dist.mode()
        return seen.to(dtype), encoded.to(dtype), noise


def objective_of(
    pipeline: Any, *, drop: float, scale: float | None, fps: int, motion: int, mean: float, std: float
) -> Objective:
    """What the pipeline's U-Net was trained for. UsageError for a pipeline that has none."""
    import diffusers

    unet = getattr(pipeline, "unet", None)
    if isinstance(unet, diffusers.UNetSpatioTemporalConditionModel):
        return PictureObjective(pipeline, drop=drop, fps=fps, motion=motion, mean=mean, std=std)
    if unet is None or getattr(pipeline, "text_encoder", None) is None:
        raise UsageError(f"a {type(pipeline).__name__} has no U-Net that is told a text or a picture")
    pictures = isinstance(unet, diffusers.UNet2DConditionModel)
    return TextObjective(pipeline, pictures=pictures, drop=drop, scale=scale)
