"""What makes two models the same: the latent-space id and the decoder hash.

Owns: which tensors and which config fields each identity covers, and how they are hashed.

Both are the first 16 hex digits of a SHA-256 over

    the kind of identity, zero-terminated
    the canonical JSON of the config fields it covers, fields at their default left out
        (so that a field added by a later release does not change the ids of existing models)
    for every tensor, sorted by name: the canonical JSON of [name, shape], a newline, and its values as
        little-endian float32, in row-major order

Values are widened to float32 (exact for float16 and bfloat16), so that storing the same numbers in a wider type, as a
fine-tuning run of the decoder does with the encoder, keeps the identity; rounding them to a narrower type does not.
The latent-space id answers "may these weights decode that latent?": it covers the encoder and the
normalisation around a diffusion model. The decoder hash answers "will the pixels be the same?".
Neither covers window and tile defaults.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from cvcodec.model.config import ModelConfig

ID_DIGITS = 16  # 64 bits: a chance meeting among a million models has odds of 1 to 37 million

_ENCODER_PREFIXES = ("encoder.", "quant_conv.")
_DECODER_PREFIXES = ("decoder.", "post_quant_conv.")

_SHARED_FIELDS = frozenset(
    {"family", "latent_channels", "widths", "half_3d", "norm_groups", "norm_eps", "mid_attention", "quant_conv"}
    | {"patch_size", "temporal_factor", "spatial_factor"}
)
ENCODER_FIELDS = _SHARED_FIELDS | {"encoder_blocks", "encoder_temporal", "scaling_factor", "shift_factor"}
"""Config fields that the latent-space id covers."""
DECODER_FIELDS = _SHARED_FIELDS | {
    "decoder_blocks",
    "decoder_temporal",
    "temporal_attention",
    "enhancement_channels",
    "decoder_tail",
    "quality_aware",
}
"""Config fields that the decoder hash covers."""


def is_decoder_tensor(name: str) -> bool:
    """Which of the two identities covers a tensor. Raises ValueError for a name that belongs to neither half."""
    if name.startswith(_DECODER_PREFIXES):
        return True
    if name.startswith(_ENCODER_PREFIXES):
        return False
    raise ValueError(f"tensor {name!r} belongs neither to an encoder nor to a decoder")


def identities(config: ModelConfig, state_dict: Mapping[str, Tensor]) -> tuple[str, str]:
    """(latent-space id, decoder hash), both computed at once on two threads (hashlib lets go of the GIL)."""
    with ThreadPoolExecutor(1) as pool:
        decoder = pool.submit(decoder_hash, config, state_dict)
        return latent_space_id(config, state_dict), decoder.result()


def latent_space_id(config: ModelConfig, state_dict: Mapping[str, Tensor]) -> str:
    """16 hex digits over the encoder's tensors, the config that shapes it and the normalisation."""
    names = (name for name in state_dict if not is_decoder_tensor(name))
    return _digest("cvcodec latent space 1", config, ENCODER_FIELDS, names, state_dict)


def decoder_hash(config: ModelConfig, state_dict: Mapping[str, Tensor]) -> str:
    """16 hex digits over the decoder's tensors and the config that shapes it."""
    names = (name for name in state_dict if is_decoder_tensor(name))
    return _digest("cvcodec decoder 1", config, DECODER_FIELDS, names, state_dict)


def _digest(
    kind: str, config: ModelConfig, fields: frozenset[str], names: Iterable[str], state_dict: Mapping[str, Tensor]
) -> str:
    defaults = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    covered = {
        name: value
        for name, value in config.to_dict().items()
        if name in fields and getattr(config, name) != defaults[name]
    }
    digest = hashlib.sha256(kind.encode() + b"\0" + _canonical_json(covered))
    for name in sorted(names):
        tensor = state_dict[name].detach()
        digest.update(_canonical_json([name, list(tensor.shape)]) + b"\n")
        values = tensor.to("cpu", torch.float32).contiguous().numpy()
        digest.update(values.astype("<f4", copy=False).data if values.size else b"")
    return digest.hexdigest()[:ID_DIGITS]


def _canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
