"""Two streams of frames in step -> report.

Owns: which frame of one is compared with which of the other, by time alone; which values each metric gets, batching,
what is left out when frames are too small. Holds one batch at a time, and two frames of each side ahead.
Does not know: the metrics' definitions, averaging and keys (`report`), files.

Metrics see RGB code values as they come: never resized, never subtracted as integers. Both sides with one bit depth and
one white are compared on code values, with 2^b - 1 as peak; otherwise each side is divided by its own white first.
Luma is what both sides store where they can be compared so, else it is made from RGB.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cvcodec.errors import InputError, UsageError
from cvcodec.quality.lpips import Lpips
from cvcodec.quality.pictures import KeptFrame, Pixels
from cvcodec.quality.psnr import luma, matrix_name, mse, psnr_of_mse
from cvcodec.quality.report import COLUMNS, DEFAULT_METRICS, METRICS, Rate, Report
from cvcodec.quality.ssim import MINIMUM_SIDE, MS_MINIMUM_SIDE, ms_ssim, ssim
from cvcodec.system.device import arithmetic

if TYPE_CHECKING:
    from cvcodec.video.frame import Frame

BATCH_PIXELS = 1 << 20  # pixels of one side measured at once; LPIPS needs about 600 bytes of memory for each


def evaluate(
    reference: Iterable[Frame],
    test: Iterable[Frame],
    *,
    reference_time_base: Fraction,
    test_time_base: Fraction,
    metrics: Collection[str] = DEFAULT_METRICS,
    matrix: str = "bt709",
    whites: tuple[int, int] | None = None,
    stored_luma: bool = False,
    lpips: Lpips | None = None,
    device: torch.device | str = "cpu",
    align: str = "pts",
    rate: Rate | None = None,
    reference_name: str = "reference",
    test_name: str = "test",
    compared: str | None = None,
    keep: int | str | None = None,
    batch_pixels: int = BATCH_PIXELS,
    on_progress: Callable[[int], None] | None = None,
    on_pair: Callable[[KeptFrame, int, Fraction], None] | None = None,
) -> Report:
    """Compare two streams of frames in presentation order; both are read once, to their ends.

    `metrics`: any of METRICS.
    `matrix`: of the reference's colour description, for luma; BT.709 with a note for one that defines no luma.
    `whites`: code value of white on each side (`Color.white_code`); None: 2^b - 1 on both.
    `stored_luma`: both sides' `Frame.luma`, where they have it at one bit depth, is on one scale and compared.
    `lpips`: a loaded metric, moved to `device`; None: `Lpips.load()` when asked for.
    `device`: where the work is done. `align`: see `Aligned`.
    `rate`, `compared`: what the caller knows, for the report.
    `keep`: the pair kept for a picture: "worst" (lowest RGB PSNR), an index among the compared frames, or None.
    `batch_pixels`: pixels of one side in memory at once. `on_progress`: called with the number of pairs done.
    `on_pair`: is given every pair, in order, with the reference's pts and time base.
    UsageError on an unknown metric, alignment or frame to keep; InputError when no frame matches or sizes differ;
    MissingDependencyError when LPIPS is asked for and has no weights.
    """
    measured = tuple(name for name in METRICS if name in metrics)
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise UsageError(f"unknown metric {', '.join(unknown)}; known: {', '.join(METRICS)}")
    if not (keep is None or keep == "worst" or isinstance(keep, int)):
        raise UsageError(f"cannot keep frame {keep!r}; wanted an index or 'worst'")
    if align not in ALIGNMENTS:
        raise UsageError(f"unknown alignment {align!r}; known: {', '.join(ALIGNMENTS)}")
    if "lpips" not in measured:
        lpips = None
    elif lpips is None:
        lpips = Lpips.load()
    report = Report(
        reference=reference_name,
        test=test_name,
        compared=compared or f"frames of {test_name} against frames of {reference_name}, at their own size",
        metrics=measured,
        matrix=matrix_name(matrix) or "bt709",
        alignment=align,
        lpips_name=lpips.name if lpips is not None else None,
        rate=rate,
    )
    if matrix_name(matrix) is None:
        report.notes.append(f"luma is BT.709's: the reference's matrix {matrix} defines none")
    meter = _Meter(report, lpips, torch.device(device), keep, whites, stored_luma)
    aligned = Aligned(reference, test, reference_time_base=reference_time_base, test_time_base=test_time_base, by=align)
    for batch in _batches(aligned, batch_pixels):
        scores = meter.measure(batch)
        if on_pair is not None:
            for index, (pair, psnr_db) in enumerate(zip(batch, scores, strict=True), report.frames - len(batch)):
                on_pair(meter.kept(pair, index, psnr_db), pair.reference.pts, reference_time_base)
        if on_progress:
            on_progress(report.frames)
    report.unmatched_reference, report.unmatched_test = aligned.unmatched_reference, aligned.unmatched_test
    if not report.frames:
        raise InputError(_no_match(report, aligned))
    return report


class _Meter:
    """Measures batches into a report."""

    def __init__(
        self,
        report: Report,
        lpips: Lpips | None,
        device: torch.device,
        keep: int | str | None,
        whites: tuple[int, int] | None,
        stored_luma: bool,
    ) -> None:
        self.report = report
        self.stored_luma = stored_luma
        self.whites = whites
        self.device = device
        # MPS has no float64, in which squared errors are summed
        self.exact_device = torch.device("cpu") if device.type == "mps" else device
        self.lpips = lpips.to(device) if lpips is not None else None
        self.keep = keep
        self.usable: set[str] = set()

    @torch.inference_mode()
    def measure(self, batch: list[Pair]) -> list[float]:
        """Append one row for each pair; gives the PSNR, RGB, of each in dB."""
        report = self.report
        depths = (batch[0].reference.bit_depth, batch[0].test.bit_depth)
        if not report.frames:
            self._begin(batch[0], depths)
        x = _stack([pair.reference.pixels for pair in batch], self.exact_device)
        y = _stack([pair.test.pixels for pair in batch], self.exact_device)
        peak = float(2 ** depths[0] - 1)
        whites = self._whites_of(batch[0])
        if depths[0] != depths[1] or whites[0] != whites[1]:
            x, y, peak = x / whites[0], y / whites[1], 1.0

        results: dict[str, Tensor] = {}
        errors = {"rgb": mse(x, y) / peak**2}
        results["psnr_db"] = psnr_of_mse(errors["rgb"], 1.0)
        if {"psnr", "ssim", "ms_ssim"} & self.usable:
            luma_x, luma_y, luma_peak = self._luma(batch) or (luma(x, report.matrix), luma(y, report.matrix), peak)
            if "psnr" in self.usable:
                errors["y"] = mse(luma_x, luma_y) / luma_peak**2
                results["psnr_y_db"] = psnr_of_mse(errors["y"], 1.0)
            if "ssim" in self.usable:
                results["ssim"] = ssim(luma_x.float(), luma_y.float(), peak=luma_peak)
            if "ms_ssim" in self.usable:
                results["ms_ssim"] = ms_ssim(luma_x.float(), luma_y.float(), peak=luma_peak)
        if "ssim_rgb" in self.usable:
            results["ssim_rgb"] = ssim(x.float(), y.float(), peak=peak)
        if "lpips" in self.usable and self.lpips is not None:
            with arithmetic(self.device, "fp32"):
                results["lpips"] = self.lpips(_centred(x, peak, self.device), _centred(y, peak, self.device))

        for name, values in errors.items():
            report.errors.setdefault(name, array("d")).extend(values.tolist())
        psnr_db = results["psnr_db"].tolist()
        for metric in self.usable:
            for name in COLUMNS[metric]:
                report.columns.setdefault(name, array("d")).extend(results[name].double().tolist())
        self._keep_one(batch, psnr_db)
        report.pts.extend(pair.reference.pts for pair in batch)
        report.times.extend(float(pair.time) for pair in batch)
        return psnr_db

    def _luma(self, batch: list[Pair]) -> tuple[Tensor, Tensor, float] | None:
        """Both sides' luma as stored, (N, 1, H, W), and its peak; None where it cannot be compared."""
        sides = [frame.luma for pair in batch for frame in (pair.reference, pair.test)]
        depth = batch[0].reference.bit_depth
        if not self.stored_luma or any(side is None for side in sides) or depth != batch[0].test.bit_depth:
            return None
        self.report.stored_luma_frames += len(batch)
        planes = [side[..., None] for side in sides if side is not None]
        return _stack(planes[::2], self.exact_device), _stack(planes[1::2], self.exact_device), float(2**depth - 1)

    def kept(self, pair: Pair, index: int, psnr_db: float) -> KeptFrame:
        """A pair for a picture."""
        whites = self._whites_of(pair)
        return KeptFrame(pair.reference.pixels, pair.test.pixels, whites, index, float(pair.time), psnr_db)

    def _whites_of(self, pair: Pair) -> tuple[int, int]:
        return self.whites or (2**pair.reference.bit_depth - 1, 2**pair.test.bit_depth - 1)

    def _begin(self, pair: Pair, depths: tuple[int, int]) -> None:
        """Take sizes from the first pair; leave out, with a note, what cannot be measured at this size."""
        report = self.report
        report.height, report.width = pair.reference.pixels.shape[:2]
        report.bit_depths = depths
        least = {"ssim": MINIMUM_SIDE, "ssim_rgb": MINIMUM_SIDE, "ms_ssim": MS_MINIMUM_SIDE}
        if self.lpips is not None:
            least["lpips"] = self.lpips.minimum_side
        for metric in report.metrics:
            side = least.get(metric, 1)
            if min(report.width, report.height) >= side:
                self.usable.add(metric)
            else:
                size = f"{report.width}x{report.height}"
                report.notes.append(f"{metric} not measured: it needs {side}x{side} pixels, frames are {size}")

    def _keep_one(self, batch: list[Pair], psnr_db: list[float]) -> None:
        start = self.report.frames
        if self.keep == "worst":
            local = min(range(len(batch)), key=psnr_db.__getitem__)
            if self.report.kept is not None and psnr_db[local] >= self.report.kept.psnr_db:
                return
        elif isinstance(self.keep, int) and start <= self.keep < start + len(batch):
            local = self.keep - start
        else:
            return
        kept = self.kept(batch[local], start + local, psnr_db[local])
        self.report.kept = replace(kept, reference=kept.reference.copy(), test=kept.test.copy())


