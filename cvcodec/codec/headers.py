"""What a video is, and its windows, <-> what a .cvl header says.

Owns: which facts of a source go into the header, the way back for the windows and the writer of the decoded video, and
what is refused on that way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from cvcodec import __version__
from cvcodec.bitstream import ENHANCEMENT, BitstreamReader, ColorTags, Enhancement, Header
from cvcodec.bitstream.wire import Readable
from cvcodec.checkpoints.checkpoint import default_statistics
from cvcodec.codec.options import LatentsKind, Layers, ReaderOptions
from cvcodec.codec.session import Notices
from cvcodec.errors import BitstreamError, ModelMismatchError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.config import ModelConfig
from cvcodec.quantization import LatentStatistics, Quantizer
from cvcodec.video import Color, ContentLight, MasteringDisplay, VideoInfo
from cvcodec.video.convert import BACKGROUNDS, chroma_of
from cvcodec.video.rate import parse_fps
from cvcodec.video.resize import CROPS, Size
from cvcodec.windows import plan as windows
from cvcodec.windows.plan import ContextPlan, OfficialPlan, Plan
from cvcodec.windows.space import padded_size
from cvcodec.windows.specs import Window

T = TypeVar("T")

_ZERO_DEVIATIONS = 5.0
"""A channel of the enhancement layer that stays within half a step by so many deviations is taken to hold nothing."""

_SOURCE_READER = "source_reader"
"""Where a header's metadata keep settings of `VideoReader` that change which pictures a source has."""

_SOURCE_FORMAT = "source_pixel_format"
"""Where they keep the source's pixel format, if its colours are finer than 4:2:0."""

_SOURCE_VIDEO = "source_video"
"""Where they keep what the source was, of which the file has frames of another size or rate."""

_CLIP = "clip"
"""Where they keep the place of a clip in its source."""

_READER_DEFAULTS: dict[str, Any] = {
    "stream": 0,
    "deinterlace": True,
    "background": "black",
    "size": None,
    "crop": "center",
    "fps": None,
}


def choose_plan(config: ModelConfig, **choice: Any) -> Plan:
    """`windows.plan.choose_plan`, whose ValueErrors, for sizes that cannot work, become UsageErrors."""
    try:
        return windows.choose_plan(config, **choice)
    except ValueError as error:
        raise UsageError(str(error)) from error


def header_fields(plan: Plan) -> dict[str, Any]:
    """What a header keeps of a plan, as keyword arguments of `Header`."""
    if isinstance(plan, OfficialPlan):
        return {"windows": "official", "official": plan.official}
    assert isinstance(plan, ContextPlan)
    names = ("encode_window", "decode_window", "encode_tile", "decode_tile")
    return {"windows": "context", **{name: getattr(plan, name) for name in names}}


def plan_of(header: Header) -> Plan:
    """What a file was coded with: inverse of `header_fields`. Raises BitstreamError for windows that cannot be."""
    factors = header.temporal_factor, header.spatial_factor
    try:
        if header.official is not None and header.windows == "official":
            return OfficialPlan(*factors, header.official)
        assert header.encode_window is not None and header.decode_window is not None  # `Header` sees to it
        return ContextPlan(*factors, header.encode_window, header.decode_window, header.encode_tile, header.decode_tile)
    except ValueError as error:
        raise BitstreamError(f"the header's windows cannot be: {error}") from error


def make_header(
    info: VideoInfo,
    model: VideoAutoencoder,
    plan: Plan,
    *,
    latents: LatentsKind,
    quality: float,
    layers: Layers = "auto",
) -> Header:
    """The header of a file: what is known before the first frame.

    Raises UsageError for a quality out of range, and for a video beyond the limits of the format.
    """
    if model.latent_space_id is None:
        raise UsageError("this model was built, not loaded, so it has no latent-space id: save it and use load_model")
    config = model.config
    stored = stored_layers(model, latents=latents, quality=quality, layers=layers)
    try:
        return Header(
            model=getattr(model, "name", "") or config.family,
            latent_space_id=model.latent_space_id,
            decoder_hash=model.decoder_hash or "",
            config_digest=config.digest()[:16],
            latent_channels=config.latent_channels,
            temporal_factor=plan.temporal_factor,
            spatial_factor=plan.spatial_factor,
            scaling_factor=config.scaling_factor,
            shift_factor=config.shift_factor,
            **stored,
            **header_fields(plan),
            width=info.width,
            height=info.height,
            padding=(
                0,
                0,
                padded_size(info.width, plan.spatial_factor) - info.width,
                padded_size(info.height, plan.spatial_factor) - info.height,
            ),
            bit_depth=info.bit_depth,
            color=ColorTags(**info.color.to_dict()),
            sample_aspect_ratio=info.sample_aspect_ratio,
            rotation=info.rotation,
            time_base=info.time_base,
            average_rate=info.average_rate,
            tool=f"cvcodec {__version__}",
            metadata=_metadata(info),
        )
    except ValueError as error:
        raise UsageError(f"a .cvl file cannot hold this: {error}") from error


