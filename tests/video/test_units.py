"""What pictures need of a stream, against what FFmpeg's bitstream filters leave of it."""

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cvcodec.video.sizes import PictureBytes, stream_bytes
from tests.video.clips import filtered_bytes

SEI = {"libx264": "6", "libx265": "39-40"}


def coded(path: Path, encoder: str, *, flat: bool, frames: int = 5) -> Path:
    """A video by PyAV alone."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(encoder, rate=25, options={"crf": "33", "log-level": "none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.full((72, 64), 120, np.uint8)
            if not flat:
                picture[:48] = np.random.default_rng(number).integers(0, 255, (48, 64))
            frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_five_flat_frames_take_less_than_200_bytes_by_every_encoder(tmp_path: Path, encoder: str, suffix: str) -> None:
    if suffix == "ts" and encoder not in SEI:
        pytest.skip("MPEG-TS takes neither")
    held = stream_bytes(coded(tmp_path / f"a.{suffix}", encoder, flat=True))
    assert 50 < held.video < 200
    if encoder == "libx264":  # the text of its options
        assert b"x264 - core" in packets(tmp_path / f"a.{suffix}")[0]
        assert held.user_data > 600


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_a_stream_is_as_large_as_its_elementary_stream_without_sei(tmp_path: Path, encoder: str, suffix: str) -> None:
    """These encoders write no other SEI here. Start codes of FFmpeg's have three or four bytes."""
    path = coded(tmp_path / f"a.{suffix}", encoder, flat=False)
    name = "h264" if encoder == "libx264" else "hevc"
    start_codes = "" if suffix == "ts" else f"{name}_mp4toannexb,"
    theirs = filtered_bytes(path, f"{start_codes}filter_units=remove_types={SEI[encoder]}")
    held = stream_bytes(path)
    assert held.video == pytest.approx(theirs, abs=16)
    assert held.video > 1000
    if suffix == "ts":
        assert held.video + held.user_data == sum(map(len, packets(path)))


@pytest.mark.parametrize("suffix", ["avi", "mp4"])
def test_mpeg4_has_its_user_data_behind_a_start_code_and_its_layer_once(tmp_path: Path, suffix: str) -> None:
    path = coded(tmp_path / f"a.{suffix}", "mpeg4", flat=False)
    found = packets(path)
    with av.open(str(path)) as container:
        extradata = bytes(container.streams.video[0].codec_context.extradata or b"")
    held = stream_bytes(path)
    text = sum(packet.count(b"\0\0\1\xb2Lavc") for packet in found)
    assert (held.user_data > 0) == (text > 0)
    inside = any(b"\0\0\1\x20" in packet for packet in found)
    beside = extradata.split(b"\0\0\1\xb2")[0]
    assert held.video == sum(map(len, found)) - held.user_data + (0 if inside else len(beside))


def nal(*messages: bytes, head: bytes = b"\x06") -> bytes:
    return b"\0\0\1" + head + b"".join(messages) + b"\x80"


RECOVERY = b"\x06\x01\xc4"
CAPTIONS = b"\x04\x05\xb5\0\x31GA"
TEXT = b"\x05\xff\x2d" + bytes(range(1, 17)) + b"x" * 284


@pytest.mark.parametrize(
    ("unit", "left"),
    [
        (nal(RECOVERY), nal(RECOVERY)),
        (nal(CAPTIONS, TEXT), b""),
        (nal(CAPTIONS, RECOVERY, TEXT), nal(RECOVERY)),
        (nal(b"\x05\x14" + b"\0\0\3" * 10, RECOVERY), nal(RECOVERY)),
        (nal(b"\x01\x06\0\0\3\1\0\0\3\1", TEXT), nal(b"\x01\x06\0\0\3\1\0\0\3\1")),
        (nal(TEXT[:40]), b""),
    ],
)
def test_messages_that_decoders_read_stay_beside_user_data(unit: bytes, left: bytes) -> None:
    picture = b"\0\0\0\1\x65\x88\x84" + bytes(range(4, 100))
    for codec, head in (("h264", b"\x06"), ("hevc", b"\x4e\x01")):
        counter = PictureBytes(codec, b"")
        packet = unit.replace(b"\x06", head, 1)
        counter.add(packet + picture)
        wanted = left.replace(b"\x06", head, 1)
        assert counter.user_data == len(packet) - len(wanted)


def test_metadata_of_av1_that_is_itu_t_t35_is_user_data_and_hdr_is_not() -> None:
    sequence, frame = b"\x0a\x03abc", b"\x32\x04abcd"
    counter = PictureBytes("av1", b"\x81\0\0\0" + sequence)
    counter.add(b"\x2a\x05\x04\xb5\0\x3c\x80" + b"\x2a\x02\x01\x80" + frame)
    assert (counter.user_data, counter.headers) == (7, len(sequence))
    counter.add(sequence + frame)
    assert counter.headers == 0


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "av1", "vp9"])
def test_damage_is_counted_and_never_refused(codec: str) -> None:
    draw = random.Random(5)
    for _ in range(300):
        alphabet = draw.choice([bytes(range(256)), b"\0\1\2\3\x06\x4e\x05\xff\x80"])
        extradata, *found = (bytes(draw.choices(alphabet, k=draw.randrange(60))) for _ in range(4))
        counter = PictureBytes(codec, draw.choice([b"", b"\1", b"\x81"]) + extradata)
        for packet in found:
            counter.add(packet)
        assert 0 <= counter.user_data <= sum(map(len, found))
        assert 0 <= counter.headers <= 60 * 8
