"""Weights files: safetensors <-> config, weights, statistics of the latents, model card and the two identities.

Owns: the metadata keys, what a reader must refuse, how a model is built from a file without initialising it first.
Names and places of files: `registry`; files of other projects: `foreign`.

A weights file is a safetensors file. Its metadata are

    cvcodec.format            "1"; another number is refused
    cvcodec.config            JSON of ModelConfig.to_dict()
    cvcodec.statistics        JSON {"mean": [...], "std": [...], "unit_step": [...]}, one number per latent channel,
                              of both layers; perhaps "step_octaves", rows of such; optional
    cvcodec.card              JSON object: name, licence, source, data, description, quality; all optional
    cvcodec.latent_space_id   16 hex digits (identity), checked against the tensors on every load
    cvcodec.decoder_hash      16 hex digits (identity), likewise

Tensors are float16, bfloat16 or float32. The writer sorts everything, so the same content is the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cvcodec.checkpoints.identity import identities, is_decoder_tensor
from cvcodec.errors import CheckpointError, DeviceError, InputError, OutputError
from cvcodec.fileio import atomic_output
from cvcodec.model import build_model
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.quantization import LatentStatistics

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""safetensors dtype name -> torch dtype, in the order in which the writer lays them out (widest first: alignment)."""

_LISTED_KEYS = 5  # names shown per kind of mismatch
_MAX_CHANNELS = 1 << 16  # of any layer; keeps a damaged config from asking for absurd layers


@dataclass(frozen=True)
class CheckpointSummary:
    """What a weights file says about itself, read from its header alone; the identities are as stored, unverified."""

    config: ModelConfig
    card: dict[str, Any]
    statistics: LatentStatistics | None
    """Measured statistics of the latents; None: only the published scale and shift are known."""
    latent_space_id: str
    decoder_hash: str
    encoder_parameters: int
    decoder_parameters: int
    dtypes: tuple[str, ...]
    """safetensors names of the stored types, e.g. ("F16",)."""
    metadata: dict[str, str]
    """All metadata of the file as stored."""


@dataclass(frozen=True)
class Checkpoint:
    """A weights file, read and verified."""

    config: ModelConfig
    state_dict: dict[str, Tensor]
    """Stored types, on the CPU, mapped from the file."""
    statistics: LatentStatistics | None
    card: dict[str, Any]
    latent_space_id: str
    decoder_hash: str
    metadata: dict[str, str]


# ---------------------------------------------------------------------------------------------------- write, read


def save_checkpoint(
    path: str | os.PathLike[str],
    model: VideoAutoencoder,
    *,
    statistics: LatentStatistics | None,
    card: dict[str, Any],
    dtype: torch.dtype | None = None,
    overwrite: bool = True,
) -> Checkpoint:
    """Write a model's weights file, whole or not at all; returns what `load_checkpoint` would read back.

    `dtype`: stored type, None keeps the model's. Raises what `make_checkpoint` and `write_checkpoint` raise.
    """
    checkpoint = make_checkpoint(model.config, model.state_dict(), statistics=statistics, card=card, dtype=dtype)
    write_checkpoint(path, checkpoint, overwrite=overwrite)
    return checkpoint


