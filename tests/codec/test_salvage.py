"""Damaged files: every intact frame comes back, at its own time, and what is lost is said."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, WriterOptions, decode_file, encode_stream
from cvcodec.errors import BitstreamError
from cvcodec.model.base import VideoAutoencoder
from tests.cli.programs import cvcodec as run
from tests.cli.programs import finished
from tests.codec.clips import Pipe, noise, read_rgb, write_rgb
from tests.codec.models import save_model, tiny_mini, tiny_official
from tests.codec.movies import Track, film, streams
from tests.codec.patch_model import PatchModel

FP32 = EncodeOptions(latents="fp32", device="cpu", precision="fp32")
SALVAGE = DecodeOptions(salvage=True, device="cpu", precision="fp32")
FRAMES = 43
PTS = [1000 + 40 * number + (number % 3) for number in range(FRAMES)]


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    return noise(FRAMES, 10, 14)


@pytest.fixture(scope="module")
def data(pictures: list[Any]) -> bytes:
    """Six chunks of two latents: frames 0 to 4, 5 to 12, 13 to 20, 21 to 28, 29 to 36, 37 to 42."""
    video, file = io.BytesIO(), io.BytesIO()
    write_rgb(video, pictures, pts=PTS, time_base=Fraction(1, 1000))
    video.seek(0)
    encode_stream(video, file, model=PatchModel(), options=FP32)
    return file.getvalue()


def flipped(data: bytes, *chunks: int) -> bytes:
    changed = bytearray(data)
    for number in chunks:
        changed[BitstreamReader(io.BytesIO(data)).index[number].offset + 70] ^= 0x20
    return bytes(changed)


def salvaged(data: bytes, **options: Any) -> tuple[Decoder, list[Any]]:
    changes = {"salvage": True, "device": "cpu", "precision": "fp32", **options}
    decoder = Decoder(Pipe(data), model=PatchModel(), options=DecodeOptions(**changes))  # type: ignore[arg-type]
    return decoder, list(decoder.frames())


@pytest.mark.parametrize(
    ("chunks", "lost"),
    [
        ((), []),
        ((0,), [(0, 5)]),
        ((2,), [(13, 8)]),
        ((1, 2, 4), [(5, 16), (29, 8)]),
        ((5,), [(37, 6)]),
        ((0, 1, 2, 3, 5), [(0, 29), (37, 6)]),
    ],
)
def test_every_intact_frame_comes_back_exactly_at_its_own_time(
    data: bytes, pictures: list[Any], chunks: tuple[int, ...], lost: list[tuple[int, int]]
) -> None:
    decoder, frames = salvaged(flipped(data, *chunks))
    gone = {number for first, count in lost for number in range(first, first + count)}
    there = [number for number in range(FRAMES) if number not in gone]
    base = decoder.header.time_base
    assert [frame.pts * base for frame in frames] == [Fraction(PTS[number], 1000) for number in there]
    for frame, number in zip(frames, there, strict=True):
        np.testing.assert_array_equal(frame.pixels, pictures[number], err_msg=str(number))


@pytest.mark.parametrize("keep", [0.35, 0.7, 0.999])
def test_of_a_truncated_file_comes_what_is_whole(data: bytes, pictures: list[Any], keep: float, tmp_path: Path) -> None:
    cut = data[: int(len(data) * keep)]
    whole = [e for e in BitstreamReader(io.BytesIO(data)).index if e.offset + e.size <= len(cut)]
    count = whole[-1].first_frame + whole[-1].frame_count
    (tmp_path / "cut.cvl").write_bytes(cut)
    with pytest.raises(BitstreamError):
        decode_file(tmp_path / "cut.cvl", tmp_path / "out.mkv", model=PatchModel())
    options = DecodeOptions(salvage=True, device="cpu", precision="fp32", writer=WriterOptions(codec="ffv1"))
    result = decode_file(tmp_path / "cut.cvl", tmp_path / "out.mkv", model=PatchModel(), options=options)
    assert (result.frames, result.lost_frames) == (count, None)
    (lost,) = result.lost
    assert (lost.first_frame, lost.frame_count, lost.end_s) == (count, None, None)
    assert lost.describe() == f"{count} and later"
    for shown, picture, tick in zip(read_rgb(str(tmp_path / "out.mkv")), pictures, PTS, strict=False):
        np.testing.assert_array_equal(shown.pixels, picture)
        assert shown.time == Fraction(tick, 1000)


@pytest.mark.parametrize("make", [tiny_mini, tiny_official])
def test_frames_are_right_where_the_decoder_does_not_see_the_gap(make: Any, tmp_path: Path) -> None:
    model: VideoAutoencoder = load_model(str(save_model(tmp_path / "m.safetensors", make())))
    video, file = io.BytesIO(), io.BytesIO()
    write_rgb(video, noise(100, 16, 24))
    video.seek(0)
    encode_stream(video, file, model=model, options=FP32)
    data = file.getvalue()
    index = BitstreamReader(io.BytesIO(data)).index
    options = DecodeOptions(device="cpu", precision="fp32")
    whole = list(Decoder(io.BytesIO(data), model=model, options=options).frames())
    frames = list(Decoder(io.BytesIO(flipped(data, 2)), model=model, options=SALVAGE).frames())
    first, stop = index[2].first_frame, index[3].first_frame
    wanted = [frame for number, frame in enumerate(whole) if not first <= number < stop]
    assert [frame.pts for frame in frames] == [frame.pts for frame in wanted]
    equal = [np.array_equal(one.pixels, other.pixels) for one, other in zip(frames, wanted, strict=True)]
    near = 17 if make is tiny_official else 8  # official chunks, whose norm sees all of them; else two latents
    assert all(equal[: first - near])
    assert all(equal[first + near :])
    assert not all(equal), "nothing near the gap differs: the test would prove nothing"


def test_times_of_what_is_lost_and_trims(data: bytes) -> None:
    decoder, frames = salvaged(flipped(data, 2))
    result = decoder.input.lost
    assert [(lost.first_frame, lost.frame_count) for lost in result] == [(13, 8)]
    assert result[0].start_s == pytest.approx((PTS[13] - PTS[0]) / 1000)
    assert result[0].end_s == pytest.approx((PTS[21] - PTS[0]) / 1000)
    decoder, frames = salvaged(flipped(data, 0, 2), start=1.2)
    assert [frame.pts * decoder.header.time_base * 1000 for frame in frames] == [t for t in PTS if t >= PTS[0] + 1200]
    assert decoder.input.lost == []
    decoder, frames = salvaged(flipped(data, 2), frames=15)
    assert len(frames) == 15


def test_sound_goes_on_across_a_gap(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    film(str(source), Track("aac", seconds=4), frames=100)
    file = io.BytesIO()
    encode_stream(source, file, model=PatchModel(), options=FP32)
    (tmp_path / "bad.cvl").write_bytes(flipped(file.getvalue(), 4, 5, 6))
    result = decode_file(tmp_path / "bad.cvl", tmp_path / "out.mkv", model=PatchModel(), options=SALVAGE)
    assert result.lost_frames == 24
    before, after = streams(str(source), "audio")[0], streams(str(tmp_path / "out.mkv"), "audio")[0]
    assert [(p.time, p.data) for p in after.packets] == [(p.time, p.data) for p in before.packets]
    shown = [packet.time for packet in streams(str(tmp_path / "out.mkv"), "video")[0].packets]
    assert sorted(shown) == [Fraction(n, 25) for n in range(100) if not 29 <= n < 53]


def test_a_cut_file_says_where_its_sound_ends(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    film(str(source), Track("aac", seconds=4), frames=100)
    file = io.BytesIO()
    encode_stream(source, file, model=PatchModel(), options=FP32)
    data = file.getvalue()
    (tmp_path / "cut.cvl").write_bytes(data[: len(data) // 2])
    result = decode_file(tmp_path / "cut.cvl", tmp_path / "out.mkv", model=PatchModel(), options=SALVAGE)
    last = streams(str(tmp_path / "out.mkv"), "audio")[0].packets[-1].time
    said = [text for text in result.notices if text.startswith("the file is cut: sound (stream 0) is there until ")]
    assert len(said) == 1
    assert float(said[0].split()[-2]) == pytest.approx(float(last), abs=0.05)


def test_without_an_intact_header_or_chunk_nothing_is_written(data: bytes, tmp_path: Path) -> None:
    for bad in (b"\x00" * 2000, data[:300][:200] + bytes(5000), flipped(data, 0, 1, 2, 3, 4, 5)):
        (tmp_path / "bad.cvl").write_bytes(bad)
        with pytest.raises(BitstreamError, match="salvaged"):
            decode_file(tmp_path / "bad.cvl", tmp_path / "out.mkv", model=PatchModel(), options=SALVAGE)
        assert [path.name for path in tmp_path.iterdir()] == ["bad.cvl"]


def test_the_command_warns_in_one_line_and_fails_only_when_asked(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "tiny.safetensors", tiny_mini())
    write_rgb(str(tmp_path / "in.mkv"), noise(60, 16, 16), container="matroska")
    assert run("encode", tmp_path / "in.mkv", tmp_path / "a.cvl", "-w", weights).code == 0
    data = (tmp_path / "a.cvl").read_bytes()
    (tmp_path / "bad.cvl").write_bytes(flipped(data, 1))
    command = ["decode", tmp_path / "bad.cvl", tmp_path / "out.mkv", "-w", weights, "-y"]
    assert run(*command).code == 5
    outcome = run(*command, "--salvage", "--json")
    assert outcome.code == 0
    first, count = 9, 12
    said = f"cvcodec: warning: the file is damaged: frames 9 to 20 are lost, {60 - count} were decoded"
    assert outcome.err.splitlines()[-1] == said
    record = outcome.record
    assert (record["frames"], record["lost_frames"]) == (60 - count, count)
    assert record["lost"] == [
        {"first_frame": first, "frame_count": count, "start_s": pytest.approx(0.36), "end_s": pytest.approx(0.84)}
    ]
    assert record["damaged_bytes"] == BitstreamReader(io.BytesIO(data)).index[1].size
    outcome = run(*command, "--salvage", "--strict", "--json")
    assert outcome.code == 5
    assert outcome.record["lost_frames"] == count
    assert outcome.err.splitlines()[-1].startswith("cvcodec: error: the file is damaged: frames 9 to 20")
    assert len(read_rgb(str(tmp_path / "out.mkv"))) == 60 - count
    intact = run(
        "decode", tmp_path / "a.cvl", tmp_path / "out.mkv", "-w", weights, "-y", "--salvage", "--strict", "--json"
    )
    assert (intact.code, intact.record["lost"], intact.record["lost_frames"]) == (0, [], 0)
    piped = finished("decode", "-", "-", "-w", weights, "--salvage", "--json", data=(tmp_path / "bad.cvl").read_bytes())
    assert piped.returncode == 0
    assert len(read_rgb(io.BytesIO(piped.stdout))) == 60 - count
    lines = piped.stderr.decode().splitlines()
    assert [json.loads(line)["lost_frames"] for line in lines if line.startswith("{")] == [count]


def test_a_damaged_source_is_counted_and_flagged_and_fails_only_when_asked(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "tiny.safetensors", tiny_mini())
    with av.open(str(tmp_path / "in.mkv"), "w") as output:
        options = {"g": "10", "bf": "0", "threads": "1"}
        stream: Any = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in noise(40, 48, 64):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        output.mux(stream.encode(None))
    data = bytearray((tmp_path / "in.mkv").read_bytes())
    with av.open(str(tmp_path / "in.mkv")) as container:
        packet = [p for p in container.demux(video=0) if p.size][15]
    assert packet.pos is not None
    middle = packet.pos + packet.size // 2
    data[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    (tmp_path / "bad.mkv").write_bytes(data)
    command = ["encode", tmp_path / "bad.mkv", tmp_path / "a.cvl", "-w", weights, "-y", "--json"]
    outcome = run(*command)
    assert outcome.code == 0
    record = outcome.record
    assert record["decode_errors"] + record["concealed_frames"] > 0
    assert sum("the source is damaged" in line for line in outcome.err.splitlines()) == 1
    with (tmp_path / "a.cvl").open("rb") as file:
        flags = np.concatenate([chunk.flags for chunk in BitstreamReader(file).chunks()])
    assert int((flags & 1).sum()) == record["concealed_frames"]
    strict = run(*command, "--strict")
    assert strict.code == 3
    assert strict.err.splitlines()[-1].startswith("cvcodec: error: the source is damaged: ")
    assert (tmp_path / "a.cvl").exists()
    decoded = run("decode", tmp_path / "a.cvl", tmp_path / "out.mkv", "-w", weights, "--json")
    assert decoded.record["concealed_frames"] == record["concealed_frames"]
    intact = run("encode", tmp_path / "in.mkv", tmp_path / "b.cvl", "-w", weights, "--strict", "--json")
    assert intact.code == 0
    assert (intact.record["decode_errors"], intact.record["concealed_frames"]) == (0, 0)
