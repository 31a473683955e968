"""The text beside the tensors of a weights file: metadata <-> config, statistics, card.

Owns: JSON types, what is refused and why. Does not know: tensors, how a file is read (checkpoint has the list of keys).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvcodec.errors import CheckpointError
from cvcodec.model.config import ModelConfig
from cvcodec.quantization import LatentStatistics

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
