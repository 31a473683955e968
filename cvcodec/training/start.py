"""The model that a run starts from: a checkpoint, a 2D model inflated, a video model deflated, or a fresh mini with a
PCA in its shortcut.

Owns: that choice and its checks. Does not know: the training step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cvcodec.checkpoints.registry import load_model
from cvcodec.dataset.keys import torch_generator
from cvcodec.errors import UsageError
from cvcodec.model import build_model
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.mini import MiniAutoencoder, mini_config
from cvcodec.model.mini_inflate import deflate_mini, deflated_mini_config, inflate_mini, inflated_mini_config
from cvcodec.model.official.inflate import inflate_2d, inflated_config
from cvcodec.model.official.layers import ResidualBlock
from cvcodec.quantization import LatentStatistics
from cvcodec.training.config import Job, TrainConfig
from cvcodec.training.growth import grown
from cvcodec.training.pca import fit_pca, start_as_pca

_SHAPE_FIELDS = ("widths", "encoder_blocks", "decoder_blocks", "encoder_temporal", "decoder_temporal")

_LAYER_FIELDS = ("enhancement_channels", "decoder_tail", "quality_aware")


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    model: VideoAutoencoder
    image_model: VideoAutoencoder | None
    """The frozen 2D model, where one was named: for the regularisation, and to measure compatibility with."""
    unit_step: tuple[float, ...] | None
    """Of the model started from; None for a fresh one."""
    statistics: LatentStatistics | None
    """Of the model started from: kept where the encoder is frozen."""


def start_model(
    job: Job, config: TrainConfig, draw_clips: Callable[[], Iterable[Tensor]], *, fresh: bool = True
) -> Start:
    """Build the model of a job in float32 on the CPU, in training mode.

    `draw_clips` gives training clips (3, T, H, W) for the PCA; `fresh` False (a resumed run): weights will be loaded
    over it, so nothing is fitted. Raises UsageError for options that do not fit together.
    """
    image = load_model(config.image_vae) if config.image_vae else None
    if image is not None and image.config.is_video:
        raise UsageError(f"--image-vae {config.image_vae} is a video model; wanted a 2D one")
    regularised = job != "image-vae" and config.regularization != "none" and (job == "video-vae" or image is not None)
    if regularised and image is None:
        raise UsageError(f"--regularization {config.regularization} needs --image-vae; or take --regularization none")
    if job == "finetune" and not config.init:
        raise UsageError("finetune starts from a checkpoint: give --init")
    unit_step: tuple[float, ...] | None = None
    statistics: LatentStatistics | None = None
    if config.init:
        model = load_model(config.init)
        statistics = model.statistics
        unit_step = statistics.unit_step if statistics is not None else None
        if job == "image-vae" and model.config.family == "cvvae-mini":
            model, statistics = _deflated(model), None
        if isinstance(model, MiniAutoencoder) and model.config.is_video:
            before = model
            model = _grown(model, config, draw_clips if fresh else None)
            if model.config.enhancement_channels > before.config.enhancement_channels:
                unit_step, statistics = None, None
    elif job == "video-vae" and image is not None and config.inflate:
        model = _inflated(image, config)
        unit_step = image.statistics.unit_step if image.statistics is not None else None
    else:
        model = _fresh(config, video=job == "video-vae")
        if config.pca and fresh:
            start_as_pca(model, *fit_pca(draw_clips(), model.group, model.config.latent_channels))
    if model.config.is_video != (job != "image-vae") and job != "finetune":
        raise UsageError(f"{job} got a {'video' if model.config.is_video else '2D'} model: --init {config.init}")
    if image is not None and image.config.latent_channels != model.config.latent_channels:
        raise UsageError(
            f"--image-vae has {image.config.latent_channels} latent channels, the model {model.config.latent_channels}"
        )
    _freeze(model, config)
    model.train()
    if config.gradient_checkpointing:
        _checkpoint_gradients(model)
    return Start(model, image, unit_step, statistics)


def _fresh(config: TrainConfig, *, video: bool) -> MiniAutoencoder:
    changes: dict[str, Any] = {name: getattr(config, name) for name in _SHAPE_FIELDS if getattr(config, name)}
    if video:
        changes |= {name: getattr(config, name) for name in _LAYER_FIELDS}
    torch.manual_seed(config.seed)
    try:
        return MiniAutoencoder(mini_config(config.latent_channels, video=video, half_3d=config.half_3d, **changes))
    except ValueError as error:
        raise UsageError(f"these model options describe no model: {str(error).replace('self.', '')}") from error


def _grown(
    model: MiniAutoencoder, config: TrainConfig, draw_clips: Callable[[], Iterable[Tensor]] | None
) -> MiniAutoencoder:
    try:
        return grown(
            model,
            enhancement_channels=config.enhancement_channels,
            decoder_tail=config.decoder_tail,
            quality_aware=config.quality_aware,
            clips=draw_clips,
        )
    except ValueError as error:
        raise UsageError(f"--init {config.init}: {error}") from error


def _inflated(image: VideoAutoencoder, config: TrainConfig) -> VideoAutoencoder:
    state = image.state_dict()
    if image.config.family == "image-vae-mini":
        changes: dict[str, Any] = {
            name: getattr(config, name) for name in ("encoder_temporal", "decoder_temporal") if getattr(config, name)
        }
        video = inflated_mini_config(image.config, half_3d=config.half_3d, **changes)
        weights = inflate_mini(image.config, state, video)
    else:
        video = inflated_config(image.config, half_3d=config.half_3d)
        weights = inflate_2d(image.config, state, video, generator=torch_generator(config.seed, "inflation", 0))
    model = build_model(video)
    model.load_state_dict(weights)
    return model


def _deflated(video: VideoAutoencoder) -> VideoAutoencoder:
    """What the video model does to single images: a 2D model whose latent space the video model's is close to."""
    try:
        model = build_model(deflated_mini_config(video.config))
    except ValueError as error:
        raise UsageError(f"--init {video.name}: {error}") from error
    model.load_state_dict(deflate_mini(video.config, video.state_dict()))
    return model


def _freeze(model: VideoAutoencoder, config: TrainConfig) -> None:
    model.requires_grad_(True)
    if config.freeze != "none":
        frozen = [name for name, _ in model.named_parameters() if _half(name) == config.freeze]
        for name, parameter in model.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)


def _checkpoint_gradients(model: VideoAutoencoder) -> None:
    """Each residual block is computed again in the backward pass, as in the official training."""
    if isinstance(model, MiniAutoencoder):
        model.enable_gradient_checkpointing()
        return
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]


def _half(name: str) -> str:
    return "decoder" if name.startswith(("decoder.", "post_quant_conv.")) else "encoder"
