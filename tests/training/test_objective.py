"""The whole loss against numbers worked out by hand, with models so simple that their outputs are known."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.mini import mini_config
from cvcodec.training.config import TrainConfig
from cvcodec.training.data import Batch
from cvcodec.training.objective import Objective, decode_pictures, encode_pictures, matched_weight, step_of_quality

SHARP = -30.0  # log-variance of a posterior whose samples are its mean (deviation 3e-7)


class Constant(VideoAutoencoder):
    """Encodes every clip to the value `latent`, decodes every latent to itself plus `offset`, as a grey picture."""

    def __init__(self, latent: float, offset: float, *, video: bool) -> None:
        super().__init__(mini_config(1, video=video, widths=(8, 8, 8)))
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.value = nn.Parameter(torch.tensor(latent))
        self.decoder.offset = nn.Parameter(torch.tensor(offset))

    def moments(self, pixels: Tensor) -> Tensor:
        batch, _, frames, height, width = pixels.shape
        latents = (frames - 1) // 4 + 1 if self.config.is_video else frames
        mean = self.encoder.value.expand(batch, 1, latents, height // 8, width // 8)
        return torch.cat([mean, torch.full_like(mean, SHARP)], 1)

    def decode(self, latent: Tensor) -> Tensor:
        latents = latent.shape[2]
        frames = 4 * (latents - 1) + 1 if self.config.is_video else latents
        grey = latent.mean((2, 3, 4), keepdim=True) + self.decoder.offset
        return grey.expand(-1, 3, frames, 8 * latent.shape[3], 8 * latent.shape[4])


def config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"output": "x", "data": ("y",), "steps": 10, "batches": ("2x5x8",), "warmup_steps": 0}
    return TrainConfig.of(**{**values, **changes})


def batch(frames: int = 5) -> Batch:
    """Two clips whose frame t is t/10, black and white alike."""
    clip = torch.arange(frames).view(1, 1, -1, 1, 1) / 10.0
    return Batch(3, (6, 7), clip.expand(2, 3, -1, 8, 8).clone())


def judge(settings: TrainConfig, image: VideoAutoencoder | None) -> tuple[Objective, dict[str, float], float]:
    objective = Objective(settings, torch.tensor([0.5]), image, None)
    judged = objective(Constant(0.2, 0.1, video=True), batch(), progress=0.5, arithmetic=contextlib.nullcontext)
    return objective, {name: value.item() for name, value in judged.terms.items()}, judged.loss.item()


ELEMENTS = 3 * 8 * 8  # of one frame
ERRORS = [abs(t / 10 - 0.3) for t in range(5)]  # of the video model: 0.3 0.2 0.1 0 0.1
KL = 2 * 0.5 * (0.2**2 + math.exp(SHARP) - 1 - SHARP)  # two latent elements, each clip


def test_the_papers_loss_without_regularisation_is_nll_plus_kl() -> None:
    settings = config(loss="paper", regularization="none", perceptual_weight=0.0)
    _, terms, loss = judge(settings, None)
    nll = ELEMENTS * sum(ERRORS) / 5  # sum over elements divided by frames; s = 0
    assert terms["nll_per_frame"] == pytest.approx(nll, rel=1e-4)
    assert terms["kl_per_clip_nats"] == pytest.approx(KL, rel=1e-5)
    assert loss == pytest.approx(nll + KL, rel=1e-4)


@pytest.mark.parametrize(("mapping", "mapped"), [("first", [0.0]), ("slice", [0.0, 0.4]), ("average", [0.0, 0.25])])
def test_the_papers_decoder_term_compares_psi_of_x_with_the_2d_decoder(mapping: str, mapped: list[float]) -> None:
    settings = config(loss="paper", mapping=mapping, perceptual_weight=0.0, decoder_regularization=2.0)
    _, terms, loss = judge(settings, Constant(0.0, -0.1, video=False))
    term = ELEMENTS * sum(abs(value - 0.1) for value in mapped) / len(mapped)  # latent 0.2 decodes to 0.1
    assert terms["decoder_2d_nll_per_frame"] == pytest.approx(term, rel=1e-4)
    assert loss == pytest.approx(ELEMENTS * sum(ERRORS) / 5 + KL + 2 * term, rel=1e-4)


def test_the_random_map_sees_one_frame_of_the_group() -> None:
    settings = config(loss="paper", mapping="random", perceptual_weight=0.0)
    _, terms, _ = judge(settings, Constant(0.0, -0.1, video=False))
    possible = [ELEMENTS * (0.1 + abs(frame / 10 - 0.1)) / 2 for frame in (1, 2, 3, 4)]
    assert min(abs(terms["decoder_2d_nll_per_frame"] - value) for value in possible) < 1e-3


def test_the_papers_encoder_term_decodes_both_latents_and_covers_both_halves() -> None:
    settings = config(loss="paper", regularization="encoder", perceptual_weight=0.0)
    _, terms, loss = judge(settings, Constant(0.5, 0.0, video=False))
    second = [abs(t / 10 - 0.6) for t in range(5)]  # D_v of the 2D latent 0.5
    nll = ELEMENTS * (sum(ERRORS) + sum(second)) / 10
    kl = (KL + 2 * 0.5 * (0.5**2 - 1 - SHARP)) / 2
    assert terms["nll_per_frame"] == pytest.approx(nll, rel=1e-4)
    assert loss == pytest.approx(nll + kl, rel=1e-4)


def test_both_regularisations_add_the_2d_decoders_term_of_the_video_latents() -> None:
    settings = config(loss="paper", regularization="both", mapping="slice", perceptual_weight=0.0)
    _, terms, loss = judge(settings, Constant(0.5, -0.1, video=False))
    assert terms["decoder_2d_nll_per_frame"] == pytest.approx(ELEMENTS * (0.1 + 0.3) / 2, rel=1e-4)
    kl = (KL + 2 * 0.5 * (0.5**2 - 1 - SHARP)) / 2
    wanted = terms["nll_per_frame"] + kl + terms["decoder_2d_nll_per_frame"]
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_the_learned_log_variances_move_towards_the_log_of_the_errors() -> None:
    settings = config(loss="paper", mapping="slice", perceptual_weight=0.0)
    objective = Objective(settings, torch.tensor([0.5]), Constant(0.0, -0.1, video=False), None)
    judged = objective(Constant(0.2, 0.1, video=True), batch(), progress=0.5, arithmetic=contextlib.nullcontext)
    judged.loss.backward()
    # d nll / ds at s = 0 is (1 - mean error) * elements of a frame
    assert objective.log_variance.grad is not None
    assert objective.log_variance_2d.grad is not None
    assert objective.log_variance.grad.item() == pytest.approx(ELEMENTS * (1 - sum(ERRORS) / 5), rel=1e-4)
    assert objective.log_variance_2d.grad.item() == pytest.approx(ELEMENTS * (1 - 0.2), rel=1e-4)


def test_the_codecs_loss_is_distortion_plus_weighted_terms() -> None:
    settings = config(
        distortion="l1",
        regularization="both",
        mapping="slice",
        rate_weight=3.0,
        kl_weight=0.01,
        encoder_regularization=0.5,
    )
    objective = Objective(settings, torch.tensor([1e-6]), Constant(0.5, -0.1, video=False), None)
    judged = objective(Constant(0.2, 0.1, video=True), batch(), progress=0.5, arithmetic=contextlib.nullcontext)
    terms = {name: value.item() for name, value in judged.terms.items()}
    assert terms["distortion"] == pytest.approx(sum(ERRORS) / 5, rel=1e-3)
    assert terms["decoder_2d"] == pytest.approx((0.1 + 0.3) / 2, rel=1e-3)
    assert terms["encoder_2d"] == pytest.approx(sum(abs(t / 10 - 0.6) for t in range(5)) / 5, rel=1e-3)
    assert terms["kl_per_element_nats"] == pytest.approx(KL / 2, rel=1e-4)
    wanted = (
        terms["distortion"]
        + 3 * terms["bits_per_pixel"]
        + 0.01 * KL / 2
        + terms["decoder_2d"]
        + 0.5 * terms["encoder_2d"]
    )
    assert judged.loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_noise_of_a_clip_is_uniform_over_one_step_of_its_quality() -> None:
    settings = config(default_share=1.0, wide_share=0.0, default_quality=60.0, sample_share=0.0)
    objective = Objective(settings, torch.tensor([0.5]), None, None)
    noise = objective._uniform(Batch(0, tuple(range(64)), torch.zeros(64, 3, 1, 8, 8)), torch.zeros(64, 1, 4, 8, 8))
    assert noise.min() > -0.5
    assert noise.max() < 0.5
    assert noise.var().item() == pytest.approx(1 / 12, rel=0.03)
    step = step_of_quality(torch.tensor([0.5, 1.0]), torch.tensor([50.0, 60.0, 40.0]))
    assert step[:, :, 0, 0, 0].tolist() == [[0.5, 1.0], [0.25, 0.5], [1.0, 2.0]]


def test_qualities_cover_the_default_the_usual_range_and_everything() -> None:
    settings = config(default_share=0.4, wide_share=0.1, default_quality=75.0, noise_quality=(50.0, 80.0))
    objective = Objective(settings, torch.tensor([0.5]), None, None)
    qualities = objective._qualities(Batch(0, tuple(range(2000)), torch.zeros(2000, 0)))
    assert (qualities == 75).float().mean().item() == pytest.approx(0.4, abs=0.04)
    usual = (qualities != 75) & (qualities >= 50) & (qualities <= 80)
    assert usual.float().mean().item() == pytest.approx(0.5 + 0.1 * 0.3, abs=0.04)
    assert qualities.min() < 20
    assert qualities.max() > 90


def test_noise_belongs_to_the_sample_not_to_its_place_in_the_batch() -> None:
    objective = Objective(config(), torch.tensor([0.5]), None, None)
    like = torch.zeros(2, 1, 2, 1, 1)
    both = objective._uniform(Batch(0, (4, 9), torch.zeros(2, 0)), like)
    alone = objective._uniform(Batch(5, (9,), torch.zeros(1, 0)), like[:1])
    assert torch.equal(both[1:], alone)


def test_a_2d_model_sees_each_frame_alone() -> None:
    class Echo(Constant):
        def moments(self, pixels: Tensor) -> Tensor:
            assert pixels.shape[2] == 1
            mean = pixels.mean((1, 3, 4), keepdim=True)
            return torch.cat([mean, mean], 1)

    model = Echo(0.0, 0.0, video=False)
    clips = torch.arange(6.0).view(2, 1, 3, 1, 1).expand(2, 3, 3, 8, 8)
    latent = encode_pictures(model, clips).mean
    assert latent.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert decode_pictures(model, latent)[:, 0, :, 0, 0].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_only_some_latents_are_regularised_where_asked() -> None:
    class Counting(Constant):
        seen = 0

        def decode(self, latent: Tensor) -> Tensor:
            Counting.seen += len(latent)
            return super().decode(latent)

    settings = config(batches=("2x9x8",), regularization_latents=2)
    objective = Objective(settings, torch.tensor([0.5]), Counting(0.0, 0.0, video=False), None)
    objective(Constant(0.2, 0.1, video=True), batch(9), progress=0.5, arithmetic=contextlib.nullcontext)
    assert Counting.seen == 2 * 2  # of 2 * 3


def test_no_gradient_reaches_the_frozen_2d_model_or_a_frozen_encoder() -> None:
    image, video = Constant(0.5, -0.1, video=False), Constant(0.2, 0.1, video=True)
    video.encoder.requires_grad_(False)
    objective = Objective(config(regularization="both"), torch.tensor([0.5]), image, None)
    objective(video, batch(), progress=0.5, arithmetic=contextlib.nullcontext).loss.backward()
    assert all(parameter.grad is None for parameter in image.parameters())
    assert video.encoder.value.grad is None  # type: ignore[union-attr]
    assert video.decoder.offset.grad is not None  # type: ignore[union-attr]


def test_a_matched_rate_weighs_bits_as_the_step_of_each_clip_does() -> None:
    quality, mse = torch.tensor([50.0, 60.0, 80.0]), torch.tensor([0.02, 0.02, 0.02])
    plain = matched_weight("mse", 0.28, quality, mse)
    assert plain.tolist() == pytest.approx([0.28, 0.07, 0.28 / 64])
    decibels = matched_weight("mse-db", 0.28, quality, mse)
    slope = 10 / math.log(10) / (0.02 + 3e-5)  # d (10 log10 mse) / d mse
    assert decibels.tolist() == pytest.approx([0.28 * slope, 0.07 * slope, 1.0])  # held at one dB


def test_the_theory_of_a_uniform_quantiser_gives_the_matched_rate_that_the_help_names() -> None:
    step = 4 * 0.68  # of each of the 768 orthonormal coefficients of a patch of 256 pixels, at quality 50
    errors = [step**2 / 12 / 4**bits for bits in (0.0, 1e-4)]  # mean square error where each has so many bits more
    assert (errors[0] - errors[1]) / (768 * 1e-4 / 256) == pytest.approx(0.28, rel=0.02)


def test_rounded_latents_pass_gradients_straight() -> None:
    settings = config(rounded_share=1.0, learn_steps=True, sample_share=0.0)
    objective = Objective(settings, torch.tensor([0.5, 0.5]), None, None)
    layers = torch.tensor([0.3, 0.9]).view(1, 2, 1, 1, 1).expand(2, 2, 1, 1, 1).clone().requires_grad_()
    step = objective.steps(torch.tensor([50.0, 50.0]))
    rounded = objective._with_rounded(batch(), layers, torch.full_like(layers, 99.0), step)
    assert rounded[0].flatten().tolist() == pytest.approx([0.5, 1.0])
    rounded.sum().backward()
    assert layers.grad is not None
    assert layers.grad.flatten().tolist() == [1.0] * 4
    # d rounded / d step = round(r) - r = 1 - 0.6 and 2 - 1.8; a step moves by ln 2 of itself an octave
    gradient = objective.step_octaves.grad
    assert gradient is not None
    assert gradient[5].tolist() == pytest.approx([2 * 0.4 * 0.5 * math.log(2), 2 * 0.2 * 0.5 * math.log(2)], rel=1e-4)
