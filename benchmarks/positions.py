"""Quality by a frame's position in the group of frames that its latent stands for: where it differs, pictures pulse.

Frame 0 is a latent of its own and has no position; frames 1 to 4, 5 to 8 and so on have positions 1 to 4.
Owns: the means, their spread, the table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

Means = tuple[float | None, ...]
"""One value for each position; None where no frame has one."""


def by_position(values: Iterable[float], group: int) -> Means:
    """Means over the frames of a clip, in order from frame 0 on; what is not finite is left out."""
    by_place: list[list[float]] = [[] for _ in range(group)]
    for index, value in enumerate(values):
        if index and math.isfinite(value):
            by_place[(index - 1) % group].append(value)
    return tuple(statistics.fmean(part) if part else None for part in by_place)


def mean(clips: Sequence[Means]) -> Means:
    """Over clips, position by position; what a clip does not have is left out."""
    columns = [[value for value in column if value is not None] for column in zip(*clips, strict=True)]
    return tuple(statistics.fmean(column) if column else None for column in columns)


def spread(means: Means) -> float | None:
    """Largest less smallest; None where no two positions have values."""
    values = [value for value in means if value is not None]
    return max(values) - min(values) if len(values) > 1 else None


def relative_spread(means: Means) -> float | None:
    """`spread` as a share of the smallest value."""
    apart, least = spread(means), min((value for value in means if value is not None), default=0.0)
    return None if apart is None or not least else apart / least


def table(rows: Mapping[str, tuple[Means, Means]]) -> str:
    """Markdown. rows: what is measured -> its PSNR in dB and its LPIPS by position; empty where not measured."""
    count = max((len(means) for pair in rows.values() for means in pair), default=0)
    lines = [
        f"| mean by position in the group of {count} | {' | '.join(map(str, range(1, count + 1)))} | max − min |",
        "|---|" + "--:|" * (count + 1),
    ]
    for name, (psnr_db, lpips) in rows.items():
        for label, means, digits, unit in (("PSNR (RGB)", psnr_db, 2, " dB"), ("LPIPS", lpips, 4, "")):
            apart, share = spread(means), relative_spread(means)
            if apart is None:
                continue
            cells = ["–" if value is None else f"{value:.{digits}f}{unit}" for value in means]
            cells += ["–"] * (count - len(means))
            last = f"{apart:.{digits}f}{unit}" + (f" ({share:.0%})" if label == "LPIPS" and share is not None else "")
            lines.append(f"| {name}, {label} | {' | '.join([*cells, last])} |")
    return "\n".join(lines) if len(lines) > 2 else ""
