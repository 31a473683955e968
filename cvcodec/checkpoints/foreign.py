"""Weights of other projects to the parts of a checkpoint, in one call: `import_model`.

Owns: finding the autoencoder in a larger checkpoint, ldm and old diffusers names -> diffusers names (those of
AutoencoderKL and CVVAESD3Model, canonical for 2D weights; 3D weights keep the names of their official class); a
config.json for weights without one, read off names and shapes, with the official values for what these cannot tell
(norm groups, epsilons, the factors around a diffusion model, tiling); the card, and what people are told.
`foreign_files` finds and reads the files, `model.official.inflate` has the table of names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cvcodec.checkpoints.checkpoint import check_state_dict, load_checkpoint
from cvcodec.checkpoints.foreign_files import ForeignWeights, open_source
from cvcodec.errors import CheckpointError, UsageError
from cvcodec.model.config import ModelConfig
from cvcodec.model.official.config import config_from_official
from cvcodec.model.official.inflate import diffusers_key, fresh_keys, inexactness, inflate_2d, inflated_config
from cvcodec.quantization import LatentStatistics

_SEED = 0
_ACCEPTED = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Imported:
    """What `make_checkpoint` needs, and what to tell the person."""

    config: ModelConfig
    state_dict: dict[str, Tensor]
    statistics: LatentStatistics | None
    """Only a weights file of ours brings any."""
    card: dict[str, Any]
    notes: tuple[str, ...]
    """Sentences about what was left out, assumed or freshly initialised."""


def import_model(
    source: str,
    *,
    image: bool = False,
    config_file: Path | None = None,
    licence: str | None = None,
    download: Mapping[str, Any] | None = None,
) -> Imported:
    """Read any supported source; see `open_source` for what that is.

    A 2D VAE is inflated to video by spec 2.4 (z = 4 or with quant convs: `cvvae`, else `cvvae-sd3`); `image` keeps it
    an `autoencoder-kl`. `licence` overrides what the source states. `download` as for `open_source`. Keys and shapes
    must be exactly those of the model that the config describes. Raises InputError, CheckpointError,
    MissingDependencyError, or UsageError for `image` on a video model.
    """
    found = open_source(source, config=config_file, download=download)
    if _is_ours(found):
        return _import_ours(found, licence, image)
    tensors, left_out = autoencoder_tensors(found.read_tensors(), lenient=found.is_pickled)
    layout = layout_of(tensors, source)
    if image and not layout.is_2d:
        raise UsageError(f"--image is for 2D VAEs; {source} holds a video model ({layout.value})")
    if layout.is_2d:
        tensors = to_diffusers_2d(tensors)
    tensors = {name: _as_stored(tensor, name, source) for name, tensor in tensors.items()}
    notes = [_about_left_out(left_out)] if left_out else []
    if found.config is None:
        values = infer_config(tensors, layout, source)
        notes.append("no config.json: the architecture was read off the tensors' shapes")
    else:
        values = found.config
    config = _config(values, layout, source)
    check_state_dict(config, tensors, what=source)
    card = {
        "source": found.label,
        "licence": licence or found.licence,
        "description": _describe(layout, image),
    }
    if layout.is_2d and not image:
        tensors, config, told = _inflate(tensors, config, source)
        notes += told
    return Imported(config, tensors, None, card, tuple(notes))


def _inflate(
    tensors: dict[str, Tensor], image: ModelConfig, what: str
) -> tuple[dict[str, Tensor], ModelConfig, list[str]]:
    """(weights, config, notes) of the video model. What has no 2D source is drawn from a fixed seed."""
    try:
        video = inflated_config(image)
        inflated = inflate_2d(image, tensors, video, generator=torch.Generator().manual_seed(_SEED))
    except ValueError as error:
        raise CheckpointError(f"{what}: {error}; --image keeps it as an image model") from error
    notes = ["inflated from 2D to video without training: motion is as coarse as repeating every fourth frame"]
    fresh = fresh_keys(video)
    if fresh:
        notes.append(
            f"{len(fresh)} tensors without a 2D source were freshly initialised ({fresh[0].rsplit('.', 2)[0]}.*_t)"
        )
    return (
        inflated,
        video,
        notes + [f"not exactly the image model on single frames: {why}" for why in inexactness(image, video)],
    )


def _is_ours(source: ForeignWeights) -> bool:
    if source.is_pickled:
        return False
    try:
        with safe_open(source.file, framework="pt") as file:
            return "cvcodec.config" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # reading it says what is wrong


def _import_ours(source: ForeignWeights, licence: str | None, image: bool) -> Imported:
    checkpoint = load_checkpoint(source.file)
    if image and checkpoint.config.is_video:
        raise UsageError(f"--image is for 2D VAEs; {source.file} holds a video model ({checkpoint.config.family})")
    card = {**checkpoint.card, **({"licence": licence} if licence else {})}
    return Imported(checkpoint.config, checkpoint.state_dict, checkpoint.statistics, card, ())


def _config(values: dict[str, Any], layout: Layout, what: str) -> ModelConfig:
    wanted = "AutoencoderKL" if layout.is_2d else layout.value
    named = values.get("_class_name", wanted)
    if named != wanted:
        raise CheckpointError(
            f"{what}: config.json says {str(named)[:80]!r} but the tensors are those of {wanted}; "
            "give the right one with --config"
        )
    try:
        return config_from_official({**values, "_class_name": wanted})
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{what}: {error}") from error


def _as_stored(tensor: Tensor, name: str, what: str) -> Tensor:
    """bfloat16 becomes float32, which holds it exactly: other programs that read weights files may not know it."""
    if tensor.dtype not in _ACCEPTED or tensor.layout is not torch.strided:
        kind = str(tensor.dtype).removeprefix("torch.") if tensor.layout is torch.strided else "sparse"
        raise CheckpointError(f"{what}: tensor {name[:80]} is {kind}; wanted float32 or float16")
    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor


def _about_left_out(names: list[str]) -> str:
    groups = sorted({name.split(".", 1)[0] for name in names})
    return f"left out {len(names)} tensors that are not the autoencoder's ({', '.join(groups[:5])})"


def _describe(layout: Layout, image: bool) -> str:
    if layout.is_2d:
        return "SD image autoencoder" if image else "SD image autoencoder, inflated to video without training"
    return "CV-VAE, SD2.1-compatible" if layout is Layout.CVVAE else "CV-VAE, SD3-compatible"


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
