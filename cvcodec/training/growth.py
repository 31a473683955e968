"""A trained mini video model -> the same with an enhancement layer, tails, or a decoder that is told the quality.

Owns: which weights go where, and what the new ones begin as: the base layer, and what the decoder makes of it alone,
stay exactly what they were. The enhancement layer begins as projections of x on a PCA of what the model loses,
x - D(E(x)), less what of those of D(E(x)) the base layer tells linearly; the decoder gives them back to D(E(x)).
Does not know: steps, files, where clips come from.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.model.mini import MiniAutoencoder, encoder_reach
from cvcodec.training.pca import GAIN, patches, principal_components

_CLIPS = 240  # enough for the fit, whose rows are all kept
_RIDGE = 1e-5  # of the mean square of what is regressed on


def grown(
    model: MiniAutoencoder,
    *,
    enhancement_channels: int,
    decoder_tail: int,
    quality_aware: bool,
    clips: Callable[[], Iterable[Tensor]] | None,
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
    config = dataclasses.replace(config, encode_context=old.encode_context + encoder_reach(config) - encoder_reach(old))
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
def _fit_enhancement(model: MiniAutoencoder, clips: Iterable[Tensor]) -> None:
    """`model`: with an enhancement layer that is all zeros."""
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
