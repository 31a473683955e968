"""Video in and out: the only package that imports PyAV. `Frame`, `Color` and `VideoInfo` are plain values; the rest
loads PyAV when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cvcodec.video.frame import Color, ContentLight, Frame, MasteringDisplay, VideoInfo

if TYPE_CHECKING:
    from cvcodec.video.reader import VideoReader, probe
    from cvcodec.video.writer import VideoWriter

__all__ = ["Color", "ContentLight", "Frame", "MasteringDisplay", "VideoInfo", "VideoReader", "VideoWriter", "probe"]

_HOMES = {
    "VideoReader": "cvcodec.video.reader",
    "VideoWriter": "cvcodec.video.writer",
    "probe": "cvcodec.video.reader",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
