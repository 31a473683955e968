"""Inflating the mini's 2D twin, and deflating the mini: images and static clips come out as the other makes them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.model.mini_inflate import deflate_mini, deflated_mini_config, inflate_mini, inflated_mini_config

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[True, False], ids=["2D+3D", "all-3D"])
def pair(request: pytest.FixtureRequest) -> tuple[MiniAutoencoder, MiniAutoencoder]:
    torch.manual_seed(3)
    image = MiniAutoencoder(mini_config(4, video=False, widths=(8, 16, 24))).eval()
    with torch.no_grad():
        for parameter in image.parameters():
            deviation = 0.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.normal_(0.0, deviation)
    config = inflated_mini_config(image.config, half_3d=request.param)
    video = MiniAutoencoder(config).eval()
    video.load_state_dict(inflate_mini(image.config, image.state_dict(), config))
    return image, video


def pixels(frames: int) -> torch.Tensor:
    return torch.rand(2, 3, frames, 24, 40, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@torch.no_grad()
def test_an_image_gets_the_moments_and_the_pixels_that_the_twin_gives(
    pair: tuple[MiniAutoencoder, MiniAutoencoder],
) -> None:
    image, video = pair
    picture = pixels(1)
    wanted = image.moments(picture)
    assert wanted.std() > 0.05
    torch.testing.assert_close(video.moments(picture), wanted, atol=TOLERANCE, rtol=0)
    latent = image.encode(picture).mean
    torch.testing.assert_close(video.decode(latent), image.decode(latent), atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_static_clip_is_the_twins_picture_in_every_frame(pair: tuple[MiniAutoencoder, MiniAutoencoder]) -> None:
    image, video = pair
    picture = pixels(1)
    clip = picture.expand(-1, -1, 13, -1, -1)
    latent = video.encode(clip).mean
    torch.testing.assert_close(latent, image.encode(picture).mean.expand_as(latent), atol=TOLERANCE, rtol=0)
    wanted = image.decode(image.encode(picture).mean).expand(-1, -1, 13, -1, -1)
    torch.testing.assert_close(video.decode(latent), wanted, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_latent_j_is_the_twins_latent_of_frame_4j_and_fills_its_group(
    pair: tuple[MiniAutoencoder, MiniAutoencoder],
) -> None:
    image, video = pair
    clip = pixels(9)
    latent = video.encode(clip).mean
    torch.testing.assert_close(latent, image.encode(clip[:, :, ::4]).mean, atol=TOLERANCE, rtol=0)
    pictures = image.decode(latent)
    wanted = pictures[:, :, [0, 1, 1, 1, 1, 2, 2, 2, 2]]
    torch.testing.assert_close(video.decode(latent), wanted, atol=TOLERANCE, rtol=0)


def test_models_that_do_not_fit_are_refused(pair: tuple[MiniAutoencoder, MiniAutoencoder]) -> None:
    image, video = pair
    with pytest.raises(ValueError, match="only an image-vae-mini"):
        inflated_mini_config(video.config)
    wider = dataclasses.replace(video.config, widths=(8, 16, 32))
    with pytest.raises(ValueError, match="widths differs"):
        inflate_mini(image.config, image.state_dict(), wider)
    with pytest.raises(ValueError, match="other names"):
        inflate_mini(image.config, {"encoder.conv_in.weight": torch.zeros(1)})


@torch.no_grad()
@pytest.mark.parametrize("half_3d", [True, False])
def test_a_deflated_model_does_to_images_what_the_video_model_does(half_3d: bool) -> None:
    torch.manual_seed(4)
    video = MiniAutoencoder(mini_config(4, widths=(8, 16, 24), half_3d=half_3d)).eval()
    for parameter in video.parameters():
        parameter.normal_(0.0, 0.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    config = deflated_mini_config(video.config)
    image = MiniAutoencoder(config).eval()
    image.load_state_dict(deflate_mini(video.config, video.state_dict()))
    picture = pixels(1)
    wanted = video.moments(picture)
    assert wanted.std() > 0.05
    torch.testing.assert_close(image.moments(picture), wanted, atol=TOLERANCE, rtol=0)
    latent = wanted[:, :4]
    torch.testing.assert_close(image.decode(latent), video.decode(latent), atol=TOLERANCE, rtol=0)


def test_deflating_what_was_inflated_gives_it_back(pair: tuple[MiniAutoencoder, MiniAutoencoder]) -> None:
    image, video = pair
    assert deflated_mini_config(video.config) == image.config
    deflated = deflate_mini(video.config, video.state_dict())
    assert set(deflated) == set(image.state_dict())
    for name, tensor in image.state_dict().items():
        torch.testing.assert_close(deflated[name], tensor, atol=0, rtol=0)


def test_only_a_video_mini_is_deflated(pair: tuple[MiniAutoencoder, MiniAutoencoder]) -> None:
    image, video = pair
    with pytest.raises(ValueError, match="only a cvvae-mini can be deflated"):
        deflated_mini_config(image.config)
    with pytest.raises(ValueError, match="other names"):
        deflate_mini(video.config, {"encoder.conv_in.weight": torch.zeros(1)})
