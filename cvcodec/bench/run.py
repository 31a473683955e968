"""All clips in all settings, then what has to be matched to them.

Owns: the order of the work, what goes on beside what, the sentence about each result. Does not know: how a result comes
about (`measure`), what is made of them (`summary`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cvcodec.bench.bjontegaard import Curve
from cvcodec.bench.clips import Clip
from cvcodec.bench.measure import Row, Workbench
from cvcodec.bench.settings import Setting
from cvcodec.video.encoders import encoder_named

Notice = Callable[[str], None]


def run(
    bench: Workbench,
    clips: Sequence[Clip],
    settings: Sequence[Setting],
    *,
    match: Sequence[float] = (),
    jobs: int = 1,
    on_notice: Notice | None = None,
) -> list[Row]:
    """The rows, in order of clips and settings; behind those of a clip, for each of our models and qualities in `match`
    the encoders' with the CRF that comes closest to its size. With `jobs` above 1, encodes share the machine."""
    say = on_notice or (lambda text: None)
    rows = _measure(bench, list(itertools.product(clips, settings)), jobs, say)
    wanted = [
        (clip, setting, ours)
        for clip in clips
        for ours in rows
        if ours.clip == clip.name and ours.codec == "cvcodec" and ours.value in match and ours.value is not None
        for setting in matching_settings([row for row in rows if row.clip == clip.name], ours)
    ]
    found = _measure(bench, [(clip, setting) for clip, setting, _ in wanted], jobs, say)
    for row, (_, _, ours) in zip(found, wanted, strict=True):
        rows.append(dataclasses.replace(row, matched=ours.value))
    return rows


class _Stopped(Exception):
    """The run was interrupted, or another of its encodes has failed."""


def _measure(bench: Workbench, work: Sequence[tuple[Clip, Setting]], jobs: int, say: Notice) -> list[Row]:
    counter = itertools.count(1)

    def one(bench: Workbench, item: tuple[Clip, Setting]) -> Row:
        row = bench.measure(*item)
        say(f"{next(counter)}/{len(work)}  {row.clip}  {row.series}  {row.point}:  {describe(row)}")
        return row

    if jobs < 2:
        return [one(bench, item) for item in work]
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise _Stopped

    watched = dataclasses.replace(bench, check=check)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(lambda item: one(watched, item), work))
        except BaseException:
            stop.set()  # leaving the pool waits for what is being encoded
            raise


def describe(row: Row) -> str:
    """`0.0421 bpp, 31.20 dB, LPIPS 0.1210`."""
    parts = [f"{row.bpp:.4f} bpp"]
    parts += [f"{row.psnr_db:.2f} dB"] if row.psnr_db is not None else []
    parts += [f"LPIPS {row.lpips:.4f}"] if row.lpips is not None else []
    return ", ".join(parts)


def matching_settings(rows: Iterable[Row], ours: Row) -> list[Setting]:
    """For each encoder and preset among the rows of a clip, the CRF at which its curve reaches the size of `ours`; none
    where the curve does not reach it."""
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.codec != "cvcodec" and row.value is not None:
            curves.setdefault((row.codec, row.preset), []).append(row)
    settings = []
    for (codec, preset), points in curves.items():
        by_size = sorted({math.log(row.bpp): row.value for row in points}.items())
        if len(by_size) < 2:
            continue
        value = float(Curve(*zip(*by_size, strict=True))(math.log(ours.bpp)))
        if math.isnan(value):
            continue
        fine = encoder_named(codec).name.startswith("libx26")
        crf = round(value, 2) if fine else float(round(value))
        settings.append(Setting(codec=codec, preset=preset, value=crf))
    return settings
