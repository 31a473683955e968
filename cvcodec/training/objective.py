"""One step's loss from a batch: encode, noise, decode, regularise against the frozen 2D model, judge.

Owns: how the terms of losses.py are put together, for codec training and for the paper's sums; the noise of each sample
(keyed on its index); the learned log-variances. Does not know: optimisers, files, the schedule's clock.

Nothing here waits for the device: numbers for the log stay tensors, what is drawn on the host is sent by `to_device`.

codec: distortion(x, D(z)) + rate weight * bits per pixel + kl_weight * KL per latent element [+ LPIPS] [+ adversarial]
       + lambda1 * distortion(psi(x), D_i(z)) + lambda2 * distortion(x, D(E_i(slice(x)))), where z is the mean with the
       uniform noise of a quantiser of random quality or rounded by it; for a few clips a posterior sample, so that the
       log-variance keeps a meaning. The rate weight is a constant, or that which belongs to the clip's quality
       (`matched_weight`).
paper: spec 4.3, with z a posterior sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cvcodec.dataset.keys import normal, numpy_generator, sample_keys, uniform
from cvcodec.model.base import Posterior, VideoAutoencoder
from cvcodec.quality.lpips import Lpips
from cvcodec.quantization import STEP_OCTAVES_LIMIT, STEP_QUALITIES
from cvcodec.system.device import to_device
from cvcodec.training import losses
from cvcodec.training.config import Distortion, TrainConfig
from cvcodec.training.data import Batch
from cvcodec.training.profiling import phase

Arithmetic: TypeAlias = Callable[[], AbstractContextManager[object]]

UNIT_QUALITY = 50.0  # the quality at which a step is one unit step (quantization.py)
QUALITY_PER_OCTAVE = 10.0
WEIGHT_RANGE = (1.0, 200.0)
"""dB that a bit per pixel may be worth."""


@dataclass
class Judged:
    """A batch after the model, with the pieces that the trainer still needs."""

    loss: Tensor
    """Without the adversarial term; mean over this process's clips."""
    reconstruction_loss: Tensor
    """The part that the adaptive weight is measured against."""
    target: Tensor
    output: Tensor
    """What the discriminator compares: (B', 3, T, H, W)."""
    terms: dict[str, Tensor]
    """For the log, units in the names: single numbers, on the device until the log is written."""


def step_of_quality(unit_step: Tensor, quality: Tensor) -> Tensor:
    """Quantiser step of each channel (C,) for each quality (B,): (B, C, 1, 1, 1), as quantization.py defines it."""
    octaves = (UNIT_QUALITY - quality) / QUALITY_PER_OCTAVE
    return (unit_step.view(1, -1) * torch.exp2(octaves).view(-1, 1)).view(len(quality), -1, 1, 1, 1)


def matched_weight(kind: Distortion, matched_rate: float, quality: Tensor, mse: Tensor) -> Tensor:
    """(B,): weight of a clip's bits per pixel, so that all clips of a quality trade squared error for bits at one rate,
    `matched_rate` at quality 50 and proportional to the squared step elsewhere, as in a codec with one Lagrangian.

    A bit more for each of the 768 values of a patch divides step**2 / 12 by four: with orthonormal coefficients of
    deviation much above the step s, d mse / d bpp = -2 ln 2 * s**2 / 12 * 256 / 768 (Sullivan and Wiegand 1998). In
    `mse-db`, whose slope is 10 / ln 10 / mse, the weight is divided by the clip's own error and held within limits.
    """
    slope = matched_rate * torch.exp2(2 * (UNIT_QUALITY - quality) / QUALITY_PER_OCTAVE)
    if kind != "mse-db":
        return slope
    return (10 / math.log(10) * slope / (mse + losses.DB_FLOOR)).clamp(*WEIGHT_RANGE)


