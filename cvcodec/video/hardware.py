"""`--hwaccel`: which hardware decoder a word means. Frames come back to the memory of the CPU."""

from __future__ import annotations

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available

from cvcodec.errors import DeviceError, UsageError
from cvcodec.video.libav import reason

_CODECS = ("h264", "hevc", "av1", "vp9", "mpeg2video", "mpeg4", "vp8", "vc1", "mjpeg")
"""FFmpeg's own decoders, of which those that a device speeds up are asked whether it is there."""


def hardware_names() -> list[str]:
    """Devices by FFmpeg's name (cuda, videotoolbox, d3d11va) that this build of PyAV can decode on."""
    return [name for name in hwdevices_available() if _codec_for(name) is not None]


def hardware_decoder(name: str) -> HWAccel | None:
    """What `av.open` wants for `none`, `auto` (a device that starts, else None) or the name of a device.

    Streams that the device does not decode are decoded in software. Raises UsageError for a name that this build of
    PyAV does not know, DeviceError for a device that is not there.
    """
    if name == "none":
        return None
    names = hardware_names()
    if name == "auto":
        return next((_made(one) for one in names if _fault(one) is None), None)
    if name not in names:
        raise UsageError(
            f"hwaccel {name!r} is not one of {', '.join(['none', 'auto', *names])} (of this build of PyAV)"
        )
    fault = _fault(name)
    if fault is not None:
        raise DeviceError(
            f"no hardware decoding by {name} here: {fault}; use --hwaccel none, or auto for what there is"
        )
    return _made(name)


def _made(name: str) -> HWAccel:
    return HWAccel(name, allow_software_fallback=True)


def _fault(name: str) -> str | None:
    """Why the device does not start; None where it does."""
    codec = _codec_for(name)
    assert codec is not None
    try:
        HWAccel(name, allow_software_fallback=False).create(codec)
    except (av.error.FFmpegError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        return reason(error)
    return None


def _codec_for(device: str) -> av.Codec | None:
    """A decoder that the device speeds up."""
    for name in _CODECS:
        if name in av.codecs_available:
            codec = av.Codec(name, "r")
            if any(config.is_supported and config.device_type.name == device for config in codec.hardware_configs):
                return codec
    return None
