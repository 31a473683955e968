"""From other projects' files to models: every kind of source, and the official classes' own outputs at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cvcodec.checkpoints.checkpoint import Checkpoint, instantiate, make_checkpoint, write_checkpoint
from cvcodec.checkpoints.foreign import Imported, import_model
from cvcodec.checkpoints.registry import load_model
from cvcodec.errors import CheckpointError, UsageError
from cvcodec.model.mini import mini_config
from cvcodec.quantization import LatentStatistics
from tests.checkpoints.official_shapes import Shapes, autoencoder
from tests.fixtures.parity.weights import stand_in_video, stand_in_weights

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
WIDTHS = (32, 32, 32, 32)


def weights(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in stand_in_weights(shapes).items()}


def folder(path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None) -> Path:
    path.mkdir(parents=True)
    save_file(tensors, path / "diffusion_pytorch_model.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def checkpoint(imported: Imported) -> Checkpoint:
    return make_checkpoint(imported.config, imported.state_dict, statistics=imported.statistics, card=imported.card)


@pytest.fixture(scope="module")
def z4() -> dict[str, Tensor]:
    return weights(autoencoder(WIDTHS, 1, 4, style="ldm", dims=3))


@pytest.fixture(scope="module")
def z16() -> dict[str, Tensor]:
    return weights(autoencoder(WIDTHS, 1, 16, style="diffusers", dims=3))


@pytest.fixture(scope="module")
def sd() -> dict[str, Tensor]:
    """A z = 4 image VAE with current diffusers names."""
    return weights(autoencoder(WIDTHS, 1, 4, style="diffusers", dims=2, quant=True))


@pytest.fixture(scope="module")
def sd_as_ldm(sd: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with ldm names: both tables run in the same order."""
    names = autoencoder(WIDTHS, 1, 4, style="ldm", dims=2, quant=True)
    order = autoencoder(WIDTHS, 1, 4, style="diffusers", dims=2, quant=True)
    return {ldm: sd[name].reshape(shape) for (ldm, shape), name in zip(names.items(), order, strict=True)}


# ------------------------------------------------------------------------------------------------ official CV-VAE


