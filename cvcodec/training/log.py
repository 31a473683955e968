"""What a run says: log.jsonl in the run folder, the same for people, and curves drawn from it.

Owns: the log's lines (`event`, `step`, `minutes`, then numbers with units in their keys), averages between lines, which
numbers are drawn where. Does not know: what the numbers mean, who listens.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cvcodec.errors import InputError, MissingDependencyError
from cvcodec.fileio import atomic_output, make_folder
from cvcodec.system.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

    from cvcodec.training.tensorboard import Board

LOG_NAME = "log.jsonl"
CURVES_NAME = "curves.png"

_SIZE_INCHES, _DPI = (11.0, 8.0), 110
_OF_THE_MACHINE = {
    *("seconds", "mpixel_per_s", "data_wait_share", "peak_memory_gb", "learning_rate_factor", "minutes_left"),
}

OnLine: TypeAlias = Callable[[str, str], None]
"""Is told the event of a line of the log, and the line for people."""


class RunLog:
    """Appends to the log; silent in all processes but the main one."""

    def __init__(
        self, folder: Path, *, active: bool, on_line: OnLine | None = None, board: Board | None = None
    ) -> None:
        """board: is given what is written, too."""
        self._file = (folder / LOG_NAME).open("a", encoding="utf-8") if active else None
        self._on_line, self._board = on_line, board
        self._sums: dict[str, float | Tensor] = defaultdict(float)
        self._count = 0

    def close(self) -> None:
        """No line comes any more."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

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
        clean = {key: _clean(value) if isinstance(value, float) else value for key, value in values.items()}
        self._file.write(json.dumps({"event": event, **clean}) + "\n")
        self._file.flush()
        if self._board is not None:
            self._board.write(event, clean)
        if self._on_line is not None:
            self._on_line(event, _line(event, clean))

    def say(self, line: str) -> None:
        """One line for people, and for the log."""
        self.write("note", text=line)

    def warn(self, line: str) -> None:
        """One line of what is probably not meant."""
        self.write("warning", text=line)


def _read_back(values: list[float | Tensor]) -> list[float]:
    import torch

    tensors = [value.detach().float() for value in values if isinstance(value, torch.Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(read) if isinstance(value, torch.Tensor) else value for value in values]


def _clean(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _line(event: str, values: Mapping[str, Any]) -> str:
    if event in ("note", "warning"):
        return str(values["text"])
    parts = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()]
    return f"{event}: {'  '.join(parts)}"


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The log's lines; a line cut short by a crash is left out."""
    with open(folder / LOG_NAME, encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                continue


# ---------------------------------------------------------------------------------------------------- curves


def draw_curves(folder: Path) -> None:
    """The run's own curves, `curves.png` in its folder; nothing without matplotlib, or without numbers yet."""
    with contextlib.suppress(MissingDependencyError, InputError):
        plot_runs([folder], folder / CURVES_NAME)


def plot_runs(runs: Sequence[Path], output: Path) -> Path:
    """Draw run folders' logs into `output`. InputError without logs, MissingDependencyError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'cvcodec[plot]'") from error
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    titles = ("PSNR, dB", "bits per pixel (estimate)", "loss", "terms of the loss")
    for panel, title in zip(panels.flat, titles, strict=True):
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    for run in runs:
        for (event, name), points in _series(run).items():
            place = _panel_of(event, name)
            if place is not None:
                steps, values = zip(*sorted(points.items()), strict=True)
                label = f"{printable(run.resolve().name)}: {'held out ' if event == 'validation' else ''}{name}"
                held_out = event == "validation"
                style: dict[str, Any] = {"linewidth": 1, "alpha": 0.6}
                if held_out:
                    style = {"linewidth": 2, "marker": "o", "markersize": 4}
                panels.flat[place].plot(steps, values, label=f"{label}, {values[-1]:.4g} at the end", **style)
    for panel in panels.flat:
        if panel.lines:
            for text in panel.legend(fontsize=7).get_texts():
                text.set_parse_math(False)  # a folder's name may have dollar signs in it
    make_folder(output.parent)
    with atomic_output(output, overwrite=True) as sink:
        figure.savefig(sink, format="png", dpi=_DPI)
    return output


def _series(run: Path) -> dict[tuple[str, str], dict[int, float]]:
    """(event, name) -> step -> value; what a resumed run did again replaces what was lost."""
    if not (run / LOG_NAME).is_file():
        raise InputError(f"{run} is no run folder: it has no {LOG_NAME}")
    series: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for line in read_log(run):
        if line.get("event") in ("train", "validation"):
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "minutes", "progress"):
                    series[line["event"], name][line["step"]] = float(value)
    if not series:
        raise InputError(f"{run / LOG_NAME} holds no numbers yet")
    return series


def _panel_of(event: str, name: str) -> int | None:
    if name.startswith("psnr_db"):
        return 0
    if name.startswith("bits_per_pixel"):
        return 1
    if event == "validation" or name in _OF_THE_MACHINE:
        return None
    return 2 if name in ("loss", "distortion", "nll_per_frame") else 3
