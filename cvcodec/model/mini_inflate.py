"""Inflating the 2D twin `image-vae-mini` into the video model `cvvae-mini`.

Owns: which 2D weight goes where, so that the inflated model encodes and decodes images exactly as its twin does, and
static clips as repetitions of it. The rules are those of spec 2.4 (paper section 3.2), carried over to an architecture
that holds a group of four frames in its channels:

* the encoder reads the LAST frame of its group: `conv_in` and the patch shortcut get the 2D kernel there, else zeros;
* a causal kernel gets the 2D kernel on its last tap (the current latent), a symmetric one on its centre tap;
* the decoder writes every frame of its group: `conv_out` and the patch shortcut get a copy for each sub-frame.

Latent j of the inflated model is then the 2D latent of frame 4j, and decoding repeats it over frames 4j-3 ... 4j.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cvcodec.model.config import ModelConfig
from cvcodec.model.mini import MiniAutoencoder, mini_config

_SHARED_SHAPE = ("widths", "encoder_blocks", "decoder_blocks", "patch_size")


def inflated_mini_config(image: ModelConfig, **changes: object) -> ModelConfig:
    """The video config that takes the weights of an `image-vae-mini`; `changes` replace fields (say, temporal blocks).

    Raises ValueError for another family.
    """
    if image.family != "image-vae-mini":
        raise ValueError(f"only an image-vae-mini can be inflated to a cvvae-mini: {image.family = }")
    return mini_config(image.latent_channels, **{**_shared(image), **changes})


def _shared(config: ModelConfig) -> dict[str, Any]:
    """The fields that a video model and its 2D twin have in common."""
    return {name: getattr(config, name) for name in (*_SHARED_SHAPE, "norm_eps", "scaling_factor", "shift_factor")}


def inflate_mini(
    image: ModelConfig, state_dict: Mapping[str, Tensor], video: ModelConfig | None = None
) -> dict[str, Tensor]:
    """The video model's state dict, from the 2D twin's config and state dict.

    `video`: the model to fill, by default `inflated_mini_config(image)`. Raises ValueError when the two do not fit.
    """
    video = video or inflated_mini_config(image)
    if image.family != "image-vae-mini" or video.family != "cvvae-mini":
        raise ValueError(f"want an image-vae-mini and a cvvae-mini: {image.family = }, {video.family = }")
    for name in ("latent_channels", *_SHARED_SHAPE, "spatial_factor"):
        if getattr(image, name) != getattr(video, name):
            raise ValueError(f"{name} differs: image {getattr(image, name)}, video {getattr(video, name)}")
    with torch.device("meta"):
        tensors = MiniAutoencoder(video).state_dict()
    if set(tensors) != set(state_dict):
        raise ValueError(f"the 2D state dict has other names: {sorted(set(tensors) ^ set(state_dict))[:4]}")
    return {
        name: _inflate(name, state_dict[name].detach(), tuple(target.shape), video.temporal_factor)
        for name, target in tensors.items()
    }


def _inflate(name: str, weight: Tensor, shape: tuple[int, ...], group: int) -> Tensor:
    if name in ("encoder.conv_in.weight", "encoder.shortcut.weight"):
        inflated = weight.new_zeros(shape)
        inflated[:, -weight.shape[1] :] = weight  # input channels are (frame of the group, rgb, patch): the last frame
        return inflated
    if name.startswith(("decoder.conv_out.", "decoder.shortcut.")):
        return weight.repeat(group, *[1] * (weight.ndim - 1))  # output channels are (frame of the group, rgb, patch)
    if len(shape) == weight.ndim + 1:
        inflated = weight.new_zeros(shape)
        taps = shape[2]
        inflated[:, :, taps - 1 if name.startswith("encoder.") else taps // 2] = weight
        return inflated
    if tuple(weight.shape) != shape:
        raise ValueError(f"{name} is {tuple(weight.shape)} in 2D and {shape} in the video model")
    return weight.clone()


def deflated_mini_config(video: ModelConfig) -> ModelConfig:
    """The config of the 2D twin of a `cvvae-mini`. Raises ValueError for another family."""
    if video.family != "cvvae-mini":
        raise ValueError(f"only a cvvae-mini can be deflated to an image-vae-mini: {video.family = }")
    if video.coded_channels != video.latent_channels or video.decoder_tail or video.quality_aware:
        raise ValueError(
            "a 2D twin has one layer, no tails and no quality, so that this model cannot be deflated to one"
        )
    return mini_config(video.latent_channels, video=False, **_shared(video))


def deflate_mini(video: ModelConfig, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way: the 2D twin that does to images what the video model does to clips of one frame, exactly.

    Such a clip repeats its frame in time, so that the taps of a temporal kernel, and the frames of the first group,
    add up; of the frames that the decoder writes, the last remains. Raises ValueError when the two do not fit.
    """
    with torch.device("meta"):
        tensors = MiniAutoencoder(deflated_mini_config(video)).state_dict()
    if set(tensors) != set(state_dict):
        raise ValueError(f"the video state dict has other names: {sorted(set(tensors) ^ set(state_dict))[:4]}")
    return {name: _deflate(name, state_dict[name].detach(), tuple(target.shape)) for name, target in tensors.items()}


def _deflate(name: str, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    if name in ("encoder.conv_in.weight", "encoder.shortcut.weight"):
        return weight.reshape(shape[0], -1, *shape[1:]).sum(1)
    if name.startswith(("decoder.conv_out.", "decoder.shortcut.")):
        return weight[-shape[0] :].clone()
    if weight.ndim == len(shape) + 1:
        return weight.sum(2)
    if tuple(weight.shape) != shape:
        raise ValueError(f"{name} is {tuple(weight.shape)} in the video model and {shape} in 2D")
    return weight.clone()
