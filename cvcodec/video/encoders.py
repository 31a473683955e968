"""What each encoder can do and how it is asked: pixel formats, quality options, size limits, HDR parameters. Opens
nothing.

Default quality is visually lossless: hard to tell from the source side by side at normal viewing distance.
"""

from dataclasses import dataclass, field
from fractions import Fraction

from cvcodec.errors import OutputError, UsageError
from cvcodec.video.color import Color, ContentLight, MasteringDisplay

_CUTREE_WIDTH = 64
"""Below it x265's cutree writes beyond its buffers (valgrind: at 32 and 48 pixels)."""

_X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True, slots=True)
class Encoder:
    """One encoder.

    depths: bit depths it codes, ascending. chroma: chroma formats it codes, the preferred one for even sizes first.
    crf: default constant rate factor, None for lossless. crf_limit: largest value. presets, preset: accepted and
        default.
    min_side: smallest width and height. odd_420: codes 4:2:0 at odd sizes.
    """

    name: str
    depths: tuple[int, ...]
    chroma: tuple[str, ...]
    crf: int | None
    crf_limit: int
    presets: tuple[str, ...]
    preset: str
    preset_option: str = "preset"
    min_side: int = 1
    odd_420: bool = False
    quality_option: str = "crf"
    fixed_options: dict[str, str] = field(default_factory=dict)


ENCODERS: dict[str, Encoder] = {
    encoder.name: encoder
    for encoder in (
        Encoder("libx264", (8, 10), ("420", "422", "444"), 17, 51, _X26X_PRESETS, "veryfast"),
        Encoder("libx265", (8, 10, 12), ("420", "422", "444"), 18, 51, _X26X_PRESETS, "fast", min_side=16),
        Encoder("libsvtav1", (8, 10), ("420",), 18, 63, tuple(map(str, range(14))), "8", min_side=4, odd_420=True),
        Encoder(
            "libvpx-vp9",
            (8,),
            ("420", "422", "444"),
            18,
            63,
            tuple(map(str, range(9))),
            "3",
            preset_option="cpu-used",
            fixed_options={"b": "0", "deadline": "good", "row-mt": "1"},
        ),
        *(
            Encoder(
                name,
                (8,),
                ("420", "444"),
                19,
                51,
                tuple(f"p{level}" for level in range(1, 8)),
                "p4",
                quality_option="cq",
                fixed_options={"rc": "vbr", "b": "0"},
            )
            for name in ("h264_nvenc", "hevc_nvenc")
        ),
        Encoder("ffv1", (8, 9, 10, 12, 14, 16), (), None, 0, (), "", fixed_options={"level": "3", "slicecrc": "1"}),
    )
}
"""Encoders by PyAV's name. Quality values: x264, x265 and NVENC 0-51, AV1 and VP9 0-63, lower is better."""


def encoder_named(name: str) -> Encoder:
    """The encoder. Raises UsageError with the known names."""
    if name not in ENCODERS:
        raise UsageError(f"codec {name!r} is not one of {', '.join(ENCODERS)}")
    return ENCODERS[name]


def choose_pixel_format(
    encoder: Encoder,
    width: int,
    height: int,
    bit_depth: int,
    chroma: str | None,
    notices: list[str],
    *,
    source_chroma: str | None = None,
) -> str:
    """FFmpeg's name of the format to encode; what is lost or unusual about it goes to `notices`.

    chroma: `420`, `422` or `444`; None takes 4:2:0 at even sizes and 4:4:4 at odd ones. source_chroma: of the source,
        likewise, where it is known.
    Raises OutputError where the size is below the encoder's, UsageError where it lacks the chroma format."""
    if min(width, height) < encoder.min_side:
        raise OutputError(
            f"{encoder.name} cannot encode {width}x{height}; "
            f"it needs at least {encoder.min_side}x{encoder.min_side}: use libx264 or ffv1"
        )
    depth = next((d for d in encoder.depths if d >= bit_depth), encoder.depths[-1])
    if depth < bit_depth:
        notices.append(
            f"{encoder.name} encodes at most {depth} bits here: {bit_depth}-bit pixels are reduced; ffv1 keeps them"
        )
    if encoder.name == "ffv1":
        if chroma is not None:
            raise UsageError("ffv1 stores RGB exactly; a chroma format does not apply")
        return "bgr0" if depth == 8 else f"gbrp{depth}le"
    odd_width, odd_height = width % 2 == 1, height % 2 == 1
    if chroma is None:
        chroma = "420"
        if (odd_width or odd_height) and not encoder.odd_420:
            chroma = "444"
            notices.append(
                f"odd size {width}x{height} is stored as 4:4:4 (yuv444p), "
                f"because {encoder.name} codes 4:2:0 at even sizes only"
            )
        elif source_chroma in ("422", "444"):
            able = "" if source_chroma in encoder.chroma else "--codec libx265 "
            notices.append(reduced_chroma(source_chroma, f"{able}--chroma {source_chroma}"))
    elif chroma not in encoder.chroma:
        raise UsageError(f"{encoder.name} does not encode chroma format {chroma!r}; it has {', '.join(encoder.chroma)}")
    elif not encoder.odd_420 and ((chroma == "420" and (odd_width or odd_height)) or (chroma == "422" and odd_width)):
        raise OutputError(f"{encoder.name} cannot encode {width}x{height} as {chroma}; use 444")
    return f"yuv{chroma}p" + ("" if depth == 8 else f"{depth}le")