def _batches(aligned: Iterable[Pair], batch_pixels: int) -> Iterator[list[Pair]]:
    """Consecutive pairs of one bit depth, together at most `batch_pixels` pixels a side (one pair at least)."""
    batch: list[Pair] = []
    shape: tuple[int, ...] | None = None
    for pair in aligned:
        sizes = (pair.reference.pixels.shape, pair.test.pixels.shape)
        shape = shape or sizes[0]
        if sizes != (shape, shape):
            raise InputError(
                f"frame sizes differ at {float(pair.time):.3f} s: reference {_size(sizes[0])}, test {_size(sizes[1])}, "
                f"first frame {_size(shape)}; scale one of them first, or say by --size how the reference was"
            )
        depths = (pair.reference.bit_depth, pair.test.bit_depth)
        full = (len(batch) + 1) * shape[0] * shape[1] > batch_pixels
        if batch and (full or depths != (batch[0].reference.bit_depth, batch[0].test.bit_depth)):
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch


def _stack(pixels: list[Pixels], device: torch.device) -> Tensor:
    """N arrays (H, W, C) uint8 or uint16 -> (N, C, H, W) float64 code values."""
    stacked = np.stack(pixels)
    codes = torch.from_numpy(stacked if stacked.dtype == np.uint8 else stacked.astype(np.int32))
    return codes.to(device).permute(0, 3, 1, 2).to(torch.float64)


