"""Reading an architecture off names and shapes."""

from __future__ import annotations

import pytest
import torch

from cvcodec.checkpoints.foreign import Layout, infer_config
from cvcodec.errors import CheckpointError
from tests.checkpoints.official_shapes import autoencoder


def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("half_3d", [True, False])
def test_the_released_z4_class_is_recognised(half_3d: bool) -> None:
    tensors = meta(autoencoder((128, 256, 512, 512), 2, 4, style="ldm", dims=3, half_3d=half_3d))
    assert infer_config(tensors, Layout.CVVAE, "weights") == {
        "_class_name": "CVVAEModel",
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "z_channels": 4,
        "half_3d": half_3d,
    }


@pytest.mark.parametrize("half_3d", [True, False])
def test_the_released_z16_class_is_recognised(half_3d: bool) -> None:
    tensors = meta(autoencoder((128, 256, 512, 512), 2, 16, style="diffusers", dims=3, half_3d=half_3d))
    assert infer_config(tensors, Layout.CVVAE_SD3, "weights") == {
        "_class_name": "CVVAESD3Model",
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "out_channels": 16,
        "half_3d": half_3d,
        "mid_block_add_attention": True,
    }


@pytest.mark.parametrize(
    ("channels", "quant", "factors"),
    [
        (4, True, {"scaling_factor": 0.18215, "shift_factor": 0.0}),
        (16, False, {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
        (8, True, {}),
    ],
)
def test_a_2d_vae_gets_the_published_factors_of_its_latent_width(
    channels: int, quant: bool, factors: dict[str, float]
) -> None:
    tensors = meta(autoencoder((64, 128, 128), 3, channels, style="diffusers", dims=2, quant=quant))
    assert infer_config(tensors, Layout.DIFFUSERS_2D, "weights") == {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [64, 128, 128],
        "layers_per_block": 3,
        "latent_channels": channels,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
        "use_quant_conv": quant,
        "use_post_quant_conv": quant,
        **factors,
    }


def test_what_shapes_cannot_tell_asks_for_a_config() -> None:
    narrow = meta(autoencoder((16, 32), 1, 4, style="ldm", dims=3))
    with pytest.raises(CheckpointError, match=r"widths 16-32 are not multiples of 32.* --config"):
        infer_config(narrow, Layout.CVVAE, "weights")
    uneven = meta(autoencoder((64, 96), 1, 4, style="ldm", dims=3))
    with pytest.raises(CheckpointError, match="widths 64-96 are not multiples of the first"):
        infer_config(uneven, Layout.CVVAE, "weights")
    holes = meta(autoencoder((32, 32), 2, 4, style="ldm", dims=3))
    del holes["encoder.down.1.block.0.conv1.weight"]
    with pytest.raises(CheckpointError, match="cannot tell the architecture"):
        infer_config(holes, Layout.CVVAE, "weights")
