"""`cvcodec eval`: how it reads what it compares: as encode did, only once from a pipe, by odd names; and real rates."""

from __future__ import annotations

import os
import shutil
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import ReaderOptions
from cvcodec.codec.headers import reader_options
from cvcodec.errors import BitstreamError
from cvcodec.video import VideoReader
from tests.cli.programs import COUNT, HEIGHT, WIDTH, one_line
from tests.cli.programs import cvcodec as run
from tests.codec.clips import smooth, write_rgb
from tests.codec.movies import Track, film

QUICK = ["--metrics", "psnr", "--quiet", "--device", "cpu", "--precision", "fp32"]
MODEL = ["-w", "tiny.safetensors", "--device", "cpu", "--precision", "fp32"]


def encode(path: str, *options: str) -> dict[str, Any]:
    """The metadata that an encode to b.cvl stores."""
    outcome = run("encode", path, "b.cvl", "-y", "--quiet", *MODEL, *options)
    assert outcome.code == 0, outcome.err
    with open("b.cvl", "rb") as file:
        return dict(BitstreamReader(file).header.metadata)


def measured(reference: str) -> dict[str, Any]:
    outcome = run("eval", "b.cvl", "--reference", reference, "--json", *QUICK, "-w", "tiny.safetensors")
    assert outcome.code == 0, outcome.err
    return outcome.record


def stored_as(path: str, source: str, **reading: Any) -> None:
    """Lossless copies of a video's pictures, read as asked."""
    with VideoReader(source, **reading) as reader:
        write_rgb(path, [frame.pixels for frame in reader], container="matroska")


def test_another_stream_of_the_reference_is_the_one_that_was_encoded(here: Path) -> None:
    write_rgb("second.mkv", [255 - picture for picture in smooth(COUNT, HEIGHT, WIDTH)], container="matroska")
    with av.open("two.mkv", "w") as output:
        inputs = [av.open(name) for name in ("in.mkv", "second.mkv")]
        streams = [output.add_stream_from_template(one.streams.video[0]) for one in inputs]
        for one, stream in zip(inputs, streams, strict=True):
            for packet in one.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
            one.close()
    assert encode("two.mkv", "--stream", "1")["source_reader"] == {"stream": 1}
    whole, alone = measured("two.mkv"), measured("second.mkv")
    assert whole["psnr_db"] == alone["psnr_db"] != measured("in.mkv")["psnr_db"]
    assert whole["compared"].endswith("against two.mkv read with stream 1")
    assert "read with stream 1" in run("info", "b.cvl").out
    assert "source_reader" not in encode("two.mkv", "--stream", "0", "--deinterlace", "--rotate")


def test_what_was_not_turned_upright_is_compared_as_stored(here: Path) -> None:
    with av.open("turned.mp4", "w") as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(90)
        for number, picture in enumerate(smooth(5, 32, 48)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    encode("turned.mp4", "--no-rotate")
    stored_as("stored.mkv", "turned.mp4", rotate=False)
    record = measured("turned.mp4")
    assert (record["width"], record["height"]) == (48, 32)
    assert record["psnr_db"] == measured("stored.mkv")["psnr_db"]
    encode("turned.mp4")
    assert measured("turned.mp4")["width"] == 32


def test_what_was_not_deinterlaced_is_compared_as_stored(here: Path) -> None:
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    with av.open("fields.mkv", "w") as output:
        stream: Any = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number, picture in enumerate(smooth(9, 64, 64)):
            picture[::2] = 255 - picture[::2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert encode("fields.mkv", "--no-deinterlace")["source_reader"] == {"deinterlace": False}
    stored_as("stored.mkv", "fields.mkv", deinterlace=False)
    stored_as("made.mkv", "fields.mkv")
    wanted = measured("stored.mkv")["psnr_db"]
    assert measured("fields.mkv")["psnr_db"] == wanted != measured("made.mkv")["psnr_db"]


@pytest.mark.parametrize(
    "stored", [1, {"stream": -1}, {"stream": True}, {"stream": "0"}, {"deinterlace": 0}, {"background": ["black"]}]
)
def test_readings_that_cannot_be_are_damage(here: Path, stored: Any) -> None:
    with open("a.cvl", "rb") as file:
        header = BitstreamReader(file).header
    assert reader_options(header) == ReaderOptions()
    with pytest.raises(BitstreamError, match="source"):
        reader_options(header.replace(metadata={"source_reader": stored}))


def test_a_bitrate_is_that_of_the_picture_where_sound_lasts_longer(here: Path) -> None:
    for name in ("a.mkv", "a.nut", "a.mp4"):
        film(name, Track(seconds=6.0), frames=50)
        record = run("eval", name, name, "--json", *QUICK).record
        assert record["bitrate_bps"] == pytest.approx(8 * record["size_bytes"] / 2.0), name


def test_names_that_look_like_protocols_are_names(here: Path) -> None:
    shutil.copyfile("in.mkv", "12:30.mkv")
    record = run("eval", "in.mkv", "12:30.mkv", "--json", *QUICK).record
    assert record["identical"] and record["bpp"] > 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once_or_refused(here: Path) -> None:
    os.mkfifo("pipe.mkv")
    writer = threading.Thread(target=lambda: Path("pipe.mkv").write_bytes(Path("in.mkv").read_bytes()), daemon=True)
    writer.start()
    outcome = run("eval", "in.mkv", "pipe.mkv", "--json", *QUICK)
    writer.join(30)
    assert (outcome.record["identical"], outcome.record["bitrate_bps"]) == (True, None)
    assert "read only once" in " ".join(outcome.record["notes"])
    for command in (["eval", "pipe.mkv", *QUICK], ["encode", "pipe.mkv", "b.cvl", "--target", "psnr=30"]):
        outcome = run(*command, "-w", "tiny.safetensors")
        assert outcome.code == 2
        assert "reads the video more than once, which a pipe (pipe.mkv) cannot" in one_line(outcome.err)
    assert not Path("b.cvl").exists()
