"""Starting a mini model, and making the enhancement layer of one, as a PCA of patches.

Owns: the PCA of 4x8x8 (2D: 8x8) patches of training clips, or of what a model loses of them, and its place in the
model's weights. A fresh model's other paths end in zeros, so that it starts at exactly the PCA's quality.
Does not know: where clips come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from cvcodec.model.mini import MiniAutoencoder

GAIN = 4.0
"""Latents are PCA coefficients of video patches divided by this. At z = 16 they then have deviations of 0.15 to 3.5."""
_VIDEO_PATCH = (
    768  # 4 x 3 x 8 x 8; the gain of smaller patches keeps the error of a quantised latent per pixel the same
)

_BASIS = "decoder.enhancement.basis"


def patches(pixels: Tensor, group: int) -> Tensor:
    """(B, 3, T, H, W) -> (N, group*3*8*8), in the order of the shortcuts' kernels; frame 0 fills its group alone."""
    if group > 1:
        pixels = torch.cat([pixels[:, :, :1].expand(-1, -1, group - 1, -1, -1), pixels], 2)
    frames, height, width = pixels.shape[2:]
    split = pixels.unflatten(2, (frames // group, group)).unflatten(4, (height // 8, 8)).unflatten(6, (width // 8, 8))
    rows: Tensor = split.permute(0, 2, 4, 6, 3, 1, 5, 7).flatten(4).flatten(0, 3)
    return rows


def fit_pca(clips: Iterable[Tensor], group: int, components: int) -> tuple[Tensor, Tensor]:
    """(mean (D,), basis (D, components), strongest first) of the patches of clips (3, T, H, W), float32."""
    return principal_components((patches(clip[None], group) for clip in clips), components)


def principal_components(batches: Iterable[Tensor], components: int) -> tuple[Tensor, Tensor]:
    """(mean (D,), basis (D, components), strongest first) of rows (N, D), given batch by batch, float32."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for rows in batches:
        count += len(rows)
        total = total + rows.double().sum(0)
        products = products + (rows.T @ rows).double()
    mean = total / count
    _, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    return mean.float(), vectors[:, -components:].flip(1).float()


@torch.no_grad()
def start_as_pca(model: MiniAutoencoder, mean: Tensor, basis: Tensor) -> None:
    """Make both shortcuts the PCA; the rest of the model is left as it is."""
    channels = model.config.latent_channels
    gain = GAIN * (len(mean) / _VIDEO_PATCH) ** 0.5
    encoder, decoder = model.encoder.shortcut, model.decoder.shortcut
    assert encoder.bias is not None and decoder.bias is not None
    encoder.weight.copy_((basis.T / gain).reshape(channels, -1, 8, 8))
    encoder.bias.copy_(-(basis.T @ mean) / gain)
    decoder.weight.copy_((basis * gain).view(len(mean), channels, 1, 1))
    decoder.bias.copy_(mean)


@torch.no_grad()
def with_enhancement(model: MiniAutoencoder, channels: int, left_over: Iterable[Tensor]) -> MiniAutoencoder:
    """`model` and an enhancement layer of so many channels: a PCA of patches of `left_over`, clips (B, 3, T, H, W) less
    what the decoder makes of them. All else is, and shares its weights with, what it was."""
    _, basis = principal_components((patches(clip, model.group) for clip in left_over), channels)
    return _rebuilt(model, channels, {**model.state_dict(), _BASIS: basis.T})


def without_enhancement(model: MiniAutoencoder) -> MiniAutoencoder:
    """`model` and its weights, less its enhancement layer."""
    return _rebuilt(model, 0, {name: tensor for name, tensor in model.state_dict().items() if name != _BASIS})


def _rebuilt(model: MiniAutoencoder, enhancement_channels: int, state: dict[str, Tensor]) -> MiniAutoencoder:
    new = MiniAutoencoder(dataclasses.replace(model.config, enhancement_channels=enhancement_channels))
    new.load_state_dict(state, assign=True)
    return new.to(next(model.parameters()).device).train(model.training)
