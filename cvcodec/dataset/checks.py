"""Whether the options of a data set can be meant. Raises UsageError with what is allowed; knows no files."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args

from cvcodec.errors import UsageError


def check_choice(name: str, value: object, allowed: Any, *, none: bool = False) -> None:
    """Refuse what is not one of the values of the Literal `allowed`, nor None where that is allowed."""
    wanted = (*([None] if none else []), *get_args(allowed))
    if value not in wanted:
        raise UsageError(f"{name} = {value!r}, wanted {' or '.join(map(repr, wanted))}")


def check_whole(name: str, value: Any, *, least: int, otherwise: str = "") -> None:
    """Refuse what is no whole number from `least` on. otherwise: what else may be given, for the message."""
    try:
        fits = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        fits = False
    if not fits:
        raise UsageError(f"{name} = {value!r}, wanted a whole number, at least {least}{otherwise}")


def check_latents(latents: Any) -> None:
    """Refuse what is no length of a slice."""
    if latents is not None:
        check_whole("latents", latents, least=1, otherwise=", or None for whole clips")


def check_columns(columns: Iterable[str], reserved: Collection[str]) -> tuple[str, ...]:
    """The columns as a tuple, unless one would take the place of something else in an item."""
    if isinstance(columns, str):
        raise UsageError(f"columns = {columns!r}, wanted a list of names: [{columns!r}]")
    columns = tuple(columns)
    taken = next((column for column in columns if column in reserved), None)
    if taken is not None:
        raise UsageError(
            f"column {taken!r} would replace what an item itself has by that name; rename it in the manifest "
            f"(reserved: {', '.join(reserved)})"
        )
    return columns


def check_one_space(described: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse latents of several latent spaces: numbers alike, meanings not. described: what a message calls each clip,
    and what is said of it; clips of which no `latent_space_id` is said pass."""
    first: tuple[str, Mapping[str, Any]] | None = None
    for name, said in described:
        if said.get("latent_space_id") is None:
            continue
        first = first or (name, said)
        if said["latent_space_id"] != first[1]["latent_space_id"]:
            one, other = (
                f"{name} ({said['latent_space_id']} of {said.get('model')})" for name, said in (first, (name, said))
            )
            raise UsageError(f"{one} and {other} hold latents of different latent spaces; read them apart")
