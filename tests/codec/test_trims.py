"""Trims on both sides: which frames, at which times, and which bytes of a file they touch."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, ReaderOptions, decode_stream, encode_stream
from cvcodec.errors import CvcodecError, UsageError
from tests.codec.clips import Pipe, Watched, noise, write_rgb
from tests.codec.models import tiny_mini, tiny_official
from tests.codec.patch_model import PatchModel

# 30 frames, the first shown at 2 s; frames 10 to 12 follow each other quickly, then comes a long one.
TICKS = [2000 + 40 * n for n in range(11)] + [2405, 2410] + [3000 + 40 * n for n in range(17)]
PICTURES = noise(len(TICKS), 8, 12)
MILLISECOND = Fraction(1, 1000)

TRIMS: list[tuple[dict[str, Any], Any]] = [
    ({"start": 0.4}, lambda second: second >= Fraction(2, 5)),
    ({"end": 0.4}, lambda second: second < Fraction(2, 5)),
    ({"start": 0.2, "end": 1.2}, lambda second: Fraction(1, 5) <= second < Fraction(6, 5)),
    ({"start": 0.2, "duration": 0.21}, lambda second: Fraction(1, 5) <= second < Fraction(41, 100)),
    ({"duration": 0.12}, lambda second: second < Fraction(3, 25)),
    ({"start": 0.041}, lambda second: second >= Fraction(41, 1000)),
    ({"start": Fraction(1, 3), "end": Fraction(7, 5)}, lambda second: Fraction(1, 3) <= second < Fraction(7, 5)),
]


def wanted(condition: Any) -> list[int]:
    """Numbers of the frames whose distance from the beginning meets a condition."""
    return [number for number, tick in enumerate(TICKS) if condition((tick - TICKS[0]) * MILLISECOND)]


def source(tmp_path: Path) -> str:
    write_rgb(str(tmp_path / "in.mkv"), PICTURES, pts=TICKS, time_base=MILLISECOND, container="matroska")
    return str(tmp_path / "in.mkv")


def encode(video: Any, **reader: Any) -> bytes:
    sink = io.BytesIO()
    options = EncodeOptions(latents="fp32", device="cpu", precision="fp32", reader=ReaderOptions(**reader))
    encode_stream(video, sink, model=PatchModel(), options=options)
    return sink.getvalue()


def decode(file: Any, model: Any = None, **options: Any) -> list[Any]:
    chosen = DecodeOptions(device="cpu", precision="fp32", **options)
    return list(Decoder(file, model=model or PatchModel(), options=chosen).frames())


def check(frames: list[Any], numbers: list[int]) -> None:
    assert [frame.pts for frame in frames] == [TICKS[number] for number in numbers]
    for frame, number in zip(frames, numbers, strict=True):
        np.testing.assert_array_equal(frame.pixels, PICTURES[number])


@pytest.mark.parametrize(("trim", "condition"), TRIMS, ids=[str(trim) for trim, _ in TRIMS])
def test_both_sides_cut_the_same_frames_at_the_same_times(tmp_path: Path, trim: dict[str, Any], condition: Any) -> None:
    video = source(tmp_path)
    numbers = wanted(condition)
    assert 0 < len(numbers) < len(TICKS)
    check(decode(io.BytesIO(encode(video, **trim))), numbers)
    whole = encode(video)
    check(decode(io.BytesIO(whole), **trim), numbers)
    check(decode(Pipe(whole), **trim), numbers)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 29, 30, 99])
def test_frames_stops_after_so_many_on_both_sides(tmp_path: Path, count: int) -> None:
    video = source(tmp_path)
    numbers = list(range(min(count, len(TICKS))))
    check(decode(io.BytesIO(encode(video, frames=count))), numbers)
    whole = encode(video)
    check(decode(io.BytesIO(whole), frames=count), numbers)
    check(decode(Pipe(whole), frames=count), numbers)
    check(decode(io.BytesIO(whole), start=0.4, frames=count), list(range(10, len(TICKS)))[:count])


def test_times_of_a_trimmed_file_still_count_from_the_beginning_of_the_source(tmp_path: Path) -> None:
    trimmed = encode(source(tmp_path), start=0.4)
    check(decode(io.BytesIO(trimmed), start=1.0, end=1.2), wanted(lambda second: 1 <= second < Fraction(6, 5)))


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.05), (0.4, 0.45), (1.0, 1.21), (1.6, None)])
def test_a_trimmed_decode_reads_only_the_chunks_of_its_windows(tmp_path: Path, start: float, end: float | None) -> None:
    data = encode(source(tmp_path))
    index = BitstreamReader(io.BytesIO(data)).index
    assert len(index) == 5  # 9 latents, 2 a chunk
    file = Watched(data)
    frames = decode(file, start=start, end=end)
    numbers = {TICKS.index(frame.pts) for frame in frames}
    inside = [
        n
        for n, entry in enumerate(index)
        if numbers & set(range(entry.first_frame, entry.first_frame + entry.frame_count))
    ]
    # One latent of context on either side, so one chunk more in front and behind.
    needed = set(range(max(0, inside[0] - 1), min(len(index), inside[-1] + 2)))
    read = {n for n, entry in enumerate(index) if file.touched & set(range(entry.offset, entry.offset + entry.size))}
    assert read == needed


@pytest.mark.parametrize("kind", ["mini", "official", "official in context windows", "image"])
def test_part_of_a_file_decodes_to_what_the_whole_decodes_to(tmp_path: Path, kind: str) -> None:
    model = tiny_official() if "official" in kind else tiny_mini(video=kind == "mini")
    model.latent_space_id = model.decoder_hash = "0" * 16
    sink = io.BytesIO()
    write_rgb(str(tmp_path / "in.nut"), noise(45, 24, 24))
    windows: Any = "context" if "context" in kind else "auto"
    window = 3 if "context" in kind else None
    options = EncodeOptions(latents="fp16", device="cpu", precision="fp32", windows=windows, window=window)
    encode_stream(str(tmp_path / "in.nut"), sink, model=model, options=options)
    whole = decode(io.BytesIO(sink.getvalue()), model)
    assert len(whole) == 45
    for start, end in [(0, 10), (7, 20), (13, 14), (17, 18), (30, 45), (44, 45)]:
        part = decode(io.BytesIO(sink.getvalue()), model, start=Fraction(start, 25), end=Fraction(end, 25))
        assert [frame.pts for frame in part] == [frame.pts for frame in whole[start:end]]
        for ours, theirs in zip(part, whole[start:end], strict=True):
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)


def test_a_trim_outside_the_video_is_refused_on_both_sides(tmp_path: Path) -> None:
    video = source(tmp_path)
    with pytest.raises(CvcodecError, match="no frames in the range"):
        encode(video, start=100)
    whole = io.BytesIO(encode(video))
    with pytest.raises(UsageError, match="no frames lie in the range"):
        decode_stream(whole, tmp_path / "out.mkv", model=PatchModel(), options=DecodeOptions(device="cpu", start=100))
    for wrong in ({"start": 2, "end": 1}, {"end": 1, "duration": 1}, {"frames": 0}, {"duration": 0}):
        whole.seek(0)
        with pytest.raises(UsageError):
            decode(whole, **wrong)
        with pytest.raises(UsageError):
            encode(video, **wrong)
