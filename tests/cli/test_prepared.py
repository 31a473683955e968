"""`--size`, `--crop` and `--fps`: what the file says of them, what a decode gives, what eval measures against."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader, Header
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import EncodeOptions, ReaderOptions
from cvcodec.codec.headers import reader_options
from cvcodec.dataset.latents import LatentDataset
from cvcodec.errors import BitstreamError
from cvcodec.quality.target import Sample
from cvcodec.video import VideoReader
from tests.cli.programs import HEIGHT, WIDTH
from tests.cli.programs import cvcodec as run
from tests.codec.clips import smooth, write_rgb
from tests.codec.movies import Track, film

MODEL = ["-w", "tiny.safetensors", "--device", "cpu", "--precision", "fp32"]
PREPARED = ["--size", "short=16", "--fps", "10"]


def encode(source: str, *options: str, to: str = "b.cvl") -> Header:
    outcome = run("encode", source, to, "-y", "--quiet", *MODEL, *options)
    assert outcome.code == 0, outcome.err
    with open(to, "rb") as file:
        return BitstreamReader(file).header


def evaluated(*arguments: str) -> dict[str, Any]:
    outcome = run("eval", *arguments, "--json", "--quiet", "-m", "psnr", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    return outcome.record


def prepared_copy(path: str, source: str, **reading: Any) -> None:
    """A lossless video of the frames as they are prepared."""
    with VideoReader(source, **reading) as reader:
        write_rgb(
            path,
            [frame.pixels for frame in reader],
            time_base=reader.info.time_base,
            rate=Fraction(10),
            container="nut",
        )


def test_a_file_says_what_was_done_to_its_frames(here: Path) -> None:
    header = encode("in.mkv", *PREPARED)
    assert (header.width, header.height) == (24, 16)
    assert (header.time_base, header.average_rate, header.padding) == (Fraction(1, 10), 10, (0, 0, 0, 0))
    assert header.metadata["source_reader"] == {"size": "short=16", "fps": "10"}
    assert header.metadata["source_video"] == {
        "width": WIDTH, "height": HEIGHT, "sample_aspect_ratio": "1", "average_rate_fps": "25",
    }  # fmt: skip
    shown = run("info", "b.cvl").out
    assert f"{WIDTH}x{HEIGHT} at 25 frames/s, read with fps 10, size short=16" in shown
    plain = encode("in.mkv")
    assert not {"source_reader", "source_video"} & set(plain.metadata)


def test_a_decode_gives_the_prepared_frames_at_their_times(here: Path) -> None:
    encode("in.mkv", *PREPARED)
    outcome = run("decode", "b.cvl", "b.mp4", "--quiet", *MODEL)
    assert outcome.code == 0, outcome.err
    with av.open("b.mp4") as container:
        frames = list(container.decode(video=0))
        times = [frame.pts * Fraction(frame.time_base) for frame in frames if frame.pts is not None]
    assert [(frame.width, frame.height) for frame in frames] == [(24, 16)] * 12
    assert times == [Fraction(number, 10) for number in range(12)]  # 30 frames at 25 a second last 1.2 s


def test_eval_prepares_the_reference_of_a_file_by_itself(here: Path) -> None:
    encode("in.mkv", *PREPARED)
    prepared_copy("ready.nut", "in.mkv", size="short=16", fps=10)
    found = evaluated("b.cvl", "--reference", "in.mkv", "-w", "tiny.safetensors")
    assert found["compared"].endswith("against in.mkv read with size short=16, fps 10")
    encode("ready.nut", to="c.cvl")
    assert found["psnr_db"] == evaluated("c.cvl", "--reference", "ready.nut", "-w", "tiny.safetensors")["psnr_db"]
    assert (found["frames"], found["width"], found["unmatched_reference_frames"]) == (12, 24, 0)


def test_eval_prepares_the_reference_of_a_video_when_it_is_told(here: Path) -> None:
    prepared_copy("ready.nut", "in.mkv", size="24x16", fps=10)
    outcome = run("eval", "in.mkv", "ready.nut", "-m", "psnr", "--quiet")
    assert outcome.code != 0
    assert "--size" in outcome.err
    found = evaluated("in.mkv", "ready.nut", "--size", "24x16", "--fps", "10")
    assert found["identical"] is True
    assert found["frames"] == 12
    assert "in.mkv read with size 24x16, fps 10" in found["compared"]


def test_what_a_file_says_anyway_is_not_asked_again(here: Path) -> None:
    encode("in.mkv", *PREPARED)
    outcome = run("eval", "b.cvl", "--reference", "in.mkv", "--size", "24x16", "-w", "tiny.safetensors")
    assert outcome.code == 2
    assert "leave out --size" in outcome.err


def test_a_target_counts_prepared_frames(here: Path, tmp_path: Path) -> None:
    write_rgb("long.mkv", smooth(200, HEIGHT, WIDTH), container="matroska")
    options = EncodeOptions(device="cpu", precision="fp32", reader=ReaderOptions(size="24x16", fps=10))
    sample = Sample("long.mkv", tmp_path, load_model("tiny.safetensors"), options, None, lambda text: None)
    assert (sample.total_frames, sample.duration_s, sample.whole) == (80, 8.0, False)


def test_sound_keeps_its_times_beside_another_rate_and_is_cut_with_a_trim(here: Path) -> None:
    film("film.mkv", Track(codec="flac"), subtitle="subrip")
    encode("film.mkv", "--fps", "5", "--size", "16x16")
    encode("film.mkv", "--fps", "5", "--size", "16x16", "--start", "0.4", "--frames", "3", to="c.cvl")
    for name, begin, end in (("b", 0.0, 2.0), ("c", 0.4, 1.0)):
        assert run("decode", f"{name}.cvl", f"{name}.mkv", "--quiet", *MODEL).code == 0
        with av.open("film.mkv") as source, av.open(f"{name}.mkv") as made:
            wanted = [p for p in source.demux(audio=0) if p.size and p.pts is not None]
            kept = [p for p in made.demux(audio=0) if p.size and p.pts is not None]
        inside = [p for p in wanted if begin <= p.pts / 1000 and (p.pts + (p.duration or 0)) / 1000 <= end + 0.001]
        assert [bytes(p) for p in kept] == [bytes(p) for p in inside]
        with av.open(f"{name}.mkv") as made:
            times = [float(frame.time or 0) for frame in made.decode(video=0)]
            sound = [float(frame.time or 0) for frame in av.open(f"{name}.mkv").decode(audio=0)]
        assert abs(times[0] - sound[0]) < 0.1


def test_pictures_of_the_source_are_read_as_they_were_prepared(here: Path) -> None:
    Path("videos").mkdir()
    Path("in.mkv").rename("videos/in.mkv")
    outcome = run("batch", "videos", "--out", "latents", "--quiet", "-w", "tiny.safetensors", "--size", "24x16",
                  "--fps", "10", "--latents", "fp16", "--devices", "cpu")  # fmt: skip
    assert outcome.code == 0, outcome.err
    item = LatentDataset("latents", latents=None, pixels="source", model="tiny.safetensors")[0]
    with VideoReader("videos/in.mkv", size="24x16", fps=10) as reader:
        wanted = np.stack([frame.pixels for frame in reader])
    assert np.array_equal(item["pixels"].numpy()[:12], wanted)


@pytest.mark.parametrize(
    "reading",
    [{"size": "wide"}, {"size": 64}, {"fps": "0"}, {"fps": 8}, {"crop": "none"}, {"crop": ["center"]}, {"fps": "1e99"}],
)
def test_a_header_that_says_what_cannot_be_is_refused(here: Path, reading: dict[str, Any]) -> None:
    header = encode("in.mkv")
    with pytest.raises(BitstreamError, match="read as it cannot be"):
        reader_options(header.replace(metadata={"source_reader": reading}))


@pytest.mark.parametrize("options", [["--size", "short"], ["--fps", "0"], ["--crop", "none"], ["--crop", "left"]])
def test_what_cannot_be_prepared_is_refused_before_anything_is_written(here: Path, options: list[str]) -> None:
    outcome = run("encode", "in.mkv", "b.cvl", *MODEL, *options)
    assert outcome.code == 2
    assert not Path("b.cvl").exists()
