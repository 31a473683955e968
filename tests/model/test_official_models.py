"""The official architectures, against outputs of the official classes and a second, plain implementation."""

import pytest
import torch

from cvcodec.model import ModelConfig, build_model
from cvcodec.model.convolution import FrameConv
from cvcodec.model.official.config import config_from_official
from cvcodec.model.official.layers import ClipNorm
from tests.model.fixture_data import Reference, stand_in_model
from tests.model.naive_cvvae import NaiveCVVAE

SMALL_Z4 = {"_class_name": "CVVAEModel", "ch": 32, "num_res_blocks": 1, "ch_mult": [1, 1, 2, 2]}
SMALL_Z16 = {"_class_name": "CVVAESD3Model", "block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
SMALL = [SMALL_Z4, SMALL_Z16]


def naive(model, *, sd3: bool, dtype=torch.float32) -> NaiveCVVAE:
    state = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
    return NaiveCVVAE(state, sd3=sd3, eps=model.config.norm_eps)


def clip(frames: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames * 1000 + height + width)
    return torch.rand(batch, 3, frames, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize(("name", "tensors"), [("parity/cvvae_z4", 254), ("parity/cvvae_sd3_z16", 244)])
def test_outputs_equal_the_official_classes(name, tensors):
    reference = Reference.load(name)
    model = reference.model()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == reference.shapes
    assert len(reference.shapes) == tensors
    for index, video in enumerate(reference.notes["videos"]):
        moments, decoded = reference.arrays[f"moments_{index}"], reference.arrays[f"decoded_{index}"]
        with torch.no_grad():
            posterior = model.encode(reference.video(video))
            torch.testing.assert_close(model.moments(reference.video(video)), moments, rtol=0, atol=5e-5)
            torch.testing.assert_close(model.decode(moments.chunk(2, 1)[0]), decoded, rtol=0, atol=5e-5)
        torch.testing.assert_close(posterior.mean, moments.chunk(2, 1)[0], rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["image_vae/autoencoder_kl_z4", "image_vae/autoencoder_kl_z16"])
def test_the_image_model_equals_diffusers_frame_by_frame(name):
    reference = Reference.load(name)
    model = reference.model()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == reference.shapes
    moments, decoded = (reference.arrays[part].transpose(0, 1).unsqueeze(0) for part in ("moments", "decoded"))
    with torch.no_grad():
        torch.testing.assert_close(model.moments(reference.video(reference.notes["video"])), moments, rtol=0, atol=5e-5)
        torch.testing.assert_close(model.decode(moments.chunk(2, 1)[0]), decoded, rtol=0, atol=5e-5)


COUNTS = [  # spec 1.8, measured on the official classes: encoder, decoder, total, tensors
    ({"_class_name": "CVVAEModel"}, 68_748_936, 113_697_539, 182_446_475, 254),
    ({"_class_name": "CVVAEModel", "half_3d": False}, 100_009_608, 155_869_955, 255_879_563, 254),
    ({"_class_name": "CVVAESD3Model"}, 69_080_736, 112_811_779, 181_892_515, 244),
    ({"_class_name": "CVVAESD3Model", "half_3d": False}, 100_341_408, 154_984_195, 255_325_603, 244),
    ({"_class_name": "AutoencoderKL", "latent_channels": 4}, 34_163_592, 49_490_179, 83_653_863, 248),
    (
        {"_class_name": "AutoencoderKL", "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
        34_274_208,
        49_545_475,
        83_819_683,
        244,
    ),
]


@pytest.mark.parametrize(("official", "encoder", "decoder", "total", "tensors"), COUNTS)
def test_parameter_counts_at_full_width_are_those_of_the_official_classes(official, encoder, decoder, total, tensors):
    if official["_class_name"] == "AutoencoderKL":
        official = {**official, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    with torch.device("meta"):
        model = build_model(config_from_official(official))
    sizes = {key: tensor.numel() for key, tensor in model.state_dict().items()}
    assert sum(size for key, size in sizes.items() if key.startswith("encoder.")) == encoder
    assert sum(size for key, size in sizes.items() if key.startswith("decoder.")) == decoder
    assert (sum(sizes.values()), len(sizes)) == (total, tensors)
    assert not list(model.buffers())


@pytest.mark.parametrize("official", SMALL)
@pytest.mark.parametrize("half_3d", [True, False])
@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 16, 24), (2, 17, 16), (5, 16, 16), (8, 19, 30), (13, 8, 8)]
)
def test_any_shape_equals_the_second_implementation(official, half_3d, frames, height, width):
    model = stand_in_model({**official, "half_3d": half_3d}).double()
    other = naive(model, sd3=official is SMALL_Z16, dtype=torch.float64)
    pixels = clip(frames, height, width, batch=2).double()
    with torch.no_grad():
        moments = model.moments(pixels)
        torch.testing.assert_close(moments, other.moments(pixels), rtol=0, atol=1e-9)
        latent = moments.chunk(2, 1)[0]
        torch.testing.assert_close(model.decode(latent), other.decode(latent), rtol=0, atol=1e-9)
    rounded = (-(-height // 8), -(-width // 8)) if official is SMALL_Z16 else (height // 8, width // 8)
    assert latent.shape[2:] == ((frames - 1) // 4 + 1, *rounded)


@pytest.mark.parametrize("sd3", [False, True])
def test_wide_models_take_the_winograd_path_and_still_agree(sd3):
    official = (
        {"_class_name": "CVVAESD3Model", "block_out_channels": [64] * 4, "layers_per_block": 1}
        if sd3
        else {"_class_name": "CVVAEModel", "ch": 64, "ch_mult": [1] * 4, "num_res_blocks": 1}
    )
    model = stand_in_model(official)
    other = naive(model, sd3=sd3, dtype=torch.float64)
    pixels = clip(5, 24, 40)
    taken = []
    for module in model.modules():
        if isinstance(module, FrameConv):
            module.register_forward_pre_hook(lambda conv, inputs: taken.append(conv._winograd_pays(inputs[0])))
    with torch.no_grad():
        moments = model.moments(pixels)
        latent = moments.chunk(2, 1)[0]
        decoded = model.decode(latent)
    assert sum(taken) > 4
    torch.testing.assert_close(moments.double(), other.moments(pixels.double()), rtol=0, atol=5e-5)
    torch.testing.assert_close(decoded.double(), other.decode(latent.double()), rtol=0, atol=5e-5)


@pytest.mark.parametrize("official", SMALL)
def test_clips_of_a_batch_do_not_see_each_other(official):
    model = stand_in_model(official)
    pixels = clip(5, 16, 16, batch=2)
    with torch.no_grad():
        together = model.moments(pixels)
        alone = torch.cat([model.moments(part) for part in pixels.split(1)])
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
        latent = together.chunk(2, 1)[0]
        decoded = torch.cat([model.decode(part) for part in latent.split(1)])
        torch.testing.assert_close(model.decode(latent), decoded, rtol=0, atol=2e-5)


class PixelNorm(torch.nn.Module):
    """Stands in for GroupNorm where a test wants to see the convolutions alone."""

    def forward(self, frames, *, silu=False):
        return frames.tanh() if silu else frames

    def prepared(self, frames, *, silu):
        return torch.tanh if silu else torch.clone


@pytest.mark.parametrize("official", SMALL)
def test_the_encoder_is_causal_but_for_its_norms(official):
    model = stand_in_model(official)
    pixels = clip(17, 16, 16)
    changed = pixels.clone()
    changed[:, :, 9:] = 0.5
    with torch.no_grad():
        different = (model.moments(pixels) - model.moments(changed)).abs().amax((0, 1, 3, 4)) > 1e-6
        assert different.tolist() == [True] * 5  # official behaviour (spec 1.2): GroupNorm spans the clip
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, ClipNorm):
                    setattr(module, name, PixelNorm())
        different = (model.moments(pixels) - model.moments(changed)).abs().amax((0, 1, 3, 4)) > 0
    assert different.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("official", [*SMALL, {**SMALL_Z4, "half_3d": False}])
def test_gradients_reach_every_parameter_and_the_forward_pass_is_the_same(official):
    model = stand_in_model(official)
    pixels = clip(5, 16, 16)
    moments = model.moments(pixels)
    decoded = model.decode(moments.chunk(2, 1)[0])
    with torch.no_grad():
        torch.testing.assert_close(moments, model.moments(pixels), rtol=0, atol=2e-5)
        torch.testing.assert_close(decoded, model.decode(moments.chunk(2, 1)[0]), rtol=0, atol=2e-5)
    (decoded.square().mean() + moments.square().mean()).backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    # A bias of the keys shifts all scores of a query alike, which softmax does not see: only rounding moves it.
    assert [name for name in silent if not name.endswith((".k.bias", ".k_t.bias", ".to_k.bias"))] == []


@pytest.mark.parametrize("official", SMALL)
def test_bfloat16_stays_bfloat16_and_near_float32(official):
    model = stand_in_model(official)
    pixels = clip(5, 32, 32)
    with torch.no_grad():
        exact = model.moments(pixels)
        latent = exact.chunk(2, 1)[0]
        exact_pixels = model.decode(latent)
        model.bfloat16()
        moments, decoded = model.moments(pixels.bfloat16()), model.decode(latent.bfloat16())
    assert moments.dtype == decoded.dtype == torch.bfloat16
    assert (moments.float() - exact).square().mean() < 1e-3 * exact.var()
    assert (decoded.float() - exact_pixels).square().mean() < 1e-3 * exact_pixels.var()


def test_a_video_decoder_without_temporal_attention_has_no_temporal_tensors():
    with torch.device("meta"):
        model = build_model(config_from_official({**SMALL_Z4, "decoder_attn_type": "vanilla-xformers"}))
    assert not [key for key in model.state_dict() if "_t." in key]


def test_norm_groups_that_do_not_divide_the_widths_are_refused():
    config = ModelConfig(
        family="cvvae",
        latent_channels=4,
        widths=(32,) * 4,
        encoder_blocks=(1,) * 4,
        decoder_blocks=(2,) * 4,
        norm_groups=5,
    )
    with pytest.raises(ValueError, match="norm groups"), torch.device("meta"):
        build_model(config)
