"""What a person or a program sees: messages and progress on standard error, JSON lines on standard output.

Owns: consoles, which show every string as it is, the one-line form of messages, the progress bar, JSON emission.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.text import Text

from cvcodec.system.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table


_PIPE_COLUMNS = 5000
"""More than the longest path."""

_shown: list[Console] = []
"""The console of the bar that is on the screen, if one is: only that one writes above it."""


class _PlainConsole(Console):
    """A console for which strings, in tables too, are text of strangers: neither markup nor anything else in them is
    obeyed. Styles come with rich's own objects.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """What rich makes of every string."""
        return super().render_str(printable(text), **options)


def stderr_console() -> Console:
    """The console on the current standard error."""
    return _shown[-1] if _shown else _PlainConsole(stderr=True)


def stdout_console() -> Console:
    """A console on the current standard output, for tables that a person asked for."""
    # A program that reads a table wants all of it.
    return _PlainConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_COLUMNS)


def show(text: str) -> None:
    """Lines for a person on standard output, however wide."""
    for line in text.split("\n"):
        stdout_console().print(line, soft_wrap=True)


def error(message: str) -> None:
    """One red line on standard error."""
    _line("error", "bold red", message)


def warn(message: str, *, console: Console | None = None) -> None:
    """One yellow line on standard error; above the live table of `console`, if one is shown there."""
    _line("warning", "bold yellow", message, console)


def say(message: str) -> None:
    """The closing line of a command, on standard error: standard output is for data."""
    with contextlib.suppress(OSError):
        stderr_console().print(_one_line(message), soft_wrap=True)


def line(text: str) -> None:
    """One line on standard error as it is, columns included: of a log that somebody watches."""
    with contextlib.suppress(OSError):
        stderr_console().print(text, soft_wrap=True)


def note(message: str, *, console: Console | None = None) -> None:
    """One plain line on standard error: something done on the user's behalf that is worth saying once."""
    _line("note", "bold cyan", message, console)


def _line(kind: str, style: str, message: str, console: Console | None = None) -> None:
    text = Text.assemble(("cvcodec: ", ""), (f"{kind}: ", style), printable(_one_line(message)))
    with contextlib.suppress(OSError):  # nobody reads standard error any more
        (console or stderr_console()).print(text, soft_wrap=True)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def emit(record: Mapping[str, Any], *, to_stderr: bool = False) -> None:
    """One JSON object on a line of its own, flushed: on standard output, or on standard error when that carries data.

    Keys are ASCII with their unit (`psnr_db`, `bytes`). None, NaN and the infinities become null (JSON has no others);
    paths and fractions become strings, dataclasses objects, sequences and NumPy numbers what they look like.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write(json.dumps(jsonable(record), allow_nan=False) + "\n")
    stream.flush()


def jsonable(value: Any) -> Any:
    """`value` in plain JSON types; see `emit`. Raises TypeError for what has no such form."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(entry) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "numerator") and hasattr(value, "denominator") and not hasattr(value, "tolist"):
        return str(value)
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


class ProgressMeter(Protocol):
    """Where long work says how far it is."""

    def __call__(self, frames: int, size: int | None = None, total: int | None = None) -> None:
        """`frames` done and `size` bytes written so far, both counted from the start; frames expected, where known."""


@contextlib.contextmanager
def progress(task: str, total: int | None = None, *, quiet: bool = False, unit: str = "fps") -> Iterator[ProgressMeter]:
    """A bar with frames, frames per second (or what `unit` calls them), time left and size so far, on standard error if
    that is a terminal.

    total: frames expected, None if unknown. Elsewhere, and with `quiet`, the meter does nothing. The bar is cleared
    when the work is done, so that what stays on the screen is what was said.
    """
    if quiet or not stderr_is_terminal():
        yield _ignore
        return
    with _bar(unit) as bar:
        _shown.append(bar.console)
        try:
            yield _Bar(bar, bar.add_task(task, total=total, size=""))
        finally:
            _shown.pop()


def stderr_is_terminal() -> bool:
    """Whether somebody may be watching a bar that moves."""
    # Not Console.is_terminal: FORCE_COLOR makes that true of pipes, which want colours then, but no moving bar.
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _ignore(frames: int, size: int | None = None, total: int | None = None) -> None:
    """The meter of a run that nobody watches."""


def _bar(unit: str) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class SpeedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f} {unit}", style="progress.data.speed")

    # With the columns each needs at most; the last are left out first where the screen is too narrow for all.
    columns: tuple[tuple[ProgressColumn, int], ...] = (
        (TextColumn("{task.description}"), 6),
        (MofNCompleteColumn(), 15),
        (TimeRemainingColumn(), 7),
        (SpeedColumn(), 10),
        (TextColumn("{task.fields[size]}", style="progress.filesize"), 8),
        (BarColumn(), 40),
        (TimeElapsedColumn(), 7),
    )

    console = stderr_console()

    class Fitting(Progress):
        def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
            width, fitting = console.width, []
            for column, most in columns:
                width -= most + 1
                if width < 0:
                    break
                fitting.append(column)
            self.columns = tuple(fitting)
            return super().make_tasks_table(tasks)

    return Fitting(console=console, transient=True)


class _Bar:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, frames: int, size: int | None = None, total: int | None = None) -> None:
        total = None if total is None else max(total, frames)  # it is an estimate
        self._bar.update(self._task, completed=frames, total=total, size=format_size(size) if size else "")


def format_size(size: int) -> str:
    """Bytes as a person reads them, in powers of ten: `812 B`, `4.1 kB`, `23.0 MB`."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
