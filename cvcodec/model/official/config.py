"""Official `config.json` values -> ModelConfig, for CVVAEModel, CVVAESD3Model and diffusers' AutoencoderKL (spec 2.0).

Owns: which fields there are, their defaults, and which of their values this code can honour.
A field that changes the network is honoured or refused, never ignored. Fields that only shape the official classes'
interface (`num_video_frames`, `reshape_*`, `force_upcast`, `sample_size`) have no counterpart here and are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cvcodec.model.config import ModelConfig

_LEVELS = 4  # the official video classes halve time at levels 0 and 2 of four; no other number is defined
_SPATIAL_ATTENTION = ("vanilla", "vanilla-xformers")
_TEMPORAL_ATTENTION = "spatial-temporal-xformer"
_INTERFACE_ONLY = ("num_video_frames", "reshape_z_dim_to_4", "reshape_x_dim_to_4")
_WINDOWS: dict[str, Any] = {
    "en_de_n_frames_a_time": 16,
    "time_n_compress": 4,
    "spatial_n_compress": 8,
    "tile_spatial_size": 576,
    "tile_overlap_ratio": 0.2222,
}

_CVVAE: dict[str, Any] = {
    "attn_resolutions": [],
    "causal_decoder": False,
    "causal_encoder": True,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "decoder_attn_type": _TEMPORAL_ATTENTION,
    "double_z": True,
    "dropout": 0.0,
    "encoder_attn_type": "vanilla-xformers",
    "half_3d": True,
    "in_channels": 3,
    "num_res_blocks": 2,
    "out_ch": 3,
    "scaling_factor": 0.18215,
    "use_3d_conv": True,
    "z_channels": 4,
    **_WINDOWS,
}
_CVVAE_SD3: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "causal_decoder": False,
    "causal_encoder": True,
    "double_z": True,
    "down_block_types": ["DownEncoderBlock3D"] * _LEVELS,
    "half_3d": True,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 16,
    "up_block_types": ["UpDecoderBlock3D"] * _LEVELS,
    **_WINDOWS,
}
_IMAGE: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": [64],
    "down_block_types": None,  # one DownEncoderBlock2D per level
    "in_channels": 3,
    "latent_channels": 4,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "up_block_types": None,  # one UpDecoderBlock2D per level
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}

# The class has none of its own; these are the SD3 image model's (spec 1.9).
_SD3_FACTORS: dict[str, Any] = {"scaling_factor": 1.5305, "shift_factor": 0.0609}


def config_from_official(values: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of an official config.json; absent fields take the class's defaults, `_`-prefixed ones are notes.

    Raises ValueError for an unknown `_class_name`, an unknown field, or a value that this code cannot honour.
    """
    name = values.get("_class_name")
    readers: dict[str, tuple[dict[str, Any], tuple[str, ...], Callable[[dict[str, Any]], ModelConfig]]] = {
        "CVVAEModel": (_CVVAE, (*_INTERFACE_ONLY, "force_upcast"), _from_cvvae),
        "CVVAESD3Model": (_CVVAE_SD3, _INTERFACE_ONLY, _from_cvvae_sd3),
        "AutoencoderKL": (_IMAGE, ("force_upcast", "sample_size"), _from_image),
    }
    if not isinstance(name, str) or name not in readers:
        raise ValueError(f"official config has _class_name {name!r}; known: {', '.join(readers)}")
    defaults, dropped, read = readers[name]
    given = {key: value for key, value in values.items() if not key.startswith("_") and key not in dropped}
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(f"{name} config has fields that this release does not know: {', '.join(unknown)}")
    return read({**defaults, **given})


def _from_cvvae(values: dict[str, Any]) -> ModelConfig:
    _require_video(values)
    _require(values, attn_resolutions=[], dropout=0.0, use_3d_conv=True, out_ch=3)
    for key, kinds in (
        ("encoder_attn_type", _SPATIAL_ATTENTION),
        ("decoder_attn_type", (*_SPATIAL_ATTENTION, _TEMPORAL_ATTENTION)),
    ):
        if values[key] not in kinds:
            raise ValueError(f"{key} {values[key]!r} is not supported; known: {', '.join(kinds)}")
    base = _count(values, "ch")
    return ModelConfig(
        family="cvvae",
        latent_channels=_count(values, "z_channels"),
        widths=tuple(base * factor for factor in _counts(values, "ch_mult", _LEVELS)),
        **_blocks(_count(values, "num_res_blocks"), _LEVELS),
        half_3d=_flag(values, "half_3d"),
        norm_eps=1e-5,
        temporal_attention=values["decoder_attn_type"] == _TEMPORAL_ATTENTION,
        scaling_factor=_number(values, "scaling_factor"),
        **_windows(values),
    )


