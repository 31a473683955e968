"""Weights of a 2D image autoencoder -> weights of the official video models (paper section 3.2, spec 2.4).

Owns: which slice of a 3D kernel a 2D kernel fills, sub-frame groups, folding of the quant convs, what has no 2D source,
and what of the result is exact. Of 2D weights, current diffusers names come in, no older ones.

* causal kernels (encoder): the LAST slice, so that latent j is the 2D latent of frame 4j (but for the norms over time);
* symmetric kernels (decoder): the CENTRE slice, so that a latent is repeated over its frames;
* time-doubling kernels: the 2D kernel in both sub-frame groups;
* `quant_conv` goes into the encoder's `conv_out`, `post_quant_conv` into the decoder's `conv_in`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cvcodec.model import build_model
from cvcodec.model.config import ModelConfig
from cvcodec.model.official.config import config_from_official


def inflated_config(image: ModelConfig, family: str | None = None, *, half_3d: bool = True) -> ModelConfig:
    """The released video architecture for an `autoencoder-kl`'s widths, with the official windows.

    `family`: `cvvae` or `cvvae-sd3`; by default `cvvae` for z = 4 or quant convs, else `cvvae-sd3`. The image model's
    scaling and shift stay. ValueError where the official class cannot have the image model's shape.
    """
    if image.family != "autoencoder-kl":
        raise ValueError(f"only an autoencoder-kl inflates to the official models, got {image.family}")
    if family is None:
        family = "cvvae" if image.latent_channels == 4 or image.quant_conv else "cvvae-sd3"
    if family not in ("cvvae", "cvvae-sd3"):
        raise ValueError(f"cannot inflate to {family!r}; wanted cvvae or cvvae-sd3")
    if len(image.widths) != 4:
        raise ValueError(f"the video models have four levels, this image model has {len(image.widths)}")
    released = config_from_official({"_class_name": "CVVAEModel" if family == "cvvae" else "CVVAESD3Model"})
    return ModelConfig(
        family=family,
        latent_channels=image.latent_channels,
        widths=image.widths,
        encoder_blocks=image.encoder_blocks,
        decoder_blocks=image.decoder_blocks,
        half_3d=half_3d,
        norm_groups=image.norm_groups,
        norm_eps=released.norm_eps,
        mid_attention=image.mid_attention,
        temporal_attention=released.temporal_attention and image.mid_attention,
        scaling_factor=image.scaling_factor,
        shift_factor=image.shift_factor,
        official_chunk_frames=released.official_chunk_frames,
        official_tile_pixels=released.official_tile_pixels,
        official_tile_overlap=released.official_tile_overlap,
    )


def inflate_2d(
    image: ModelConfig,
    state_dict: Mapping[str, Tensor],
    video: ModelConfig | None = None,
    *,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The complete state dict of `video` (default: `inflated_config(image)`) from an `autoencoder-kl`'s, in its dtypes.

    `state_dict`: current diffusers names, exactly those of `image`. Tensors without a 2D source (`fresh_keys`) get
    PyTorch's default initialisation, drawn from `generator`. ValueError when names or shapes do not fit.
    """
    video = video or inflated_config(image)
    with torch.device("meta"):
        of_image, of_video = build_model(image).state_dict(), build_model(video).state_dict()
    if set(state_dict) != set(of_image):
        different = sorted(set(state_dict) ^ set(of_image))
        raise ValueError(f"the 2D weights lack or add {len(different)} tensors: {', '.join(different[:4])}")
    for key, tensor in of_image.items():
        if state_dict[key].shape != tensor.shape:
            raise ValueError(f"{key} is {tuple(state_dict[key].shape)}, its config says {tuple(tensor.shape)}")
    source = _fold_quant_convs(dict(state_dict)) if image.quant_conv else dict(state_dict)
    fresh = set(fresh_keys(video))
    dtype = next(iter(state_dict.values())).dtype
    inflated = {}
    for key, target in of_video.items():
        if key in fresh:
            inflated[key] = _default_value(key, target, generator).to(dtype)
            continue
        name = diffusers_key(key, len(video.widths)) if video.family == "cvvae" else key
        if name not in source:
            raise ValueError(f"{key} has no 2D source: the two configs describe different layers")
        inflated[key] = _inflate(key, source[name], target.shape, causal=key.startswith("encoder."))
    return inflated


