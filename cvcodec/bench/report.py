"""Everything a bench found, on one page that needs nothing else: curves as SVG, frames as PNG inside it.

Owns: the page. Does not know: how numbers come about, how curves are drawn (`curves`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cvcodec.bench import summary
from cvcodec.bench.measure import Row

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
        found = summary.differences(rows, anchor)
        parts += [
            f"<h2>BD-rate against {escape(anchor)}</h2>",
            '<p class="dim">Rate for the same quality, mean over clips of the logarithm: −20 % is a fifth less. '
            "Speeds are whole commands on the machine above.</p>",
            *(f"<p><strong>{escape(text)}</strong></p>" for text in summary.warnings(rows)),
            _markdown(summary.difference_table(found, summary.speeds(rows))),
            "<details><summary>Clip by clip</summary>",
            _per_clip(found, clips),
            "</details>",
        ]
        lpips = next(metric for metric in summary.METRICS if metric.key == "lpips")
        if same := summary.at_same_rate(rows, anchor, lpips):
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
        figures += [_figure(picture_of(row.key), _caption(row)) for row in shown]
        parts.append(f'<h3>At the size of quality {quality:g}</h3><div class="frames">{"".join(figures)}</div>')
    return "\n".join(parts)


def _caption(row: Row) -> str:
    values = [f"{row.bpp:.4f} bpp"]
    values += [f"{row.psnr_db:.2f} dB"] if row.psnr_db is not None else []
    values += [f"LPIPS {row.lpips:.4f}"] if row.lpips is not None else []
    return f"{row.series}, {row.point}: {', '.join(values)} (whole clip)"


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


def _per_clip(found: Sequence[summary.Difference], clips: Sequence[str]) -> str:
    lines = [f"| curve, metric | {' | '.join(clips)} |", "|---|" + "---:|" * len(clips)]
    for entry in found:
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