def check_layers(model: VideoAutoencoder, layers: Layers) -> None:
    """UsageError for all layers of a model that has one."""
    if layers == "all" and not model.config.enhancement_channels:
        raise UsageError(f"{model.name} has one layer: leave out --layers all, or choose a model with two")


def stored_layers(
    model: VideoAutoencoder, *, latents: LatentsKind, quality: float, layers: Layers = "auto"
) -> dict[str, Any]:
    """The header's fields that say which layers of a model's latents are stored, and how: latents, quality, steps,
    offsets, enhancement, requires. Raises UsageError for a quality out of range."""
    channels = model.config.latent_channels
    if latents != "quantised":
        enhanced = model.config.enhancement_channels if layers == "all" else 0
        layer = Enhancement(channels=enhanced) if enhanced else None
        return _layer_fields(latents, None, None, layer)
    base, above = make_quantizer(model, quality).split(channels)
    layer = None
    if above is not None and (layers == "all" or (layers == "auto" and _holds_anything(model, above))):
        layer = Enhancement(
            channels=above.channels, steps=tuple(above.steps.tolist()), offsets=tuple(above.offsets.tolist())
        )
    return _layer_fields(latents, quality, base, layer)


def _layer_fields(
    latents: LatentsKind, quality: float | None, base: Quantizer | None, layer: Enhancement | None
) -> dict[str, Any]:
    return {
        "latents": latents,
        "quality": quality,
        "steps": () if base is None else tuple(base.steps.tolist()),
        "offsets": () if base is None else tuple(base.offsets.tolist()),
        "enhancement": layer,
        "requires": () if layer is None else (ENHANCEMENT,),
    }


def _holds_anything(model: VideoAutoencoder, above: Quantizer) -> bool:
    """Whether a symbol of the enhancement layer is other than zero now and then."""
    deviations = np.array(_statistics(model).std[model.config.latent_channels :])
    return bool((above.steps <= 2 * _ZERO_DEVIATIONS * deviations).any())


def make_quantizer(model: VideoAutoencoder, quality: float) -> Quantizer:
    """The quantiser of `quality` for a model's latents, both layers. Raises UsageError for a quality out of range."""
    try:
        return Quantizer.from_statistics(_statistics(model), quality)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _statistics(model: VideoAutoencoder) -> LatentStatistics:
    statistics: LatentStatistics | None = model.statistics
    return statistics or default_statistics(model.config)


def _metadata(info: VideoInfo) -> dict[str, Any]:
    """What a decoder needs to know of the source beyond the header's own fields."""
    values: dict[str, Any] = {}
    if info.start_time:
        values["start_time"] = [info.start_time.numerator, info.start_time.denominator]
    if info.display_matrix is not None:
        values["display_matrix"] = list(info.display_matrix)
    if info.mastering_display is not None:
        values["mastering_display"] = info.mastering_display.to_dict()
    if info.content_light is not None:
        values["content_light"] = info.content_light.to_dict()
    if chroma_of(info.pixel_format) in ("422", "444"):
        values[_SOURCE_FORMAT] = info.pixel_format
    return values


def reader_metadata(reader: ReaderOptions, source: VideoInfo) -> dict[str, Any]:
    """Header metadata that say how the source was read; nothing where that is the default. A rotation that was not
    applied is in the header anyway."""
    settings = {name: getattr(reader, name) for name in _READER_DEFAULTS}
    if reader.size is not None:  # of buckets, the one that was taken
        shape = source.width, source.height, source.sample_aspect_ratio
        settings["size"] = str(Size.parse(reader.size).fitting(*shape))
    settings["fps"] = None if reader.fps is None else str(parse_fps(reader.fps))
    changed = {name: value for name, value in settings.items() if value not in (None, _READER_DEFAULTS[name])}
    values: dict[str, Any] = {_SOURCE_READER: changed} if changed else {}
    if reader.size is not None or reader.fps is not None:
        values[_SOURCE_VIDEO] = {
            "width": source.width,
            "height": source.height,
            "sample_aspect_ratio": str(source.sample_aspect_ratio),
            "average_rate_fps": None if source.average_rate is None else str(source.average_rate),
        }
    return values


def reader_options(header: Header) -> ReaderOptions:
    """How the source was read whose pictures a file was made of, trims aside. Raises BitstreamError for impossible
    values."""
    stored = header.metadata.get(_SOURCE_READER, {})
    if not isinstance(stored, dict):
        raise BitstreamError(f"the header's {_SOURCE_READER} is {ascii(stored)[:40]}, wanted an object")
    settings = {name: stored[name] for name in _READER_DEFAULTS if name in stored}
    if not _is_reading(**_READER_DEFAULTS | settings):
        raise BitstreamError(f"the header says that the source was read as it cannot be: {ascii(settings)[:80]}")
    return ReaderOptions(**settings, rotate=not (header.rotation or "display_matrix" in header.metadata))


def clip_metadata(first_frame: int) -> dict[str, Any]:
    """Header metadata of a clip that was cut from a longer source."""
    return {_CLIP: {"first_frame": first_frame}}


