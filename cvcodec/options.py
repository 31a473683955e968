"""A field of an options class that is an option of commands, too: its default and its help text stand in one place.

Owns: what such a field says of its option. Knows no command lines: `cli.fields` makes the options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar

T = TypeVar("T")


def option(
    default: T,
    text: str,
    *,
    panel: str | None = None,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    syntax: str | Callable[[str], Any] | None = None,
    least: float | None = None,
    most: float | None = None,
    shown: bool | str = True,
) -> T:
    """A field with this default and help text.

    panel: of the help. flags: none for one by the field's name. choices: where the type names none.
    syntax: a name of `cli.fields.SYNTAX`, or a function from text to value. least, most: of a number.
    shown: what help says of the default: the value, nothing, or this.
    """
    return field(
        default=default,
        metadata={
            "help": text,
            "panel": panel,
            "flags": flags,
            "metavar": metavar,
            "choices": choices,
            "syntax": syntax,
            "least": least,
            "most": most,
            "shown": shown,
        },
    )