def reduced_chroma(source_chroma: str, way: str) -> str:
    """What a person is told where colours come back coarser than they were, and the option that keeps them."""
    return f"the source's colours are {':'.join(source_chroma)} and are stored as 4:2:0; {way} keeps them"


def encoder_options(
    encoder: Encoder,
    *,
    crf: float | None,
    preset: str | None,
    mastering_display: MasteringDisplay | None,
    content_light: ContentLight | None,
    notices: list[str],
    width: int | None = None,
) -> dict[str, str]:
    """Options for PyAV's `add_stream`. width: of the frames, if it is known. Raises UsageError where quality or preset
    does not fit the encoder."""
    options = dict(encoder.fixed_options)
    if encoder.crf is None:
        if crf is not None:
            raise UsageError(f"{encoder.name} is lossless: a CRF does not apply")
    else:
        value = encoder.crf if crf is None else crf
        if not 0 <= value <= encoder.crf_limit:
            raise UsageError(f"CRF {value:g} is outside 0 to {encoder.crf_limit} of {encoder.name}")
        if encoder.name.startswith("libx26"):
            options[encoder.quality_option] = f"{value:g}"
        elif value != int(value):
            raise UsageError(f"CRF {value:g} of {encoder.name} must be a whole number")
        else:
            options[encoder.quality_option] = str(int(value))
    if encoder.presets:
        if preset is not None and preset not in encoder.presets:
            raise UsageError(f"preset {preset!r} of {encoder.name} is not one of {', '.join(encoder.presets)}")
        options[encoder.preset_option] = preset or encoder.preset
    elif preset is not None:
        raise UsageError(f"{encoder.name} has no presets")
    private = _hdr_parameters(encoder.name, mastering_display, content_light, notices)
    if encoder.name == "libx265":
        narrow = width is not None and width < _CUTREE_WIDTH
        options["x265-params"] = ":".join(["log-level=none", *(["cutree=0"] if narrow else []), *private])
    elif private:
        options[{"libx264": "x264-params", "libsvtav1": "svtav1-params"}[encoder.name]] = ":".join(private)
    return options


def _hdr_parameters(
    name: str, mastering: MasteringDisplay | None, light: ContentLight | None, notices: list[str]
) -> list[str]:
    if mastering is None and light is None:
        return []
    keys = {
        "libx264": ("mastering-display", "cll"),
        "libx265": ("master-display", "max-cll"),
        "libsvtav1": ("mastering-display", "content-light"),
    }
    if mastering is not None and not mastering.complete:
        notices.append("incomplete mastering-display metadata is left out: encoders take all of it or nothing")
        mastering = None
    if name not in keys:  # then they are in the container alone
        return []
    parameters = []
    if mastering is not None:
        as_text = _decimal if name == "libsvtav1" else _in_units
        parameters.append(f"{keys[name][0]}={mastering.encoder_text(as_text)}")
    if light is not None:
        parameters.append(f"{keys[name][1]}={light.max_content},{light.max_frame_average}")
    return parameters


def _in_units(value: Fraction, units: int) -> str:
    return str(round(value * units))


def _decimal(value: Fraction, units: int) -> str:
    return f"{float(value):.8f}"


def default_codec(
    container: str, width: int, height: int, bit_depth: int, color: Color, notices: list[str] | None = None
) -> str:
    """The encoder for a container when none is asked for: one that players show as HDR where the pictures are, which
    goes to `notices`."""
    if container == "webm":
        return "libvpx-vp9" if bit_depth == 8 else "libsvtav1"
    if not color.is_hdr or bit_depth < 10 or min(width, height) < ENCODERS["libx265"].min_side:
        return "libx264"
    if notices is not None:
        notices.append(
            f"{color.transfer} at {bit_depth} bits is encoded as HEVC (libx265), which players show as HDR; "
            "--codec chooses another"
        )
    return "libx265"


def color_tags(color: Color) -> dict[str, int]:
    """Attributes of a PyAV codec context that describe `color`."""
    matrix, range_, primaries, transfer = color.numbers()
    return {"colorspace": matrix, "color_range": range_, "color_primaries": primaries, "color_trc": transfer}
