"""The charts of the page as PNG and SVG files, drawn with matplotlib (`pip install "cvcodec[plot]"`).

Owns: the figure. Does not know: where lines come from.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from cvcodec.bench.rd.chart import Line, rate_ticks
from cvcodec.errors import MissingDependencyError
from cvcodec.printable import printable

Panel = tuple[str, str, Sequence[Line], bool]
"""Title, label of the metric, curves, whether small values are good."""


def draw(panels: Sequence[Panel], *, kind: str) -> bytes:
    """All panels side by side, as `png` or `svg`. Raises MissingDependencyError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'plots need matplotlib, which is not installed: pip install "cvcodec[plot]"'
        ) from error
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, label, lines, falling) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for line in lines:
            axes.plot(
                [rate for rate, _, _ in line.points],
                [value for _, value, _ in line.points],
                color=line.color,
                linestyle="--" if line.dashed else "-",
                marker="o",
                markersize=3.5,
                label=printable(line.name),
            )
        axes.set_xscale("log")
        ticks = rate_ticks(*axes.get_xlim())
        axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel(label)
        axes.set_title(printable(title), parse_math=False)
        axes.grid(True, which="both", alpha=0.25)
        if falling:
            axes.invert_yaxis()
        if not index:
            for text in axes.legend(fontsize=8).get_texts():
                text.set_parse_math(False)  # a name may have dollar signs in it
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=130)
    return buffer.getvalue()
