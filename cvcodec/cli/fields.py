"""Options of a command from the fields of option classes: every field that `cvcodec.options.option` made is one.

Owns: what typer is told of a field, and the way back from a command line to an object of the class.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

import typer

from cvcodec.cli import options

T = TypeVar("T")

SYNTAX: dict[str, Callable[[str], Any]] = {
    "time": options.parse_time,
    "size": options.parse_size,
    "fps": options.parse_fps,
    "quality": options.parse_quality,
    "latents": options.parse_latents,
    "tile": options.parse_tile,
}
"""What a field's `syntax` may be called."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Beside `Given` in an annotation: which fields of the class are options here, and what help says otherwise."""

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Of fields that are options classes themselves, too."""
    help: Mapping[str, str] = field(default_factory=dict)
    panel: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Option:
    """A field that is an option."""

    name: str
    owner: str | None
    """Field of the class that holds the options class it belongs to."""
    hint: Any
    default: Any
    of: Mapping[str, Any]
    """What `cvcodec.options.option` noted at the field."""

    @property
    def flags(self) -> tuple[str, ...]:
        return self.of["flags"] or (f"--{self.name.replace('_', '-')}",)

    @property
    def absent(self) -> Any:
        """What typer gives where the option is not given."""
        if self.of["shown"] is not True:
            return None
        return True if self.is_switch else self.default

    @property
    def is_switch(self) -> bool:
        """Whether it takes all of a tuple or nothing."""
        return self.flags[0].count("/") > 0 and typing.get_origin(self.hint) is tuple

    def flag(self, value: Any) -> str:
        """That sets it to `value`."""
        there, _, otherwise = self.flags[0].partition("/")
        return there if value or not otherwise else otherwise

    def value(self, given: Any) -> Any:
        """What the field becomes by what typer gave."""
        if self.is_switch:
            return self.default if given else ()
        return given

    def parameter(self, changed: Fields) -> inspect.Parameter:
        """Of the command, as typer reads it."""
        syntax = self.of["syntax"]
        kind = Any if syntax else bool if self.is_switch else self.hint
        if self.of["choices"]:
            kind = Literal[self.of["choices"]]
        if self.absent is None and not syntax:
            kind = kind | None
        said = self.of["shown"]
        made = typer.Option(
            *self.flags,
            help=changed.help.get(self.name, self.of["help"]),
            rich_help_panel=changed.panel.get(self.name, self.of["panel"]),
            metavar=self.of["metavar"],
            parser=SYNTAX[syntax] if isinstance(syntax, str) else syntax,
            min=self.of["least"],
            max=self.of["most"],
            show_default=said if isinstance(said, str) else True,
        )
        annotation = Annotated[kind, made]  # type: ignore[valid-type]  # made for typer at run time
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=self.absent, annotation=annotation)


class Given(Generic[T]):
    """What a command line says of an options class; as a parameter of a command, an option for each of its fields."""

    def __init__(self, kind: type[T], read: list[_Option], values: Mapping[str, Any]) -> None:
        self._kind, self._read = kind, read
        self.values = {
            option.name: option.value(values[option.name]) for option in read if values[option.name] != option.absent
        }
        """By field, of the options that were given and are not as help says they are anyway."""

    def options(self, **others: Any) -> T:
        """The class's object, with `others` for fields that are no options."""
        by_owner: dict[str | None, dict[str, Any]] = {}
        for option in self._read:
            if option.name in self.values:
                by_owner.setdefault(option.owner, {})[option.name] = self.values[option.name]
        made: Any = self._kind(**by_owner.pop(None, {}), **others)
        inner = {str(owner): dataclasses.replace(getattr(made, str(owner)), **own) for owner, own in by_owner.items()}
        return dataclasses.replace(made, **inner)  # type: ignore[no-any-return]

    def refuse(self, why: str, *names: str, others: Mapping[str, bool] | None = None) -> None:
        """UsageError for what was given of the options of these fields, and of `others`, that would change nothing."""
        useless = [option for option in self._read if option.name in names and option.name in self.values]
        given = {option.flag(self.values[option.name]): True for option in useless}
        options.refuse(given | dict(others or {}), why)


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer takes it, of one with parameters `Given[Class]`, or `Annotated[Given[Class], Fields(...)]`."""
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[_Option]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind, changed = _given(hints[name])
        if kind is None:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[name], kind=keyword))
        else:
            read = [option for option in _options_of(kind, changed) if not changed.only or option.name in changed.only]
            groups[name] = kind, read
            parameters += [option.parameter(changed) for option in read]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: Given(kind, read, values) for name, (kind, read) in groups.items()}
        fields = {option.name for _, read in groups.values() for option in read}
        command(**{name: value for name, value in values.items() if name not in fields}, **given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _given(hint: Any) -> tuple[type[Any] | None, Fields]:
    """The options class of a parameter, and what is changed of it; None for one that is an option itself."""
    changed = Fields()
    if typing.get_origin(hint) is Annotated:
        inner, *notes = typing.get_args(hint)
        changed = next((note for note in notes if isinstance(note, Fields)), changed)
        hint = inner
    return (typing.get_args(hint)[0] if typing.get_origin(hint) is Given else None), changed


def _options_of(kind: type[Any], changed: Fields, owner: str | None = None) -> Iterator[_Option]:
    """In the order of the class; what it inherits comes last."""
    hints = typing.get_type_hints(kind)
    bases = kind.__mro__
    for entry in sorted(
        dataclasses.fields(kind),
        key=lambda entry: next(
            place for place, base in enumerate(bases) if entry.name in inspect.get_annotations(base)
        ),
    ):
        if entry.name in changed.without:
            continue
        if dataclasses.is_dataclass(hints[entry.name]):
            yield from _options_of(hints[entry.name], changed, owner=entry.name)
        elif "help" in entry.metadata:
            yield _Option(entry.name, owner, hints[entry.name], entry.default, entry.metadata)
