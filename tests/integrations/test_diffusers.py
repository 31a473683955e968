"""The adapter: the calls that pipelines make, with and without diffusers, and the model's own results behind them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cvcodec.integrations.diffusers import DiffusersVAE, LatentDistribution
from cvcodec.model.mini import MiniAutoencoder
from tests.integrations.tiny_pipelines import image_vae
from tests.model.test_mini import clip, small_model


@pytest.fixture(scope="module")
def vae() -> DiffusersVAE:
    return DiffusersVAE(small_model(scaling_factor=0.18215)).eval()


def image(seed: int = 0, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 32, 40, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def retrieve_latents(output: object, generator: torch.Generator | None = None, mode: str = "sample") -> Tensor:
    """What pipelines do with what `encode` gives (diffusers, pipelines/stable_diffusion, `retrieve_latents`)."""
    if hasattr(output, "latent_dist") and mode == "sample":
        return output.latent_dist.sample(generator)  # type: ignore[no-any-return]
    if hasattr(output, "latent_dist") and mode == "argmax":
        return output.latent_dist.mode()  # type: ignore[no-any-return]
    raise AttributeError("could not access latents of provided encoder_output")


@torch.no_grad()
def test_images_are_single_frames_each_coded_alone(vae: DiffusersVAE) -> None:
    pixels = image()
    latents = vae.encode(pixels).latent_dist.mode()
    assert latents.shape == (2, 4, 4, 5)
    decoded = vae.decode(latents).sample
    assert decoded.shape == pixels.shape
    for number in range(2):
        alone = vae.model.encode(pixels[number][None, :, None]).mean
        torch.testing.assert_close(latents[number], alone[0, :, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decoded[number], vae.model.decode(alone)[0, :, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_videos_are_coded_as_videos(vae: DiffusersVAE) -> None:
    pixels = clip(17)
    found = vae.encode(pixels).latent_dist
    assert torch.equal(found.parameters, vae.model.moments(pixels))
    assert found.mean.shape == (1, 4, 5, 4, 5)
    assert torch.equal(vae.decode(found.mean).sample, vae.model.decode(found.mean))


@torch.no_grad()
def test_latents_of_a_video_pipeline_decode_to_four_times_as_many_frames(vae: DiffusersVAE) -> None:
    latents = torch.randn(2 * 5, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    frames = vae.decode(latents, num_frames=5).sample
    assert frames.shape == (2 * 17, 3, 24, 16)
    for number in range(2):
        wanted = vae.model.decode(latents[5 * number : 5 * number + 5].transpose(0, 1)[None])[0]
        torch.testing.assert_close(frames[17 * number : 17 * number + 17], wanted.transpose(0, 1), atol=1e-5, rtol=1e-5)
    assert torch.equal(vae.decode(latents, 5).sample, frames), "where AutoencoderKLTemporalDecoder has num_frames"
    with pytest.raises(ValueError, match="num_frames = 4"):
        vae.decode(latents, num_frames=4)


@torch.no_grad()
def test_results_come_by_attribute_by_name_by_number_and_as_a_tuple(vae: DiffusersVAE) -> None:
    pixels = image(batch=1)
    output = vae.encode(pixels)
    assert output[0] is output.latent_dist is output["latent_dist"]
    (distribution,) = vae.encode(pixels, return_dict=False)
    assert torch.equal(distribution.mode(), output.latent_dist.mode())
    latents = distribution.mode()
    assert torch.equal(vae.decode(latents, return_dict=False)[0], vae.decode(latents)["sample"])


@torch.no_grad()
def test_samples_come_from_the_posterior_and_from_the_generator_that_is_given(vae: DiffusersVAE) -> None:
    found = vae.encode(clip(5)).latent_dist
    draws = torch.stack([found.sample(torch.Generator().manual_seed(seed)) for seed in range(300)])
    assert torch.equal(draws[3], found.sample(torch.Generator().manual_seed(3)))
    error = (draws - found.mean) / found.std
    assert error.mean().abs() < 4 / error.numel() ** 0.5
    assert abs(float(error.std()) - 1) < 4 / error.numel() ** 0.5


@torch.no_grad()
def test_tiling_equals_no_tiling_where_the_context_covers_the_reach(vae: DiffusersVAE) -> None:
    config = {"window_latents": 2, "tile_latents": 24, "tile_context": 6, "tile_blend": 2}
    tiled = DiffusersVAE(small_model(scaling_factor=0.18215, **config)).eval()
    pixels = torch.cat([clip(13, 64, 248), clip(13, 64, 248, seed=2)])
    whole = vae.encode(pixels).latent_dist.mean
    calls: list[int] = []
    tiled.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    tiled.enable_tiling()
    torch.testing.assert_close(tiled.encode(pixels).latent_dist.mean, whole, atol=1e-4, rtol=1e-4)
    assert len(calls) > 4, "windows and tiles of two clips"
    torch.testing.assert_close(tiled.decode(whole).sample, vae.decode(whole).sample, atol=5e-4, rtol=1e-3)
    tiled.disable_tiling()
    tiled.enable_slicing()
    torch.testing.assert_close(tiled.encode(pixels).latent_dist.mean, whole, atol=1e-4, rtol=1e-4)


def test_the_config_says_what_pipelines_compute_with(vae: DiffusersVAE) -> None:
    assert 2 ** (len(vae.config.block_out_channels) - 1) == 8
    assert vae.config.scaling_factor == vae.config["scaling_factor"] == vae.config.get("scaling_factor") == 0.18215
    assert vae.config.shift_factor is None
    assert "latents_mean" in vae.config
    assert "num_frames" in inspect.signature(vae.forward).parameters, "where SVD looks before it says num_frames"
    assert vae.config.scale_factor_temporal == vae.config.temporal_compression_ratio == vae.temporal_compression_ratio
    assert vae.config.scale_factor_spatial == vae.spatial_compression_ratio == 8


@pytest.mark.parametrize("channels", [4, 16])
def test_both_ways_of_scaling_give_the_latents_back(channels: int) -> None:
    """SDXL's decode (`latents_std`, mean and factor), SD3's (factor and shift), Wan's (`latents_std` and mean)."""
    config = DiffusersVAE(small_model(latent_channels=channels, scaling_factor=1.5, shift_factor=0.25)).config
    latents = torch.randn(1, channels, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(config[name]).view(1, config.z_dim, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    scaled = (latents - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(scaled / config.scaling_factor + config.shift_factor, latents)
    if channels == 4:  # SDXL's own view(1, 4, 1, 1)
        torch.testing.assert_close(scaled * std / config.scaling_factor + mean, latents)
    else:
        torch.testing.assert_close(scaled * std + mean, latents)


@torch.no_grad()
def test_the_dtype_follows_to(vae: DiffusersVAE) -> None:
    half = DiffusersVAE(small_model()).to(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    latents = half.encode(image()).latent_dist.mode()
    assert latents.dtype == torch.bfloat16
    assert half.decode(latents.float()).sample.dtype == torch.bfloat16


def test_gradients_reach_encoder_and_decoder() -> None:
    vae = DiffusersVAE(small_model())
    vae(clip(5), sample_posterior=True, generator=torch.Generator().manual_seed(0)).sample.square().mean().backward()
    assert all(parameter.grad is not None for parameter in vae.parameters())


@torch.no_grad()
def test_sizes_that_are_no_multiples_are_padded_and_other_shapes_refused(vae: DiffusersVAE) -> None:
    assert vae.encode(torch.zeros(1, 3, 6, 30, 33)).latent_dist.mean.shape == (1, 4, 3, 4, 5)
    with pytest.raises(ValueError, match=r"wanted a float tensor \(B, 3, H, W\) or \(B, 3, T, H, W\) in \[-1, 1\]"):
        vae.encode(torch.zeros(1, 4, 32, 32))
    with pytest.raises(ValueError, match=r"wanted a float tensor \(B, 4, h, w\) or \(B, 4, t, h, w\)"):
        vae.decode(torch.zeros(1, 3, 32, 32))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 3, 5, 32, 32)])
def test_bytes_are_refused_and_not_encoded_as_if_they_were_pixels(vae: DiffusersVAE, shape: tuple[int, ...]) -> None:
    picture = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"pixels are torch\.uint8"):
        vae.encode(picture)
    with pytest.raises(ValueError, match="pixels reach 255"):
        vae.encode(picture.float())
    assert vae.encode(picture.float() / 127.5 - 1).latent_dist.mean.std() < 10


