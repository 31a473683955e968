"""What a bench found, for people: curves, one page that needs nothing else, and marked blocks of a text.

Curves are drawn with matplotlib (`pip install "cvcodec[plot]"`); on the page they are SVG, and frames PNG inside it.
How the numbers come about: `summary`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvcodec.bench import summary
from cvcodec.bench.measure import Row
from cvcodec.errors import MissingDependencyError, UsageError
from cvcodec.fileio import atomic_output
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


PictureOf = Callable[[str], Path | None]
"""From the key of a row, or the name of a clip, to its picture."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2125; --dim: #5d6670; --grid: #dfe3e7; --page: #fff; --wash: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --dim: #a0a9b2; --grid: #3a4148; --page: #16191c; --wash: #1f2428; }
}
body { margin: 0 auto; max-width: 1180px; padding: 24px; font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; } h3 { font-size: 16px; }
p.dim, figcaption, .dim { color: var(--dim); font-size: 13px; }
.frames { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); }
figure { margin: 0; } figure img { width: 100%; display: block; } .frames img { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: 600; }
code, pre { font: 12px/1.5 ui-monospace, monospace; } pre { background: var(--wash); padding: 12px; overflow-x: auto; }
details { margin: 12px 0; } summary { cursor: pointer; }
"""


def page(
    rows: Sequence[Row],
    *,
    anchor: str | None,
    facts: dict[str, Any],
    machine: str,
    invocation: str,
    picture_of: PictureOf,
    curves: Mapping[str | None, bytes],
) -> str:
    """The page. `facts`: name -> value lines of its head; `invocation`: the command that made it; `curves`: of a clip,
    and under None the means, as SVG; what is not there is left out."""
    clips = summary.clips_of(rows)
    metrics = summary.metrics_of(rows)
    parts = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>cvcodec bench, {len(clips)} clips</title><style>{_STYLE}</style>",
        f"<h1>Rate and distortion of {len(clips)} clip{'s' if len(clips) != 1 else ''}</h1>",
        f'<p class="dim">{escape(machine)}</p>',
        f"<pre>{escape(invocation)}</pre>",
        "<table>" + "".join(_pair(name, value) for name, value in facts.items()) + "</table>",
        "<h2>Means over clips</h2>",
        _curves(curves, None),
    ]
    if anchor:
        differences = summary.differences(rows, anchor)
        parts += [
            f"<h2>BD-rate against {escape(anchor)}</h2>",
            '<p class="dim">Rate for the same quality, mean over clips of the logarithm: −20 % is a fifth less. '
            "Speeds are whole commands on the machine above.</p>",
            *(f"<p><strong>{escape(text)}</strong></p>" for text in summary.warnings(rows)),
            _markdown(summary.difference_table(differences, summary.speeds(rows))),
            "<details><summary>Clip by clip</summary>",
            _per_clip(differences, clips),
            "</details>",
        ]
        if same := summary.at_same_rate(rows, anchor, summary.LPIPS):
            parts += [
                f"<h2>LPIPS at the same rate, below {summary.LOW_BPP:g} bits per pixel</h2>",
                _markdown(summary.same_rate_table(same, anchor)),
            ]
    for clip in clips:
        parts += [f"<h2>{escape(clip)}</h2>", _curves(curves, clip), _frames(rows, clip, picture_of)]
    parts += [
        "<h2>Every encode</h2><details><summary>Numbers</summary>",
        _all(rows, metrics),
        "</details><details><summary>Commands</summary><pre>",
        escape("\n".join(dict.fromkeys(row.command for row in rows))),
        "</pre></details></html>",
    ]
    return "\n".join(parts)


def _pair(name: str, value: Any) -> str:
    return f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"


def _curves(curves: Mapping[str | None, bytes], clip: str | None) -> str:
    if clip not in curves:
        return ""
    name = f"curves of {clip}" if clip is not None else "curves, means over clips"
    return f'<figure class="curves">{_image("svg+xml", curves[clip], name)}</figure>'


def _frames(rows: Sequence[Row], clip: str, picture_of: PictureOf) -> str:
    """The middle frame of the clip, of ours, and of what was made to match its size."""
    parts = []
    own = [row for row in rows if row.clip == clip]
    for quality in sorted({row.matched for row in own if row.matched is not None}):
        shown = [row for row in own if row.codec == "cvcodec" and row.value == quality]
        shown += [row for row in own if row.matched == quality]
        figures = [_figure(picture_of(clip), "source")]
        figures += [
            _figure(picture_of(row.key), f"{row.series}, {row.point}: {row.describe()} (whole clip)") for row in shown
        ]
        parts.append(f'<h3>At the size of quality {quality:g}</h3><div class="frames">{"".join(figures)}</div>')
    return "\n".join(parts)


def _figure(path: Path | None, caption: str) -> str:
    if path is None or not path.exists():
        return ""
    image = _image("png", path.read_bytes(), caption)
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(kind: str, data: bytes, name: str) -> str:
    return f'<img alt="{escape(name)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _markdown(text: str) -> str:
    """The tables and sentences of `summary`, as HTML."""
    parts: list[str] = []
    table: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if all(set(cell) <= set("-:") and cell for cell in cells):
                continue
            tag = "td" if table else "th"
            table.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>")
            continue
        if table:
            parts.append(f'<div class="scroll"><table>{"".join(table)}</table></div>')
            table = []
        if line:
            parts.append(f"<p>{escape(line)}</p>")
    return "\n".join(parts)


def _per_clip(differences: Sequence[summary.Difference], clips: Sequence[str]) -> str:
    lines = [f"| curve, metric | {' | '.join(clips)} |", "|---|" + "---:|" * len(clips)]
    for entry in differences:
        cells = [f"{value:+.1f} %" if (value := entry.clips.get(clip)) is not None else "–" for clip in clips]
        lines.append(f"| {entry.series}, {entry.metric} | {' | '.join(cells)} |")
    return _markdown("\n".join(lines))


def _all(rows: Sequence[Row], metrics: Sequence[summary.Metric]) -> str:
    names = ["clip", "curve", "point", "bytes", "bpp", "kbit/s", *(metric.label for metric in metrics)]
    lines = [f"| {' | '.join([*names, 'encode fps', 'decode fps'])} |", "|---|" + "---|" * (len(names) + 1)]
    for row in rows:
        values = [getattr(row, metric.key) for metric in metrics]
        cells = [row.clip, row.series, row.point, str(row.size_bytes), f"{row.bpp:.4f}", f"{row.bitrate_bps / 1e3:.1f}"]
        cells += [
            "–" if value is None else f"{value:.{metric.digits}f}"
            for value, metric in zip(values, metrics, strict=True)
        ]
        cells += ["–" if value is None else f"{value:.3g}" for value in (row.encode_fps, row.decode_fps)]
        lines.append(f"| {' | '.join(cells)} |")
    return _markdown("\n".join(lines))


def check_block(path: Path | None, name: str) -> None:
    """UsageError unless `update_block` can do its work; for the beginning of a run that takes long. None: nothing."""
    if path is not None:
        replace_block(_read(path), name, "")


def update_block(path: Path | None, name: str, content: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a text file. UsageError without these.

    Does nothing for None.
    """
    if path is None:
        return
    after = replace_block(_read(path), name, content)
    with atomic_output(path, overwrite=True) as file:
        file.write(after.encode())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be updated: {error.strerror or error}") from error


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with everything between `<!-- NAME -->` and `<!-- /NAME -->` replaced. UsageError where these are not."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise UsageError(f"the file has no block to replace: it wants one line {begin} and, below it, {end}")
    head, tail = text.index(begin) + len(begin), text.index(end)
    return f"{text[:head]}\n{content.strip()}\n{text[tail:]}"
