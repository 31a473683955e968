"""Clips in settings: encoded, decoded, timed and measured; a `Row` for each.

Seconds are those of the whole way, for ours and theirs alike: an encode reads the clip's file and writes a file, a
decode reads that file and gives RGB frames; models are loaded. What is measured is the decoder's frames against the
clip's, both RGB.

Our model runs once for all qualities of a clip: its latents are kept and quantised anew, which gives the very bytes
that `encode` writes. The time of an encode is taken from one at the default quality.

Owns: this procedure, the order of the work, and what has been measured, on disk: a row of JSON and a picture for each
clip and setting, so that a run can be stopped and go on. A file that cannot be read counts as absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bench.bjontegaard import Curve
from cvcodec.bench.clips import Clip
from cvcodec.bench.settings import Setting, command
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, EncodeResult, encode_stream
from cvcodec.codec.layers import follows_from_latents, requantise
from cvcodec.codec.options import RateDistortion
from cvcodec.errors import InputError, OutputError, UsageError
from cvcodec.fileio import atomic_output, make_folder
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quality.compare import evaluate
from cvcodec.quality.lpips import Lpips
from cvcodec.quality.report import Rate, Report
from cvcodec.system.device import select_device
from cvcodec.video import Frame, VideoInfo, VideoReader, VideoWriter
from cvcodec.video.encoders import encoder_named
from cvcodec.video.sizes import stream_bytes
from cvcodec.video.writer import write_image

METRICS = ("psnr", "ssim", "ms_ssim", "lpips")

_MEASURED = (
    *("width", "height", "frames", "size_bytes", "bpp", "bitrate_bps"),
    *("psnr_db", "psnr_y_db", "ssim", "ms_ssim", "lpips", "lpips_name"),
)
"""What a row takes from a report, under the same names."""

_GROUP = 4  # frames of a latent of all video models, and a multiple of the steps in encoders' hierarchies

_BATCH_PIXELS = 1 << 18  # little memory at a time: larger batches spend their time on page faults


def check_stride(every: int) -> None:
    """UsageError for LPIPS of so many frames that it is in step with the groups of frames that latents stand for."""
    if every > 1 and math.gcd(every, _GROUP) > 1:
        raise UsageError(
            f"LPIPS of every {every} frames sees the same places in the groups of {_GROUP} frames that latents stand "
            f"for, and these differ; take an odd number, such as {every + 1}"
        )


_SCHEMA = 2  # what a row holds and how it is measured; a change makes old ones be measured again


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came out. None: not measured. Rates are real bytes: our whole file, and what a decoder needs of their video
    stream (`video.sizes`)."""

    clip: str
    codec: str
    model: str
    preset: str
    value: float | None
    series: str
    point: str
    width: int
    height: int
    frames: int
    size_bytes: int
    bpp: float
    bitrate_bps: float
    psnr_db: float | None
    psnr_y_db: float | None
    ssim: float | None
    ms_ssim: float | None
    lpips: float | None
    lpips_name: str | None
    encode_fps: float | None
    decode_fps: float | None
    command: str
    key: str = ""
    """Of its picture in the cache."""
    matched: float | None = None
    """Quality of ours whose size this was made to have; such a row is no part of a curve."""
    lpips_every: int = 1
    """LPIPS is that of the first of every so many frames."""

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """`0.0421 bpp, 31.20 dB, LPIPS 0.1210`."""
        parts = [f"{self.bpp:.4f} bpp"]
        parts += [f"{self.psnr_db:.2f} dB"] if self.psnr_db is not None else []
        parts += [f"LPIPS {self.lpips:.4f}"] if self.lpips is not None else []
        return ", ".join(parts)


