"""Inflated models, against the 2D model frame by frame (spec 2.4; the 2D model itself is held against diffusers')."""

import dataclasses

import pytest
import torch

from cvcodec.model import VideoAutoencoder, build_model
from cvcodec.model.official.inflate import diffusers_key, fresh_keys, inexactness, inflate_2d, inflated_config
from cvcodec.model.official.layers import ClipNorm
from tests.model.fixture_data import Reference


class FrameNorm(torch.nn.Module):
    """A ClipNorm that looks at each frame alone, as the 2D model's does."""

    def __init__(self, norm: ClipNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, frames, *, silu=False):
        normed = self.norm(frames.flatten(0, 1).unsqueeze(0)).view(frames.shape)
        return torch.nn.functional.silu(normed) if silu else normed

    def prepared(self, _frames, *, silu):
        return lambda piece: self(piece, silu=silu)


def per_frame(model: VideoAutoencoder) -> VideoAutoencoder:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ClipNorm):
                setattr(module, name, FrameNorm(child))
    return model


def inflated(name: str, **changes) -> tuple[VideoAutoencoder, VideoAutoencoder]:
    image = Reference.load(name).model()
    video = dataclasses.replace(inflated_config(image.config), **changes)
    model = build_model(video)
    model.load_state_dict(inflate_2d(image.config, image.state_dict(), video))
    return image, model.eval()


EXACT = {"norm_eps": 1e-6, "temporal_attention": False}
Z4, Z16 = "image_vae/autoencoder_kl_z4", "image_vae/autoencoder_kl_z16"


@pytest.mark.parametrize("half_3d", [True, False])
@pytest.mark.parametrize("name", [Z4, Z16])
def test_an_inflated_z4_layout_codes_images_exactly_as_the_2d_model(name, half_3d):
    image = Reference.load(name).model()
    config = dataclasses.replace(inflated_config(image.config, "cvvae", half_3d=half_3d), **EXACT)
    model = build_model(config).eval()
    model.load_state_dict(inflate_2d(image.config, image.state_dict(), config))
    pixels = torch.rand(2, 3, 1, 48, 40) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model.moments(pixels), image.moments(pixels), rtol=0, atol=1e-5)
        if not image.config.quant_conv:
            latent = torch.randn(2, 16, 1, 4, 5)
            torch.testing.assert_close(model.decode(latent), image.decode(latent), rtol=0, atol=1e-5)


@pytest.mark.parametrize("half_3d", [True, False])
@pytest.mark.parametrize("name", [Z4, Z16])
def test_a_static_clip_is_the_2d_models_picture_in_every_latent_and_frame(name, half_3d):
    image = Reference.load(name).model()
    with torch.no_grad():
        if image.config.quant_conv:
            image.post_quant_conv.bias.zero_()  # its border is the one thing that folding cannot keep
        config = dataclasses.replace(inflated_config(image.config, "cvvae", half_3d=half_3d), **EXACT)
        model = build_model(config).eval()
        model.load_state_dict(inflate_2d(image.config, image.state_dict(), config))
        picture = torch.rand(2, 3, 1, 48, 40) * 2 - 1
        wanted = image.moments(picture)
        moments = model.moments(picture.expand(-1, -1, 9, -1, -1))
        torch.testing.assert_close(moments, wanted.expand(-1, -1, 3, -1, -1), rtol=0, atol=1e-5)
        latent = torch.randn(1, config.latent_channels, 1, 4, 5)
        clip = model.decode(latent.expand(-1, -1, 3, -1, -1))
        torch.testing.assert_close(clip, image.decode(latent).expand(-1, -1, 9, -1, -1), rtol=0, atol=1e-5)


def test_a_folded_post_quant_conv_differs_only_by_its_bias_at_the_border():
    image, model = inflated(Z4, **EXACT)
    latent = torch.randn(1, 4, 1, 6, 6)
    with torch.no_grad():
        assert (model.decode(latent) - image.decode(latent)).abs().max() > 1e-3
        image.post_quant_conv.bias.zero_()
        model.load_state_dict(inflate_2d(image.config, image.state_dict(), model.config))
        torch.testing.assert_close(model.decode(latent), image.decode(latent), rtol=0, atol=5e-5)


