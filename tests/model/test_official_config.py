"""Official config.json values, against the released files' texts (spec 2.0)."""

import pytest

from cvcodec.model import ModelConfig
from cvcodec.model.official.config import config_from_official

RELEASED_Z4 = {  # vae3d_v1-1/config.json
    "_class_name": "CVVAEModel",
    "_diffusers_version": "0.29.2",
    "_name_or_path": "somewhere",
    "attn_resolutions": [],
    "causal_decoder": False,
    "causal_encoder": True,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "decoder_attn_type": "spatial-temporal-xformer",
    "double_z": True,
    "dropout": 0.0,
    "en_de_n_frames_a_time": 16,
    "encoder_attn_type": "vanilla-xformers",
    "force_upcast": True,
    "half_3d": True,
    "in_channels": 3,
    "num_res_blocks": 2,
    "num_video_frames": None,
    "out_ch": 3,
    "reshape_x_dim_to_4": False,
    "reshape_z_dim_to_4": False,
    "scaling_factor": 0.18215,
    "spatial_n_compress": 8,
    "tile_overlap_ratio": 0.2222,
    "tile_spatial_size": 576,
    "time_n_compress": 4,
    "use_3d_conv": True,
    "z_channels": 4,
}
SD21 = {  # the shape of stabilityai/stable-diffusion-2-1 vae/config.json
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.8.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 768,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SD3 = {
    **SD21,
    "force_upcast": True,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}


def test_the_released_z4_config_is_understood_and_equals_the_class_defaults():
    config = config_from_official(RELEASED_Z4)
    assert config == config_from_official({"_class_name": "CVVAEModel"})
    assert config == ModelConfig(
        family="cvvae",
        latent_channels=4,
        widths=(128, 256, 512, 512),
        encoder_blocks=(2, 2, 2, 2),
        decoder_blocks=(3, 3, 3, 3),
        norm_eps=1e-5,
        temporal_attention=True,
        scaling_factor=0.18215,
        official_chunk_frames=16,
    )


def test_image_configs_are_understood():
    sd21, sd3 = config_from_official(SD21), config_from_official(SD3)
    assert (sd21.quant_conv, sd21.latent_channels, sd21.scaling_factor, sd21.norm_eps) == (True, 4, 0.18215, 1e-6)
    assert (sd3.quant_conv, sd3.latent_channels, sd3.scaling_factor, sd3.shift_factor) == (False, 16, 1.5305, 0.0609)
    for config in (sd21, sd3):
        assert (config.temporal_factor, config.spatial_factor) == (1, 8)


def test_the_sd3_video_config_brings_the_sd3_factors_and_its_own_epsilon():
    config = config_from_official({"_class_name": "CVVAESD3Model"})
    assert (config.latent_channels, config.scaling_factor, config.shift_factor) == (16, 1.5305, 0.0609)
    assert (config.norm_eps, config.temporal_attention, config.official_chunk_frames) == (1e-6, False, 16)


@pytest.mark.parametrize(
    ("official", "change", "field", "value"),
    [
        (RELEASED_Z4, {"ch": 32, "ch_mult": [1, 2, 3, 4]}, "widths", (32, 64, 96, 128)),
        (RELEASED_Z4, {"num_res_blocks": 1}, "decoder_blocks", (2, 2, 2, 2)),
        (RELEASED_Z4, {"half_3d": False}, "half_3d", False),
        (RELEASED_Z4, {"z_channels": 16}, "latent_channels", 16),
        (RELEASED_Z4, {"decoder_attn_type": "vanilla-xformers"}, "temporal_attention", False),
        (RELEASED_Z4, {"en_de_n_frames_a_time": None}, "official_chunk_frames", None),
        (RELEASED_Z4, {"en_de_n_frames_a_time": 8}, "official_chunk_frames", 8),
        (RELEASED_Z4, {"tile_spatial_size": 72}, "official_tile_pixels", 72),
        (RELEASED_Z4, {"tile_spatial_size": None, "tile_overlap_ratio": None}, "official_tile_pixels", 0),
        (RELEASED_Z4, {"tile_overlap_ratio": 0.25}, "official_tile_overlap", 0.25),
        (SD3, {"norm_num_groups": 16}, "norm_groups", 16),
        (SD3, {"mid_block_add_attention": False}, "mid_attention", False),
        (SD3, {"block_out_channels": [32, 64], "down_block_types": None, "up_block_types": None}, "spatial_factor", 2),
    ],
)
def test_values_that_change_the_network_or_its_windows_are_honoured(official, change, field, value):
    assert getattr(config_from_official({**official, **change}), field) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "CVVAEModel2"}, "_class_name 'CVVAEModel2'; known: CVVAEModel, CVVAESD3Model, AutoencoderKL"),
        ({"_class_name": None}, "_class_name None"),
        ({"attn_resolutions": [16]}, r"attn_resolutions \[16\] is not supported; only \[\] is"),
        ({"causal_decoder": True}, "causal_decoder True is not supported; only False is"),
        ({"causal_encoder": False}, "causal_encoder False is not supported; only True is"),
        ({"causal_encoder": 1}, "causal_encoder 1 is not supported"),
        ({"use_3d_conv": False}, "use_3d_conv False"),
        ({"double_z": False}, "double_z False"),
        ({"dropout": 0.1}, "dropout 0.1 is not supported"),
        ({"decoder_attn_type": "linear"}, "decoder_attn_type 'linear' is not supported; known: vanilla"),
        ({"encoder_attn_type": "spatial-temporal-xformer"}, "encoder_attn_type 'spatial-temporal-xformer'"),
        ({"ch": "128"}, "ch must be a positive integer, got '128'"),
        ({"ch_mult": [1, 2, 4]}, r"ch_mult must be a list of 4 positive integers, got \[1, 2, 4\]"),
        ({"ch_mult": [1, 2, 4, 0]}, "ch_mult must be a positive integer, got 0"),
        ({"en_de_n_frames_a_time": 6}, "not a multiple of 4"),
        ({"time_n_compress": 8}, "time_n_compress 8 is not supported; only 4 is"),
        ({"in_channels": 1}, "in_channels 1 is not supported; only 3 is"),
        ({"half_3d": "yes"}, "half_3d must be true or false, got 'yes'"),
        ({"scaling_factor": None}, "scaling_factor must be a number, got None"),
        ({"window": 3}, "CVVAEModel config has fields that this release does not know: window"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_official({**RELEASED_Z4, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types"),
        ({"latents_mean": [0.0] * 16}, "latents_mean"),
        ({"use_quant_conv": True}, "use_post_quant_conv False is not supported; only True is"),
        ({"act_fn": "relu"}, "act_fn 'relu' is not supported; only 'silu' is"),
    ],
)
def test_image_configs_that_cannot_be_honoured_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_official({**SD3, **change})
