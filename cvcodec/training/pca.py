"""Starting a mini model, or a second layer of one, as a PCA of patches.

Owns: the PCA of 4x8x8 (2D: 8x8) patches of training clips, or of what a model loses of them, and its place in the
model's weights. A fresh model's other paths end in zeros, so that it starts at exactly the PCA's quality.
Does not know: where clips come from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.model.mini import MiniAutoencoder

GAIN = 4.0
"""Latents are PCA coefficients of video patches divided by this. At z = 16 they then have deviations of 0.15 to 3.5."""
_VIDEO_PATCH = (
    768  # 4 x 3 x 8 x 8; the gain of smaller patches keeps the error of a quantised latent per pixel the same
)
_CLIPS = 240  # enough for the fit of a second layer, whose rows are all kept
_RIDGE = 1e-5  # of the mean square of what is regressed on


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
def fit_enhancement(model: MiniAutoencoder, clips: Iterable[Tensor]) -> None:
    """Start a layer that is all zeros as projections of x on a PCA of what the model loses, x - D(E(x)), less what of
    those of D(E(x)) the base layer tells linearly; the decoder gives them back to D(E(x))."""
    channels = model.config.enhancement_channels
    above, below = model.encoder.enhancement, model.decoder.enhancement
    assert above is not None
    assert below is not None
    lost, made, bases = [], [], []
    for clip in itertools.islice(clips, _CLIPS):
        x = clip[None]
        base = model.encode(x).mean
        output = model.decode(base)
        bases.append(base)
        lost.append(patches(x - output, model.group))
        made.append(patches(output, model.group))
    _, basis = principal_components(lost, channels)
    seen = 2 * 9 * model.config.latent_channels  # this latent and the one before, 3x3
    gram = torch.zeros(seen + 1, seen + 1, dtype=torch.float64)
    products = torch.zeros(seen + 1, channels, dtype=torch.float64)
    for base, output in zip(bases, made, strict=True):
        pair = torch.stack([torch.cat([base[:, :, :1], base[:, :, :-1]], 2), base], 2)  # taps as a causal kernel's
        columns = F.unfold(pair.flatten(1, 2).transpose(1, 2).flatten(0, 1), 3, padding=1)
        rows = torch.cat([columns, torch.ones_like(columns[:, :1])], 1).transpose(1, 2).flatten(0, 1)
        gram += (rows.T @ rows).double()
        products += (rows.T @ (output @ basis)).double()
    gram.diagonal()[:-1] += _RIDGE * gram.diagonal()[:-1].mean()
    solution = torch.linalg.solve(gram, products).float() / GAIN
    for layer in (above, below):
        weight = solution[:-1].T.reshape(channels, model.config.latent_channels, 2, 3, 3)
        layer.conv_base.weight.copy_(weight)
        assert layer.conv_base.bias is not None
        layer.conv_base.bias.copy_(solution[-1])
    assert above.shortcut.bias is not None
    above.shortcut.weight.copy_((basis.T / GAIN).reshape(above.shortcut.weight.shape))
    above.shortcut.bias.zero_()
    below.project.weight.copy_(basis.T / GAIN)
    below.restore.weight.copy_(basis * GAIN)
