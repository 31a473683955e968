"""With a reversible model and fp32 latents, every pixel, time and duration of a source comes back exactly."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, WriterOptions, decode_file, encode_file, encode_stream
from cvcodec.video import Frame
from tests.codec.clips import noise, read_rgb, write_rgb
from tests.codec.patch_model import CHANNELS, FRAMES, SIDE, PatchModel

FP32 = EncodeOptions(latents="fp32", device="cpu", precision="fp32")
CPU = DecodeOptions(device="cpu", precision="fp32")


def encoded(
    pictures: list[Any], options: EncodeOptions = FP32, model: dict[str, Any] | None = None, **source: Any
) -> io.BytesIO:
    """A .cvl file in memory, of a source in memory."""
    video, file = io.BytesIO(), io.BytesIO()
    write_rgb(video, pictures, **source)
    video.seek(0)
    encode_stream(video, file, model=PatchModel(**(model or {})), options=options)
    file.seek(0)
    return file


def check_equal(file: io.BytesIO, pictures: list[Any], times: list[Fraction], **model: object) -> list[Frame]:
    """What decodes are these pictures, at these times in seconds."""
    file.seek(0)
    decoder = Decoder(file, model=PatchModel(**model), options=CPU)
    frames = list(decoder.frames())
    assert [frame.pts * decoder.header.time_base for frame in frames] == times
    for number, (frame, picture) in enumerate(zip(frames, pictures, strict=True)):
        np.testing.assert_array_equal(frame.pixels, picture, err_msg=f"frame {number} of {len(pictures)}")
        assert frame.pixels.dtype == picture.dtype
    return frames


def regular(count: int) -> list[Fraction]:
    return [Fraction(number, 25) for number in range(count)]


def test_every_frame_count_from_1_to_40_comes_back_in_chunks_of_its_windows() -> None:
    pictures = noise(40, 6, 7)
    for count in range(1, 41):
        file = encoded(pictures[:count])
        check_equal(file, pictures[:count], regular(count))
        latents = -(-(count - 1) // FRAMES) + 1
        index = BitstreamReader(file_at_start(file)).index
        assert [entry.latent_count for entry in index] == [2] * (latents // 2) + [1] * (latents % 2)
        assert sum(entry.frame_count for entry in index) == count


def file_at_start(file: io.BytesIO) -> io.BytesIO:
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("width", "height", "count"),
    [(1, 1, 6), (3, 5, 6), (5, 3, 1), (17, 1, 9), (161, 121, 6), (64, 48, 12), (33, 32, 5), (1280, 720, 2)],
)
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_every_size_comes_back_at_8_and_10_bits_whatever_tiles_and_padding_it_needs(
    width: int, height: int, count: int, bit_depth: int
) -> None:
    if width < 1000:
        pictures, tile = noise(count, height, width, bit_depth=bit_depth), 6
    else:  # flat squares, which pack quickly, and tiles as large as a real model's
        pictures, tile = (
            [np.kron(p, np.ones((80, 80, 1), p.dtype)) for p in noise(count, 9, 16, bit_depth=bit_depth)],
            96,
        )
    file = encoded(pictures, bit_depth=bit_depth, model={"tile_latents": tile})
    header = BitstreamReader(file_at_start(file)).header
    assert (header.width, header.height, header.bit_depth) == (width, height, bit_depth)
    assert header.latent_size == (-(-height // SIDE), -(-width // SIDE))
    check_equal(file, pictures, regular(count))


@pytest.mark.parametrize("bit_depth", [12, 16])
def test_deeper_sources_keep_their_depth(bit_depth: int) -> None:
    pictures = noise(5, 8, 8, bit_depth=bit_depth)
    check_equal(encoded(pictures, bit_depth=bit_depth), pictures, regular(5))


def test_irregular_times_and_a_late_start_come_back_with_the_durations_between_them() -> None:
    pts = [90_000, 93_003, 93_004, 120_000, 120_500, 121_000, 140_001, 150_000, 150_001, 160_000, 200_000]
    pictures = noise(len(pts), 8, 8)
    file = encoded(pictures, pts=pts, time_base=Fraction(1, 90_000))
    frames = check_equal(file, pictures, [Fraction(tick, 90_000) for tick in pts])
    base = BitstreamReader(file_at_start(file)).header.time_base
    durations = [(frame.duration or 0) * base for frame in frames[:-1]]
    assert durations == [Fraction(after - before, 90_000) for before, after in itertools.pairwise(pts)]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30), Fraction(60000, 1001)])
def test_time_base_and_rate_are_the_sources(rate: Fraction) -> None:
    video = io.BytesIO()
    write_rgb(video, noise(6, 8, 8), time_base=1 / rate, rate=rate)
    video.seek(0)
    with av.open(video) as container:
        stream = container.streams.video[0]
        time_base, average_rate = stream.time_base, stream.average_rate
    file = encoded(noise(6, 8, 8), time_base=1 / rate, rate=rate)
    header = BitstreamReader(file_at_start(file)).header
    assert header.time_base == time_base
    assert header.average_rate == average_rate == rate
    check_equal(file, noise(6, 8, 8), [number / rate for number in range(6)])


def test_fp16_latents_keep_8_bits_exactly() -> None:
    pictures = noise(9, 12, 12)
    file = encoded(pictures, EncodeOptions(latents="fp16", device="cpu", precision="fp32"))
    check_equal(file, pictures, regular(9))


@pytest.mark.parametrize("quality", [30.0, 50.0, 75.5])
def test_quantisation_is_the_only_loss_and_stays_within_half_a_step(quality: float) -> None:
    pictures = noise(9, 12, 16)
    file = encoded(pictures, EncodeOptions(quality=quality, rdo="none", device="cpu", precision="fp32"))
    step = 0.1 * 2 ** ((50 - quality) / 10) * 127.5  # of PatchModel's channels, in code values
    errors = [
        np.abs(frame.pixels.astype(int) - picture.astype(int)).max()
        for frame, picture in zip(Decoder(file, model=PatchModel(), options=CPU).frames(), pictures, strict=True)
    ]
    assert max(errors) <= step / 2 + 0.5
    assert max(errors) > step / 4  # noise reaches the ends of a step


def test_a_file_decoded_with_ffv1_holds_the_very_pixels_times_and_durations(tmp_path: Path) -> None:
    pts = [40, 80, 120, 200, 240, 281, 320, 1000, 1040, 1080]
    pictures = noise(10, 13, 11)
    write_rgb(str(tmp_path / "in.nut"), pictures, pts=pts, time_base=Fraction(1, 1000))
    encode_file(tmp_path / "in.nut", tmp_path / "a.cvl", model=PatchModel(), options=FP32)
    result = decode_file(
        tmp_path / "a.cvl",
        tmp_path / "out.mkv",
        model=PatchModel(),
        options=DecodeOptions(device="cpu", precision="fp32", writer=WriterOptions(codec="ffv1")),
    )
    assert (result.frames, result.width, result.height) == (10, 11, 13)
    shown = read_rgb(str(tmp_path / "out.mkv"))
    assert [frame.time for frame in shown] == [Fraction(tick, 1000) for tick in pts]
    for frame, picture in zip(shown, pictures, strict=True):
        np.testing.assert_array_equal(frame.pixels, picture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cvl", "in.nut", "out.mkv"]


def test_ten_bits_decoded_with_ffv1_hold_the_very_code_values(tmp_path: Path) -> None:
    pictures = noise(6, 10, 9, bit_depth=10)
    write_rgb(str(tmp_path / "in.nut"), pictures, bit_depth=10)
    encode_file(tmp_path / "in.nut", tmp_path / "a.cvl", model=PatchModel(), options=FP32)
    ffv1 = DecodeOptions(device="cpu", precision="fp32", writer=WriterOptions(codec="ffv1"))
    decode_file(tmp_path / "a.cvl", tmp_path / "out.mkv", model=PatchModel(), options=ffv1)
    for frame, picture in zip(read_rgb(str(tmp_path / "out.mkv")), pictures, strict=True):
        np.testing.assert_array_equal(frame.pixels, picture)


def test_windows_and_tiles_were_really_in_play() -> None:
    model, video = PatchModel(), io.BytesIO()
    write_rgb(video, noise(21, 40, 40))
    video.seek(0)
    file = io.BytesIO()
    encode_stream(video, file, model=model, options=FP32)
    list(Decoder(file_at_start(file), model=model, options=CPU).frames())
    # 6 latents in windows of 2: 0-1, 2-3 behind two latents of lead, 4-5 likewise; nine tiles of 6 latents in each.
    assert [shape[2] for shape in model.encoded[::9]] == [5, 13, 13]
    assert {shape[3:] for shape in model.encoded} == {(24, 24)}
    assert [shape[2] for shape in model.decoded[::9]] == [3, 4, 3]
    assert {shape[1:2] + shape[3:] for shape in model.decoded} == {(CHANNELS, 6, 6)}


def test_an_image_becomes_a_one_frame_file_and_an_image_again(tmp_path: Path) -> None:
    (picture,) = noise(1, 15, 22)
    write_image(tmp_path / "in.png", picture)
    result = encode_file(tmp_path / "in.png", tmp_path / "a.cvl", model=PatchModel(), options=FP32)
    assert (result.frames, result.chunks) == (1, 1)
    decode_file(tmp_path / "a.cvl", tmp_path / "out.png", model=PatchModel(), options=CPU)
    (shown,) = read_rgb(str(tmp_path / "out.png"))
    np.testing.assert_array_equal(shown.pixels, picture)


def test_a_numbered_sequence_becomes_a_video_and_a_sequence_again(tmp_path: Path) -> None:
    pictures = noise(7, 9, 14)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for number, picture in enumerate(pictures, start=3):
        write_image(tmp_path / "in" / f"{number:04d}.png", picture)
    encode_file(str(tmp_path / "in" / "%04d.png"), tmp_path / "a.cvl", model=PatchModel(), options=FP32)
    result = decode_file(tmp_path / "a.cvl", str(tmp_path / "out" / "%05d.png"), model=PatchModel(), options=CPU)
    assert result.frames == 7
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{n:05d}.png" for n in range(1, 8)]
    for number, picture in enumerate(pictures, start=1):
        (shown,) = read_rgb(str(tmp_path / "out" / f"{number:05d}.png"))
        np.testing.assert_array_equal(shown.pixels, picture)


def write_image(path: Path, picture: Any) -> None:
    context = av.CodecContext.create("png", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.height, context.width, context.pix_fmt = *picture.shape[:2], "rgb24"
    context.time_base = Fraction(1)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))
