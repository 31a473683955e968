"""What a clip is tried in: a quality of one of our models, or a CRF and a preset of a conventional encoder.

Owns: the grids that are tried where nothing else is asked for, and the command that a person would type.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvcodec.errors import UsageError
from cvcodec.video.encoders import encoder_named, encoder_options

QUALITIES = (20.0, 30.0, 40.0, 50.0, 60.0, 75.0)
"""Of our models; they span the rates of `CRFS`."""

CRFS: Mapping[str, tuple[float, ...]] = {
    "libx264": (18, 23, 28, 33, 38, 43, 48),
    "libx265": (18, 23, 28, 33, 38, 43, 48),
    "libsvtav1": (20, 28, 36, 44, 52, 58, 63),
    "libvpx-vp9": (20, 28, 36, 44, 52, 58, 63),
}
"""Of each encoder, from about 40 dB down to what x264 gives at 0.02 bits per pixel."""

PRESETS: Mapping[str, Mapping[str, str]] = {
    "quality": {"libx264": "veryslow", "libx265": "veryslow", "libsvtav1": "2", "libvpx-vp9": "0"},
    "speed": {"libx264": "medium", "libx265": "medium", "libsvtav1": "8", "libvpx-vp9": "4"},
}
"""What each encoder calls its slow, thorough setting, and its everyday one."""

OURS = "cvcodec"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to encode a clip; points of one `series` make a curve."""

    codec: str
    """`cvcodec`, or the name of an encoder."""
    model: str = ""
    """Name of our model; empty for an encoder."""
    preset: str = ""
    """What the encoder calls its speed (`veryslow`, `2`); empty for a model."""
    value: float | None
    """Quality, or CRF; None for a model's latents without quantisation."""

    @property
    def ours(self) -> bool:
        """A model of this program, rather than a conventional encoder."""
        return self.codec == OURS

    @property
    def series(self) -> str:
        """Name of the curve it belongs to."""
        return self.model if self.ours else f"{self.codec} {self.preset}"

    @property
    def point(self) -> str:
        """Its name on the curve."""
        if self.value is None:
            return "latents"
        return f"{'q' if self.ours else 'CRF'} {self.value:g}"

    def to_dict(self) -> dict[str, Any]:
        """The fields in JSON types, which name a result in the cache."""
        return {"codec": self.codec, "model": self.model, "preset": self.preset, "value": self.value}


def model_settings(models: Sequence[str], qualities: Sequence[float], *, unquantised: bool) -> list[Setting]:
    """Every quality of every model, and its latents as they are."""
    values: list[float | None] = [*qualities, *([None] if unquantised else [])]
    return [Setting(codec=OURS, model=model, value=value) for model in models for value in values]


def encoder_settings(
    codecs: Sequence[str], kinds: Sequence[str], crfs: Mapping[str, Sequence[float]] | None = None
) -> list[Setting]:
    """Every CRF of every encoder at the presets of each kind, `quality` or `speed`. `crfs`: other grids, by encoder.
    Raises UsageError for what an encoder does not have."""
    settings = []
    for codec in codecs:
        if codec not in CRFS:
            raise UsageError(f"encoder {codec!r} is not one of {', '.join(CRFS)}")
        for kind in kinds:
            if kind not in PRESETS:
                raise UsageError(f"preset kind {kind!r} is not one of {', '.join(PRESETS)}")
            for crf in (crfs or {}).get(codec) or CRFS[codec]:
                settings.append(Setting(codec=codec, preset=PRESETS[kind][codec], value=crf))
                _encoder_options(settings[-1])
    return settings


def _encoder_options(setting: Setting) -> Mapping[str, str]:
    """As FFmpeg has them. UsageError for a CRF or preset that the encoder does not have."""
    return encoder_options(
        encoder_named(setting.codec),
        crf=setting.value,
        preset=setting.preset,
        mastering_display=None,
        content_light=None,
        notices=[],
    )


def command(setting: Setting, clip: str, *, weights: str, trim: Mapping[str, Any]) -> str:
    """What a person would type for it; for encoders with FFmpeg, whose libraries are the ones that ran."""
    if setting.ours:
        words = ["cvcodec", "encode", clip, "out.cvl", "--weights", weights]
        words += ["--latents", "fp16"] if setting.value is None else ["--quality", f"{setting.value:g}"]
        for name in ("start", "duration", "frames"):
            if trim.get(name) is not None:
                words += [f"--{name}", f"{trim[name]:g}"]
        return shlex.join(words)
    words = ["ffmpeg"]
    for name, flag in (("start", "-ss"), ("duration", "-t")):
        if trim.get(name) is not None:
            words += [flag, f"{trim[name]:g}"]
    words += ["-i", clip, "-an"]
    if trim.get("frames") is not None:
        words += ["-frames:v", str(trim["frames"])]
    words += ["-c:v", setting.codec]
    for key, value in _encoder_options(setting).items():
        words += [f"-{'b:v' if key == 'b' else key}", value]
    return shlex.join([*words, "-pix_fmt", "yuv420p", "out.mkv"])
