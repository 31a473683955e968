"""What a run says: log.jsonl in the run folder, one line of progress on stderr.

Owns: the log's lines (`event`, `step`, `minutes`, then numbers with units in their keys), averages between lines, the
progress display. Does not know: what the numbers mean.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from cvcodec.system.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

LOG_NAME = "log.jsonl"


class RunLog:
    """Appends to the log and shows progress; silent in all processes but the main one. A context manager."""

    def __init__(self, folder: Path, *, active: bool, console: Console | None = None) -> None:
        self._active = active
        self._console = console or Console(stderr=True)
        self._file = (folder / LOG_NAME).open("a", encoding="utf-8") if active else None
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (active and self._console.is_terminal),
        )
        self._task = self._progress.add_task("starting", total=1.0)
        self._sums: dict[str, float | Tensor] = defaultdict(float)
        self._count = 0

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._file is not None:
            self._file.close()

    def add(self, terms: Mapping[str, float | Tensor]) -> None:
        """Numbers of one step; those on a device are added up there, without waiting for it."""
        for name, value in terms.items():
            self._sums[name] += value
        self._count += 1

    def take_averages(self) -> dict[str, float]:
        """Means since the last call; one read-back for all that lie on a device."""
        means = {
            name: value / self._count
            for name, value in zip(self._sums, _read_back(list(self._sums.values())), strict=True)
        }
        self._sums.clear()
        self._count = 0
        return means

    def write(self, event: str, **values: Any) -> None:
        """One line of the log; numbers that are not finite become null."""
        if self._file is None:
            return
        clean = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        self._file.write(json.dumps({"event": event, **_rounded(clean)}) + "\n")
        self._file.flush()
        if not self._console.is_terminal or event not in ("train",):
            self._console.print(Text(printable(_line(event, clean))), soft_wrap=True)

    def say(self, line: str) -> None:
        """One line for people, and for the log."""
        self.write("note", text=line)

    def warn(self, line: str) -> None:
        """One line of what is probably not meant."""
        self.write("warning", text=line)

    def show(self, progress: float, description: str) -> None:
        """Where the run is, in [0, 1]."""
        if self._active:
            self._progress.update(self._task, completed=progress, description=description)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The log's lines; a line cut short by a crash is left out."""
    with open(folder / LOG_NAME, encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                continue


def _read_back(values: list[float | Tensor]) -> list[float]:
    import torch

    tensors = [value.detach().float() for value in values if isinstance(value, torch.Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(read) if isinstance(value, torch.Tensor) else value for value in values]


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}


def _line(event: str, values: Mapping[str, Any]) -> str:
    if event == "note":
        return str(values["text"])
    if event == "warning":
        return f"warning: {values['text']}"
    parts = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()]
    return f"{event}: {'  '.join(parts)}"