@torch.no_grad()
def test_pieces_of_a_video_are_decoded_when_all_of_them_are_there(vae: DiffusersVAE) -> None:
    """What `decode_latents` of SVD and Latte does with what comes back."""
    latents = torch.randn(2 * 5, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    calls: list[int] = []
    hook = vae.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    pieces = [vae.decode(piece, num_frames=len(piece)).sample for piece in latents.split(3)]
    assert pieces[0].shape == (9, 3, 24, 16)
    frames = torch.cat(pieces, dim=0)
    assert (frames.shape, frames.dtype, calls) == ((37, 3, 24, 16), torch.float32, [])
    videos = frames.reshape(-1, 5, *frames.shape[1:]).permute(0, 2, 1, 3, 4)
    assert len(calls) == 4, "two windows of at most 3 latents for each of two videos"
    hook.remove()
    wanted = vae.model.decode(latents.unflatten(0, (2, 5)).transpose(1, 2))
    torch.testing.assert_close(videos, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_piece_that_is_used_by_itself_is_a_video(vae: DiffusersVAE) -> None:
    latents = torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    piece = vae.decode(latents, num_frames=3).sample
    wanted = vae.model.decode(latents.transpose(0, 1)[None])[0].transpose(0, 1)
    for used in (piece + 0, piece.clamp(-99, 99), torch.cat([piece, piece], dim=1)[:, :3], torch.stack([piece])[0]):
        torch.testing.assert_close(used, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.from_numpy(piece.numpy()), piece.cpu())
    assert piece.reshape(9, -1).shape == (9, 3 * 24 * 16)


def test_gradients_pass_through_a_piece(vae: DiffusersVAE) -> None:
    latents = torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    vae.decode(latents, num_frames=3).sample.square().mean().backward()
    assert latents.grad is not None
    assert latents.grad.abs().amin((1, 2, 3)).min() > 0


@torch.no_grad()
def test_image_to_image_as_a_pipeline_does_it(vae: DiffusersVAE) -> None:
    """StableDiffusionImg2ImgPipeline: prepare_latents, then the last lines of __call__."""
    pixels = image().to(dtype=vae.dtype)
    generator = torch.Generator().manual_seed(5)
    latents = vae.config.scaling_factor * retrieve_latents(vae.encode(pixels), generator=generator)
    picture = vae.decode(latents / vae.config.scaling_factor, return_dict=False, generator=generator)[0]
    assert picture.shape == pixels.shape
    again = vae.model.decode(latents[:, :, None] / 0.18215)[:, :, 0]
    torch.testing.assert_close(picture, again, atol=1e-5, rtol=1e-5)


def dit(diffusers: Any, vae: Any) -> Any:
    """The smallest pipeline of latent diffusion that there is."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    return diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=diffusers.DDIMScheduler())


@torch.no_grad()
@pytest.mark.parametrize("loaded", [False, True])
def test_a_pipeline_of_diffusers_runs_with_it(tmp_path: Path, loaded: bool) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'cvcodec[diffusers]'")
    model: MiniAutoencoder = small_model(scaling_factor=0.18215)
    vae = DiffusersVAE(model).eval()
    if loaded:
        dit(diffusers, image_vae()).save_pretrained(tmp_path)
        pipeline = diffusers.DiTPipeline.from_pretrained(tmp_path, vae=vae)
        assert pipeline.vae is vae
    else:
        pipeline = dit(diffusers, vae)
    pipeline.set_progress_bar_config(disable=True)
    decoded: list[Tensor] = []
    real = vae.decode
    vae.decode = lambda z, *args, **options: decoded.append(z) or real(z, *args, **options)  # type: ignore[method-assign, func-returns-value]
    pictures = pipeline(
        [1, 2], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    assert pictures.shape == (2, 32, 32, 3)
    wanted = (model.decode(decoded[0][:, :, None])[:, :, 0] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(pictures - wanted).max() < 1e-5
    assert pipeline.to(torch.bfloat16).vae.dtype == torch.bfloat16


def test_it_needs_no_diffusers() -> None:
    script = (
        "import sys; sys.modules['diffusers'] = None\n"  # as if it were not installed
        "from cvcodec.integrations.diffusers import DiffusersVAE\n"
        "assert DiffusersVAE.__mro__[1].__module__.startswith('torch.')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_config_is_a_dict_and_the_distribution_has_the_rest_of_its_surface() -> None:
    vae = DiffusersVAE(small_model(scaling_factor=0.18215))
    assert {**vae.config} == dict(vae.config.items())
    assert len(vae.config) == len(list(vae.config.keys()))
    assert vae.config["scaling_factor"] == 0.18215
    torch.manual_seed(0)
    one, other = (LatentDistribution(torch.randn(2, 8, 3, 3)) for _ in range(2))
    normals = [torch.distributions.Normal(found.mean, found.std) for found in (one, other)]
    wanted = torch.distributions.kl_divergence(*normals).flatten(1).sum(1)
    torch.testing.assert_close(one.kl(other), wanted, atol=1e-4, rtol=1e-4)
    sample = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(one.nll(sample), -normals[0].log_prob(sample).flatten(1).sum(1), atol=1e-4, rtol=1e-4)