def test_with_norms_per_frame_latent_j_is_the_2d_latent_of_frame_4j_and_decodes_to_its_frames():
    image = Reference.load(Z16).model()
    config = dataclasses.replace(inflated_config(image.config, "cvvae"), **EXACT)
    model = build_model(config).eval()
    model.load_state_dict(inflate_2d(image.config, image.state_dict(), config))
    per_frame(model)
    pixels = torch.rand(1, 3, 9, 32, 40) * 2 - 1
    latent = torch.randn(1, 16, 3, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(model.moments(pixels), image.moments(pixels[:, :, ::4]), rtol=0, atol=5e-5)
        repeated = image.decode(latent)[:, :, [0, 1, 1, 1, 1, 2, 2, 2, 2]]
        torch.testing.assert_close(model.decode(latent), repeated, rtol=0, atol=5e-5)


def test_the_sd3_layout_takes_every_2d_tensor_and_its_interior_stays_near():
    image, model = inflated(Z16)
    assert fresh_keys(model.config) == ()
    state, source = model.state_dict(), image.state_dict()
    assert set(state) == set(source)
    assert torch.equal(state["encoder.conv_in.weight"][:, :, 2], source["encoder.conv_in.weight"])
    assert not state["encoder.conv_in.weight"][:, :, :2].any()
    assert torch.equal(state["decoder.conv_in.weight"][:, :, 1], source["decoder.conv_in.weight"])
    up = "decoder.up_blocks.0.upsamplers.0.conv"
    assert torch.equal(state[f"{up}.bias"], source[f"{up}.bias"].repeat(2))
    assert torch.equal(state[f"{up}.weight"][:, :, 1], source[f"{up}.weight"].repeat(2, 1, 1, 1))


def test_only_the_temporal_attention_is_fresh_and_its_draw_is_repeatable():
    image = Reference.load(Z4).model()
    config = inflated_config(image.config)
    fresh = fresh_keys(config)
    assert len(fresh) == 10
    assert all(key.startswith("decoder.mid.attn_1.") for key in fresh)
    first, second, third = (
        inflate_2d(image.config, image.state_dict(), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert [key for key in first if not torch.equal(first[key], third[key])] == [
        key for key in fresh if "norm_t" not in key
    ]
    assert first["decoder.mid.attn_1.norm_t.weight"].eq(1).all()
    bound = config.widths[-1] ** -0.5
    assert 0.9 * bound < first["decoder.mid.attn_1.q_t.weight"].abs().max() <= bound


def test_what_is_not_exact_is_said():
    sd21, sd3 = (Reference.load(name).model().config for name in (Z4, Z16))
    assert len(inexactness(sd21, inflated_config(sd21))) == 3
    assert len(inexactness(sd3, inflated_config(sd3))) == 1
    assert inexactness(sd3, dataclasses.replace(inflated_config(sd3, "cvvae"), **EXACT)) == ()


def test_half_precision_weights_stay_half_precision():
    image = Reference.load(Z4).model().half()
    assert {tensor.dtype for tensor in inflate_2d(image.config, image.state_dict()).values()} == {torch.float16}


def test_weights_that_do_not_fit_are_refused():
    image = Reference.load(Z16).model()
    state = image.state_dict()
    with pytest.raises(ValueError, match=r"lack or add 1 tensors: encoder.conv_in.bias"):
        inflate_2d(image.config, {key: value for key, value in state.items() if key != "encoder.conv_in.bias"})
    with pytest.raises(ValueError, match=r"encoder.conv_in.bias is \(3,\), its config says \(32,\)"):
        inflate_2d(image.config, {**state, "encoder.conv_in.bias": torch.zeros(3)})
    wider = dataclasses.replace(inflated_config(image.config), widths=(32, 64, 64, 128))
    with pytest.raises(ValueError, match="in the video model, its 2D source"):
        inflate_2d(image.config, state, wider)
    with pytest.raises(ValueError, match="only an autoencoder-kl inflates"):
        inflated_config(inflated_config(image.config))


@pytest.mark.parametrize(
    ("ldm", "diffusers"),
    [
        ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
        ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
        ("decoder.up.3.block.2.norm1.weight", "decoder.up_blocks.0.resnets.2.norm1.weight"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("decoder.mid.attn_1.proj_out.weight", "decoder.mid_block.attentions.0.to_out.0.weight"),
        ("encoder.mid.block_2.conv2.bias", "encoder.mid_block.resnets.1.conv2.bias"),
        ("encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
    ],
)
def test_names_map_as_the_specification_says(ldm, diffusers):
    assert diffusers_key(ldm, 4) == diffusers