def make_checkpoint(
    config: ModelConfig,
    state_dict: Mapping[str, Tensor],
    *,
    statistics: LatentStatistics | None,
    card: dict[str, Any],
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """A checkpoint from its parts, checked and with its identities. `dtype`: stored type, None keeps each tensor's.

    Raises CheckpointError for tensors that do not fit the config, are not floats, not finite, or do not survive
    `dtype`.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        stored = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        if stored.dtype not in DTYPES.values():
            raise CheckpointError(
                f"tensor {short(name)} is {_dtype_name(stored.dtype)}; weights files hold float32, float16 or bfloat16"
            )
        if not bool(torch.isfinite(stored).all()):
            if bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"tensor {short(name)} is too large for {_dtype_name(stored.dtype)}; store the weights as float32"
                )
            raise CheckpointError(f"tensor {short(name)} holds NaN or infinity")
        tensors[name] = stored
    check_state_dict(config, tensors, what="these weights")
    check_statistics(config, statistics, what="these weights")
    space, decoder = identities(config, tensors)
    metadata = make_metadata(config, statistics, card, latent_space_id=space, decoder_hash=decoder)
    return Checkpoint(config, tensors, statistics, card, space, decoder, metadata)


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write what `make_checkpoint` or `load_checkpoint` gave; the file appears whole or not at all. OutputError if it
    cannot.
    """
    header, names = _safetensors_header(checkpoint.state_dict, checkpoint.metadata)
    try:
        with atomic_output(path, overwrite=overwrite) as file:
            file.write(header)
            for name in names:
                file.write(checkpoint.state_dict[name].reshape(-1).view(torch.uint8).numpy().data)
    except OSError as error:
        raise OutputError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from error


def read_summary(path: str | os.PathLike[str]) -> CheckpointSummary:
    """Everything but the weights, without reading them. CheckpointError, or InputError when there is no such file."""
    return _read(Path(path))[0]


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a weights file and verify it: keys and shapes against the config, identities against the tensors.

    Raises InputError when there is no such file and CheckpointError for everything that is wrong with it.
    """
    path = Path(path)
    summary, tensors = _read(path, with_tensors=True)
    check_state_dict(summary.config, tensors, what=str(path))
    space, decoder = identities(summary.config, tensors)
    for label, stored, actual in (
        ("latent-space id", summary.latent_space_id, space),
        ("decoder hash", summary.decoder_hash, decoder),
    ):
        if stored != actual:
            raise CheckpointError(
                f"{path}: the stored {label} is {stored} but its weights give {actual}; "
                "the file is damaged or was edited, get it again"
            )
    return Checkpoint(summary.config, tensors, summary.statistics, summary.card, space, decoder, summary.metadata)


def instantiate(
    checkpoint: Checkpoint,
    *,
    name: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    requires_grad: bool = False,
) -> VideoAutoencoder:
    """A ready model (eval mode) carrying `.name`, `.statistics`, `.latent_space_id` and `.decoder_hash`.

    Built on the meta device and given the file's tensors, so nothing is initialised only to be overwritten.
    `statistics` are the measured ones, else the defaults of the config. requires_grad: of the weights. DeviceError when
    the device cannot take it.
    """
    with torch.device("meta"):
        model = build_model(checkpoint.config)
    model.load_state_dict(checkpoint.state_dict, strict=True, assign=True)
    try:
        model = model.to(device=device, dtype=dtype).eval().requires_grad_(requires_grad)
    except (RuntimeError, AssertionError) as error:  # torch raises AssertionError when it was built without CUDA
        raise DeviceError(f"cannot put the model on {device}: {first_line(error)}; try --device cpu") from error
    model.name = name
    model.statistics = checkpoint.statistics or default_statistics(checkpoint.config)
    model.latent_space_id = checkpoint.latent_space_id
    model.decoder_hash = checkpoint.decoder_hash
    return model


def default_statistics(config: ModelConfig) -> LatentStatistics:
    """Statistics that the published normalisation implies: (latent - shift) * scale has mean 0 and deviation 1."""
    channels = config.latent_channels
    std = (1.0 / config.scaling_factor,) * channels
    base = LatentStatistics(mean=(config.shift_factor,) * channels, std=std, unit_step=std)
    return base.with_enhancement((1.0,) * config.enhancement_channels) if config.enhancement_channels else base


# ---------------------------------------------------------------------------------------------------- strictness


def check_state_dict(config: ModelConfig, state_dict: Mapping[str, Tensor], *, what: str) -> None:
    """Raises CheckpointError unless names and shapes are exactly those of the model that `config` describes."""
    expected = _expected_shapes(config, len(state_dict), what)
    missing = sorted(set(expected) - set(state_dict))
    unexpected = sorted(set(state_dict) - set(expected))
    misshaped = [
        f"{short(name)} is {_shape(state_dict[name].shape)}, wanted {_shape(shape)}"
        for name, shape in sorted(expected.items())
        if name in state_dict and tuple(state_dict[name].shape) != shape
    ]
    if missing or unexpected or misshaped:
        problems = [
            f"{len(names)} {kind} ({_listed(names)})"
            for kind, names in (
                ("missing", [short(name) for name in missing]),
                ("unexpected", [short(name) for name in unexpected]),
                ("mis-shaped", misshaped),
            )
            if names
        ]
        raise CheckpointError(
            f"{what}: {len(state_dict)} tensors do not fit a {config.family} model of widths "
            f"{'-'.join(map(str, config.widths))} and {config.latent_channels} latent channels, "
            f"which has {len(expected)}: {'; '.join(problems)}"
        )


def _expected_shapes(config: ModelConfig, tensors: int, what: str) -> dict[str, tuple[int, ...]]:
    # Bounded before anything is built: a damaged config must cost nothing.
    blocks = sum(config.encoder_blocks) + sum(config.decoder_blocks)
    largest = max(*config.widths, config.latent_channels, config.patch_size, config.norm_groups, 1)
    if blocks > tensors or len(config.widths) > tensors or largest > _MAX_CHANNELS:
        raise CheckpointError(
            f"{what}: its config asks for {blocks} blocks and up to {largest} channels, "
            f"which its {tensors} tensors cannot fill"
        )
    try:
        with torch.device("meta"):
            model = build_model(config)
    except ValueError as error:
        raise CheckpointError(f"{what}: its config describes no model: {first_line(error)}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(items: list[str]) -> str:
    more = len(items) - _LISTED_KEYS
    return ", ".join(items[:_LISTED_KEYS]) + (f" and {more} more" if more > 0 else "")


def _shape(shape: typing.Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


# ---------------------------------------------------------------------------------------------------- the file itself


def _safetensors_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """(length and JSON header, tensor names in the order of their bytes).

    The safetensors library writes metadata in random order; this is deterministic, so that equal content is equal
    bytes.
    """
    type_names = {dtype: name for name, dtype in DTYPES.items()}
    order = list(DTYPES.values())
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": type_names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    return struct.pack("<Q", len(text)) + text, names


def _read(path: Path, *, with_tensors: bool = False) -> tuple[CheckpointSummary, dict[str, Tensor]]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; import it first: cvcodec models add {path}")
    if not path.is_file():
        raise InputError(f"no weights file {path}")
    tensors: dict[str, Tensor] = {}
    parameters = {False: 0, True: 0}
    dtypes: set[str] = set()
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            config, card, statistics = parse_metadata(path, metadata)
            for name in file.keys():  # noqa: SIM118  (a safetensors handle, not a dict)
                entry = file.get_slice(name)
                if entry.get_dtype() not in DTYPES:
                    raise CheckpointError(
                        f"{path}: tensor {short(name)} is stored as {entry.get_dtype()}, not as float"
                    )
                dtypes.add(entry.get_dtype())
                parameters[is_decoder_tensor(name)] += math.prod(entry.get_shape())
                if with_tensors:
                    tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {first_line(error)}") from error
    summary = CheckpointSummary(
        config=config,
        card=card,
        statistics=statistics,
        latent_space_id=metadata["cvcodec.latent_space_id"],
        decoder_hash=metadata["cvcodec.decoder_hash"],
        encoder_parameters=parameters[False],
        decoder_parameters=parameters[True],
        dtypes=tuple(sorted(dtypes)),
        metadata=metadata,
    )
    return summary, tensors


FORMAT = "1"
"""The only version of weights files so far."""


def make_metadata(
    config: ModelConfig,
    statistics: LatentStatistics | None,
    card: Mapping[str, Any],
    *,
    latent_space_id: str,
    decoder_hash: str,
) -> dict[str, str]:
    """Inverse of `parse_metadata`. Raises ValueError or TypeError for a card that is not JSON."""
    metadata = {
        "cvcodec.format": FORMAT,
        "cvcodec.config": _to_json(config.to_dict()),
        "cvcodec.card": _to_json(card),
        "cvcodec.latent_space_id": latent_space_id,
        "cvcodec.decoder_hash": decoder_hash,
    }
    if statistics is not None:
        metadata["cvcodec.statistics"] = _to_json(statistics.to_dict())
    return metadata


def parse_metadata(
    path: Path, metadata: Mapping[str, str]
) -> tuple[ModelConfig, dict[str, Any], LatentStatistics | None]:
    """(config, card, statistics). Raises CheckpointError, or ValueError whose message does not name the path yet."""
    if "cvcodec.config" not in metadata:
        raise CheckpointError(f"{path} is not a cvcodec weights file; import it first: cvcodec models add {path}")
    version = metadata.get("cvcodec.format")
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has weights format {short(str(version))}; this release reads {FORMAT}, update cvcodec"
        )
    for key in ("cvcodec.latent_space_id", "cvcodec.decoder_hash"):
        if key not in metadata:
            raise CheckpointError(f"{path} has no {key} in its metadata; the file is incomplete, get it again")
    config = config_from_dict(_json_object(metadata["cvcodec.config"], "cvcodec.config"))
    card = _json_object(metadata.get("cvcodec.card", "{}"), "cvcodec.card")
    statistics = None
    if "cvcodec.statistics" in metadata:
        statistics = _statistics_from_dict(_json_object(metadata["cvcodec.statistics"], "cvcodec.statistics"))
        check_statistics(config, statistics, what=str(path))
    return config, card, statistics


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """`ModelConfig.from_dict` with JSON types checked. Raises ValueError for a field missing, unknown or mistyped."""
    hints = typing.get_type_hints(ModelConfig)
    required = {field.name for field in dataclasses.fields(ModelConfig) if field.default is dataclasses.MISSING}
    missing = sorted(required - set(values))
    if missing:
        raise ValueError(f"model config lacks {', '.join(missing)}")
    for name, value in values.items():
        if name in hints and not _has_type(value, hints[name]):
            raise ValueError(
                f"model config field {name} is {short(repr(value))}, which is not {_type_name(hints[name])}"
            )
    return ModelConfig.from_dict(dict(values))


def _has_type(value: object, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_has_type(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, list | tuple) and all(_has_type(item, inner) for item in value)
    if hint is float:
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) < 1 << 53
        return isinstance(value, float) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and typing.get_origin(hint) is None else str(hint)


def _statistics_from_dict(values: dict[str, Any]) -> LatentStatistics:
    for name, numbers in values.items():
        rows = numbers if name == "step_octaves" and isinstance(numbers, list) else [numbers]
        if not all(_has_type(row, tuple[float, ...]) for row in rows):
            raise ValueError(f"latent statistics: {short(name)} is not a list of finite numbers")
    return LatentStatistics.from_dict(values)


def check_statistics(config: ModelConfig, statistics: LatentStatistics | None, *, what: str) -> None:
    """CheckpointError unless there is one entry per latent channel, of both layers where there are two."""
    if statistics is not None and statistics.channels != config.coded_channels:
        raise CheckpointError(
            f"{what}: latent statistics have {statistics.channels} entries "
            f"for a model of {config.coded_channels} latent channels"
        )


def _json_object(text: str, key: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"metadata {key} is not JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"metadata {key} is not a JSON object")
    return value


def _to_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short(name: str) -> str:
    """A name from a file, at a length that fits an error message."""
    return name if len(name) <= 80 else f"{name[:77]}..."


def first_line(error: BaseException) -> str:
    """What another library said, at a length that fits an error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
