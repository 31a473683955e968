"""Latent-space id and decoder hash: what changes them and what must not."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch
from torch import Tensor

from cvcodec.checkpoints.identity import DECODER_FIELDS, ENCODER_FIELDS, decoder_hash, identities, latent_space_id
from cvcodec.model.config import ModelConfig

CONFIG = ModelConfig(
    family="cvvae-mini", latent_channels=4, widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1), patch_size=2
)
STATE = {
    "encoder.b": torch.tensor([1.5, -2.0]),
    "encoder.a": torch.tensor([[0.5, 3.0]]),
    "decoder.a": torch.tensor([7.0]),
}
# Fields that say how a model is run or how large its default pieces are, not what it computes.
SIZES = {
    "window_latents",
    "encode_context",
    "decode_context",
    "tile_latents",
    "tile_context",
    "tile_blend",
    "official_chunk_frames",
    "official_tile_pixels",
    "official_tile_overlap",
}


def test_the_latent_space_id_is_the_sha256_that_the_docstring_describes() -> None:
    config = {
        "family": "cvvae-mini",
        "latent_channels": 4,
        "widths": [8, 16],
        "encoder_blocks": [1, 1],
        "patch_size": 2,
    }
    digest = hashlib.sha256(b"cvcodec latent space 1\0")
    digest.update(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    digest.update(b'["encoder.a",[1,2]]\n' + bytes.fromhex("0000003f 00004040"))
    digest.update(b'["encoder.b",[2]]\n' + bytes.fromhex("0000c03f 000000c0"))
    assert latent_space_id(CONFIG, STATE) == digest.hexdigest()[:16]


def test_every_config_field_is_known_to_count_or_not_to_count() -> None:
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert fields == ENCODER_FIELDS | DECODER_FIELDS | SIZES
    assert not SIZES & (ENCODER_FIELDS | DECODER_FIELDS)


def changed(name: str, value: Tensor) -> dict[str, Tensor]:
    return {**STATE, name: value}


def test_the_decoder_changes_the_decoder_hash_alone_and_the_encoder_the_latent_space_id_alone() -> None:
    space, decoder = identities(CONFIG, STATE)
    other_decoder = identities(CONFIG, changed("decoder.a", torch.tensor([7.5])))
    other_encoder = identities(CONFIG, changed("encoder.a", torch.tensor([[0.5, 3.5]])))
    assert other_decoder[0] == space
    assert other_decoder[1] != decoder
    assert other_encoder[0] != space
    assert other_encoder[1] == decoder


@pytest.mark.parametrize(
    ("field", "value", "space_changes", "decoder_changes"),
    [
        ("scaling_factor", 0.18215, True, False),
        ("shift_factor", 0.0609, True, False),
        ("encoder_blocks", (1, 2), True, False),
        ("decoder_blocks", (1, 2), False, True),
        ("temporal_attention", True, False, True),
        ("norm_eps", 1e-6, True, True),
        ("window_latents", 8, False, False),
        ("decode_context", 3, False, False),
        ("tile_latents", 24, False, False),
        ("official_chunk_frames", 16, False, False),
    ],
)
def test_a_config_field_changes_the_half_that_it_shapes(
    field: str, value: object, space_changes: bool, decoder_changes: bool
) -> None:
    other = dataclasses.replace(CONFIG, **{field: value})  # type: ignore[arg-type]
    assert (latent_space_id(other, STATE) != latent_space_id(CONFIG, STATE)) is space_changes
    assert (decoder_hash(other, STATE) != decoder_hash(CONFIG, STATE)) is decoder_changes


def test_names_shapes_and_the_border_between_tensors_count() -> None:
    base = latent_space_id(CONFIG, STATE)
    renamed = {**STATE, "encoder.c": STATE["encoder.b"]}
    del renamed["encoder.b"]
    reshaped = changed("encoder.a", STATE["encoder.a"].reshape(2))
    assert len({base, latent_space_id(CONFIG, renamed), latent_space_id(CONFIG, reshaped)}) == 3


def test_storing_the_same_values_in_another_type_or_memory_layout_keeps_the_identities() -> None:
    exact = {name: tensor.half() for name, tensor in STATE.items()}
    assert identities(CONFIG, exact) == identities(CONFIG, STATE)
    assert identities(CONFIG, {name: tensor.bfloat16() for name, tensor in STATE.items()}) == identities(CONFIG, STATE)
    image = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    strided = changed("encoder.a", image.to(memory_format=torch.channels_last))
    assert latent_space_id(CONFIG, strided) == latent_space_id(CONFIG, changed("encoder.a", image))
    rounded = changed("encoder.a", torch.tensor([[0.5, 0.1]]).half())
    assert latent_space_id(CONFIG, rounded) != latent_space_id(CONFIG, changed("encoder.a", torch.tensor([[0.5, 0.1]])))


def test_a_tensor_of_neither_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'loss\.x' belongs neither"):
        identities(CONFIG, changed("loss.x", torch.ones(1)))