@pytest.mark.parametrize("name", ["cvvae_z4", "cvvae_sd3_z16"])
def test_an_official_folder_becomes_a_model_that_computes_what_the_official_class_did(
    name: str, tmp_path: Path
) -> None:
    recorded = json.loads((PARITY / f"{name}.json").read_text())
    outputs = np.load(PARITY / f"{name}.npz")
    source = folder(tmp_path / name, weights(recorded["shapes"]), recorded["config"])
    file = tmp_path / "imported.safetensors"
    write_checkpoint(file, checkpoint(import_model(str(source))))
    model = load_model(file)
    for index, video in enumerate(recorded["videos"]):
        pixels = torch.from_numpy(stand_in_video(**video))
        with torch.inference_mode():
            moments = model.moments(pixels)
            decoded = model.decode(moments.chunk(2, dim=1)[0])
        np.testing.assert_allclose(moments.numpy(), outputs[f"moments_{index}"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(decoded.numpy(), outputs[f"decoded_{index}"], atol=1e-4, rtol=0)


def test_a_training_checkpoint_gives_the_same_model_as_the_released_file(z4: dict[str, Tensor], tmp_path: Path) -> None:
    extra = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.logvar": torch.ones(())}
    torch.save({"state_dict": {**z4, **extra}, "epoch": 1}, tmp_path / "cv_vae.ckpt")
    imported = import_model(str(tmp_path / "cv_vae.ckpt"))
    released = import_model(str(folder(tmp_path / "vae3d", z4, None)))
    assert imported.config == released.config
    assert imported.config.family == "cvvae"
    assert same(imported.state_dict, z4)
    assert any("left out 2 tensors" in note and "(loss)" in note for note in imported.notes)


@pytest.mark.parametrize("half_3d", [True, False])
def test_a_bare_file_has_its_architecture_read_off_the_shapes(half_3d: bool, tmp_path: Path) -> None:
    tensors = weights(autoencoder((32, 32, 32, 64), 2, 16, style="diffusers", dims=3, half_3d=half_3d))
    save_file(tensors, tmp_path / "bare.safetensors")
    imported = import_model(str(tmp_path / "bare.safetensors"))
    assert (imported.config.family, imported.config.half_3d, imported.config.widths) == (
        "cvvae-sd3",
        half_3d,
        (32, 32, 32, 64),
    )
    assert (imported.config.scaling_factor, imported.config.shift_factor) == (1.5305, 0.0609)
    assert any("no config.json" in note for note in imported.notes)
    checkpoint(imported)


def test_half_precision_stays_half_and_bfloat16_widens_exactly(z4: dict[str, Tensor], tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in z4.items()}
    imported = import_model(str(folder(tmp_path / "half", halves, None)))
    assert same(imported.state_dict, halves)
    assert {tensor.dtype for tensor in imported.state_dict.values()} == {torch.float16}
    bfloats = {name: tensor.bfloat16() for name, tensor in z4.items()}
    imported = import_model(str(folder(tmp_path / "bfloat", bfloats, None)))
    assert {tensor.dtype for tensor in imported.state_dict.values()} == {torch.float32}
    assert all(torch.equal(tensor, bfloats[name].float()) for name, tensor in imported.state_dict.items())


# ------------------------------------------------------------------------------------------------ 2D image VAEs


def test_ldm_and_diffusers_names_of_the_same_image_vae_give_the_same_video_model(
    sd: dict[str, Tensor], sd_as_ldm: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(
        {"state_dict": {f"first_stage_model.{name}": tensor for name, tensor in sd_as_ldm.items()}},
        tmp_path / "sd.ckpt",
    )
    one = checkpoint(import_model(str(folder(tmp_path / "vae", sd, None))))
    other = checkpoint(import_model(str(tmp_path / "sd.ckpt")))
    assert one.config.family == "cvvae"
    assert (one.latent_space_id, one.config) == (other.latent_space_id, other.config)


def test_an_inflated_image_vae_encodes_frames_as_the_image_vae_does(sd: dict[str, Tensor], tmp_path: Path) -> None:
    source = str(folder(tmp_path / "vae", sd, None))
    video = instantiate(checkpoint(import_model(source)), name="video")
    image = instantiate(checkpoint(import_model(source, image=True)), name="image")
    assert (video.config.family, image.config.family) == ("cvvae", "autoencoder-kl")
    pixels = torch.from_numpy(stand_in_video(5, 1, 32, 40))
    with torch.inference_mode():
        latent = image.encode(pixels).mean
        # 1e-3: the released video class has another norm epsilon (1e-5) than image VAEs (1e-6)
        torch.testing.assert_close(video.encode(pixels).mean, latent, atol=1e-3, rtol=0)
        assert latent.std() > 0.01  # not two silent models


def test_image_weights_are_kept_as_they_are_when_asked(
    sd: dict[str, Tensor], sd_as_ldm: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(sd_as_ldm, tmp_path / "kl-f8.safetensors")
    imported = import_model(str(tmp_path / "kl-f8.safetensors"), image=True)
    assert same(imported.state_dict, sd)
    assert (imported.config.scaling_factor, imported.config.quant_conv) == (0.18215, True)


def test_an_sd3_image_vae_becomes_the_sd3_video_family(tmp_path: Path) -> None:
    tensors = weights(autoencoder(WIDTHS, 1, 16, style="diffusers", dims=2))
    imported = import_model(str(folder(tmp_path / "vae", tensors, None)))
    assert imported.config.family == "cvvae-sd3"
    assert (imported.config.scaling_factor, imported.config.shift_factor) == (1.5305, 0.0609)
    centre = imported.state_dict["decoder.conv_in.weight"]
    assert torch.equal(centre[:, :, 1], tensors["decoder.conv_in.weight"])
    assert not centre[:, :, [0, 2]].any()
    last = imported.state_dict["encoder.conv_in.weight"]
    assert torch.equal(last[:, :, 2], tensors["encoder.conv_in.weight"])
    assert not last[:, :, :2].any()
    checkpoint(imported)


def test_the_factors_of_a_config_go_before_the_published_ones(sd: dict[str, Tensor], tmp_path: Path) -> None:
    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": list(WIDTHS),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.13025,
    }
    imported = import_model(str(folder(tmp_path / "sdxl", sd, config)))
    assert imported.config.scaling_factor == 0.13025


# ------------------------------------------------------------------------------------------------ refusals


def test_missing_unexpected_and_misshaped_keys_are_listed(z4: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {**z4, "encoder.extra": torch.ones(1), "encoder.conv_out.bias": torch.ones(5)}
    del wrong["decoder.norm_out.weight"]
    with pytest.raises(CheckpointError) as caught:
        import_model(str(folder(tmp_path / "vae3d", wrong, None)))
    message = str(caught.value)
    assert "1 missing (decoder.norm_out.weight)" in message
    assert "1 unexpected (encoder.extra)" in message
    assert "1 mis-shaped (encoder.conv_out.bias is (5), wanted (8))" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "CVVAESD3Model"}, "config.json says 'CVVAESD3Model' but the tensors are those of CVVAEModel"),
        ({"_class_name": "UNet2DConditionModel"}, "config.json says 'UNet2DConditionModel'"),
        ({"_class_name": "CVVAEModel", "ch": "wide"}, "vae3d"),
        ({"_class_name": "CVVAEModel", "ch": 10**12}, "vae3d"),
        ({"_class_name": "CVVAEModel", "ch": 64, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}, "mis-shaped"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    z4: dict[str, Tensor], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_model(str(folder(tmp_path / "vae3d", z4, config)))


def test_quantised_weights_are_refused(z4: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {**z4, "encoder.conv_in.weight": z4["encoder.conv_in.weight"].to(torch.float8_e4m3fn)}
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight is float8_e4m3fn; wanted float32 or float16"):
        import_model(str(folder(tmp_path / "fp8", wrong, None)))


def test_a_video_model_cannot_be_kept_as_an_image_model(z16: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--image is for 2D VAEs"):
        import_model(str(folder(tmp_path / "vae3d", z16, None)), image=True)


# ------------------------------------------------------------------------------------------------ our own files, cards


def test_a_weights_file_of_ours_comes_in_with_its_statistics_and_card(tmp_path: Path) -> None:
    from cvcodec.model import build_model

    config = mini_config(4, widths=(8, 8, 8))
    statistics = LatentStatistics(mean=(0.0,) * 4, std=(2.0,) * 4)
    made = make_checkpoint(
        config, build_model(config).state_dict(), statistics=statistics, card={"licence": "MIT", "data": "clips"}
    )
    write_checkpoint(tmp_path / "ours.safetensors", made)
    imported = import_model(str(tmp_path / "ours.safetensors"))
    assert (imported.config, imported.statistics) == (config, statistics)
    assert imported.card == {"licence": "MIT", "data": "clips"}
    assert same(imported.state_dict, made.state_dict)


def test_the_card_says_where_weights_come_from_and_under_which_licence(z4: dict[str, Tensor], tmp_path: Path) -> None:
    place = folder(tmp_path / "somewhere" / "vae3d", z4, None)
    assert import_model(str(place)).card["licence"] is None
    (place / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    card = import_model(str(place)).card
    assert (card["source"], card["licence"]) == ("vae3d", "apache-2.0")
    assert import_model(str(place), licence="CC0-1.0").card["licence"] == "CC0-1.0"