def first_frame(header: Header) -> int | None:
    """Number in the source, at the file's rate, of the first frame of a clip that was cut; None where it was not.
    Raises BitstreamError for what is no number."""
    stored = header.metadata.get(_CLIP)
    number = stored.get("first_frame") if isinstance(stored, dict) else None
    if stored is not None and (type(number) is not int or not 0 <= number < 1 << 53):
        raise BitstreamError(f"the header's {_CLIP} is {ascii(stored)[:40]}, wanted the number of its first frame")
    return number


def _is_reading(*, stream: Any, deinterlace: Any, background: Any, size: Any, crop: Any, fps: Any) -> bool:
    """Whether a video can be read so."""
    if type(stream) is not int or stream < 0 or type(deinterlace) is not bool or background not in tuple(BACKGROUNDS):
        return False
    if crop not in CROPS or (size is None and crop != CROPS[0]):
        return False
    for text, parse in ((size, Size.parse), (fps, parse_fps)):
        if text is not None:
            try:
                parse(text if type(text) is str else "")
            except UsageError:
                return False
    return True


def check_header(header: Header) -> None:
    """BitstreamError for a header whose windows, colours or facts of the source cannot be: what uses them later need
    not doubt them. Whoever opens a file calls it, or `open_reader`, first."""
    plan_of(header)
    info_from_header(header)
    reader_options(header)
    first_frame(header)


def open_reader(source: Readable) -> BitstreamReader:
    """A reader of a file whose header has been checked. Raises BitstreamError."""
    reader = BitstreamReader(source)
    check_header(reader.header)
    return reader


def check_model(model: VideoAutoencoder, header: Header, notices: Notices) -> None:
    """ModelMismatchError unless `model` shares the file's latent space; another decoder is only reported."""
    space = getattr(model, "latent_space_id", None)
    name = getattr(model, "name", None) or model.config.family
    if space != header.latent_space_id:
        raise ModelMismatchError(
            f"{name} has latent space {space}, the file was made in {header.latent_space_id} by {header.model}; "
            f"use --weights with that model (cvcodec models list)"
        )
    if header.decoder_hash and getattr(model, "decoder_hash", None) != header.decoder_hash:
        notices(
            f"{name} has another decoder ({model.decoder_hash}) than {header.model} had ({header.decoder_hash}); "
            "pixels will differ"
        )
    config = model.config
    # A video model decodes a single latent to a single frame, so it may decode pictures.
    pictures = header.windows == "context" and header.decode_window == Window(kept=1)
    factor = config.temporal_factor if config.is_video and not (pictures and header.temporal_factor == 1) else 1
    got = (header.latent_channels, header.temporal_factor, header.spatial_factor)
    wanted = (config.latent_channels, factor, config.spatial_factor)
    if got != wanted:
        names = "latent channels, temporal factor and spatial factor"
        raise BitstreamError(f"{names} of the file are {got}, those of {name} {wanted}")
    if header.enhancement_channels not in (0, config.enhancement_channels):
        raise BitstreamError(
            f"the file has {header.enhancement_channels} enhancement channels, {name} has {config.enhancement_channels}"
        )


def info_from_header(header: Header) -> VideoInfo:
    """What `VideoWriter.like` needs: the source as the header has it. Raises BitstreamError for impossible values."""
    extra = header.metadata
    try:
        return VideoInfo(
            width=header.width,
            height=header.height,
            time_base=header.time_base,
            color=Color(**dataclasses.asdict(header.color)),
            bit_depth=header.bit_depth,
            average_rate=header.average_rate,
            sample_aspect_ratio=header.sample_aspect_ratio,
            rotation=header.rotation,
            display_matrix=_optional(_display_matrix, extra.get("display_matrix")),
            mastering_display=_optional(MasteringDisplay.from_dict, extra.get("mastering_display")),
            content_light=_optional(ContentLight.from_dict, extra.get("content_light")),
            start_time=_optional(_start_time, extra.get("start_time")) or Fraction(0),
            pixel_format=str(extra.get(_SOURCE_FORMAT, "")),
        )
    except ValueError as error:
        raise BitstreamError(f"the header describes a video that cannot be: {error}") from error


def _display_matrix(value: Any) -> tuple[int, ...]:
    return tuple(_integers(value, "display_matrix", 9, 1 << 31))


def _start_time(value: Any) -> Fraction:
    numerator, denominator = _integers(value, "start_time", 2, 1 << 63)
    if not 0 < denominator < 1 << 31:
        raise ValueError(f"start_time has denominator {denominator}")
    return Fraction(numerator, denominator)


def _integers(value: Any, name: str, count: int, limit: int) -> list[int]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{name} is {ascii(value)[:40]}, wanted {count} integers")
    if any(type(entry) is not int or not -limit <= entry < limit for entry in value):
        raise ValueError(f"{name} is {ascii(value)[:40]}, wanted integers of {limit.bit_length()} bits")
    return value


def _optional(convert: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else convert(value)