class Cache:
    """A folder of results. `facts`: everything that may change a number (versions, metrics, threads)."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        """The folder is made where it is missing. Raises OutputError."""
        self.folder = make_folder(folder)
        self._facts = facts

    def key(self, clip: str, setting: dict[str, Any]) -> str:
        """Name of a result: 24 hexadecimal digits."""
        text = json.dumps([_SCHEMA, self._facts, clip, setting], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def load(self, key: str) -> dict[str, Any] | None:
        """The row that was kept; None where there is none that can be read."""
        try:
            row = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return row if isinstance(row, dict) else None

    def store(self, key: str, row: dict[str, Any]) -> None:
        """Keep a row; it appears whole or not at all. Raises OutputError."""
        with atomic_output(self.folder / f"{key}.json", overwrite=True) as file:
            file.write(json.dumps(row, allow_nan=False).encode())

    def picture(self, key: str) -> Path:
        """Where the picture of a result is, or would be."""
        return self.folder / f"{key}.png"

    def store_picture(self, key: str, pixels: NDArray[np.uint8]) -> None:
        """Keep an (H, W, 3) picture. Raises OutputError."""
        write_image(self.picture(key), pixels, overwrite=True)


@dataclass(kw_only=True)
class Workbench:
    """All that encodes share. Not for use by several threads at once where models run; encoders may."""

    cache: Cache
    models: Mapping[str, VideoAutoencoder]
    weights: Mapping[str, str] = field(default_factory=dict)
    """What `--weights` calls each model, for commands."""
    metrics: Collection[str] = METRICS
    lpips: Lpips | None = None
    lpips_every: int = 1
    """LPIPS, by far the slowest metric, is taken of the first of every so many frames; odd."""
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    rdo: RateDistortion = "time"
    timed: bool = True
    """Note seconds; not where several encodes share the machine."""
    check: Callable[[], None] = lambda: None
    """Called every few frames; what it raises ends the work at hand."""
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Raises UsageError, see `check_stride`."""
        check_stride(self.lpips_every)

    def measure(self, clip: Clip, setting: Setting) -> Row:
        """The row, from the cache if it is there; its picture and the clip's own are kept as well.

        Raises InputError, OutputError, UsageError, NumericalError or DeviceError.
        """
        key = self.cache.key(clip.digest, self._facts(setting))
        kept = self.cache.load(key)
        if kept is not None and not (self.timed and kept.get("encode_fps") is None):
            with contextlib.suppress(TypeError):  # a row of another release
                return dataclasses.replace(Row(**kept), clip=clip.name)
        if setting.ours:
            with self._turn:
                row, shown = self._ours(clip, setting, key)
        else:
            row, shown = self._theirs(clip, setting, key)
        for name, pixels, white in shown:
            self.cache.store_picture(name, np.rint(pixels * (255.0 / white)).clip(0, 255).astype(np.uint8))
        self.cache.store(key, row.to_dict())
        return row

    def _facts(self, setting: Setting) -> dict[str, Any]:
        facts = {**setting.to_dict(), "metrics": sorted(self.metrics)}
        facts |= {"lpips": self.lpips.name, "lpips_every": self.lpips_every} if self.lpips else {}
        if setting.ours:
            model = self.models[setting.model]
            # The name may stand for other weights one day, the identities never do.
            facts |= {"space": model.latent_space_id, "decoder": model.decoder_hash, "precision": self.precision}
            facts |= {"rdo": self.rdo, "device": self.device}
        return facts

    def _ours(self, clip: Clip, setting: Setting, key: str) -> tuple[Row, list[tuple[str, NDArray[Any], int]]]:
        model = self.models[setting.model]
        file = self._coded(clip, setting, model)
        encode_s = self._encode_seconds(clip, setting, model) if self.timed else None
        decoder = Decoder(
            file,
            model=model,
            options=DecodeOptions(device=self.device, precision=self.precision, threads=self.threads),
            on_notice=lambda text: None,
        )
        decoded = Timed(decoder.frames())
        report = self._compare(clip, decoded, decoder.info, file.getbuffer().nbytes)
        return self._row(clip, setting, key, report, encode_s, decoded.seconds)

    def _coded(self, clip: Clip, setting: Setting, model: VideoAutoencoder) -> io.BytesIO:
        """The file of a clip at the setting's quality; of its fp32 latents where that is None."""
        if setting.value is None:
            return io.BytesIO(self._latents(clip, setting, model).read_bytes())
        file = io.BytesIO()
        if follows_from_latents(model, setting.value):
            with self._latents(clip, setting, model).open("rb") as source:
                requantise(source, file, model=model, quality=setting.value, rdo=self.rdo)
        else:
            self._encode(clip, model, file, quality=setting.value)
        file.seek(0)
        return file

    def _latents(self, clip: Clip, setting: Setting, model: VideoAutoencoder) -> Path:
        """The file of a clip's fp32 latents, made once."""
        path = self._kept(clip, setting)
        if not path.exists():
            with atomic_output(path, overwrite=True) as file:
                self._encode(clip, model, file, latents="fp32")
        return path

    def _encode_seconds(self, clip: Clip, setting: Setting, model: VideoAutoencoder) -> float:
        """Of an encode at the default quality, measured once."""
        path = self._kept(clip, setting).with_suffix(".seconds")
        if not path.exists():
            with tempfile.TemporaryFile(prefix="cvcodec-") as file:
                taken = self._encode(clip, model, file).seconds
            with atomic_output(path, overwrite=True) as file:
                file.write(json.dumps(taken).encode())
        return float(json.loads(path.read_text(encoding="utf-8")))

    def _kept(self, clip: Clip, setting: Setting) -> Path:
        facts = {**self._facts(dataclasses.replace(setting, value=None)), "rdo": None, "metrics": None, "lpips": None}
        facts |= {"lpips_every": None, "kept": "latents"}
        return self.cache.folder / f"{self.cache.key(clip.digest, facts)}.cvl"

    def _encode(self, clip: Clip, model: VideoAutoencoder, sink: BinaryIO, **options: Any) -> EncodeResult:
        chosen = EncodeOptions(
            rdo=self.rdo,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            kinds=(),
            tags=False,
            reader=clip.reader,
            **options,
        )
        return encode_stream(
            clip.path,
            sink,
            model=model,
            options=chosen,
            on_progress=lambda frames, size, total: self.check(),
            on_notice=lambda text: None,
        )

    def _theirs(self, clip: Clip, setting: Setting, key: str) -> tuple[Row, list[tuple[str, NDArray[Any], int]]]:
        with tempfile.TemporaryDirectory(prefix="cvcodec-") as folder:
            file = Path(folder) / "encoded.mp4"
            encode_s = encode_with(clip, setting, file, threads=self.threads, check=self.check)
            begun = time.perf_counter()
            with VideoReader(file, threads=self.threads) as reader:
                frames = 0
                for _ in reader:
                    self.check()
                    frames += 1
            decode_s = time.perf_counter() - begun
            if frames != clip.frames:
                raise OutputError(f"{setting.codec} kept {frames} of the {clip.frames} frames of {clip.name}")
            with VideoReader(file, threads=self.threads) as reader:
                report = self._compare(clip, reader, reader.info, stream_bytes(file).video)
        return self._row(clip, setting, key, report, encode_s, decode_s)

    def _compare(self, clip: Clip, test: Iterable[Frame], info: VideoInfo, size: int) -> Report:
        with clip.open() as reference:
            return evaluate(
                reference,
                test,
                reference_time_base=reference.info.time_base,
                test_time_base=info.time_base,
                metrics=self.metrics,
                matrix=clip.color.matrix,
                whites=(
                    reference.info.color.white_code(reference.info.bit_depth),
                    info.color.white_code(info.bit_depth),
                ),
                lpips=None if self.lpips is None else Strided(self.lpips, self.lpips_every),
                device=select_device(self.device),
                align="start",
                rate=Rate(size_bytes=size, pixels=clip.pixels, duration_s=clip.duration_s),
                keep=clip.frames // 2,
                batch_pixels=_BATCH_PIXELS,
                on_progress=lambda frames: self.check(),
            )

    def _row(
        self, clip: Clip, setting: Setting, key: str, report: Report, encode_s: float | None, decode_s: float
    ) -> tuple[Row, list[tuple[str, NDArray[Any], int]]]:
        if report.frames != clip.frames:
            raise InputError(f"{clip.name}: only {report.frames} of {clip.frames} frames have a partner")
        values = report.to_dict()
        row = Row(
            clip=clip.name,
            series=setting.series,
            point=setting.point,
            **setting.to_dict(),
            **{name: values[name] for name in _MEASURED},
            encode_fps=clip.frames / encode_s if self.timed and encode_s else None,
            decode_fps=clip.frames / decode_s if self.timed and decode_s else None,
            command=command(
                setting,
                clip.path.name,
                weights=self.weights.get(setting.model, setting.model),
                trim=clip.reader.arguments(),
            ),
            key=key,
            lpips_every=self.lpips_every,
        )
        kept = report.kept
        assert kept is not None
        return row, [(key, kept.test, kept.whites[1]), (source_key(clip), kept.reference, kept.whites[0])]


