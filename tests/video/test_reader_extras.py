"""What a video stream has beside its pictures: transparency, captions, dynamic metadata. Said where it is not kept."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cvcodec.video import VideoReader
from tests.passthrough.relay import through
from tests.video.conftest import plane_views


@pytest.mark.parametrize(("codec", "ffmpegs"), [("libvpx-vp9", "vp9"), ("libvpx", "vp8")])
def test_transparency_of_webm_is_flattened_and_hidden_colours_stay_hidden(
    codec: str, ffmpegs: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as output:
        options = {"crf": "10", "auto-alt-ref": "0"}
        stream: Any = output.add_stream(codec, rate=25, width=64, height=48, options=options)
        stream.pix_fmt, stream.bit_rate = "yuva420p", 1_000_000
        stream.metadata["alpha_mode"] = "1"
        for number in range(3):
            frame = av.VideoFrame(64, 48, "yuva420p")
            for plane, value in zip(plane_views(frame), (180, 90, 160, 255), strict=True):
                plane[...] = value
            plane_views(frame)[3][:, :32] = 0
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec.name == ffmpegs  # which does not see it
    for background, level in (("black", 0), ("white", 255)):
        with VideoReader(path, background=background) as reader:
            frames = list(reader)
        assert len(frames) == 3
        assert all(np.abs(frame.pixels[:, :24].astype(int) - level).max() <= 8 for frame in frames)
        assert all(np.ptp(frame.pixels[:, 40:], axis=2).min() > 40 for frame in frames)
        assert f"transparent pixels were flattened on {background}" in reader.notices
    through(path, tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as container:  # which is opaque
        assert "alpha_mode" not in {name.lower() for name in container.streams.video[0].metadata}


def with_sei(make: Any, codec: str, payload: bytes) -> io.BytesIO:
    """A raw stream with a message of user data (ITU-T T.35) in front of its first picture."""
    raw = io.BytesIO()
    x265 = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    make.encode(raw, make.moving(64, 48, 3), codec=codec, container="hevc" if x265 else "h264", options=x265)
    head, first = (b"\x4e\x01", rb"\x00\x00\x01[\x20-\x2a]") if x265 else (b"\x06", rb"\x00\x00\x01[\x25\x45\x65]")
    at = re.search(first, raw.getvalue()).start()  # type: ignore[union-attr]
    message = re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\0\0\3", bytes([4, len(payload)]) + payload + b"\x80")
    return io.BytesIO(raw.getvalue()[:at] + b"\0\0\1" + head + message + raw.getvalue()[at:])


CAPTIONS = b"\xb5\x00\x31GA94\x03\xc1\xff\xfc\x94\x2c\xff"  # ATSC A/53: one pair of bytes of CEA-608
HDR10_PLUS = b"\xb5\x00\x3c\x00\x01\x04\x01" + (1 << 6).to_bytes(1, "big") + bytes(14)  # SMPTE ST 2094-40: one window


@pytest.mark.parametrize(
    ("codec", "payload", "told"),
    [
        ("libx264", CAPTIONS, ["captions (CEA-608, CEA-708) inside the video stream are not kept"]),
        ("libx265", HDR10_PLUS, ["HDR10+ metadata inside the video stream are not kept"]),
        ("libx264", b"\xb5\x00\x31nothing", []),
    ],
)
def test_captions_and_dynamic_metadata_are_said(make: Any, codec: str, payload: bytes, told: list[str]) -> None:
    with VideoReader(with_sei(make, codec, payload)) as reader:
        assert len(list(reader)) == 3
    assert [notice for notice in reader.notices if "not kept" in notice] == told
