"""Pipelines of diffusers as they are published, but very small and of random weights: a tokenizer that spells, encoders
of text and pictures, U-Nets, and the image VAEs that ours replace.
"""

from __future__ import annotations

import string
from typing import Any

import pytest
import torch

WHY = "is not installed: pip install 'cvcodec[generators]'"
SIDE = 32
WIDTH = 32
"""Of text and of what is seen, where a U-Net attends to it."""


def diffusers_and_transformers() -> tuple[Any, Any]:
    """Both libraries; skips the test where one is absent."""
    found = [pytest.importorskip(name, reason=f"{name} {WHY}") for name in ("diffusers", "transformers")]
    torch.manual_seed(0)
    return found[0], found[1]


def image_vae() -> Any:
    """What a published pipeline has: the smallest AutoencoderKL with its factor of 8."""
    diffusers = pytest.importorskip("diffusers", reason=f"diffusers {WHY}")
    return diffusers.AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def text_parts() -> dict[str, Any]:
    """A tokenizer of letters, and an encoder of its tokens."""
    _, transformers = diffusers_and_transformers()
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {token: index for index, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    start, end = len(letters), len(letters) + 1
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    return {
        "tokenizer": transformers.CLIPTokenizer(vocabulary, [], model_max_length=16),
        "text_encoder": transformers.CLIPTextModel(config).eval(),
    }


def ddim_scheduler(prediction_type: str) -> Any:
    """As those of Stable Diffusion and what was made of it are configured."""
    diffusers, _ = diffusers_and_transformers()
    return diffusers.DDIMScheduler(
        prediction_type=prediction_type,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def stable_diffusion(vae: Any = None, *, prediction_type: str = "v_prediction") -> Any:
    """Stable Diffusion 2.1, which predicts v; 1.5 and 2.1-base predict epsilon."""
    diffusers, _ = diffusers_and_transformers()
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        sample_size=SIDE // 8,
    )
    return diffusers.StableDiffusionPipeline(
        **text_parts(),
        vae=vae or image_vae(),
        unet=unet,
        scheduler=ddim_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def text_to_video(vae: Any = None) -> Any:
    """TextToVideoSD, as which VideoCrafter2 runs in diffusers."""
    diffusers, _ = diffusers_and_transformers()
    unet = diffusers.UNet3DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        sample_size=SIDE // 8,
    )
    return diffusers.TextToVideoSDPipeline(
        **text_parts(),
        vae=vae or image_vae(),
        unet=unet,
        scheduler=ddim_scheduler("epsilon"),
    )


def svd_scheduler() -> Any:
    """As Stable Video Diffusion's is configured."""
    diffusers, _ = diffusers_and_transformers()
    return diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )


def stable_video_diffusion(vae: Any = None, *, seen: int = 224) -> Any:
    """Stable Video Diffusion, by default with the VAE of its own whose decoder is temporal. seen: size of pictures to
    the image encoder, to which the pipeline resizes those of Pillow."""
    diffusers, transformers = diffusers_and_transformers()
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=2,
        cross_attention_dim=WIDTH,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        sample_size=SIDE // 8,
    )
    seeing = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=seen,
        intermediate_size=37,
        patch_size=seen // 4,
    )
    own = (
        None
        if vae is not None
        else diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4
        )
    )
    return diffusers.StableVideoDiffusionPipeline(
        vae=vae or own,
        unet=unet,
        image_encoder=transformers.CLIPVisionModelWithProjection(seeing).eval(),
        scheduler=svd_scheduler(),
        feature_extractor=transformers.CLIPImageProcessor(crop_size=seen, size=seen),
    )
