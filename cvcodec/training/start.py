"""The model that a run starts from: a checkpoint, grown where it lacks layers, a 2D model inflated, a video model
deflated, or a fresh mini with a PCA in its shortcut.

Owns: that choice and its checks, what is frozen. Does not know: how new weights are fitted to clips (`pca`).
"""

from __future__ import annotations

import dataclasses
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
from cvcodec.training.config import Job, ModelSettings, TrainConfig
from cvcodec.training.pca import fit_pca, start_as_pca, without_enhancement

_TEMPORAL = ("encoder_temporal", "decoder_temporal")
_SHAPE = ("widths", "encoder_blocks", "decoder_blocks", *_TEMPORAL)
_GROWN = ("decoder_tail", "quality_aware")


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
    enhancement_channels: int
    """Of the layer that the weights of the run get; `model` has none."""


def start_model(
    job: Job, config: TrainConfig, draw_clips: Callable[[], Iterable[Tensor]], *, fresh: bool = True
) -> Start:
    """Build the model of a job in float32 on the CPU, in training mode.

    `draw_clips` gives training clips (3, T, H, W) for the PCA; `fresh` False (a resumed run): weights will be loaded
    over it, so nothing is fitted. Raises UsageError for options that do not fit together.
    """
    settings, regularization = config.model, config.regularisation.regularization
    image = load_model(settings.image_vae) if settings.image_vae else None
    if image is not None and image.config.is_video:
        raise UsageError(f"--image-vae {settings.image_vae} is a video model; wanted a 2D one")
    if job == "video-vae" and regularization != "none" and image is None:
        raise UsageError(f"--regularization {regularization} needs --image-vae; or take --regularization none")
    if job == "finetune" and not settings.init:
        raise UsageError("finetune starts from a checkpoint: give --init")
    unit_step: tuple[float, ...] | None = None
    statistics: LatentStatistics | None = None
    layers = 0
    if settings.init:
        model = load_model(settings.init)
        statistics = model.statistics
        unit_step = statistics.unit_step if statistics is not None else None
        if job == "image-vae" and model.config.family == "cvvae-mini":
            model, statistics = _deflated(model), None
        if isinstance(model, MiniAutoencoder) and model.config.is_video:
            if layers := model.config.enhancement_channels:  # trained without; what is left over is known at the end
                model = without_enhancement(model)
                statistics = statistics and statistics.base(model.config.latent_channels)
                unit_step = statistics.unit_step if statistics is not None else None
            try:
                model = grown(model, **_given(settings, _GROWN))
            except ValueError as error:
                raise UsageError(f"--init {settings.init}: {error}") from error
    elif job == "video-vae" and image is not None and settings.inflate:
        model = _inflated(image, settings, config.run.seed)
        unit_step = image.statistics.unit_step if image.statistics is not None else None
    else:
        model = _fresh(settings, config.run.seed, video=job == "video-vae")
        if settings.pca and fresh:
            start_as_pca(model, *fit_pca(draw_clips(), model.group, model.config.latent_channels))
    if model.config.is_video != (job != "image-vae") and job != "finetune":
        raise UsageError(f"{job} got a {'video' if model.config.is_video else '2D'} model: --init {settings.init}")
    if image is not None and image.config.latent_channels != model.config.latent_channels:
        raise UsageError(
            f"--image-vae has {image.config.latent_channels} latent channels, the model {model.config.latent_channels}"
        )
    for name, parameter in model.named_parameters():
        half = "decoder" if name.startswith(("decoder.", "post_quant_conv.")) else "encoder"
        parameter.requires_grad_(half != settings.freeze)
    model.train()
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model)
    layers = settings.enhancement_channels or layers
    if layers and model.config.family != "cvvae-mini":
        raise UsageError(f"--enhancement-channels {layers}: only cvvae-mini has an enhancement layer")
    return Start(model, image, unit_step, statistics, layers)


def grown(model: MiniAutoencoder, *, decoder_tail: int = 0, quality_aware: bool = False) -> MiniAutoencoder:
    """`model` with what it does not have yet of these; itself where nothing is missing. ValueError for another size
    than it has already. What it computes stays exactly what it was."""
    old = model.config
    if old.decoder_tail and decoder_tail not in (0, old.decoder_tail):
        raise ValueError(f"the model has decoder_tail = {old.decoder_tail} already, not {decoder_tail}")
    config = dataclasses.replace(
        old, decoder_tail=decoder_tail or old.decoder_tail, quality_aware=quality_aware or old.quality_aware
    )
    if config == old:
        return model
    new = MiniAutoencoder(config)
    new.load_state_dict({**new.state_dict(), **model.state_dict()})
    return new


def _given(settings: ModelSettings, names: Iterable[str]) -> dict[str, Any]:
    """By name, what is not left to the model."""
    return {name: getattr(settings, name) for name in names if getattr(settings, name)}


def _fresh(settings: ModelSettings, seed: int, *, video: bool) -> MiniAutoencoder:
    torch.manual_seed(seed)
    changes = _given(settings, (*_SHAPE, *_GROWN) if video else _SHAPE)
    try:
        return MiniAutoencoder(mini_config(settings.latent_channels, video=video, half_3d=settings.half_3d, **changes))
    except ValueError as error:
        raise UsageError(f"these model options describe no model: {str(error).replace('self.', '')}") from error


def _inflated(image: VideoAutoencoder, settings: ModelSettings, seed: int) -> VideoAutoencoder:
    state = image.state_dict()
    if image.config.family == "image-vae-mini":
        video = inflated_mini_config(image.config, half_3d=settings.half_3d, **_given(settings, _TEMPORAL))
        weights = inflate_mini(image.config, state, video)
    else:
        video = inflated_config(image.config, half_3d=settings.half_3d)
        weights = inflate_2d(image.config, state, video, generator=torch_generator(seed, "inflation", 0))
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


def _checkpoint_gradients(model: VideoAutoencoder) -> None:
    """Each residual block is computed again in the backward pass, as in the official training."""
    if isinstance(model, MiniAutoencoder):
        model.enable_gradient_checkpointing()
        return
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
