"""The report of a comparison: what was compared, per-frame numbers, their means, and the keys they go out under.

Owns: averaging, JSON keys, CSV columns. Does not know: how a number is measured, files, terminals.

    psnr_db         PSNR of the three RGB planes together, per frame; the report's is the mean over frames
    psnr_global_db  PSNR of the mean squared error of all frames (x264 calls it "Global", ffmpeg "average")
    psnr_min_db     the worst frame's psnr_db
    psnr_y_db, psnr_y_global_db   the same of luma, by `luma_source`. "planes": the Y' that both sides store, peak
                    2^b - 1, which is what ffmpeg's filter measures; where both store it with one depth, matrix and
                    range. "rgb": Y' = Kr R' + Kg G' + Kb B' by the matrix `luma_matrix`, in full range, without what
                    RGB clips; 20 log10(255 / 219) = 1.32 dB below that of limited-range planes. "mixed": some of each
    ssim            SSIM of the same luma (ssim_rgb: mean SSIM of R, G and B); null below 11x11 pixels
    ms_ssim         MS-SSIM of luma; null when a side is below 161 pixels
    lpips           of RGB, by the metric in `lpips_name`; null when the picture is too small for its network
    size_bytes, bpp, bitrate_bps   of everything but copied streams, which are in copied_bytes, and user data that an
                    encoder wrote beside the pictures (user_data_bytes); null when not told

A frame equal to its reference has infinite PSNR. JSON has no infinity: `psnr_db` is null there and `identical` true.
Means are taken over the frames that differ, `identical_frames` counts the others; when no frame differs, the mean is
null and `identical` true. CSV says `inf`.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from cvcodec.quality.pictures import KeptFrame

METRICS = ("psnr", "ssim", "ssim_rgb", "ms_ssim", "lpips")
DEFAULT_METRICS = ("psnr", "ssim", "lpips")
COLUMNS = {
    "psnr": ("psnr_db", "psnr_y_db"),
    "ssim": ("ssim",),
    "ssim_rgb": ("ssim_rgb",),
    "ms_ssim": ("ms_ssim",),
    "lpips": ("lpips",),
}
"""Per-frame columns of each metric."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Real bytes of one compressed video, told by the caller."""

    size_bytes: int
    """Of a .cvl file, everything but copied streams; of another, what its pictures need (`video.sizes`)."""
    copied_bytes: int = 0
    """Streams copied from the source (audio, subtitles): shown beside, never part of a rate."""
    user_data_bytes: int = 0
    """Text and captions that an encoder wrote among the pictures: likewise."""
    pixels: int
    """Width * height * frames of the source."""
    duration_s: float | None = None
    """Length of the source; None: no bitrate."""

    @property
    def bpp(self) -> float:
        """Bits per pixel of the source."""
        return 8 * self.size_bytes / self.pixels

    @property
    def bitrate_bps(self) -> float | None:
        """8 * size_bytes over the video's seconds."""
        return 8 * self.size_bytes / self.duration_s if self.duration_s else None