def fresh_keys(video: ModelConfig) -> tuple[str, ...]:
    """Tensors that no 2D model has: the temporal half of the decoder's attention (ten, for cvvae as released)."""
    with torch.device("meta"):
        keys = build_model(video).state_dict()
    return tuple(key for key in keys if re.search(r"_t\.(weight|bias)$", key))


def inexactness(image: ModelConfig, video: ModelConfig) -> tuple[str, ...]:
    """Why a one-frame clip through the inflated model differs from the image model (spec 2.4); empty: it does not.

    Sentences for people. A clip of several frames always differs, by the norms' statistics over time.
    """
    reasons = []
    if video.family == "cvvae-sd3":
        reasons.append(
            "replicated borders and symmetric downsampling shift the sampling grid against the image model's"
        )
    if video.temporal_attention:
        reasons.append(
            "the decoder's temporal attention has no residual of its own and starts untrained: decodes differ"
        )
    if video.norm_eps != image.norm_eps:
        reasons.append(f"the norms' epsilon is {video.norm_eps:g} instead of {image.norm_eps:g}")
    if image.quant_conv:
        reasons.append("post_quant_conv's bias is not seen by the padding of conv_in: a border of one latent differs")
    return tuple(reasons)


def diffusers_key(key: str, levels: int) -> str:
    """A cvvae key -> the key of the same layer under diffusers names (spec 2.3); `levels` of resolution."""
    key = re.sub(r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", key)
    key = re.sub(r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", key)
    if up := re.match(r"decoder\.up\.(\d+)\.(block|upsample)\.(.*)", key):
        part = "resnets" if up[2] == "block" else "upsamplers.0"
        key = f"decoder.up_blocks.{levels - 1 - int(up[1])}.{part}.{up[3]}"
    key = key.replace(".mid.block_1.", ".mid_block.resnets.0.").replace(".mid.block_2.", ".mid_block.resnets.1.")
    attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    key = re.sub(
        r"\.mid\.attn_1\.(norm|q|k|v|proj_out)\.", lambda hit: f".mid_block.attentions.0.{attention[hit[1]]}.", key
    )
    return key.replace(".nin_shortcut.", ".conv_shortcut.").replace(".norm_out.", ".conv_norm_out.")


def _inflate(key: str, source: Tensor, shape: torch.Size, *, causal: bool) -> Tensor:
    subframes = shape[0] // source.shape[0]
    if subframes == 2:
        source = torch.cat((source, source))
    if source.ndim == 4 and len(shape) == 5 and shape[2] == 3:
        kernel = source.new_zeros(shape)
        kernel[:, :, 2 if causal else 1] = source
        return kernel
    if source.numel() != shape.numel() or source.shape[0] != shape[0]:
        raise ValueError(f"{key} is {tuple(shape)} in the video model, its 2D source {tuple(source.shape)}")
    return source.reshape(shape).clone()  # norms, 2D kernels, and 1x1 kernels whatever their rank


def _fold_quant_convs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The 1x1 convolutions around the latent multiplied into their neighbours, in float64."""

    def take(name: str) -> tuple[Tensor, Tensor]:
        return state.pop(f"{name}.weight").double().flatten(1), state.pop(f"{name}.bias").double()

    def put(name: str, weight: Tensor, bias: Tensor) -> None:
        for part, value in (("weight", weight), ("bias", bias)):
            state[f"{name}.{part}"] = value.to(state[f"{name}.{part}"].dtype)

    outer, outer_bias = take("quant_conv")
    kernel, bias = (state[f"encoder.conv_out.{part}"].double() for part in ("weight", "bias"))
    put("encoder.conv_out", torch.einsum("ab,bikl->aikl", outer, kernel), outer @ bias + outer_bias)
    inner, inner_bias = take("post_quant_conv")
    kernel, bias = (state[f"decoder.conv_in.{part}"].double() for part in ("weight", "bias"))
    inside = torch.einsum("oakl,a->o", kernel, inner_bias)
    put("decoder.conv_in", torch.einsum("oakl,ab->obkl", kernel, inner), bias + inside)
    return state


def _default_value(key: str, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """What nn.LayerNorm and nn.Linear start with."""
    layer, part = key.rsplit(".", 2)[1:]
    if layer.startswith("norm"):
        return torch.ones(like.shape) if part == "weight" else torch.zeros(like.shape)
    bound = 1 / math.sqrt(like.shape[-1])  # a linear layer's bias has as many entries as the square weight has columns
    return torch.empty(like.shape).uniform_(-bound, bound, generator=generator)
