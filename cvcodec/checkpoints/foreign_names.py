"""Tensor names of other projects: finding the autoencoder in a larger checkpoint, and ldm names -> diffusers names.

Owns: prefixes, what is left out, old attention names. Does not know: files, configs, the table of spec 2.3 itself
(model.official.inflate has it).

diffusers names (those of AutoencoderKL and CVVAESD3Model) are the canonical ones for 2D weights; 3D weights keep the
names of their official class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from torch import Tensor

from cvcodec.errors import CheckpointError
from cvcodec.model.official.inflate import diffusers_key

_HALVES = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_LEFT_OUT = ("loss.", "model_ema.", "discriminator.", "logvar")  # training leftovers beside the autoencoder
_WHOLE_CHECKPOINT_PREFIX = "first_stage_model."  # where SD checkpoints keep their VAE, beside UNet and text encoder
_WRAPPER_PREFIXES = ("module.", "vae.", "_orig_mod.")  # DataParallel, pipelines, torch.compile


class Layout(Enum):
    """The four naming schemes, by what they hold."""

    CVVAE = "CVVAEModel"
    CVVAE_SD3 = "CVVAESD3Model"
    LDM_2D = "2D VAE with ldm names"
    DIFFUSERS_2D = "2D VAE with diffusers names"

    @property
    def is_2d(self) -> bool:
        """Whether the weights are those of an image autoencoder."""
        return self in (Layout.LDM_2D, Layout.DIFFUSERS_2D)


def autoencoder_tensors(tensors: Mapping[str, Tensor], *, lenient: bool) -> tuple[dict[str, Tensor], list[str]]:
    """(the autoencoder's tensors without prefixes, names left out).

    Losses, discriminators and EMA copies are left out. In an SD checkpoint only `first_stage_model.` counts. `lenient`
    (training checkpoints, spec 6.3) also leaves out everything else that is not encoder, decoder or their 1x1
    convolutions.
    """
    found = dict(tensors)
    left_out: list[str] = []
    if any(name.startswith(_WHOLE_CHECKPOINT_PREFIX) for name in found):
        left_out += [name for name in found if not name.startswith(_WHOLE_CHECKPOINT_PREFIX)]
        found = _without_prefix(found, _WHOLE_CHECKPOINT_PREFIX)
    for prefix in _WRAPPER_PREFIXES:
        if found and any(name.startswith(f"{prefix}encoder.") for name in found):
            left_out += [name for name in found if not name.startswith(prefix)]
            found = _without_prefix(found, prefix)
    kept = {
        name: tensor
        for name, tensor in found.items()
        if not (name.startswith(_LEFT_OUT) or (lenient and not name.startswith(_HALVES)))
    }
    return kept, left_out + [name for name in found if name not in kept]


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def layout_of(tensors: Mapping[str, Tensor], what: str) -> Layout:
    """Which scheme the names follow. CheckpointError when none does."""
    ldm = any(name.startswith("encoder.down.") for name in tensors)
    diffusers = any(name.startswith("encoder.down_blocks.") for name in tensors)
    first = tensors.get("encoder.conv_in.weight")
    if first is None or ldm == diffusers or first.ndim not in (4, 5):
        some = ", ".join(sorted(tensors)[:3]) or "none"
        raise CheckpointError(
            f"{what} holds no autoencoder that this release knows: wanted encoder.conv_in.weight and encoder.down.* or "
            f"encoder.down_blocks.*, found {len(tensors)} tensors ({some[:160]})"
        )
    if first.ndim == 5:
        return Layout.CVVAE if ldm else Layout.CVVAE_SD3
    return Layout.LDM_2D if ldm else Layout.DIFFUSERS_2D


# ---------------------------------------------------------------------------------------------------- 2D names

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LONGEST_NAME = 200  # no real name is longer; others are left to the strict check


def to_diffusers_2d(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """2D weights with ldm, old diffusers or current diffusers names -> current diffusers names (spec 2.3).

    Attention projections stored as 1x1 convolutions (C, C, 1, 1) become matrices (C, C). Names that no rule covers
    stay as they are, for the strict check to report. CheckpointError when two names turn into one.
    """
    levels = 1 + max(
        (int(found[1]) for name in tensors if (found := re.match(r"decoder\.up\.(\d{1,2})\.", name))), default=0
    )
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = _current_name(name, levels)
        if new in renamed:
            raise CheckpointError(
                f"two tensors are both {new!r} by diffusers names; one is {name!r}: the file mixes two layouts"
            )
        if ".attentions." in new and new.endswith(".weight") and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        renamed[new] = tensor
    return renamed


def _current_name(name: str, levels: int) -> str:
    if len(name) > _LONGEST_NAME:
        return name
    name = diffusers_key(name, levels)
    return re.sub(
        r"\.mid_block\.attentions\.0\.(query|key|value|proj_attn)\.",
        lambda found: f".mid_block.attentions.0.{_OLD_ATTENTION[found[1]]}.",
        name,
    )
