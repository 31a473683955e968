"""Whole pipelines of diffusers with the adapter as their VAE, saved and loaded; folders of diffusers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cvcodec.checkpoints.checkpoint import save_checkpoint
from cvcodec.checkpoints.registry import load_model
from cvcodec.errors import InputError, UsageError
from cvcodec.integrations.diffusers import DiffusersVAE
from harness import official_config, random_model
from tests.checkpoints.test_foreign import PARITY, folder, weights
from tests.checkpoints.test_foreign_files import hub  # noqa: F401  # a fixture
from tests.fixtures.parity.weights import stand_in_video
from tests.integrations.test_diffusers import dit
from tests.integrations.tiny_pipelines import image_vae, stable_video_diffusion
from tests.model.test_mini import clip, small_model

WHY = "diffusers is not installed: pip install 'cvcodec[diffusers]'"
SIDE = 32


@pytest.fixture
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason=WHY)


def new_vae(**config: Any) -> DiffusersVAE:
    return DiffusersVAE(small_model(scaling_factor=0.18215, **config)).eval()


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def svd(vae: Any) -> Any:
    """Stable Video Diffusion's pipeline, for pictures of `SIDE`."""
    pipeline = stable_video_diffusion(vae, seen=SIDE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Any, **options: Any) -> torch.Tensor:
    made = pipeline(
        torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)),
        height=SIDE,
        width=SIDE,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
        **{"output_type": "pt", **options},
    ).frames
    assert isinstance(made, torch.Tensor)
    return made


