"""What an encode is asked for, and what it says when it is done. Plain values; `encode` does the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cvcodec.codec.run_options import RunOptions
from cvcodec.codec.video_options import ReaderOptions
from cvcodec.errors import UsageError
from cvcodec.options import option

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
"""Where the curve of the default model bends: ten more cost 43 % more bits for 0.7 dB, ten less give a third of the
bits back for 1.1 dB (docs/benchmarks.md)."""

_MODEL = "Model"


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
class EncodeResult:
    """What an encode did. Sizes in bytes of real output, rates per source pixel."""

    frames: int
    chunks: int
    width: int
    height: int
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
    seconds: float
    """Wall time of the whole command."""
    model_seconds: float
    """Of which inside the model's calls (device time included where it was waited for)."""
    precision: str
    device: str
    notices: tuple[str, ...]

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
    def megapixels_per_s(self) -> float:
        """Speed of the whole command; what came from a partial file does not count."""
        done = self.width * self.height * (self.frames - self.resumed_frames)
        return done / 1e6 / self.seconds if self.seconds else 0.0

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
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "mpixel_per_s": self.megapixels_per_s,
            "precision": self.precision,
            "device": self.device,
            "notices": list(self.notices),
        }


def describe_damage(decode_errors: int, concealed_frames: int) -> str | None:
    """The damage of a source in a sentence; None where there is none."""
    if not decode_errors and not concealed_frames:
        return None
    return f"the source is damaged: {decode_errors} decode errors, {concealed_frames} frames concealed"
