"""`--hwaccel` on any machine; that a card decodes the same frames is in tests/gpu."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.hwaccel import hwdevices_available

from cvcodec.errors import DeviceError, UsageError
from cvcodec.video import hardware
from cvcodec.video.reader import VideoReader


def small_video(path: Path, codec: str = "libx264") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(3):
            picture = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_the_names_are_devices_of_this_ffmpeg_that_a_decoder_of_it_uses() -> None:
    assert set(hardware.hardware_names()) <= set(hwdevices_available())


def test_an_unknown_device_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'abacus' is not one of none, auto"):
        VideoReader(small_video(tmp_path / "a.mp4"), hwaccel="abacus")


def test_a_device_that_does_not_start_is_named_with_the_reason_and_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(hardware.hardware_names()), None)
    if name is None:
        pytest.skip("this build of PyAV decodes on no hardware")

    class Absent:
        def __init__(self, *_: object, **__: object) -> None: ...

        def create(self, _: object) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(hardware, "HWAccel", Absent)
    with pytest.raises(DeviceError, match=f"by {name} here: Operation not permitted; use --hwaccel none"):
        VideoReader(small_video(tmp_path / "a.mp4"), hwaccel=name)


def test_auto_reads_the_frames_that_software_reads(tmp_path: Path) -> None:
    path = small_video(tmp_path / "a.mp4")
    with VideoReader(path) as plain, VideoReader(path, hwaccel="auto") as reader:
        pairs = list(zip(plain, reader, strict=True))
    assert len(pairs) == 3
    assert all(a.pts == b.pts and np.array_equal(a.pixels, b.pixels) for a, b in pairs)