@torch.no_grad()
@pytest.mark.parametrize(("latents", "chunk", "videos", "frames"), [(25, 8, 1, 97), (25, 25, 1, 97), (5, 3, 2, 17)])
def test_stable_video_diffusion_gives_four_frames_for_a_latent_however_it_decodes(
    latents: int, chunk: int, videos: int, frames: int
) -> None:
    vae = new_vae()
    pipeline = svd(vae)
    options = {"num_frames": latents, "num_videos_per_prompt": videos}
    got = generate(pipeline, decode_chunk_size=chunk, **options)
    assert got.shape == (videos, frames, 3, SIDE, SIDE)
    scaled = generate(pipeline, output_type="latent", **options)
    wanted = vae.model.decode(scaled.transpose(1, 2) / 0.18215).transpose(1, 2) / 2 + 0.5
    torch.testing.assert_close(got, wanted.clamp(0, 1), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_pipeline_in_half_precision_encodes_its_picture_in_full(diffusers: Any) -> None:
    """`force_upcast`: what SVD's pipeline does to its VAE before and after."""
    vae = new_vae()
    pipeline = svd(vae).to(torch.float16)
    dtypes: list[torch.dtype] = []
    vae.model.encoder.register_forward_hook(lambda *_: dtypes.append(vae.dtype))
    got = generate(pipeline, num_frames=2)
    assert (dtypes, vae.dtype, got.shape) == ([torch.float32], torch.float16, (1, 5, 3, SIDE, SIDE))
    assert got.isfinite().all()


@torch.no_grad()
def test_a_model_that_waits_elsewhere_comes_to_the_device_before_it_decodes() -> None:
    """`enable_model_cpu_offload`, whose hooks run before `forward` alone."""
    hooks = pytest.importorskip("accelerate.hooks", reason="accelerate is not installed: pip install accelerate")
    happened: list[str] = []

    class Device(hooks.ModelHook):  # type: ignore[misc, name-defined]
        def pre_forward(self, module: torch.nn.Module, *args: Any, **options: Any) -> Any:
            happened.append("comes")
            return args, options

    vae = new_vae()
    hooks.add_hook_to_module(vae, Device())
    vae.model.encoder.register_forward_hook(lambda *_: happened.append("encodes"))
    vae.model.decoder.register_forward_hook(lambda *_: happened.append("decodes"))
    vae.decode(vae.encode(clip(5)).latent_dist.mode())
    assert happened == ["comes", "encodes", "comes", "decodes"]


@torch.no_grad()
def test_a_model_that_is_offloaded_layer_by_layer_decodes_what_it_did() -> None:
    """`enable_sequential_cpu_offload`."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    for model in (small_model(), random_model(official_config(width=8), "narrow")):
        vae = DiffusersVAE(model).eval()
        pixels = clip(5, 16, 16)
        latents = vae.encode(pixels).latent_dist.mode()
        wanted = vae.decode(latents).sample
        for pixels_again in (False, True):
            accelerate.cpu_offload(vae, execution_device="cpu")
            assert {weight.device.type for weight in vae.parameters()} == {"meta"}
            assert vae.device.type == "cpu"
            if pixels_again:
                assert torch.equal(vae.encode(pixels).latent_dist.mode(), latents)
            else:
                assert torch.equal(vae.decode(latents).sample, wanted)


@torch.no_grad()
def test_wan_reads_what_it_needs_in_the_config(diffusers: Any) -> None:
    pytest.importorskip("transformers", reason="Wan's pipeline imports it")
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    vae = DiffusersVAE(small_model(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609)).eval()
    pipeline = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    words = torch.randn(1, 4, 32)

    def run(output_type: str) -> torch.Tensor:
        made = pipeline(
            prompt_embeds=words,
            negative_prompt_embeds=words,
            num_frames=9,
            height=SIDE,
            width=SIDE,
            num_inference_steps=1,
            output_type=output_type,
            generator=torch.Generator().manual_seed(0),
        ).frames
        assert isinstance(made, torch.Tensor)
        return made

    got, scaled = run("pt"), run("latent")
    assert (got.shape, scaled.shape) == ((1, 9, 3, SIDE, SIDE), (1, 16, 3, 4, 4))
    wanted = vae.model.decode(scaled / 1.5305 + 0.0609).transpose(1, 2) / 2 + 0.5
    torch.testing.assert_close(got, wanted.clamp(0, 1), atol=1e-4, rtol=0)


def test_a_saved_pipeline_holds_the_vae_as_it_is_and_loads_again(diffusers: Any, tmp_path: Path) -> None:
    vae = new_vae()
    pipeline = dit(diffusers, vae)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(1.01)  # as fine-tuning does
    pipeline.save_pretrained(tmp_path)
    loaded = diffusers.DiTPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.vae, DiffusersVAE)
    assert same_weights(loaded.vae, vae)
    assert same_weights(loaded.transformer, pipeline.transformer)
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["_class_name"] == "DiffusersVAE"
    alone = DiffusersVAE.from_pretrained(tmp_path, subfolder="vae", torch_dtype=torch.bfloat16)
    assert (alone.dtype, alone.training) == (torch.bfloat16, False)
    weights_file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    assert same_weights(load_model(weights_file), vae.model), "a weights file like any other of ours"


def test_weights_that_cannot_be_saved_do_not_lose_the_rest(diffusers: Any, tmp_path: Path) -> None:
    vae = new_vae()
    next(vae.parameters()).data.fill_(float("nan"))
    pipeline = dit(diffusers, vae)
    with pytest.warns(UserWarning, match=r"vae has no weights.*holds NaN"):
        pipeline.save_pretrained(tmp_path)
    loaded = diffusers.DiTPipeline.from_pretrained(tmp_path, vae=new_vae())
    assert same_weights(loaded.transformer, pipeline.transformer)


@torch.no_grad()
def test_an_autoencoder_kl_of_a_pipeline_computes_what_diffusers_does(diffusers: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = image_vae().eval()
    dit(diffusers, theirs).save_pretrained(tmp_path)
    ours = DiffusersVAE.from_pretrained(str(tmp_path), subfolder="vae", image=True)
    pixels = clip(1, SIDE, SIDE)[:, :, 0]
    latents = theirs.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(ours.encode(pixels).latent_dist.mode(), latents, atol=1e-4, rtol=1e-4)
    wanted = theirs.decode(latents).sample
    torch.testing.assert_close(ours.decode(latents).sample, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.decode(latents, num_frames=1).sample, wanted, atol=1e-4, rtol=1e-4)
    for name in ("scaling_factor", "latent_channels", "in_channels"):
        assert ours.config[name] == theirs.config[name]
    assert [each.requires_grad for each in ours.parameters()] == [each.requires_grad for each in theirs.parameters()]
    with pytest.warns(UserWarning, match="inflated from 2D to video"):
        assert DiffusersVAE.from_pretrained(tmp_path).model.config.is_video


@torch.no_grad()
def test_official_weights_load_from_their_folder_and_from_their_repository(tmp_path: Path, hub: Path) -> None:  # noqa: F811
    recorded = json.loads((PARITY / "cvvae_z4.json").read_text())
    folder(hub / "AILab-CVC" / "CV-VAE" / "vae3d_v1-1", weights(recorded["shapes"]), recorded["config"])
    outputs = np.load(PARITY / "cvvae_z4.npz")
    pixels = torch.from_numpy(stand_in_video(**recorded["videos"][0]))
    local = hub / "AILab-CVC" / "CV-VAE"
    for vae in (
        DiffusersVAE.from_pretrained(local, subfolder="vae3d_v1-1"),
        DiffusersVAE.from_pretrained("hf://AILab-CVC/CV-VAE/vae3d_v1-1"),
        DiffusersVAE.from_pretrained("hf://AILab-CVC/CV-VAE", subfolder="vae3d_v1-1", revision="v2"),
        DiffusersVAE.from_pretrained("AILab-CVC/CV-VAE", subfolder="vae3d_v1-1", cache_dir=str(tmp_path / "there")),
    ):
        moments = vae.encode(pixels).latent_dist.parameters
        np.testing.assert_allclose(moments.numpy(), outputs["moments_0"], atol=1e-4, rtol=0)
    assert (tmp_path / "there").is_dir()
    with pytest.raises(InputError, match="no repository o/none"):
        DiffusersVAE.from_pretrained("o/none", subfolder="vae")


def test_names_and_weights_files_mean_what_they_mean_elsewhere(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", small_model(), statistics=None, card={})
    assert same_weights(DiffusersVAE.from_pretrained(tmp_path / "a.safetensors").model, small_model())
    with pytest.raises(InputError, match=r"no weights file runs/b\.safetensors"):
        DiffusersVAE.from_pretrained("runs/b.safetensors")
    with pytest.raises(InputError, match="no model is called 'nothing'"):
        DiffusersVAE.from_pretrained("nothing")
    with pytest.raises(UsageError, match="then push it"):
        new_vae().save_pretrained(tmp_path / "c", push_to_hub=True)


def test_a_variant_is_part_of_the_name_of_the_file(tmp_path: Path) -> None:
    half = new_vae().half()
    half.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert same_weights(DiffusersVAE.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16), half)