def _from_cvvae_sd3(values: dict[str, Any]) -> ModelConfig:
    _require_video(values)
    _require(values, act_fn="silu")
    for key in ("down_block_types", "up_block_types"):
        _require(values, **{key: _CVVAE_SD3[key]})
    return ModelConfig(
        family="cvvae-sd3",
        latent_channels=_count(values, "out_channels"),  # the class's name for the latent width, not RGB
        widths=_counts(values, "block_out_channels", _LEVELS),
        **_blocks(_count(values, "layers_per_block"), _LEVELS),
        half_3d=_flag(values, "half_3d"),
        norm_groups=_count(values, "norm_num_groups"),
        norm_eps=1e-6,
        mid_attention=_flag(values, "mid_block_add_attention"),
        **_SD3_FACTORS,
        **_windows(values),
    )


def _from_image(values: dict[str, Any]) -> ModelConfig:
    widths = _counts(values, "block_out_channels")
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if values[key] is not None:
            _require(values, **{key: [kind] * len(widths)})
    _require(values, act_fn="silu", in_channels=3, out_channels=3, latents_mean=None, latents_std=None)
    quant = _flag(values, "use_quant_conv")
    _require(values, use_post_quant_conv=quant)
    return ModelConfig(
        family="autoencoder-kl",
        latent_channels=_count(values, "latent_channels"),
        widths=widths,
        **_blocks(_count(values, "layers_per_block"), len(widths)),
        norm_groups=_count(values, "norm_num_groups"),
        norm_eps=1e-6,
        mid_attention=_flag(values, "mid_block_add_attention"),
        quant_conv=quant,
        scaling_factor=_number(values, "scaling_factor"),
        shift_factor=0.0 if values["shift_factor"] is None else _number(values, "shift_factor"),
        temporal_factor=1,
        spatial_factor=2 ** (len(widths) - 1),
    )


def _require_video(values: dict[str, Any]) -> None:
    _require(values, causal_encoder=True, causal_decoder=False, double_z=True, in_channels=3)
    _require(values, time_n_compress=4, spatial_n_compress=8)


def _require(values: dict[str, Any], **supported: Any) -> None:
    for key, only in supported.items():
        value = list(values[key]) if isinstance(values[key], tuple) else values[key]
        if value != only or isinstance(value, bool) != isinstance(only, bool):
            raise ValueError(f"{key} {value!r} is not supported; only {only!r} is")


def _blocks(layers: int, levels: int) -> dict[str, Any]:
    return {"encoder_blocks": (layers,) * levels, "decoder_blocks": (layers + 1,) * levels}


def _windows(values: dict[str, Any]) -> dict[str, Any]:
    chunked, tiled = values["en_de_n_frames_a_time"] is not None, values["tile_spatial_size"] is not None
    return {
        "official_chunk_frames": _count(values, "en_de_n_frames_a_time") if chunked else None,
        "official_tile_pixels": _count(values, "tile_spatial_size") if tiled else 0,
        "official_tile_overlap": _number(values, "tile_overlap_ratio") if tiled else 0.0,
    }


def _count(values: dict[str, Any], key: str) -> int:
    value = values[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key} must be a positive integer, got {value!r}")
    return value


def _counts(values: dict[str, Any], key: str, length: int | None = None) -> tuple[int, ...]:
    counts = values[key]
    if not isinstance(counts, list | tuple) or not counts or (length is not None and len(counts) != length):
        raise ValueError(f"{key} must be a list of {length or 'one or more'} positive integers, got {counts!r}")
    return tuple(_count({key: value}, key) for value in counts)


def _flag(values: dict[str, Any], key: str) -> bool:
    if not isinstance(values[key], bool):
        raise ValueError(f"{key} must be true or false, got {values[key]!r}")
    return bool(values[key])


def _number(values: dict[str, Any], key: str) -> float:
    value = values[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{key} must be a number, got {value!r}")
    return float(value)