def _centred(values: Tensor, peak: float, device: torch.device) -> Tensor:
    """Values in [0, peak] -> float32 in [-1, 1]."""
    return (values * (2.0 / peak) - 1.0).float().to(device)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _no_match(report: Report, aligned: Aligned) -> str:
    counts = f"{report.unmatched_reference} and {report.unmatched_test} frames"
    first = [f"{float(time):.6f} s" if time is not None else "none" for time in aligned.first_times]
    return (
        f"no frame of {report.test} has the time of a frame of {report.reference} ({counts}, first times {first[0]} "
        f"and {first[1]}); a constant shift is removed by aligning both starts"
    )


ALIGNMENTS = ("pts", "start")


@dataclass(frozen=True)
class Pair:
    """Two frames of the same moment."""

    reference: Frame
    test: Frame
    time: Fraction
    """Presentation time of the reference frame, seconds."""


class Aligned:
    """Iterates once over the pairs of two streams, both in presentation order, and counts what has no partner.

    With equal time bases, times must be equal. With different ones (an mp4 beside a Matroska file, which counts
    milliseconds), they may differ by half a tick of each side, what rounding can make; among candidates the nearest
    wins. `by="start"` subtracts each side's first time before, for a file that starts late as a whole.
    """

    def __init__(
        self,
        reference: Iterable[Frame],
        test: Iterable[Frame],
        *,
        reference_time_base: Fraction,
        test_time_base: Fraction,
        by: str = "pts",
    ) -> None:
        if by not in ALIGNMENTS:
            raise ValueError(f"unknown alignment {by!r}; known: {', '.join(ALIGNMENTS)}")
        self._reference = _Timeline(reference, reference_time_base, from_zero=by == "start")
        self._test = _Timeline(test, test_time_base, from_zero=by == "start")
        equal = reference_time_base == test_time_base
        self._tolerance = Fraction(0) if equal else (reference_time_base + test_time_base) / 2
        self.unmatched_reference = 0
        self.unmatched_test = 0

    @property
    def first_times(self) -> tuple[Fraction | None, Fraction | None]:
        """Time of each side's first frame in its file, seconds; None before the iteration and for an empty side."""
        return self._reference.first_time, self._test.first_time

    def __iter__(self) -> Iterator[Pair]:
        reference, test = self._reference, self._test
        while (left := reference.peek()) is not None and (right := test.peek()) is not None:
            lag = right[0] - left[0]
            if lag > self._tolerance or (lag > 0 and _nearer(reference.peek(1), right[0], lag)):
                reference.take()
                self.unmatched_reference += 1
            elif -lag > self._tolerance or (lag < 0 and _nearer(test.peek(1), left[0], -lag)):
                test.take()
                self.unmatched_test += 1
            else:
                reference.take()
                test.take()
                yield Pair(left[1], right[1], left[0])
        self.unmatched_reference += reference.drain()
        self.unmatched_test += test.drain()


def _nearer(candidate: tuple[Fraction, Frame] | None, time: Fraction, distance: Fraction) -> bool:
    return candidate is not None and abs(candidate[0] - time) < distance


class _Timeline:
    """Frames of one side with their times, with a look ahead."""

    def __init__(self, frames: Iterable[Frame], time_base: Fraction, *, from_zero: bool) -> None:
        if time_base <= 0:
            raise ValueError(f"time base must be positive, got {time_base = }")
        self._frames = iter(frames)
        self._time_base = time_base
        self._from_zero = from_zero
        self._ahead: list[tuple[Fraction, Frame]] = []
        self.first_time: Fraction | None = None

    def peek(self, ahead: int = 0) -> tuple[Fraction, Frame] | None:
        while len(self._ahead) <= ahead:
            frame = next(self._frames, None)
            if frame is None:
                return None
            time = frame.pts * self._time_base
            if self.first_time is None:
                self.first_time = time
            self._ahead.append((time - self.first_time if self._from_zero else time, frame))
        return self._ahead[ahead]

    def take(self) -> None:
        del self._ahead[0]

    def drain(self) -> int:
        """How many frames are left, after reading them."""
        count = len(self._ahead) + sum(1 for _ in self._frames)
        self._ahead.clear()
        return count
