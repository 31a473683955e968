"""The mini models: sizes, causality, reach in time, the 2D twin and the linear shortcut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvcodec.model.config import ModelConfig
from cvcodec.model.mini import MiniAutoencoder, mini_config

SMALL = {"widths": (8, 16, 24), "latent_channels": 4}


def small_model(*, video: bool = True, seed: int = 0, **changes: object) -> MiniAutoencoder:
    """A narrow model whose every weight is random, so that no path is silent."""
    torch.manual_seed(seed)
    model = MiniAutoencoder(mini_config(video=video, **{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(1.0, 0.1)
    return model


def clip(frames: int, height: int = 32, width: int = 40, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("latent_channels", [4, 16])
def test_encoder_and_decoder_have_at_most_14_million_parameters(latent_channels: int) -> None:
    with torch.device("meta"):
        model = MiniAutoencoder(mini_config(latent_channels))
    assert sum(parameter.numel() for parameter in model.parameters()) <= 14_000_000


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (17, 5)])
def test_shapes_follow_4k_plus_1(frames: int, latents: int) -> None:
    model = small_model()
    with torch.no_grad():
        posterior = model.encode(clip(frames))
        pixels = model.decode(posterior.mean)
    assert posterior.mean.shape == posterior.logvar.shape == (1, 4, latents, 4, 5)
    assert pixels.shape == (1, 3, frames, 32, 40)


@torch.no_grad()
def test_later_frames_do_not_change_earlier_latents() -> None:
    model, pixels = small_model(), clip(17)
    changed = pixels.clone()
    changed[:, :, 9:] = 0.0  # latents 3 and 4 cover frames 9 to 16
    before, after = model.moments(pixels), model.moments(changed)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3])
    assert (after[:, :, 3:] - before[:, :, 3:]).abs().amax() > 1e-3


REACHES = [
    ({}, 3, 2),
    ({"half_3d": False}, 6, 4),
    ({"encoder_temporal": (0, 2, 0), "decoder_temporal": (1, 1, 1)}, 2, 3),
    ({"encoder_temporal": (0, 0, 0), "decoder_temporal": (0, 0, 0)}, 0, 0),
]
"""Changes of the config, latents that its encoder looks back, and its decoder to each side."""


@pytest.mark.parametrize(("changes", "back", "_around"), REACHES)
@torch.no_grad()
def test_the_encoder_looks_back_exactly_the_context_of_its_config(
    changes: dict[str, object], back: int, _around: int
) -> None:
    model, pixels = small_model(**changes), clip(33)
    assert model.config.encode_context == back
    changed = pixels.clone()
    changed[:, :, :1] = 0.0  # frame 0 is latent 0 alone
    difference = (model.moments(changed) - model.moments(pixels)).abs().amax((0, 1, 3, 4))
    assert (difference[: back + 1] > 1e-5).all()
    assert difference[back + 1 :].max() == 0


@pytest.mark.parametrize(("changes", "_back", "around"), REACHES)
@torch.no_grad()
def test_the_decoder_looks_exactly_the_context_of_its_config_to_both_sides(
    changes: dict[str, object], _back: int, around: int
) -> None:
    model = small_model(**changes)
    assert model.config.decode_context == around
    latent = torch.randn(1, 4, 13, 4, 4, generator=torch.Generator().manual_seed(2))
    changed = latent.clone()
    changed[:, :, 6] += 1.0
    difference = (model.decode(changed) - model.decode(latent)).abs().amax((0, 1, 3, 4))
    touched = torch.zeros(49, dtype=torch.bool)
    touched[4 * (6 - around) - 3 : 4 * (6 + around) + 1] = True  # the frames of these latents
    assert (difference[touched] > 1e-5).all()
    assert difference[~touched].max() == 0


def test_a_context_that_is_asked_for_is_kept() -> None:
    assert mini_config(encode_context=7, half_3d=False).encode_context == 7
    assert mini_config(encode_context=7, half_3d=False).decode_context == 4


@torch.no_grad()
def test_a_single_frame_and_a_static_clip_give_the_same_latent() -> None:
    model, frame = small_model(), clip(1)
    alone = model.moments(frame)
    static = model.moments(frame.expand(-1, -1, 13, -1, -1))
    torch.testing.assert_close(static, alone.expand(-1, -1, 4, -1, -1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_2d_twin_encodes_every_frame_alone() -> None:
    model, pixels = small_model(video=False), clip(3)
    together = model.moments(pixels)
    alone = torch.cat([model.moments(pixels[:, :, t : t + 1]) for t in range(3)], dim=2)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert model.decode(together[:, :4]).shape == pixels.shape


def test_gradients_reach_every_parameter() -> None:
    model = small_model()
    posterior = model.encode(clip(9))
    (model.decode(posterior.sample()).square().mean() + posterior.kl().mean()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_gradient_checkpointing_does_not_change_the_gradients() -> None:
    gradients = []
    for enabled in (False, True):
        model = small_model()
        model.enable_gradient_checkpointing(enabled)
        model.decode(model.encode(clip(5)).mean).square().mean().backward()
        gradients.append([p.grad for p in model.decoder.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@torch.no_grad()
def test_an_orthonormal_shortcut_starts_as_a_projection_of_patches() -> None:
    """A fresh model is its linear transform alone: with orthonormal rows, decode(encode(x)) = x @ W.T @ W."""
    model = MiniAutoencoder(mini_config(**SMALL)).eval()
    basis = torch.linalg.qr(torch.randn(768, 4, generator=torch.Generator().manual_seed(3)))[0]
    model.encoder.shortcut.weight.copy_(basis.T.reshape(4, 12, 8, 8))
    model.decoder.shortcut.weight.copy_(basis.reshape(768, 4, 1, 1))
    model.encoder.shortcut.bias.zero_()
    model.decoder.shortcut.bias.zero_()
    pixels = clip(5, 16, 16)
    got = model.decode(model.encode(pixels).mean)
    group = pixels[0, :, 1:5]  # frames 1 to 4 are latent 1
    for row in range(2):
        for column in range(2):
            block = (slice(None), slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            patch = group[block].transpose(0, 1).reshape(768)  # frame, colour, y, x
            want = (basis @ (basis.T @ patch)).reshape(4, 3, 8, 8).transpose(0, 1)
            torch.testing.assert_close(got[0, :, 1:5][block], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 4, 5, 16, 16)])
def test_shapes_the_model_cannot_take_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pixels\.shape"):
        small_model().moments(torch.zeros(shape))


def test_a_config_says_what_its_family_is_like() -> None:
    ours, official = (
        mini_config(4),
        ModelConfig(family="cvvae", latent_channels=4, widths=(128,), encoder_blocks=(1,), decoder_blocks=(1,)),
    )
    assert ours.is_local and ours.takes_any_dtype
    assert not official.is_local and not official.takes_any_dtype
    # Measured with the mini model on 33x512x512: 120 bytes a pixel in fp32, 65 in bf16.
    assert (ours.bytes_per_pixel(4), ours.bytes_per_pixel(2)) == (pytest.approx(120, abs=5), pytest.approx(65, abs=5))
    assert official.bytes_per_pixel(4) == 6 * 128 * 4


def test_the_config_survives_a_round_trip_and_refuses_unknown_fields() -> None:
    config = mini_config(16)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="surprise"):
        ModelConfig.from_dict({**config.to_dict(), "surprise": 1})


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 3, 1, 32, 32), np.float32), r"pixels are numpy.ndarray; wanted a float tensor \(B, 3, T, H, W\)"),
        (torch.zeros(1, 3, 32, 32), r"pixels are \(1, 3, 32, 32\); wanted a float tensor \(B, 3, T, H, W\)"),
        (torch.zeros(1, 5, 32, 32, 3), "wanted a float tensor"),
        (torch.zeros(1, 3, 0, 32, 32), "wanted a float tensor"),
        (torch.zeros(1, 3, 1, 32, 32, dtype=torch.uint8), r"pixels are torch.uint8; .* pixels.float\(\) / 127.5 - 1"),
        (torch.zeros(1, 3, 1, 32, 32, dtype=torch.bool), "pixels are torch.bool"),
        (torch.full((1, 3, 1, 32, 32), 16.0), r"pixels reach 16; .* in \[-1, 1\]"),
        (torch.full((1, 3, 1, 32, 32), -255.0), "pixels reach 255"),
    ],
)
def test_what_cannot_be_meant_as_pixels_is_refused_in_one_sentence(pixels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        small_model().encode(pixels)
    assert "\n" not in str(refused.value)


def test_pixels_may_leave_their_range_as_noise_and_ringing_do() -> None:
    pixels = torch.randn(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 1.5
    assert pixels.abs().max() > 4
    assert small_model().encode(pixels).mean.isfinite().all()


@pytest.mark.parametrize(
    "latent", [np.zeros((1, 4, 1, 4, 4)), torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 1, 4, 4).int()]
)
def test_what_cannot_be_meant_as_latents_is_refused_in_one_sentence(latent: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^latents are .*; wanted a float tensor \(B, 4, t, h, w\)$"):
        small_model().decode(latent)
