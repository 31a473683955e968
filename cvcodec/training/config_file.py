"""Config files of a training run: TOML or YAML, by suffix, to checked values.

Owns: reading, flattening (keys may be grouped in tables of any name: `[data]`, `loss:`), types and unknown keys.
Does not know: what the settings mean (`config`).

YAML is read by the rules of YAML 1.2 where PyYAML's are older and surprising: `1e-3` is a number, a key that appears
twice is an error. No tag makes an object.
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cvcodec.errors import InputError, MissingDependencyError, UsageError
from cvcodec.training.config import TrainConfig

YAML_SUFFIXES = frozenset({".yaml", ".yml"})
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")  # YAML 1.2.2, section 10.3.2, without .inf and .nan


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The keys of a config, tables flattened, types checked.

    A file named .yaml or .yml is YAML, any other is TOML. InputError when it cannot be read, UsageError that names file
    and key for what it says, MissingDependencyError for YAML without PyYAML.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read config {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    document = (_read_yaml if Path(path).suffix.lower() in YAML_SUFFIXES else _read_toml)(text, path)
    flat: dict[str, Any] = {}
    for key, value in document.items():
        for name, item in (value if isinstance(value, dict) else {key: value}).items():
            if not isinstance(name, str):
                raise UsageError(f"{path}: {key} holds {name!r}: wanted settings, one `name: value` a line")
            if name in flat:
                raise UsageError(f"{path}: {name} is given twice")
            flat[name] = item
    return check_values(flat, where=str(path))


def _read_toml(text: str, path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _read_yaml(text: str, path: str | Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is YAML, which needs PyYAML: pip install 'cvcodec[yaml]', or write the config as TOML"
        ) from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        """Safe, with numbers as in YAML 1.2 and no repeated keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    raise UsageError(f"{path}: {name} is given twice")
            return super().construct_mapping(node, deep)  # type: ignore[no-any-return]

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789")
    )
    try:
        document = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise UsageError(f"{path} is no config: wanted settings, one `name: value` a line")
    return document


def check_values(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """`values`, lists made tuples and whole numbers floats where wanted. UsageError for unknown keys or types."""
    hints = typing.get_type_hints(TrainConfig)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UsageError(f"{where}: no such setting: {', '.join(unknown)}; see cvcodec train video-vae --help")
    return {name: _checked(value, hints[name], f"{where}: {name}") for name, value in values.items()}


def _checked(value: Any, hint: Any, what: str) -> Any:
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _checked(value, options[0], what)
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise UsageError(f"{what} is {value!r}; wanted one of {', '.join(typing.get_args(hint))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_checked(item, typing.get_args(hint)[0], what) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"{what} is {value!r}; wanted {hint.__name__}")
    return value
