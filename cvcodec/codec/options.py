"""What an encode and a decode are asked for, and what they say when they are done. Plain values, there without torch.

`RunOptions` is what both share, `ReaderOptions` and `WriterOptions` what a person chooses of `VideoReader` and
`VideoWriter`; `EncodeOptions` and `DecodeOptions` hold all of it, `EncodeResult` and `DecodeResult` what came out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

from cvcodec.errors import UsageError
from cvcodec.options import option
from cvcodec.passthrough.streams import KINDS

_MODEL, _INPUT, _PREPARED, _VIDEO = "Model", "Input", "Size and rate", "Video"
_HARDWARE, _STREAMS = "Hardware", "Sound and the rest"

MOST_THREADS = 1024
"""Thousands more end in an operating system that starts none."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `EncodeOptions` and `DecodeOptions` share."""

    kinds: tuple[str, ...] = option(
        KINDS,
        "Copy sound, subtitles and attachments, packet by packet; or leave them out.",
        panel=_STREAMS,
        flags=("--audio/--no-audio",),
    )
    """Streams to copy into the file, or to restore from it; none for a silent one."""
    tags: bool = option(
        True,
        "Copy chapters and tags; or only languages, dispositions and the names of attachments.",
        panel=_STREAMS,
        flags=("--metadata/--no-metadata",),
    )
    device: str = option(
        "auto",
        "Where the model runs. auto: CUDA if there is one, else the CPU.",
        panel=_HARDWARE,
        metavar="auto|cpu|cuda[:N]|mps",
    )
    precision: str = option(
        "auto",
        "Arithmetic of the model. auto: bf16 where the hardware multiplies it natively, else fp32.",
        panel=_HARDWARE,
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    threads: int | None = option(
        None,
        "CPU threads of the model. Default: the processors this process may use.",
        panel=_HARDWARE,
        metavar="N",
        least=1,
        most=MOST_THREADS,
    )


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What an encode and a decode both say when they are done."""

    frames: int
    width: int
    height: int
    seconds: float
    """Wall time of the whole command."""
    model_seconds: float
    """Of which inside the model's calls (device time included where it was waited for)."""
    precision: str
    device: str
    notices: tuple[str, ...]

    @property
    def computed_frames(self) -> int:
        """Those that passed the model."""
        return self.frames

    @property
    def megapixels_per_s(self) -> float:
        """Speed of the whole command, of what it computed."""
        return self.width * self.height * self.computed_frames / 1e6 / self.seconds if self.seconds else 0.0

    def run_facts(self) -> dict[str, Any]:
        """Time, speed, arithmetic and notices: JSON types, units in the keys."""
        return {
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "mpixel_per_s": self.megapixels_per_s,
            "precision": self.precision,
            "device": self.device,
            "notices": list(self.notices),
        }


Codec = Literal["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "h264_nvenc", "hevc_nvenc"]

Container = Literal["mp4", "mov", "matroska", "webm", "y4m", "raw", "png", "jpeg", "webp"]


class _Arguments:
    """Options that become keyword arguments of a class of `video`."""

    def arguments(self) -> dict[str, Any]:
        """What was chosen: the fields that are not as their defaults, by name."""
        values = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {field.name: value for field, value in values if value != field.default}


@dataclass(frozen=True, kw_only=True)
class ReaderOptions(_Arguments):
    """Which frames of a source are read, and how; see `VideoReader`."""

    start: Fraction | float | None = option(
        None, "Begin here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    """On the source's timeline: frames with start <= time < end are read."""
    end: Fraction | float | None = option(
        None, "Stop before here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    duration: Fraction | float | None = option(None, "Encode so much, from --start on.", metavar="TIME", syntax="time")
    """Stands for `end` = start + duration."""
    frames: int | None = option(None, "Encode at most N frames.", panel=_INPUT, metavar="N", least=1)
    stream: int | None = option(
        None, "Which video stream, from 0. Default: the first.", panel=_INPUT, metavar="N", least=0
    )
    """None: the first, of HEIF and AVIF the one that a player shows."""
    rotate: bool = option(
        True,
        "Turn frames upright, or keep them as stored, with their tag.",
        panel=_INPUT,
        flags=("--rotate/--no-rotate",),
    )
    deinterlace: bool = option(
        True,
        "Pass frames flagged interlaced through bwdif.",
        panel=_INPUT,
        flags=("--deinterlace/--no-deinterlace",),
    )
    size: str | None = option(
        None,
        "Resize frames (Lanczos): WxH (of several, with commas, the one of the nearest shape), short=256 (the shorter "
        "side) or area=262144 (pixels). Default: as they are.",
        panel=_PREPARED,
        metavar="WxH|short=N|area=N",
        syntax="size",
    )
    crop: Literal["center", "none"] = option(
        "center",
        "With --size. center: cover it and cut what overhangs; sides that follow the source become multiples of 8. "
        "none: the whole picture, within it.",
        panel=_PREPARED,
    )
    fps: Fraction | float | str | None = option(
        None,
        "Frames per second, by time: the source's nearest frame to each moment; others are dropped, or repeated.",
        panel=_PREPARED,
        metavar="N",
        syntax="fps",
    )
    background: str = "black"
    """`black` or `white`, behind transparent pixels."""
    rate: Fraction | None = None
    """Frames per second of image sequences and raw streams, which do not say; None: 25."""
    threads: int | None = None
    """Decoding threads; None: one per core."""
    hwaccel: str = option(
        "none",
        "Decode the source on hardware: none, auto, or a device such as cuda (NVDEC).",
        panel=_INPUT,
        metavar="NAME",
    )
    """See `hardware_decoder`."""

    @property
    def preparation(self) -> dict[str, Any]:
        """Of the arguments, those that give frames another size or rate."""
        return {name: value for name, value in self.arguments().items() if name in ("size", "crop", "fps")}

    @property
    def is_trimmed(self) -> bool:
        """Whether not all of the source is asked for."""
        return any(value is not None for value in (self.start, self.end, self.duration, self.frames))


@dataclass(frozen=True, kw_only=True)
class WriterOptions(_Arguments):
    """How a decoded video is encoded again and kept; see `VideoWriter`. None: visually lossless defaults."""

    codec: Codec | None = option(
        None,
        "Video encoder. ffv1 stores the decoded RGB exactly; _nvenc: on an NVIDIA card. Default: libx264, for "
        "HDR libx265.",
        panel=_VIDEO,
    )
    crf: float | None = option(
        None, "Its constant rate factor. Default: visually lossless.", panel=_VIDEO, metavar="N", least=0, most=63
    )
    preset: str | None = option(None, "Its speed preset.", panel=_VIDEO, metavar="NAME")
    chroma: Literal["420", "422", "444"] | None = option(
        None, "Chroma format. Default: 420, at odd sizes 444.", panel=_VIDEO
    )
    container: Container | None = option(
        None, "Output format. Default: by the extension.", panel=_VIDEO, flags=("--format",)
    )
    """None: by the extension, `matroska` for streams."""
    threads: int | None = None
    """Encoding threads."""


LatentsKind = Literal["quantised", "fp16", "fp32"]

Layers = Literal["auto", "base", "all"]
"""Which layers of a latent are stored. `auto`: the base layer, and of quantised latents also the enhancement layer
where the steps are fine enough for it to hold anything."""

RateDistortion = Literal["none", "time", "all"]
"""Which symbols are chosen by what they cost and what they lose: none (all are the nearest ones), those that the latent
before predicts (what stands still stays still), or all (the best PSNR, at the expense of texture)."""

DEFAULT_MODEL = "cvvae-mini-z16"
"""Name of the model that is used where none is given."""

DEFAULT_QUALITY = 60.0
"""The default model then has 28.7 dB at 0.12 bits per pixel; fifteen more take 2.4 times the bits for 2.5 dB, ten less
give two fifths of the bits back for 1.7 dB (docs/benchmarks.md)."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(RunOptions):
    """How to encode; every field has a default that suits most videos."""

    quality: float = option(
        DEFAULT_QUALITY,
        "Precision of the stored latents; 10 more halve the quantiser's steps.",
        panel=_MODEL,
        flags=("--quality", "-q"),
        metavar="0..100",
        syntax="quality",
        shown=False,
    )
    latents: LatentsKind = option("quantised", "Store quantised latents, or the latents themselves, for caching.")
    store_logvar: bool = option(False, "Keep the posterior's log-variance, for training on samples of it.")
    """As fp16."""
    layers: Layers = option(
        "auto",
        "Layers of a latent to store, where the model has two. base: what 2D decoders and diffusion models read. "
        "auto: both, but base alone where the quality leaves nothing of the other, and with --latents fp16 and fp32.",
    )
    rdo: RateDistortion = option(
        "time",
        "Choose symbols by cost and loss where the latent before predicts them (time, the default), everywhere "
        "(all: best PSNR, less texture), or take the nearest ones.",
        panel=_MODEL,
        shown=False,
    )
    drop_last_frames: bool = option(
        False,
        "Encode 1 + 4k frames and leave out up to three at the end, as the official code does. Default: the last frame "
        "is repeated until a latent is full, and a decode leaves the copies out.",
    )
    windows: Literal["auto", "context", "official"] = option(
        "auto", "official: chunks and tiles of the official CV-VAE code. auto: by model."
    )
    window: int | None = option(
        None,
        "Latents kept per temporal window (a latent is 4 frames). auto: the model's, smaller if memory is short.",
        panel=_MODEL,
        metavar="auto|N",
        syntax="latents",
    )
    tile: int | None = option(
        None,
        "Side of a spatial tile in latents (a latent is 8 pixels), overlap included; none: whole frames.",
        panel=_MODEL,
        metavar="auto|none|N",
        syntax="tile",
    )
    """0: whole frames; None: the model's, smaller if memory is short."""
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Any JSON object, merged into the header's metadata."""


def options_with(options: EncodeOptions | None, *, latents: LatentsKind | None, quality: float | None) -> EncodeOptions:
    """`options`, or the defaults, with the fields that are not None. UsageError for a quality of what has none."""
    if quality is not None and latents not in (None, "quantised"):
        raise UsageError(f"latents = {latents!r} stores the latents themselves; leave out quality = {quality:g}")
    given: dict[str, Any] = {"latents": latents, "quality": quality}
    return replace(options or EncodeOptions(), **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class EncodeResult(RunResult):
    """What an encode did. Sizes in bytes of real output, rates per source pixel."""

    chunks: int
    size_bytes: int
    copied_bytes: int
    """Of which streams copied from the source."""
    source_bytes: int | None
    """Of the source's own packets of the same frames; None for images."""
    decode_errors: int
    """Packets of the source that could not be decoded."""
    concealed_frames: int
    """Frames that the source's decoder made up where it was damaged; the file flags them."""
    resumed_frames: int
    """Of which came from the partial file of an interrupted encode."""

    @property
    def pixels(self) -> int:
        """Width * height * frames of the source."""
        return self.width * self.height * self.frames

    @property
    def damage(self) -> str | None:
        """What a person should know of a damaged source, in a sentence; None for an intact one."""
        return describe_damage(self.decode_errors, self.concealed_frames)

    @property
    def bpp(self) -> float:
        """Bits per pixel of the source, of everything but copied streams."""
        return 8 * (self.size_bytes - self.copied_bytes) / self.pixels

    @property
    def size_to_source(self) -> float | None:
        """Size of everything but copied streams as a multiple of `source_bytes`."""
        return (self.size_bytes - self.copied_bytes) / self.source_bytes if self.source_bytes else None

    @property
    def computed_frames(self) -> int:
        """Those that did not come from a partial file."""
        return self.frames - self.resumed_frames

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys."""
        return {
            "frames": self.frames,
            "chunks": self.chunks,
            "width": self.width,
            "height": self.height,
            "size_bytes": self.size_bytes,
            "copied_bytes": self.copied_bytes,
            "source_video_bytes": self.source_bytes,
            "size_to_source": self.size_to_source,
            "decode_errors": self.decode_errors,
            "concealed_frames": self.concealed_frames,
            "resumed_frames": self.resumed_frames,
            "bpp": self.bpp,
            **self.run_facts(),
        }


def describe_damage(decode_errors: int, concealed_frames: int) -> str | None:
    """The damage of a source in a sentence; None where there is none."""
    if not decode_errors and not concealed_frames:
        return None
    return f"the source is damaged: {decode_errors} decode errors, {concealed_frames} frames concealed"


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(RunOptions):
    """How to decode; every field has a default that suits most files."""

    writer: WriterOptions = field(default_factory=WriterOptions)
    start: Fraction | float | None = option(
        None, "Begin here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    """On the source's timeline: frames with start <= time < end are decoded."""
    end: Fraction | float | None = option(
        None, "Stop before here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    duration: Fraction | float | None = option(None, "Decode so much, from --start on.", metavar="TIME", syntax="time")
    """Stands for `end` = start + duration."""
    frames: int | None = option(None, "Decode at most N frames.", metavar="N", least=1)
    layers: Literal["base", "all"] = option("all", "base: decode from the base layer alone, of files that have two.")
    salvage: bool = option(False, "Decode what is intact of a damaged file, and say which frames are lost.")
    """At its own times, instead of refusing it."""


@dataclass(frozen=True, kw_only=True)
class LostFrames:
    """Consecutive frames for which there is no intact chunk."""

    first_frame: int
    frame_count: int | None
    """None: to an end that is not known, because the trailer is lost too; perhaps there are none."""
    start_s: float | None
    """Where the intact frames before end, in seconds from the beginning; None where there are none."""
    end_s: float | None
    """Where the intact frames behind begin; None where there are none."""

    def describe(self) -> str:
        """`17 to 56`, or `77 and later`."""
        if self.frame_count is None:
            return f"{self.first_frame} and later"
        last = self.first_frame + self.frame_count - 1
        return f"{self.first_frame} to {last}" if self.frame_count > 1 else str(last)


@dataclass(frozen=True, kw_only=True)
class DecodeResult(RunResult):
    """What a decode did."""

    concealed_frames: int
    """Of which the source was damaged where they were encoded."""
    lost: tuple[LostFrames, ...]
    """Frames of a salvaged file that could not be decoded, as far as it was read."""
    damaged_bytes: int
    """Bytes of a salvaged file that belong to no intact record."""

    @property
    def lost_frames(self) -> int | None:
        """How many frames are lost; None where that is not known, because the end of the file is lost."""
        counts = [lost.frame_count for lost in self.lost]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def damage(self) -> str | None:
        """What a person should know of a damaged file, in a sentence; None for an intact one."""
        if not self.lost and not self.damaged_bytes:
            return None
        if not self.lost:
            return f"the file is damaged ({self.damaged_bytes} bytes), but no frame is lost"
        frames = ", ".join(lost.describe() for lost in self.lost)
        return f"the file is damaged: frames {frames} are lost, {self.frames} were decoded"

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys."""
        return {
            "frames": self.frames,
            "concealed_frames": self.concealed_frames,
            "lost_frames": self.lost_frames,
            "lost": [dataclasses.asdict(lost) for lost in self.lost],
            "damaged_bytes": self.damaged_bytes,
            "width": self.width,
            "height": self.height,
            **self.run_facts(),
        }