def source_key(clip: Clip) -> str:
    """Name of the picture of a clip itself in the cache."""
    return f"source-{clip.digest}"


def encode_with(
    clip: Clip,
    setting: Setting,
    target: Path,
    *,
    threads: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> float:
    """Encode a clip with a conventional encoder into an .mp4, as 4:2:0 of 8 bits (10 for deeper clips) with the
    source's matrix; the seconds it took. check: called for every frame. Raises InputError, OutputError or UsageError,
    and what `check` raises."""
    begun = time.perf_counter()
    with clip.open() as reader:
        info = dataclasses.replace(reader.info, display_matrix=None, rotation=0)
        with VideoWriter.like(
            target,
            info,
            color=clip.color,
            codec=setting.codec,
            crf=setting.value,
            preset=setting.preset,
            container="mp4",
            threads=threads,
        ) as writer:
            for frame in reader:
                check()
                writer.write(frame)
    return time.perf_counter() - begun


class Strided(Lpips):
    """LPIPS of the first of every `every` pairs; NaN, which means leave out, of the others."""

    def __init__(self, metric: Lpips, every: int) -> None:
        super().__init__(metric.backbone, list(metric.linear), metric.name)
        self._every, self._seen = every, 0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """As `Lpips.forward`, in order of frames."""
        measured = (torch.arange(len(x)) + self._seen) % self._every == 0
        self._seen += len(x)
        values = torch.full((len(x),), math.nan, device=x.device)
        if bool(measured.any()):
            values[measured] = super().forward(x[measured], y[measured]).float()
        return values


class Timed:
    """An iterator and the seconds spent inside it."""

    def __init__(self, items: Iterator[Frame]) -> None:
        self._items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        begun = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self.seconds += time.perf_counter() - begun


def run(
    bench: Workbench,
    clips: Sequence[Clip],
    settings: Sequence[Setting],
    *,
    match: Sequence[float] = (),
    jobs: int = 1,
    on_notice: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """The rows, in order of clips and settings; behind those of a clip, for each of our models and qualities in `match`
    the encoders' with the CRF that comes closest to its size. With `jobs` above 1, encodes share the machine."""
    rows = _measure(bench, list(itertools.product(clips, settings)), jobs, on_notice)
    matching = [
        (clip, setting, ours)
        for clip in clips
        for ours in rows
        if ours.clip == clip.name and ours.codec == "cvcodec" and ours.value in match and ours.value is not None
        for setting in matching_settings([row for row in rows if row.clip == clip.name], ours)
    ]
    matched = _measure(bench, [(clip, setting) for clip, setting, _ in matching], jobs, on_notice)
    pairs = zip(matched, matching, strict=True)
    return rows + [dataclasses.replace(row, matched=ours.value) for row, (_, _, ours) in pairs]


class _Stopped(Exception):
    """The run was interrupted, or another of its encodes has failed."""


def _measure(
    bench: Workbench, work: Sequence[tuple[Clip, Setting]], jobs: int, say: Callable[[str], None]
) -> list[Row]:
    counter = itertools.count(1)

    def one(bench: Workbench, item: tuple[Clip, Setting]) -> Row:
        row = bench.measure(*item)
        say(f"{next(counter)}/{len(work)}  {row.clip}  {row.series}  {row.point}:  {row.describe()}")
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
