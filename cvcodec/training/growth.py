"""A trained mini video model -> the same with an enhancement layer, tails, or a decoder that is told the quality.

Owns: which weights go where, and what the new ones begin as: the base layer, and what the decoder makes of it alone,
stay exactly what they were. The enhancement layer begins as a PCA of what the model loses, x - D(E(x)): its decoder
adds the components back, and its encoder projects x on them and subtracts what of D(E(x)) its features and the base
layer tell linearly.
Does not know: steps, files, where clips come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.model.mini import MiniAutoencoder
from cvcodec.training.pca import GAIN, patches, principal_components

_CLIPS = 240  # seen whole, so that memory stays small
_RIDGE = 1e-4  # of the mean square of what is regressed on


def grown(
    model: MiniAutoencoder,
    *,
    enhancement_channels: int,
    decoder_tail: int,
    quality_aware: bool,
    clips: Callable[[], Sequence[Tensor]] | None,
) -> MiniAutoencoder:
    """`model` with what it does not have yet of these; itself where nothing is missing. ValueError for other sizes than
    it has already.

    clips: gives clips (3, T, H, W) to fit a new enhancement layer to; None leaves it at zero.
    """
    old = model.config
    wanted = {"enhancement_channels": enhancement_channels, "decoder_tail": decoder_tail}
    for name, value in wanted.items():
        if getattr(old, name) and value not in (0, getattr(old, name)):
            raise ValueError(f"the model has {name} = {getattr(old, name)} already, not {value}")
    config = dataclasses.replace(
        old,
        enhancement_channels=enhancement_channels or old.enhancement_channels,
        decoder_tail=decoder_tail or old.decoder_tail,
        quality_aware=quality_aware or old.quality_aware,
    )
    if config == old:
        return model
    new = MiniAutoencoder(config)
    state = new.state_dict()
    for name, tensor in model.state_dict().items():
        if state[name].shape == tensor.shape:
            state[name] = tensor
        else:  # convolutions that read the latent: the base layer comes first
            state[name] = torch.zeros_like(state[name])
            state[name][:, : tensor.shape[1]] = tensor
    new.load_state_dict(state)
    if clips is not None and config.enhancement_channels > old.enhancement_channels:
        _fit_enhancement(new, clips())
    return new


@torch.no_grad()
def _fit_enhancement(model: MiniAutoencoder, clips: Sequence[Tensor]) -> None:
    """`model`: with an enhancement layer that is all zeros."""
    channels = model.config.enhancement_channels
    layer = model.encoder.enhancement
    assert layer is not None
    features: list[Tensor] = []
    hook = layer.conv_out.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    lost, made, bases = [], [], []
    for clip in clips[:_CLIPS]:
        x = clip[None]
        base = model.encode(x).mean
        output = model.decode(base)
        bases.append(base.transpose(1, 2).flatten(0, 1))
        lost.append(patches(x - output, model.group))
        made.append(patches(output, model.group))
    hook.remove()
    _, basis = principal_components(lost, channels)
    width, around = features[0].shape[1], layer.conv_base.weight[0].numel()
    gram = torch.zeros(width + around + 1, width + around + 1, dtype=torch.float64)
    products = torch.zeros(width + around + 1, channels, dtype=torch.float64)
    for maps, base, output in zip(features, bases, made, strict=True):
        parts = [maps.flatten(2), F.unfold(base, 3, padding=1), torch.ones(len(maps), 1, maps[0, 0].numel())]
        rows = torch.cat(parts, 1).transpose(1, 2).flatten(0, 1)
        gram += (rows.T @ rows).double()
        products -= (rows.T @ (output @ basis)).double()
    gram.diagonal()[:-1] += _RIDGE * gram.diagonal()[:-1].mean()
    solution = torch.linalg.solve(gram, products).float() / GAIN
    assert layer.conv_out.bias is not None
    assert layer.shortcut.bias is not None
    layer.conv_out.weight.zero_()
    layer.conv_out.weight[:, :, 1, 1] = solution[:width].T
    layer.conv_base.weight.copy_(solution[width:-1].T.reshape(layer.conv_base.weight.shape))
    layer.conv_out.bias.copy_(solution[-1])
    layer.shortcut.weight.copy_((basis.T / GAIN).reshape(layer.shortcut.weight.shape))
    layer.shortcut.bias.zero_()
    model.decoder.shortcut.weight[:, model.config.latent_channels :] = (basis * GAIN)[:, :, None, None]
