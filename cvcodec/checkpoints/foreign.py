"""One call from a source to the parts of a checkpoint.

Owns: the order of the steps, what people are told about them, the card. Does not know: where the result goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cvcodec.checkpoints.checkpoint import check_state_dict, load_checkpoint
from cvcodec.checkpoints.foreign_config import infer_config
from cvcodec.checkpoints.foreign_files import Source, open_source
from cvcodec.checkpoints.foreign_names import Layout, autoencoder_tensors, layout_of, to_diffusers_2d
from cvcodec.errors import CheckpointError, UsageError
from cvcodec.model.config import ModelConfig
from cvcodec.model.official.config import config_from_official
from cvcodec.model.official.inflate import fresh_keys, inexactness, inflate_2d, inflated_config
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


def _is_ours(source: Source) -> bool:
    if source.is_pickled:
        return False
    try:
        with safe_open(source.file, framework="pt") as file:
            return "cvcodec.config" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # reading it says what is wrong


def _import_ours(source: Source, licence: str | None, image: bool) -> Imported:
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
