"""Rows -> curves, means over clips, BD-rates, what others have at our rates; and tables of these in Markdown.

BD-rates are averaged over clips as logarithms, so that twice and half the rate cancel; a clip whose curves reach no
common quality is left out and counted. SSIM and MS-SSIM enter as -10 log10(1 - x) (dB), LPIPS with its sign turned.

Owns: these numbers and words. Pages and drawn curves: `report`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cvcodec.bench.bjontegaard import bd_rate, interpolate, percent
from cvcodec.bench.measure import Row

LOW_BPP = 0.1
"""Rates below are low: where a perceptual comparison is of interest."""

SHORT_FRAMES = 33
"""Clips of fewer frames (the paper's tables have 33) are too short for a BD-rate: too much of their bytes is paid once,
for a first frame coded alone and for headers. Of one clip, 5, 9 and 17 frames gave our model +71, +62 and +66 % against
x264 veryslow; 33, 65 and 97 frames +47, +53 and +47 %."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Metric:
    """One of the numbers of a row, as an axis."""

    key: str
    label: str
    quality: Callable[[float], float]
    """The larger the better, on a scale where differences mean the same everywhere."""
    digits: int


LPIPS = Metric("lpips", "LPIPS", lambda x: -x, 4)

METRICS = (
    Metric("psnr_db", "PSNR RGB (dB)", lambda x: x, 2),
    Metric("psnr_y_db", "PSNR Y (dB)", lambda x: x, 2),
    Metric("ssim", "SSIM", lambda x: -10 * math.log10(max(1 - x, 1e-10)), 4),
    Metric("ms_ssim", "MS-SSIM", lambda x: -10 * math.log10(max(1 - x, 1e-10)), 4),
    LPIPS,
)


def on_curves(rows: Iterable[Row]) -> list[Row]:
    """The rows that are points of curves: quantised, and not made to match."""
    return [row for row in rows if row.matched is None and row.value is not None]


def clips_of(rows: Iterable[Row]) -> list[str]:
    """Names of the clips, in the order of their first rows."""
    return list(dict.fromkeys(row.clip for row in rows))


def series_of(rows: Iterable[Row]) -> list[str]:
    """Names of the curves, ours first, in order."""
    ordered = sorted(on_curves(rows), key=lambda row: row.codec != "cvcodec")
    return list(dict.fromkeys(row.series for row in ordered))


def metrics_of(rows: Sequence[Row]) -> list[Metric]:
    """The metrics that have values."""
    return [metric for metric in METRICS if any(getattr(row, metric.key) is not None for row in rows)]


def sampling(rows: Iterable[Row]) -> str:
    """Which frames LPIPS is that of, in words."""
    every = sorted({row.lpips_every for row in rows if row.lpips is not None})
    words = ["all frames" if n == 1 else f"one frame in {n}" for n in every]
    return f"LPIPS of {' or '.join(words)}" if words else "no LPIPS"


def warnings(rows: Iterable[Row]) -> list[str]:
    """What a reader of BD-rates must know of the clips, a sentence each."""
    frames = {row.clip: row.frames for row in on_curves(rows)}
    short = {clip: count for clip, count in frames.items() if count < SHORT_FRAMES}
    if not short:
        return []
    which = "all clips" if len(short) == len(frames) else ", ".join(short)
    counts = " to ".join(str(count) for count in sorted({min(short.values()), max(short.values())}))
    return [
        f"Warning: BD-rates of clips this short say little ({which}: {counts} frames; {SHORT_FRAMES} or more are "
        "wanted)."
    ]


def points(rows: Iterable[Row], clip: str, series: str, metric: Metric) -> Points:
    """(bpp, value) of one curve by ascending rate; of the metric itself."""
    return sorted(
        (row.bpp, value)
        for row in on_curves(rows)
        if (row.clip, row.series) == (clip, series) and (value := getattr(row, metric.key)) is not None
    )


def mean_points(rows: Iterable[Row], series: str, metric: Metric) -> Points:
    """(bpp, value) of a curve, each point the mean over clips at one setting; of settings every clip has."""
    rows = list(rows)
    clips = set(clips_of(on_curves(rows)))
    settings: dict[str, dict[str, tuple[float, float]]] = {}
    for row in on_curves(rows):
        value = getattr(row, metric.key)
        if row.series == series and value is not None:
            settings.setdefault(row.point, {})[row.clip] = (row.bpp, value)
    return sorted(
        (fmean(rate for rate, _ in of_clips.values()), fmean(value for _, value in of_clips.values()))
        for of_clips in settings.values()
        if set(of_clips) == clips
    )


@dataclass(frozen=True)
class Difference:
    """BD-rate of a curve against the anchor's, over clips."""

    series: str
    metric: str
    percent: float | None
    """Rate for the same quality: -20 is a fifth less. None where no clip has a common quality."""
    clips: dict[str, float | None]
    """The same of each clip."""

    @property
    def counted(self) -> int:
        """How many clips the mean is of: those whose curves reach a common quality."""
        return sum(value is not None for value in self.clips.values())


def differences(rows: Sequence[Row], anchor: str) -> list[Difference]:
    """Every other curve against the series `anchor`, by every metric that was measured."""
    compared = []
    for series in series_of(rows):
        if series == anchor:
            continue
        for metric in metrics_of(rows):
            logs = {
                clip: bd_rate(
                    [(rate, metric.quality(value)) for rate, value in points(rows, clip, anchor, metric)],
                    [(rate, metric.quality(value)) for rate, value in points(rows, clip, series, metric)],
                )
                for clip in clips_of(on_curves(rows))
            }
            common = [value for value in logs.values() if value is not None]
            clips = {clip: None if value is None else percent(value) for clip, value in logs.items()}
            compared.append(Difference(series, metric.key, percent(fmean(common)) if common else None, clips))
    return compared


@dataclass(frozen=True)
class AtSameRate:
    """One point of ours below `LOW_BPP`, and what another curve has at its rate."""

    clip: str
    model: str
    quality: float
    bpp: float
    metric: str
    ours: float
    theirs: float


def at_same_rate(rows: Sequence[Row], other: str, metric: Metric) -> list[AtSameRate]:
    """All points of ours below `LOW_BPP` bits per pixel whose rate the series `other` reaches."""
    same = []
    for row in on_curves(rows):
        value = getattr(row, metric.key)
        if row.codec != "cvcodec" or row.bpp >= LOW_BPP or value is None or row.value is None:
            continue
        theirs = interpolate(points(rows, row.clip, other, metric), row.bpp)
        if theirs is not None:
            same.append(AtSameRate(row.clip, row.model, row.value, row.bpp, metric.key, value, theirs))
    return same


def speeds(rows: Iterable[Row]) -> dict[str, tuple[float | None, float | None]]:
    """Mean (encode, decode) frames per second of each series."""
    rows = [row for row in rows if row.matched is None]

    def mean(series: str, key: str) -> float | None:
        values = [getattr(row, key) for row in rows if row.series == series]
        return fmean(measured) if (measured := [value for value in values if value is not None]) else None

    series = dict.fromkeys(row.series for row in rows)
    return {name: (mean(name, "encode_fps"), mean(name, "decode_fps")) for name in series}


# ---------------------------------------------------------------------------------------------------- Markdown


def quality_table(rows: Sequence[Row]) -> str:
    """Quality -> mean bpp, PSNR, LPIPS over clips, for each of our models."""
    ours = [row for row in rows if row.codec == "cvcodec" and row.matched is None]
    lines = []
    for model in dict.fromkeys(row.model for row in ours):
        own = [row for row in ours if row.model == model]
        name = next((row.lpips_name for row in own if row.lpips_name), "LPIPS")
        lines += [
            f"`{model}`, mean of {len(clips_of(own))} clips, {sampling(own)}:",
            "",
            f"| quality | bits per pixel | PSNR RGB (dB) | PSNR Y (dB) | SSIM | {name} |",
            "|---:|---:|---:|---:|---:|---:|",
        ]
        for value in sorted({row.value for row in own if row.value is not None}):
            lines.append(_quality_line(f"{value:g}", [row for row in own if row.value == value]))
        if raw := [row for row in own if row.value is None]:
            lines.append(_quality_line("not quantised", raw, rate=False))
        lines.append("")
    return "\n".join(lines).rstrip()


def _quality_line(name: str, rows: Sequence[Row], *, rate: bool = True) -> str:
    def mean(key: str, digits: int) -> str:
        values = [value for row in rows if (value := getattr(row, key)) is not None]
        return f"{fmean(values):.{digits}f}" if values else "–"

    cells = [mean("bpp", 4) if rate else "–", mean("psnr_db", 2), mean("psnr_y_db", 2), mean("ssim", 4)]
    return f"| {' | '.join([name, *cells, mean('lpips', 4)])} |"


def difference_table(differences: Sequence[Difference], speed: dict[str, tuple[float | None, float | None]]) -> str:
    """BD-rates of every series against the anchor, and speeds where any were noted."""
    speeds = ["encode fps", "decode fps"] if any(rate for rates in speed.values() for rate in rates) else []
    keys = list(dict.fromkeys(entry.metric for entry in differences))
    labels = [re.sub(r" \(dB\)", "", metric.label) for metric in METRICS if metric.key in keys]
    lines = [
        f"| | {' | '.join([*(f'BD-rate, {label}' for label in labels), *speeds])} |",
        "|---|" + "---:|" * (len(keys) + len(speeds)),
    ]
    for series in speed:
        cells = []
        for key in keys:
            entry = next((entry for entry in differences if (entry.series, entry.metric) == (series, key)), None)
            cells.append("anchor" if entry is None else _percent(entry))
        rates = ["–" if value is None else f"{value:.3g}" for value in speed[series]] if speeds else []
        lines.append(f"| {series} | {' | '.join([*cells, *rates])} |")
    return "\n".join(lines)


def _percent(entry: Difference) -> str:
    if entry.percent is None:
        return "no common quality"
    partial = "" if entry.counted == len(entry.clips) else f" ({entry.counted} of {len(entry.clips)} clips)"
    return f"{entry.percent:+.1f} %{partial}"


def same_rate_table(same: Sequence[AtSameRate], other: str) -> str:
    """How often ours is better, and the two values of each point."""
    better = sum(entry.ours < entry.theirs if entry.metric == "lpips" else entry.ours > entry.theirs for entry in same)
    label = next((metric.label for metric in METRICS if same and metric.key == same[0].metric), "value")
    lines = [
        f"Ours is better at {better} of {len(same)} points below {LOW_BPP:g} bits per pixel.",
        "",
        f"| clip | model | quality | bits per pixel | {label}, ours | {label}, {other} |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {entry.clip} | {entry.model} | {entry.quality:g} | {entry.bpp:.4f} | {entry.ours:.4f} "
        f"| {entry.theirs:.4f} |"
        for entry in same
    ]
    return "\n".join(lines)


def rate_tables(rows: Sequence[Row], anchor: str) -> str:
    """BD-rates and speeds against the series `anchor`, and what it has at our lowest rates."""
    parts = [f"Against {anchor}, mean over clips, {sampling(rows)}:"]
    parts += [difference_table(differences(rows, anchor), speeds(rows)), *warnings(rows)]
    if same := at_same_rate(rows, anchor, LPIPS):
        parts.append(same_rate_table(same, anchor))
    return "\n\n".join(parts)


def to_dict(rows: Sequence[Row], anchor: str | None) -> dict[str, Any]:
    """All rows and what is made of them, in JSON types: the content of bench.json."""
    return {
        "anchor": anchor,
        "warnings": warnings(rows) if anchor else [],
        "rows": [row.to_dict() for row in rows],
        "bd_rate_percent": [
            {"series": entry.series, "metric": entry.metric, "mean": entry.percent, "clips": entry.clips}
            for entry in (differences(rows, anchor) if anchor else [])
        ],
        "at_same_rate": [
            {**vars(entry), "other": anchor} for metric in METRICS for entry in at_same_rate(rows, anchor, metric)
        ]
        if anchor
        else [],
    }
