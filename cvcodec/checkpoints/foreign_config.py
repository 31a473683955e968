"""A config.json for weights that came without one: everything that the tensors' names and shapes tell.

Owns: reading widths, block counts, latent channels and the like off a state dict. Does not know: files, our own models.

What shapes cannot tell (norm groups, epsilons, the factors around a diffusion model, tiling) takes the official values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cvcodec.checkpoints.foreign_names import Layout
from cvcodec.errors import CheckpointError

_GROUPS = 32  # of every released SD VAE and of CV-VAE


def infer_config(tensors: Mapping[str, Tensor], layout: Layout, what: str) -> dict[str, Any]:
    """`tensors` under their official names (2D: diffusers names) -> the values of an official config.json.

    CheckpointError when the shapes contradict each other or describe something no official class can be.
    """
    ldm = layout is Layout.CVVAE
    level_name, block_name = ("encoder.down", "block") if ldm else ("encoder.down_blocks", "resnets")
    pattern = re.compile(rf"{re.escape(level_name)}\.(\d{{1,2}})\.{block_name}\.(\d{{1,2}})\.conv1\.weight")
    blocks = {(int(found[1]), int(found[2])): tensors[name] for name in tensors if (found := pattern.fullmatch(name))}
    levels = 1 + max((level for level, _ in blocks), default=-1)
    per_level = {sum(1 for level, _ in blocks if level == wanted) for wanted in range(levels)}
    latent = tensors.get("decoder.conv_in.weight")
    if (
        latent is None
        or len(per_level) != 1
        or 0 in per_level
        or any((level, 0) not in blocks for level in range(levels))
    ):
        raise CheckpointError(
            f"{what}: cannot tell the architecture from {len(tensors)} tensors: "
            "wanted decoder.conv_in and the same number of "
            f"{level_name}.*.{block_name}.* at every level; add its config.json with --config"
        )
    widths = [int(blocks[level, 0].shape[0]) for level in range(levels)]
    if any(width % _GROUPS for width in widths):
        raise CheckpointError(
            f"{what}: widths {'-'.join(map(str, widths))} are not multiples of {_GROUPS}, "
            "so the norm groups are unknown; add its config.json with --config"
        )
    layers, channels = per_level.pop(), int(latent.shape[1])
    second = tensors.get(f"{level_name}.0.{block_name}.0.conv2.weight")
    half_3d = second is None or second.ndim == 4
    if layout is Layout.CVVAE:
        if any(width % widths[0] for width in widths):
            raise CheckpointError(f"{what}: widths {'-'.join(map(str, widths))} are not multiples of the first")
        return {
            "_class_name": "CVVAEModel",
            "ch": widths[0],
            "ch_mult": [width // widths[0] for width in widths],
            "num_res_blocks": layers,
            "z_channels": channels,
            "half_3d": half_3d,
        }
    if layout is Layout.CVVAE_SD3:
        return {
            "_class_name": "CVVAESD3Model",
            "block_out_channels": widths,
            "layers_per_block": layers,
            "out_channels": channels,
            "half_3d": half_3d,
            "mid_block_add_attention": any(".mid_block.attentions." in name for name in tensors),
        }
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": channels,
        "norm_num_groups": _GROUPS,
        "mid_block_add_attention": any(".mid_block.attentions." in name for name in tensors),
        "use_quant_conv": any(name.startswith("quant_conv.") for name in tensors),
        "use_post_quant_conv": any(name.startswith("post_quant_conv.") for name in tensors),
        **_published_factors(channels),
    }


def _published_factors(channels: int) -> dict[str, float]:
    """Spec 1.6 and 1.9: SD1.5, SD2.1 and SVD; SD3 and SD3.5."""
    if channels == 4:
        return {"scaling_factor": 0.18215, "shift_factor": 0.0}
    if channels == 16:
        return {"scaling_factor": 1.5305, "shift_factor": 0.0609}
    return {}
