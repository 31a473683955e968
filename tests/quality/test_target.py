"""Searching for a quality, against encodes at the neighbouring qualities."""

import dataclasses
import io
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cvcodec.codec import DecodeOptions, EncodeOptions, ReaderOptions, encode_stream
from cvcodec.errors import InputError, UsageError
from cvcodec.model.mini import mini_config
from cvcodec.quality import target as module
from cvcodec.quality.sources import Comparison, round_trip
from cvcodec.quality.target import Target, find_quality
from cvcodec.video import VideoReader, VideoWriter
from harness import random_model, write_clip
from tests.codec.movies import FONT, Track, film
from tests.codec.patch_model import PatchModel

OPTIONS = EncodeOptions(device="cpu", precision="fp32", threads=1, window=2)


@pytest.fixture(scope="module")
def model():
    config = mini_config(4, widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), window_latents=2)
    return random_model(config, "tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, 48, 32, 40)
    return path


def encoded_size(clip: Path, model, quality: float, **reader) -> int:
    sink = io.BytesIO()
    options = EncodeOptions(
        device="cpu", precision="fp32", threads=1, window=2, quality=quality, reader=ReaderOptions(**reader)
    )
    return encode_stream(clip, sink, model=model, options=options).size_bytes


def test_a_size_of_a_short_video_is_met_to_the_byte_and_not_passed(clip, model):
    wanted = encoded_size(clip, model, 63.7, frames=13)
    options = EncodeOptions(device="cpu", precision="fp32", threads=1, window=2, reader=ReaderOptions(frames=13))
    found = find_quality(clip, Target("size", wanted), model=model, options=options)
    assert found.whole
    assert found.frames == 13
    size = encoded_size(clip, model, found.quality, frames=13)
    assert size == found.predicted <= wanted
    assert size > 0.98 * wanted


def test_a_size_of_a_longer_video_is_predicted_from_pieces(clip, model):
    wanted = encoded_size(clip, model, 63.7)
    found = find_quality(clip, Target("size", wanted), model=model, options=OPTIONS)
    assert not found.whole
    assert (found.pieces, found.frames) == (3, 15)
    assert encoded_size(clip, model, found.quality) == pytest.approx(wanted, rel=0.1)


def test_a_bitrate_is_the_size_over_the_duration(clip, model):
    wanted = encoded_size(clip, model, 50.0)
    by_rate = find_quality(clip, Target("bitrate", 8 * wanted / (40 / 25)), model=model, options=OPTIONS)
    by_size = find_quality(clip, Target("size", wanted), model=model, options=OPTIONS)
    assert by_rate.quality == pytest.approx(by_size.quality, abs=0.05)


def test_a_psnr_is_reached_with_the_least_quality_that_does(clip):
    model = PatchModel()
    options = EncodeOptions(device="cpu", precision="fp32", threads=1, window=2, reader=ReaderOptions(frames=13))

    def psnr(quality: float) -> float:
        comparison = Comparison(
            measure={"metrics": ("psnr",)},
            reader=ReaderOptions(frames=13),
            decode=DecodeOptions(device="cpu", precision="fp32", threads=1),
        )
        encode = EncodeOptions(
            device="cpu", precision="fp32", threads=1, window=2, reader=ReaderOptions(frames=13), quality=quality
        )
        value = round_trip(clip, model, encode, comparison).mean("psnr_db")
        assert value is not None
        return value

    low, high = psnr(10.0), psnr(60.0)
    wanted = (low + high) / 2
    found = find_quality(clip, Target("psnr", wanted), model=model, options=options)
    assert found.predicted == pytest.approx(psnr(found.quality), abs=1e-6)
    assert found.predicted >= wanted
    assert found.predicted - wanted < 0.05 or psnr(found.quality - 0.5) < wanted


class Curve:
    """A sample whose value at a quality is a formula."""

    pieces = ()
    whole = True
    copied = 0

    def __init__(self, formula):
        self.formula = formula
        self.asked = []

    def value(self, kind, quality):
        self.asked.append(quality)
        return self.formula(quality)


@pytest.mark.parametrize("at", [0.3, 12.5, 33.3, 50.0, 61.0, 99.9, 100.0])
@pytest.mark.parametrize("kind", ["size", "bitrate", "psnr", "lpips"])
def test_the_search_ends_near_the_answer_on_its_right_side_after_few_tries(kind, at):
    formulas = {
        "psnr": lambda quality: 20 + 15 * (quality / 100) ** 0.5,
        "lpips": lambda quality: 0.5 * 2 ** (-quality / 25),
        "size": lambda quality: 1000 * 2 ** (quality / 14) + 300 * quality,
        "bitrate": lambda quality: 50 * 2 ** (quality / 20),
    }
    curve = Curve(formulas[kind])
    target = Target(kind, formulas[kind](at))
    found = module._search(target, curve)
    assert abs(found.quality - at) <= (0.12 if target.at_most else 0.6)
    if kind in ("size", "bitrate"):
        assert found.predicted <= target.value
    elif kind == "psnr":
        assert found.predicted >= target.value
    else:
        assert found.predicted <= target.value
    assert len(curve.asked) == len(set(curve.asked)) <= 16


def test_what_every_quality_satisfies_takes_the_end_of_the_scale():
    assert module._search(Target("size", 1e9), Curve(lambda quality: 1000 + quality)).quality == 100
    assert module._search(Target("psnr", 10.0), Curve(lambda quality: 20 + quality)).quality == 0


@pytest.mark.parametrize(
    ("kind", "value", "formula", "said"),
    [
        ("size", 10, lambda quality: 1000 + quality, "0 has 1,000 bytes"),
        ("psnr", 40, lambda quality: 20 + quality / 10, "100 has PSNR 30.00 dB"),
        ("lpips", 0.01, lambda quality: 0.2 + abs(quality - 75) / 1000, "75 has LPIPS 0.2000"),
    ],
)
def test_what_no_quality_reaches_is_said_with_the_best_there_is(kind, value, formula, said):
    with pytest.raises(UsageError, match=said):
        module._search(Target(kind, value), Curve(formula))


def test_latents_without_a_quality_have_no_target(clip, model):
    with pytest.raises(UsageError, match="fp16"):
        find_quality(clip, Target("psnr", 30), model=model, options=EncodeOptions(latents="fp16"))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_is_a_positive_number(value):
    with pytest.raises(UsageError, match="positive"):
        Target("psnr", value)


def test_a_file_that_came_out_too_large_is_made_once_more(clip, model, tmp_path, monkeypatch):
    """The pieces are made to say a tenth less than is true."""
    wanted = encoded_size(clip, model, 75.0)
    truth = module.Sample._bytes
    monkeypatch.setattr(module.Sample, "_bytes", lambda self, quality: truth(self, quality) / 1.1)
    said: list[str] = []
    result, found = module.encode_to_target(
        clip, tmp_path / "out.cvl", Target("size", wanted), model=model, options=OPTIONS, on_notice=said.append
    )
    assert [text for text in said if "once more" in text]
    assert result.size_bytes == (tmp_path / "out.cvl").stat().st_size
    assert result.size_bytes <= wanted
    assert result.size_bytes == encoded_size(clip, model, found.quality)


def test_sound_that_is_copied_counts_in_a_size_and_not_in_a_bitrate(clip, model, tmp_path):
    path = tmp_path / "sound.mkv"
    with VideoReader(clip) as source, VideoWriter.like(path, source.info, codec="ffv1") as writer:
        sound = writer.output.container.add_stream("pcm_s16le", rate=48000, layout="mono")
        noise = np.random.default_rng(0).integers(-20000, 20000, (1, 48000), dtype=np.int16)
        samples = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = 48000, 0, Fraction(1, 48000)
        for frame in source:
            writer.write(frame)
        for packet in [*sound.encode(samples), *sound.encode(None)]:
            writer.output.mux(packet)
    silent = encoded_size(clip, model, 60.0)
    found = find_quality(path, Target("size", silent + 100_000), model=model, options=OPTIONS)
    result = encode_stream(path, io.BytesIO(), model=model, options=dataclasses.replace(OPTIONS, quality=found.quality))
    assert result.copied_bytes > 80_000
    assert result.size_bytes <= 1.02 * (silent + 100_000)
    rate = Target("bitrate", 8 * silent / (40 / 25))
    both = [
        find_quality(path, rate, model=model, options=dataclasses.replace(OPTIONS, kinds=kinds)).quality
        for kinds in (("audio",), ())
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize("container", ["matroska", "nut"])
@pytest.mark.parametrize("frames", [13, 40])
def test_pieces_lie_in_the_picture_where_sound_lasts_longer(tmp_path, model, container, frames):
    """Both containers give one length, that of the longest stream; Matroska's tags tell more."""
    film(tmp_path / "sound", Track(seconds=9.0), container=container, frames=frames)
    with module._sampled(tmp_path / "sound", Target("psnr", 1), model, OPTIONS, None, None) as sample:
        assert (sample.total_frames, sample.duration_s) == (frames, pytest.approx(frames / 25))
        assert sum(piece.frames for piece in sample.pieces) == min(frames, 15)


def test_pieces_of_a_trim_and_of_uneven_times_have_frames(tmp_path, model):
    ticks = [512 * number for number in range(39)] + [12800 * 20]  # the last frame but one is shown for 18 s
    film(tmp_path / "a.mp4", frames=40, video_pts=ticks)
    assert find_quality(tmp_path / "a.mp4", Target("psnr", 1), model=model, options=OPTIONS).pieces == 3
    film(tmp_path / "b.mkv", Track(seconds=9.0), frames=90)
    options = dataclasses.replace(OPTIONS, reader=ReaderOptions(start=0.4, duration=1.2))
    found = find_quality(tmp_path / "b.mkv", Target("bitrate", 1e6), model=model, options=options)
    assert (found.pieces, found.frames) == (3, 15)


def test_files_count_in_a_size_and_other_pictures_do_not(tmp_path, model):
    film(tmp_path / "font.mkv", frames=13, attachments=[("a.ttf", "font/ttf", FONT)])
    wanted = encoded_size(tmp_path / "font.mkv", model, 60.0)
    found = find_quality(tmp_path / "font.mkv", Target("size", wanted), model=model, options=OPTIONS)
    assert found.predicted == pytest.approx(encoded_size(tmp_path / "font.mkv", model, found.quality), abs=20)
    assert found.predicted > 0.99 * wanted
    with pytest.raises(UsageError, match="are sound and other copied streams, which --no-audio leaves out"):
        find_quality(tmp_path / "font.mkv", Target("size", len(FONT)), model=model, options=OPTIONS)
    with av.open(str(tmp_path / "two.mkv"), "w") as output:
        streams = [output.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        noise = np.random.default_rng(0)
        for number in range(13):
            for stream in streams:
                picture = av.VideoFrame.from_ndarray(noise.integers(0, 255, (32, 48, 3), np.uint8), "rgb24")
                picture.pts, picture.time_base = number, Fraction(1, 25)
                output.mux(stream.encode(picture))
        for stream in streams:
            output.mux(stream.encode(None))
    wanted = encoded_size(tmp_path / "two.mkv", model, 60.0)
    found = find_quality(tmp_path / "two.mkv", Target("size", wanted), model=model, options=OPTIONS)
    assert found.predicted == encoded_size(tmp_path / "two.mkv", model, found.quality) <= wanted


def test_sound_outside_a_trim_does_not_count(tmp_path, model):
    film(tmp_path / "a.mkv", Track("pcm_s16le", seconds=9.0), frames=40)
    for trim in ({"end": 0.8}, {"frames": 20}):
        options = dataclasses.replace(OPTIONS, reader=ReaderOptions(**trim))
        result = encode_stream(tmp_path / "a.mkv", io.BytesIO(), model=model, options=options)
        with module._sampled(tmp_path / "a.mkv", Target("size", 1e6), model, options, None, None) as sample:
            assert sample.copied == pytest.approx(result.copied_bytes, rel=0.01)


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_what_stays_too_large_is_an_error_and_never_seen(clip, model, tmp_path, monkeypatch, before):
    wanted = encoded_size(clip, model, 75.0)
    truth = module.Sample._bytes
    monkeypatch.setattr(module.Sample, "_bytes", lambda self, quality: truth(self, quality) / 1.1)
    monkeypatch.setattr(module.Sample, "learn", lambda self, result, quality: None)
    path = tmp_path / "out.cvl"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(UsageError, match="again; nothing was written"):
        module.encode_to_target(
            clip, path, Target("size", wanted), model=model, options=OPTIONS, overwrite=before is not None
        )
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({"out.cvl": before} if before else {})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_given_only_what_is_small_enough(clip, model, tmp_path, monkeypatch):
    wanted = encoded_size(clip, model, 75.0)
    truth = module.Sample._bytes
    monkeypatch.setattr(module.Sample, "_bytes", lambda self, quality: truth(self, quality) / 1.1)
    os.mkfifo(tmp_path / "out")
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append((tmp_path / "out").read_bytes()), daemon=True)
    reader.start()
    result, _ = module.encode_to_target(clip, tmp_path / "out", Target("size", wanted), model=model, options=OPTIONS)
    reader.join(30)
    assert len(came[0]) == result.size_bytes <= wanted


def test_a_name_with_a_colon_is_a_file_and_an_address_is_refused(clip, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30.mp4").write_bytes(clip.read_bytes())
    options = dataclasses.replace(OPTIONS, reader=ReaderOptions(frames=5))
    assert find_quality("12:30.mp4", Target("size", 1e6), model=model, options=options).frames == 5
    with pytest.raises(InputError, match="is an address"):
        find_quality(f"file://{clip}", Target("size", 1e6), model=model, options=options)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_source_that_is_a_pipe_is_refused(model, tmp_path):
    os.mkfifo(tmp_path / "in.mkv")
    with pytest.raises(UsageError, match="--target reads the video more than once"):
        module.encode_to_target(tmp_path / "in.mkv", tmp_path / "out.cvl", Target("psnr", 30), model=model)