class Objective(nn.Module):
    """Holds what training needs beside the model: rate model, log-variances, the frozen 2D model, LPIPS."""

    def __init__(
        self, config: TrainConfig, unit_step: Tensor, image_model: VideoAutoencoder | None, lpips: Lpips | None
    ) -> None:
        """`unit_step`: (C,). `image_model` is frozen here; it is None where nothing is regularised."""
        super().__init__()
        self.loss, self.quantisation, self.regularisation = config.loss, config.quantisation, config.regularisation
        self._seed, self._warmup_steps = config.run.seed, 6 * config.optimiser.warmup_steps
        self.step_octaves = nn.Parameter(
            torch.zeros(len(STEP_QUALITIES), len(unit_step)),
            requires_grad=config.quantisation.learn_steps and not config.loss.is_paper,
        )
        self.register_buffer("unit_step", unit_step.detach().clone().float())
        self.unit_step: Tensor
        self.rate = losses.RateModel(unit_step.float())
        self.log_variance = nn.Parameter(torch.zeros(()), requires_grad=config.loss.is_paper)
        self.log_variance_2d = nn.Parameter(torch.zeros(()), requires_grad=config.loss.is_paper)
        # In a tuple, so that they are no submodules: they are neither trained nor stored.
        self._frozen = (image_model, lpips)
        if image_model is not None:
            image_model.requires_grad_(False).eval()
        kind = config.regularisation.regularization
        self._uses_decoder_term = image_model is not None and kind in ("decoder", "both")
        self._uses_encoder_term = image_model is not None and kind in ("encoder", "both")

    @property
    def image_model(self) -> VideoAutoencoder | None:
        """The frozen 2D reference."""
        return self._frozen[0]

    @property
    def trainable(self) -> list[Tensor]:
        """Rate model, steps and log-variances, in a fixed order."""
        if self.loss.is_paper:
            return [self.log_variance, self.log_variance_2d]
        return [*self.rate.parameters(), *([self.step_octaves] if self.quantisation.learn_steps else [])]

    def steps(self, quality: Tensor) -> Tensor:
        """Quantiser steps for each quality (B,): (B, C, 1, 1, 1); differentiable where they are learned."""
        position = quality / QUALITY_PER_OCTAVE
        low = position.floor().clamp(max=len(STEP_QUALITIES) - 2).long()
        octaves = torch.lerp(self.step_octaves[low], self.step_octaves[low + 1], (position - low).unsqueeze(1))
        octaves = octaves.clamp(-STEP_OCTAVES_LIMIT, STEP_OCTAVES_LIMIT)
        return step_of_quality(self.unit_step, quality) * torch.exp2(octaves).view(len(quality), -1, 1, 1, 1)

    def forward(
        self, model: VideoAutoencoder, batch: Batch[Tensor], *, progress: float, arithmetic: Arithmetic
    ) -> Judged:
        """The loss of a batch. `arithmetic()`: the autocast context in which models run."""
        return (self._paper if self.loss.is_paper else self._codec)(model, batch, progress, arithmetic)

    # ------------------------------------------------------------------------------------------------ codec

    def _codec(self, model: VideoAutoencoder, batch: Batch[Tensor], progress: float, arithmetic: Arithmetic) -> Judged:
        x = batch.pixels
        posterior = self._encode(model, x, arithmetic)
        mean = posterior.mean
        quality = to_device(self._qualities(batch), x.device)
        step = self.steps(quality)
        noisy = mean + self._uniform(batch, mean) * step
        latent = self._with_samples(batch, posterior, self._with_rounded(batch, mean, noisy, step))
        told: dict[str, Tensor] = {"quality": quality} if model.config.quality_aware else {}
        with phase("forward: decoder"), arithmetic():
            output = model.decode(latent, **told)
        per_clip = losses.distortion(self.loss.distortion, x, output, self.loss.position_power)
        reconstruction = per_clip.mean()
        terms = {"distortion": reconstruction.detach(), "psnr_db": _mean_psnr(x, output)}
        weight = self.loss.resolved_perceptual_weight
        if weight and progress >= self.loss.perceptual_start:
            distance = self._perceptual(*self._some_frames(batch, x, output), arithmetic).mean()
            reconstruction = reconstruction + weight * distance
            terms["lpips_vgg"] = distance.detach()
        with phase("forward: rate model"):
            bits = self.rate(noisy, step).sum((1, 2, 3, 4)) / x[0, 0].numel()
        kl = losses.kl_divergence(posterior.mean, posterior.logvar) / posterior.mean[0].numel()
        warmup = min(1.0, batch.step / max(1, self._warmup_steps))
        rate = (self._rate_weights(x, output, quality) * bits).mean()
        loss = reconstruction + warmup * rate + self.loss.resolved_kl_weight * kl
        terms |= {"bits_per_pixel": bits.detach().mean(), "kl_per_element_nats": kl.detach()}
        if self._uses_decoder_term:
            term = self._decoder_term(batch, latent, arithmetic).mean()
            loss = loss + self.regularisation.decoder_regularization * term
            terms["decoder_2d"] = term.detach()
        if self._uses_encoder_term:
            term = self._encoder_term(model, batch, step, arithmetic).mean()
            loss = loss + self.regularisation.encoder_regularization * term
            terms["encoder_2d"] = term.detach()
        return Judged(loss, reconstruction, x, output.float(), terms)

    def _decoder_term(self, batch: Batch[Tensor], latent: Tensor, arithmetic: Arithmetic) -> Tensor:
        """distortion(psi(x), D_i(z)) per clip, on all latents or on a new random few of them each step."""
        assert self.image_model is not None
        target, seen = self._mapped(batch, latent)
        few = self.regularisation.regularization_latents
        if 0 < few < seen.shape[2]:
            generator = numpy_generator(self._seed, "regularised latents", batch.step)
            chosen = to_device(torch.from_numpy(generator.permutation(seen.shape[2])[:few].copy()), latent.device)
            target, seen = target.index_select(2, chosen), seen.index_select(2, chosen)
        with phase("forward: 2D decoder"), arithmetic():
            pictures = decode_pictures(self.image_model, seen)
        return losses.distortion(self.loss.distortion, target, pictures)

    def _encoder_term(
        self, model: VideoAutoencoder, batch: Batch[Tensor], step: Tensor, arithmetic: Arithmetic
    ) -> Tensor:
        """distortion(x, D(E_i(slice(x)))) per clip; psi is the slice, as in the official engines (spec 4.3)."""
        assert self.image_model is not None
        with phase("forward: 2D encoder"), torch.no_grad(), arithmetic():
            mean = encode_pictures(self.image_model, losses.map_frames(batch.pixels, "slice")).mean.float()
        noisy = mean + self._uniform(batch, mean, "encoder term noise") * step
        with phase("forward: decoder"), arithmetic():
            output = model.decode(noisy)
        return losses.distortion(self.loss.distortion, batch.pixels, output)

    def _qualities(self, batch: Batch[Tensor]) -> Tensor:
        """A quality for each clip: the default, one of the usual range, or any."""
        kind, place = uniform(sample_keys(self._seed, "quality", batch.indices), (2,)).unbind(1)
        low, high = self.quantisation.noise_quality
        usual = low + (high - low) * place
        wide = torch.where(kind < self.quantisation.default_share + self.quantisation.wide_share, 100 * place, usual)
        return torch.where(kind < self.quantisation.default_share, self.quantisation.default_quality, wide)

    def _rate_weights(self, x: Tensor, output: Tensor, quality: Tensor) -> Tensor:
        """(B,): what a bit per pixel of each clip is worth, in the unit of the distortion."""
        if not self.loss.matched_rate:
            return torch.full_like(quality, self.loss.rate_weight)
        mse = (output.detach().float() - x).square().flatten(1).mean(1)
        return matched_weight(self.loss.distortion, self.loss.matched_rate, quality, mse)

    def _chosen(self, batch: Batch[Tensor], purpose: str, share: float, device: torch.device) -> Tensor:
        """(B,) bool: a share of the clips, each by its own index."""
        return to_device(uniform(sample_keys(self._seed, purpose, batch.indices), (1,))[:, 0] < share, device)

    def _with_rounded(self, batch: Batch[Tensor], mean: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
        if not self.quantisation.rounded_share:
            return noisy
        chosen = self._chosen(batch, "rounded", self.quantisation.rounded_share, mean.device)
        relative = mean.detach() / step.detach()
        rounded = mean + (relative.round() - relative) * step  # straight through; a learned step sees its error
        return torch.where(chosen.view(-1, 1, 1, 1, 1), rounded, noisy)

    def _with_samples(self, batch: Batch[Tensor], posterior: Posterior, noisy: Tensor) -> Tensor:
        if not self.quantisation.sample_share:
            return noisy
        chosen = self._chosen(batch, "sampled", self.quantisation.sample_share, noisy.device)
        return torch.where(chosen.view(-1, 1, 1, 1, 1), self._sample(batch, posterior), noisy)

    def _some_frames(self, batch: Batch[Tensor], x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        count = self.loss.perceptual_frames
        if not 0 < count < x.shape[2]:
            return x, output
        generator = numpy_generator(self._seed, "perceptual frames", batch.step)
        chosen = to_device(torch.from_numpy(generator.permutation(x.shape[2])[:count].copy()), x.device)
        return x.index_select(2, chosen), output.index_select(2, chosen)

    # ------------------------------------------------------------------------------------------------ paper

    def _paper(self, model: VideoAutoencoder, batch: Batch[Tensor], progress: float, arithmetic: Arithmetic) -> Judged:
        x = batch.pixels
        posterior = self._encode(model, x, arithmetic)
        latent = self._sample(batch, posterior)
        target, everything = x, latent
        if self._uses_encoder_term:  # the 2D latents are decoded too, in one batch, and all terms cover both halves
            assert self.image_model is not None
            with phase("forward: 2D encoder"), torch.no_grad(), arithmetic():
                of_pictures = encode_pictures(self.image_model, losses.map_frames(x, "slice"))
            of_pictures = Posterior(of_pictures.mean.float(), of_pictures.logvar.float())
            posterior = Posterior(
                torch.cat([posterior.mean, of_pictures.mean]), torch.cat([posterior.logvar, of_pictures.logvar])
            )
            everything = torch.cat([latent, self._sample(batch, of_pictures, "encoder term noise")])
            target = torch.cat([x, x])
        with phase("forward: decoder"), arithmetic():
            output = model.decode(everything).float()
        weight = self.loss.resolved_perceptual_weight if progress >= self.loss.perceptual_start else 0.0

        def perceptual(a: Tensor, b: Tensor) -> Tensor:
            return self._folded_perceptual(a, b, arithmetic)

        error = losses.reconstruction_error(target, output, perceptual, weight)
        reconstruction = losses.negative_log_likelihood(error, self.log_variance)
        kl = losses.kl_divergence(posterior.mean, posterior.logvar)
        loss = reconstruction + self.loss.resolved_kl_weight * kl
        terms = {
            "nll_per_frame": reconstruction.detach(),
            "psnr_db": _mean_psnr(x, output[: len(x)]),
            "kl_per_clip_nats": kl.detach(),
            "log_variance": self.log_variance.detach(),
        }
        if self._uses_decoder_term:
            mapped, seen = self._mapped(batch, latent)
            assert self.image_model is not None
            with phase("forward: 2D decoder"), arithmetic():
                pictures = decode_pictures(self.image_model, seen)
            error_2d = losses.reconstruction_error(mapped, pictures, None, 0.0)
            term = losses.negative_log_likelihood(error_2d, self.log_variance_2d)
            loss = loss + self.regularisation.decoder_regularization * term
            terms |= {
                "decoder_2d_nll_per_frame": term.detach(),
                "log_variance_2d": self.log_variance_2d.detach(),
            }
        return Judged(loss, reconstruction, target, output, terms)

    # ------------------------------------------------------------------------------------------------ shared

    def _encode(self, model: VideoAutoencoder, x: Tensor, arithmetic: Arithmetic) -> Posterior:
        frozen = not any(parameter.requires_grad for parameter in model.encoder.parameters())  # type: ignore[union-attr]
        with phase("forward: encoder"), torch.set_grad_enabled(torch.is_grad_enabled() and not frozen), arithmetic():
            posterior = model.encode(x)
        return Posterior(posterior.mean.float(), posterior.logvar.float())

    def _mapped(self, batch: Batch[Tensor], latent: Tensor) -> tuple[Tensor, Tensor]:
        """psi(x) and the latents that stand for it: (B, 3, t', H, W), (B, C, t', h, w)."""
        mapping = self.regularisation.mapping
        picks = None
        if mapping == "random":
            generator = numpy_generator(self._seed, "mapping", batch.step)
            picks = losses.draw_picks(generator, (batch.pixels.shape[2] - 1) // losses.GROUP)
        target = losses.map_frames(batch.pixels, mapping, picks)
        return target, latent[:, :, : target.shape[2]]

    def _uniform(self, batch: Batch[Tensor], like: Tensor, purpose: str = "quantiser noise") -> Tensor:
        return uniform(self._keys(batch, like, purpose), like.shape[1:]) - 0.5

    def _sample(self, batch: Batch[Tensor], posterior: Posterior, purpose: str = "posterior noise") -> Tensor:
        keys = self._keys(batch, posterior.mean, purpose)
        return posterior.mean + posterior.std * normal(keys, posterior.mean.shape[1:])

    def _keys(self, batch: Batch[Tensor], like: Tensor, purpose: str) -> Tensor:
        return to_device(sample_keys(self._seed, purpose, batch.indices), like.device)

    def _perceptual(self, x: Tensor, y: Tensor, arithmetic: Arithmetic) -> Tensor:
        return self._folded_perceptual(losses.fold_frames(x), losses.fold_frames(y.float()), arithmetic)

    def _folded_perceptual(self, x: Tensor, y: Tensor, arithmetic: Arithmetic) -> Tensor:
        lpips = self._frozen[1]
        assert lpips is not None
        with phase("forward: LPIPS"), arithmetic():
            distance: Tensor = lpips(x, y)
        return distance


def encode_pictures(model: VideoAutoencoder, pixels: Tensor) -> Posterior:
    """A 2D model on each frame alone: (B, 3, t, H, W) -> posterior over (B, C, t, h, w)."""
    pictures = losses.fold_frames(pixels).unsqueeze(2)
    posterior = model.encode(pictures)
    return Posterior(_unfold_pictures(posterior.mean, len(pixels)), _unfold_pictures(posterior.logvar, len(pixels)))


def decode_pictures(model: VideoAutoencoder, latent: Tensor) -> Tensor:
    """A 2D model on each latent alone: (B, C, t, h, w) -> (B, 3, t, H, W)."""
    pictures = model.decode(losses.fold_frames(latent).unsqueeze(2))
    return _unfold_pictures(pictures, len(latent))


def _unfold_pictures(pictures: Tensor, clips: int) -> Tensor:
    unfolded: Tensor = pictures.squeeze(2).unflatten(0, (clips, -1))
    return unfolded.transpose(1, 2)


def _mean_psnr(x: Tensor, y: Tensor) -> Tensor:
    mse = (y.detach().float() - x).square().flatten(1).mean(1).clamp_min(1e-10)
    return (10 * torch.log10(4 / mse)).mean()
