"""Films with sound through `encode_file` and `decode_file`: threads, pipes, trims and rates included."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import (
    DecodeOptions,
    EncodeOptions,
    ReaderOptions,
    WriterOptions,
    decode_file,
    decode_stream,
    encode_file,
    encode_stream,
)
from cvcodec.errors import OutputError
from cvcodec.passthrough.records import copied_bytes
from tests.codec.clips import Pipe, Sink
from tests.codec.movies import CHAPTERS, Track, film, streams, times
from tests.codec.patch_model import PatchModel

LOSSLESS = EncodeOptions(latents="fp32", precision="fp32", device="cpu")
FAST = WriterOptions(preset="ultrafast")


def reversible() -> PatchModel:
    """With a parameter, by which its device is known."""
    model = PatchModel()
    model.register_parameter("anchor", torch.nn.Parameter(torch.zeros(1)))
    return model


@pytest.mark.parametrize(("container", "subtitle"), [("mp4", "mov_text"), ("mkv", "ass")])
def test_sound_subtitles_and_chapters_come_back_beside_the_picture(
    container: str, subtitle: str, tmp_path: Path
) -> None:
    source, coded, target = tmp_path / f"in.{container}", tmp_path / "a.cvl", tmp_path / f"out.{container}"
    film(
        str(source),
        Track("aac", 44100, start=777, seconds=3, metadata={"language": "eng"}),
        Track("ac3", 48000, metadata={"language": "deu"}),
        subtitle=subtitle,
        chapters=True,
        frames=60,
        container_options={"movie_timescale": "5644800"} if container == "mp4" else {},
    )
    result = encode_file(str(source), coded, model=reversible(), options=LOSSLESS)
    decode_file(coded, target, model=reversible(), options=DecodeOptions(device="cpu", writer=FAST))
    for kind in ("audio", "subtitle"):
        for old, new in zip(streams(str(source), kind), streams(str(target), kind), strict=True):
            assert new.packets == old.packets
            assert new.metadata.get("language") == old.metadata.get("language")
    assert times(str(target)) == times(str(source))
    with av.open(str(target)) as after:
        assert [chapter["metadata"] for chapter in after.chapters()] == [chapter["metadata"] for chapter in CHAPTERS]
    with coded.open("rb") as file:
        trailer = BitstreamReader(file).verify()
    sound = sum(len(packet.data) for stream in streams(str(source), "audio") for packet in stream.packets)
    assert sound < result.copied_bytes == copied_bytes(trailer) < sound * 1.03 + 4000
    assert result.bpp == 8 * (coded.stat().st_size - result.copied_bytes) / (48 * 32 * 60)


def test_a_silent_encode_and_a_silent_decode(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.webm"
    film(str(source), Track("aac"), frames=20, metadata={"title": "Film"})
    silent, whole = tmp_path / "silent.cvl", tmp_path / "whole.cvl"
    options = EncodeOptions(latents="fp32", device="cpu", kinds=(), tags=False)
    assert encode_file(str(source), silent, model=reversible(), options=options).copied_bytes == 0
    assert encode_file(str(source), whole, model=reversible(), options=LOSSLESS).copied_bytes > 10000
    with pytest.raises(OutputError, match="audio stream 1 \\(aac\\)"):
        decode_file(whole, target, model=reversible(), options=DecodeOptions(device="cpu"))
    assert not target.exists()
    decode_file(whole, target, model=reversible(), options=DecodeOptions(device="cpu", kinds=()))
    assert streams(str(target), "audio") == []


@pytest.mark.parametrize("trim", [{"start": 1.0, "end": 2.0}, {"start": 1.5, "frames": 12}, {"frames": 30}])
@pytest.mark.parametrize("piped", [False, True])
def test_a_trimmed_decode_takes_the_sound_of_its_time(trim: dict[str, Any], piped: bool, tmp_path: Path) -> None:
    source, coded, target = tmp_path / "in.mkv", tmp_path / "a.cvl", tmp_path / "out.mkv"
    film(str(source), Track("mp2", seconds=4), frames=100, subtitle="subrip")
    encode_file(str(source), coded, model=reversible(), options=LOSSLESS)
    file: Any = Pipe(coded.read_bytes()) if piped else coded.open("rb")
    options = DecodeOptions(device="cpu", writer=FAST, **trim)
    decode_stream(file, str(target), model=reversible(), options=options)
    shown = times(str(target))
    begin = Fraction(str(trim.get("start", -1)))
    end = shown[-1] + Fraction(1, 25)
    before = streams(str(source), "audio")[0].packets
    inside = [p for p in before if p.time >= begin and p.time + p.duration <= end]
    after = streams(str(target), "audio")[0].packets
    assert [packet.data for packet in after] == [packet.data for packet in inside]
    assert [packet.time for packet in after] == [packet.time for packet in inside]
    texts = [packet.data for packet in streams(str(target), "subtitle")[0].packets]
    assert texts == [text for text, low, high in ((b"Hello", 0.2, 0.9), (b"Bye", 1, 1.5)) if high > begin and low < end]
    file.close()


def test_pipes_all_the_way(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    film(str(source), Track("aac", 44100, seconds=5), frames=75, chapters=True)
    coded, shown = Sink(), Sink()
    encode_stream(Pipe(source.read_bytes()), coded, model=reversible(), options=LOSSLESS)
    decode_stream(Pipe(bytes(coded.data)), shown, model=reversible(), options=DecodeOptions(device="cpu", writer=FAST))
    before, after = streams(str(source), "audio")[0], streams(bytes(shown.data), "audio")[0]
    assert after.packets == before.packets
    assert times(bytes(shown.data)) == times(str(source))


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    film(str(source), Track("aac", seconds=3), Track("ac3", seconds=2), subtitle="mov_text", frames=75)
    files = [tmp_path / f"{number}.cvl" for number in range(3)]
    for number, file in enumerate(files):
        options = EncodeOptions(
            latents="fp32", precision="fp32", device="cpu", reader=ReaderOptions(threads=number + 1)
        )
        encode_file(str(source), file, model=reversible(), options=options)
    assert len({file.read_bytes() for file in files}) == 1
