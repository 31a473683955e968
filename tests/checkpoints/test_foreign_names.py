"""Names of 2D VAEs: every layout in the wild becomes the current diffusers one (spec 2.3)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cvcodec.checkpoints.foreign import Layout, autoencoder_tensors, layout_of, to_diffusers_2d
from cvcodec.errors import CheckpointError
from tests.checkpoints.official_shapes import autoencoder

WIDTHS = (2, 4, 6, 6)


def numbered(style: str, *, quant: bool = True) -> dict[str, Tensor]:
    """Tensors that remember their place: element 0 is the index in the table, whose order both styles share."""
    shapes = autoencoder(WIDTHS, 2, 4, style=style, dims=2, quant=quant)
    return {name: torch.full(shape, float(index)) for index, (name, shape) in enumerate(shapes.items())}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_ldm_names_become_diffusers_names_and_every_tensor_keeps_its_place() -> None:
    assert same(to_diffusers_2d(numbered("ldm")), numbered("diffusers"))


def test_old_diffusers_attention_names_become_the_current_ones() -> None:
    current = numbered("diffusers")
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = dict(current)
    for name in list(old):
        for new, before in old_names.items():
            if f".attentions.0.{new}." in name:
                old[name.replace(new, before)] = old.pop(name)
    assert set(old) != set(current)
    assert same(to_diffusers_2d(old), current)


def test_current_diffusers_names_stay_as_they_are() -> None:
    assert same(to_diffusers_2d(numbered("diffusers")), numbered("diffusers"))


def test_a_file_that_mixes_two_layouts_is_refused() -> None:
    mixed = {**numbered("ldm"), "encoder.conv_norm_out.weight": torch.ones(6)}
    with pytest.raises(CheckpointError, match="mixes two layouts"):
        to_diffusers_2d(mixed)


def test_a_whole_sd_checkpoint_gives_only_its_first_stage() -> None:
    vae = numbered("ldm")
    checkpoint = {f"first_stage_model.{name}": tensor for name, tensor in vae.items()}
    checkpoint |= {
        "model.diffusion_model.out.0.weight": torch.ones(3),
        "cond_stage_model.transformer.weight": torch.ones(3),
        "betas": torch.ones(1000),
        "first_stage_model.loss.logvar": torch.ones(()),
        "first_stage_model.model_ema.encoderconv_inweight": torch.ones(3),
    }
    kept, left_out = autoencoder_tensors(checkpoint, lenient=False)
    assert same(kept, vae)
    assert len(left_out) == 5


def test_losses_discriminators_and_averages_of_a_training_run_are_left_out() -> None:
    vae = numbered("ldm")
    extra = {
        "loss.discriminator.main.0.weight": torch.ones(2),
        "loss.logvar": torch.ones(()),
        "model_ema.decay": torch.ones(()),
    }
    kept, left_out = autoencoder_tensors({**vae, **extra}, lenient=False)
    assert same(kept, vae)
    assert sorted(left_out) == sorted(extra)


def test_only_training_checkpoints_may_hold_other_tensors() -> None:
    mine = {**numbered("ldm"), "decoder_2d.conv_in.weight": torch.ones(2)}
    assert "decoder_2d.conv_in.weight" in autoencoder_tensors(mine, lenient=False)[0]
    assert "decoder_2d.conv_in.weight" not in autoencoder_tensors(mine, lenient=True)[0]


@pytest.mark.parametrize("prefix", ["module.", "vae.", "_orig_mod."])
def test_wrapper_prefixes_are_taken_off(prefix: str) -> None:
    vae = numbered("diffusers")
    assert same(autoencoder_tensors({prefix + name: tensor for name, tensor in vae.items()}, lenient=False)[0], vae)


@pytest.mark.parametrize(
    ("style", "dims", "layout"),
    [
        ("ldm", 3, Layout.CVVAE),
        ("diffusers", 3, Layout.CVVAE_SD3),
        ("ldm", 2, Layout.LDM_2D),
        ("diffusers", 2, Layout.DIFFUSERS_2D),
    ],
)
def test_the_layout_is_told_from_names_and_kernels(style: str, dims: int, layout: Layout) -> None:
    shapes = autoencoder(WIDTHS, 1, 4, style=style, dims=dims)
    assert layout_of({name: torch.empty(shape) for name, shape in shapes.items()}, "weights") is layout


def test_weights_of_something_else_are_refused_by_name() -> None:
    with pytest.raises(
        CheckpointError, match=r"unet\.safetensors holds no autoencoder .* 1 tensors \(conv_in\.weight\)"
    ):
        layout_of({"conv_in.weight": torch.ones(2)}, "unet.safetensors")
