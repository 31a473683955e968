"""Curves of one or several runs as a PNG: PSNR, bits, loss and its terms over steps.

Owns: which numbers of the log are drawn where. Does not know: how they came about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cvcodec.errors import InputError, MissingDependencyError, OutputError
from cvcodec.system.printable import printable
from cvcodec.training.log import LOG_NAME, read_log

_SIZE_INCHES = (11.0, 8.0)
_DPI = 110
_OF_THE_MACHINE = ("seconds", "mpixel_per_s", "data_wait_share", "peak_memory_gb", "learning_rate_factor")


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
                marker = "o" if event == "validation" else None
                panels.flat[place].plot(steps, values, marker=marker, markersize=3, linewidth=1, label=label)
    for panel in panels.flat:
        if panel.lines:
            for text in panel.legend(fontsize=6).get_texts():
                text.set_parse_math(False)  # a folder's name may have dollar signs in it
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, format="png", dpi=_DPI)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}") from error
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
