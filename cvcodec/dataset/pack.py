"""Training clips and photos made small enough to travel: scaled down, coded again, with their manifest.

Owns: the folder's layout, the search for a quality that fits a number of bytes. Does not know: training itself, which
takes the manifest as its data.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from cvcodec.dataset.media import MediaFile, Pixels, Reporter, decode_clip, find_sources, probe
from cvcodec.errors import InputError, OutputError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.system import host
from cvcodec.video.color import Color
from cvcodec.video.convert import RgbWriter
from cvcodec.video.frame import Frame
from cvcodec.video.sink import rgb_to_packet
from cvcodec.video.writer import VideoWriter

MANIFEST_NAME = "MANIFEST.tsv"
_CRF = 24.0  # of the first attempt
_BEST_CRF, _WORST_CRF = 12.0, 40.0
_HALVING = 6.0  # steps of CRF that halve the bytes, about
_MARGIN = 0.97  # of the budget that an attempt aims at
_ATTEMPTS = 4
_SAMPLE = 12  # clips that the first attempt is tried on
_WEBP_COLOR = Color("bt470bg", "limited")
_PHOTO_QUALITY = "82"
_MOST_FRAMES = 1 << 20


@dataclass(frozen=True)
class Packed:
    """What `pack` made."""

    folder: Path
    videos: int
    photos: int
    frames: int
    size_bytes: int
    crf: float
    """Of all videos, of the codec's scale."""


def pack(
    entries: Sequence[str],
    folder: Path,
    *,
    budget_bytes: int,
    short_side: int = 256,
    frames: int = 0,
    codec: str = "libx265",
    preset: str = "medium",
    val_fraction: float = 0.1,
    report: Callable[[str], None] = lambda line: None,
) -> Packed:
    """Copy what `entries` name (see `sources`) into a new folder of at most `budget_bytes`.

    Videos keep their first `frames` frames (0: all) and get one CRF together, as good as the bytes allow; photos are
    WebP. Raises UsageError where even the worst quality is too large, OutputError for a folder that is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty; give another folder")
    reporter = Reporter(report)
    sources = find_sources(entries, val_fraction)
    split = {source.path: source.split for source in sources}
    files = [file for name in ("train", "val") for file in probe(sources, name, reporter)]
    if not files:
        raise InputError(f"none of {len(sources)} files can be read; see the skipped files above")
    videos = [file for file in files if not file.is_image]
    photos = [file for file in files if file.is_image]
    try:
        for name, made in (("videos", videos), ("photos", photos)):
            if made:
                (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror or error}") from error
    names = {file.path: f"videos/{index:05d}.mp4" for index, file in enumerate(videos)}
    names |= {file.path: f"photos/{index:05d}.webp" for index, file in enumerate(photos)}
    work = _Work(folder, names, short_side, frames or _MOST_FRAMES, codec, preset, reporter)
    left = int(_MARGIN * budget_bytes) - work.run(photos, work.photo) - 200 * len(files)
    crf = work.fit(videos, left) if videos else _CRF
    kept = [file for file in files if (folder / names[file.path]).is_file()]
    rows = io.StringIO()
    writer = csv.writer(rows, delimiter="\t", lineterminator="\n")
    writer.writerow(["path", "split", "source"])
    writer.writerows([names[file.path], split[file.path], file.group] for file in kept)
    with atomic_output(folder / MANIFEST_NAME) as output:
        output.write(rows.getvalue().encode())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    count = sum(not file.is_image for file in kept)
    return Packed(folder, count, len(kept) - count, sum(work.frames.values()), size, crf)


class _Work:
    """Coding files by as many threads as there are processors."""

    def __init__(
        self,
        folder: Path,
        names: dict[Path, str],
        short_side: int,
        most_frames: int,
        codec: str,
        preset: str,
        reporter: Reporter,
    ) -> None:
        self._folder, self._names, self._short_side, self._most_frames = folder, names, short_side, most_frames
        self._codec, self._preset, self._reporter = codec, preset, reporter
        self.frames: dict[Path, int] = {}

    def run(self, files: Sequence[MediaFile], make: Callable[[MediaFile], int]) -> int:
        """Bytes of all files made; those that cannot be decoded are reported and left out."""

        def attempt(file: MediaFile) -> int:
            try:
                return make(file)
            except (InputError, UsageError) as error:
                self._reporter.skip(file.path, str(error))
                return 0

        with ThreadPoolExecutor(host.usable_cpus(), thread_name_prefix="pack") as pool:
            return sum(pool.map(attempt, files))

    def fit(self, videos: Sequence[MediaFile], budget: int) -> float:
        """Code the videos so that they take no more than `budget` bytes together; the CRF."""
        sample = videos[:: max(1, len(videos) // _SAMPLE)]
        pixels = sum(self._values(file) for file in videos) / max(1, sum(self._values(file) for file in sample))
        crf = _CRF
        crf = self._better(crf, pixels * self.run(sample, lambda file: self.video(file, _CRF)), budget)
        for _ in range(_ATTEMPTS):
            size = self.run(videos, lambda file, crf=crf: self.video(file, crf))  # type: ignore[misc]
            if size <= budget:
                return crf
            crf = self._better(crf, size, budget) + 0.5
        raise UsageError(
            f"the videos take {size / 2**20:.1f} MiB at CRF {crf:g} and should take {max(0, budget) / 2**20:.1f}; "
            "give more --megabytes, fewer --frames, or a smaller --short-side"
        )

    def _better(self, crf: float, size: float, budget: int) -> float:
        change = _HALVING * math.log2(max(1.0, size) / max(1, budget))
        return round(min(_WORST_CRF, max(_BEST_CRF, crf + change)), 1)

    def _values(self, file: MediaFile) -> float:
        return min(file.frames, self._most_frames) * file.width * file.height

    def photo(self, file: MediaFile) -> int:
        """One photo; its bytes."""
        picture = decode_clip(file.path, count=1, short_side=self._short_side)[0]
        convert = RgbWriter(picture.shape[1], picture.shape[0], 8, "yuv420p", _WEBP_COLOR)
        data = rgb_to_packet("libwebp", "yuv420p", convert(picture), {"quality": _PHOTO_QUALITY})
        with atomic_output(self._folder / self._names[file.path], overwrite=True) as output:
            output.write(data)
        return len(data)

    def video(self, file: MediaFile, crf: float) -> int:
        """One video; its bytes."""
        pixels: Pixels = decode_clip(file.path, count=self._most_frames, short_side=self._short_side)
        height, width = (side - side % 2 for side in pixels.shape[1:3])  # 4:2:0 has whole pairs
        path = self._folder / self._names[file.path]
        path.unlink(missing_ok=True)
        step = file.frame_seconds or Fraction(1, 25)
        with VideoWriter(
            path, width=width, height=height, time_base=step, rate=1 / step, codec=self._codec, crf=crf,
            preset=self._preset, threads=1,
        ) as writer:  # fmt: skip
            for index, picture in enumerate(pixels):
                writer.write(Frame(pixels=picture[:height, :width], pts=index, duration=1))
        self.frames[file.path] = len(pixels)
        return path.stat().st_size
