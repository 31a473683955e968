"""Rate and distortion as curves, on the page and as files: drawn with matplotlib (`pip install "cvcodec[plot]"`).

Owns: which curve has which colour, the axes. Does not know: how numbers come about.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvcodec.bench import summary
from cvcodec.bench.measure import Row
from cvcodec.errors import MissingDependencyError
from cvcodec.system.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#d1495b", "#00798c", "#30638e", "#8a6d1a", "#6a4c93", "#2e7d32", "#c75b12", "#5f6b6d")
"""Told apart by people who do not tell red from green."""

_COLUMNS = 3
_PANEL_INCHES = (5.2, 4.6)


@dataclass(frozen=True)
class Line:
    """One curve. `points`: (rate, value) by ascending rate."""

    name: str
    color: str
    dashed: bool
    points: summary.Points


def lines_of(rows: Sequence[Row], metric: summary.Metric, clip: str | None = None) -> list[Line]:
    """The curves of a clip, or the means over clips."""
    names = summary.series_of(rows)
    codecs = list(dict.fromkeys(name.split()[0] for name in names))
    lines = []
    for series in names:
        points = (
            summary.mean_points(rows, series, metric) if clip is None else summary.points(rows, clip, series, metric)
        )
        ours = any(row.series == series and row.codec == "cvcodec" for row in rows)
        # Two presets of an encoder share a colour; the second is dashed.
        same = [name for name in names if name.split()[0] == series.split()[0]]
        color = COLORS[codecs.index(series.split()[0]) % len(COLORS)]
        lines.append(Line(series, color, not ours and same.index(series) > 0, points))
    return lines


def figure(rows: Sequence[Row], metrics: Sequence[summary.Metric], clip: str | None = None) -> Figure:
    """A panel for each metric: the curves of a clip, or the means over clips. Raises MissingDependencyError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator
    except ImportError as error:
        raise MissingDependencyError(
            'curves need matplotlib, which is not installed: pip install "cvcodec[plot]"'
        ) from error
    columns = min(_COLUMNS, max(1, len(metrics)))
    down = -(-max(1, len(metrics)) // columns)
    drawn = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * down), layout="constrained")
    FigureCanvasAgg(drawn)
    for index, metric in enumerate(metrics):
        axes = drawn.add_subplot(down, columns, index + 1)
        for line in lines_of(rows, metric, clip):
            axes.plot(
                [rate for rate, _ in line.points],
                [value for _, value in line.points],
                color=line.color,
                linestyle="--" if line.dashed else "-",
                marker="o",
                markersize=3.5,
                label=printable(line.name),
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel(metric.label)
        axes.set_title(printable(f"{metric.label}, {clip or 'mean over clips'}"), parse_math=False)
        axes.grid(True, alpha=0.25)
        if metric.quality(1.0) < metric.quality(0.0):  # small values are good
            axes.invert_yaxis()
        if not index:
            for text in axes.legend(fontsize=8).get_texts():
                text.set_parse_math(False)  # a name may have dollar signs in it
    return drawn


def draw(rows: Sequence[Row], metrics: Sequence[summary.Metric], clip: str | None = None, *, kind: str) -> bytes:
    """`figure` as `png` or `svg`."""
    drawn = figure(rows, metrics, clip)
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):  # names stay text
        drawn.savefig(buffer, format=kind, dpi=130)
    return buffer.getvalue()