@dataclass
class Report:
    """What was compared and what came out; per-frame numbers are kept as columns of doubles."""

    reference: str
    test: str
    compared: str
    """One sentence: what stands against what, and before or after which codec."""
    metrics: tuple[str, ...]
    matrix: str
    alignment: str
    width: int = 0
    height: int = 0
    bit_depths: tuple[int, int] = (8, 8)
    unmatched_reference: int = 0
    unmatched_test: int = 0
    lpips_name: str | None = None
    rate: Rate | None = None
    notes: list[str] = field(default_factory=list)
    kept: KeptFrame | None = None
    pts: array[int] = field(default_factory=lambda: array("q"))
    times: array[float] = field(default_factory=lambda: array("d"))
    columns: dict[str, array[float]] = field(default_factory=dict)
    """By column name; PSNR may be infinite."""
    errors: dict[str, array[float]] = field(default_factory=lambda: {"rgb": array("d")})
    """Mean squared errors in [0, 1] units: `rgb` always, `y` with psnr."""
    stored_luma_frames: int = 0
    """Pairs whose luma was compared as stored."""

    @property
    def frames(self) -> int:
        """How many pairs were compared."""
        return len(self.pts)

    @property
    def luma_source(self) -> str:
        """`planes`, `rgb` or `mixed`; see the module."""
        return {0: "rgb", self.frames: "planes"}.get(self.stored_luma_frames, "mixed") if self.frames else "rgb"

    @property
    def identical_frames(self) -> int:
        """Pairs whose RGB values are all equal."""
        return sum(error == 0.0 for error in self.errors["rgb"])

    def mean(self, column: str) -> float | None:
        """Mean over frames, leaving out infinite PSNR; None without any such frame or such a column."""
        values = [value for value in self.columns.get(column, ()) if math.isfinite(value)]
        return math.fsum(values) / len(values) if values else None

    def global_psnr_db(self, plane: str) -> float | None:
        """PSNR of the mean squared error over all frames of `rgb` or `y`; None when it is zero or was not measured."""
        errors = self.errors.get(plane)
        total = math.fsum(errors) if errors else 0.0
        return -10.0 * math.log10(total / self.frames) if total > 0.0 else None

    def minimum_psnr_db(self) -> float | None:
        """The worst frame's RGB PSNR; None when all frames are identical or PSNR was not measured."""
        values = [value for value in self.columns.get("psnr_db", ()) if math.isfinite(value)]
        return min(values, default=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types with units in the keys; absent, undefined and infinite values are None."""
        rate = self.rate
        return {
            "reference": self.reference,
            "test": self.test,
            "compared": self.compared,
            "metrics": list(self.metrics),
            "width": self.width,
            "height": self.height,
            "bit_depth_reference": self.bit_depths[0],
            "bit_depth_test": self.bit_depths[1],
            "alignment": self.alignment,
            "frames": self.frames,
            "unmatched_reference_frames": self.unmatched_reference,
            "unmatched_test_frames": self.unmatched_test,
            "identical": self.identical_frames == self.frames,
            "identical_frames": self.identical_frames,
            "psnr_db": self.mean("psnr_db"),
            "psnr_global_db": self.global_psnr_db("rgb") if "psnr" in self.metrics else None,
            "psnr_min_db": self.minimum_psnr_db(),
            "psnr_y_db": self.mean("psnr_y_db"),
            "psnr_y_global_db": self.global_psnr_db("y"),
            "luma_matrix": self.matrix,
            "luma_source": self.luma_source,
            "ssim": self.mean("ssim"),
            "ssim_rgb": self.mean("ssim_rgb"),
            "ms_ssim": self.mean("ms_ssim"),
            "lpips": self.mean("lpips"),
            "lpips_name": self.lpips_name,
            "size_bytes": rate.size_bytes if rate else None,
            "copied_bytes": rate.copied_bytes if rate else None,
            "user_data_bytes": rate.user_data_bytes if rate else None,
            "bpp": rate.bpp if rate else None,
            "bitrate_bps": rate.bitrate_bps if rate else None,
            "notes": list(self.notes),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dict a frame, JSON types: frame, pts, time_s, identical, the metrics' columns; infinite PSNR is None."""
        for row in self._raw_rows():
            yield {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in row.items()}

    def write_csv(self, file: TextIO) -> None:
        """The rows as CSV with a header line; infinite PSNR as `inf`, undefined values empty. Open with newline=""."""
        names = ["frame", "pts", "time_s", "identical", *self._column_names()]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in self._raw_rows():
            writer.writerow({**row, "identical": int(row["identical"])})

    def _column_names(self) -> list[str]:
        return [name for metric in self.metrics for name in COLUMNS[metric]]

    def _raw_rows(self) -> Iterator[dict[str, Any]]:
        names = self._column_names()
        for index in range(self.frames):
            row: dict[str, Any] = {"frame": index, "pts": self.pts[index], "time_s": self.times[index]}
            row["identical"] = self.errors["rgb"][index] == 0.0
            for name in names:
                row[name] = self.columns[name][index] if name in self.columns else None
            yield row
