"""The config that a run folder keeps: what a resumed run goes on with, and what it changes.

Owns: config.toml of a run folder, and comparing configs. Does not know: states, models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvcodec.errors import CheckpointError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.training.config import TrainConfig
from cvcodec.training.config_file import read_config_file
from cvcodec.training.pieces import has_pieces, write_joined

CONFIG_NAME = "config.toml"
_OF_THE_CALL = ("output", "resume")  # they say how the run is called, not what it does
_NO_LENGTH: dict[str, Any] = {"steps": 0, "minutes": 0.0}


def write_config(folder: Path, config: TrainConfig) -> None:
    """Record `config` in the run folder. OutputError when it cannot be written."""
    with atomic_output(folder / CONFIG_NAME, overwrite=True) as file:
        file.write(dataclasses.replace(config, resume=False).to_toml().encode())


def read_config(folder: Path) -> TrainConfig:
    """What the run in `folder` recorded. CheckpointError when there is none, UsageError for one of another release.

    Where only its pieces are there, they are joined first.
    """
    path = folder / CONFIG_NAME
    if not path.is_file() and has_pieces(folder):
        write_joined(folder)
    if not path.is_file():
        raise CheckpointError(f"nothing to resume in {folder}: it has no {CONFIG_NAME}; start without --resume")
    return TrainConfig(**read_config_file(path))


def resumed_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded values of the run in the output folder of `given`, with those of `given` over them.

    A length in steps takes the place of one in minutes, and the other way round.
    """
    if not given.get("output"):
        raise UsageError("no run to resume: give --output")
    values = dataclasses.asdict(read_config(Path(given["output"])))
    if any(given.get(name) for name in _NO_LENGTH):
        values |= _NO_LENGTH
    return values | dict(given)


def changes(before: TrainConfig, now: TrainConfig) -> list[str]:
    """One text, `name old -> new`, for each setting that decides the run and differs."""
    old, new = dataclasses.asdict(before), dataclasses.asdict(now)
    return [
        f"{name} {_shown(old[name])} -> {_shown(new[name])}"
        for name in new
        if name not in _OF_THE_CALL and old[name] != new[name]
    ]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) and value else repr(value)
