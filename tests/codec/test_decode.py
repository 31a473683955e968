"""What a decode gives, refuses and leaves behind."""

from __future__ import annotations

import dataclasses
import io
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from cvcodec.bitstream import BitstreamReader, BitstreamWriter
from cvcodec.codec import (
    DecodeOptions,
    Decoder,
    EncodeOptions,
    WriterOptions,
    decode_file,
    decode_stream,
    encode_file,
    encode_stream,
    video_output,
)
from cvcodec.errors import (
    BitstreamError,
    CvcodecError,
    InputError,
    ModelMismatchError,
    OutputError,
    TruncatedError,
    UnsupportedError,
    UsageError,
)
from cvcodec.model.base import VideoAutoencoder
from tests.codec.clips import Pipe, Sink, noise, read_rgb, smooth, write_rgb
from tests.codec.models import save_model, tiny_mini
from tests.codec.patch_model import PatchModel

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
FFV1 = DecodeOptions(**CPU, writer=WriterOptions(codec="ffv1"))
PICTURES = noise(21, 10, 12)


def mini(**arguments: Any) -> VideoAutoencoder:
    model = tiny_mini(**arguments)
    model.name, model.latent_space_id, model.decoder_hash = "mini", "a" * 16, "b" * 16
    return model


def encoded(pictures: list[Any], model: Any, **options: Any) -> bytes:
    video, file = io.BytesIO(), io.BytesIO()
    write_rgb(video, pictures)
    video.seek(0)
    encode_stream(video, file, model=model, options=EncodeOptions(**CPU, **options))
    return file.getvalue()


@pytest.fixture(scope="module")
def data() -> bytes:
    return encoded(PICTURES, PatchModel(), latents="fp32")


@pytest.mark.parametrize("small", [0, 1 << 40])
def test_pictures_are_the_same_whichever_thread_makes_them(
    data: bytes, small: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    makers: set[str] = set()
    convert = video_output.tensor_to_frames

    def noted(clip: torch.Tensor, bit_depth: int) -> Any:
        makers.add(threading.current_thread().name)
        return convert(clip, bit_depth)

    monkeypatch.setattr(video_output, "_SMALL_WINDOW_BYTES", small)
    monkeypatch.setattr(video_output, "tensor_to_frames", noted)
    (tmp_path / "a.cvl").write_bytes(data)
    decode_file(tmp_path / "a.cvl", tmp_path / "b.mkv", model=PatchModel(), options=FFV1)
    assert makers == {"pixel-converter" if small else threading.main_thread().name}
    np.testing.assert_array_equal([shown.pixels for shown in read_rgb(str(tmp_path / "b.mkv"))], PICTURES)


def test_a_model_may_be_named_or_left_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVCODEC_HOME", str(tmp_path))
    write_rgb(str(tmp_path / "in.mkv"), smooth(5, 16, 16), container="matroska")
    weights = save_model(tmp_path / "tiny.safetensors", tiny_mini())
    encode_file(tmp_path / "in.mkv", tmp_path / "a.cvl", model=weights, options=EncodeOptions(**CPU))
    assert decode_file(tmp_path / "a.cvl", tmp_path / "b.mkv", model=weights, options=FFV1).frames == 5
    with pytest.raises(InputError, match="the file wants model 'tiny', which is not installed"):
        decode_file(tmp_path / "a.cvl", tmp_path / "c.mkv", options=FFV1)


@pytest.fixture
def path(data: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "a.cvl"
    file.write_bytes(data)
    return file


def test_ffv1_holds_the_models_output_rounded_to_code_values(tmp_path: Path) -> None:
    model = mini()
    pictures = smooth(26, 37, 51)
    file = tmp_path / "a.cvl"
    file.write_bytes(encoded(pictures, model, latents="fp32", window=32))
    with file.open("rb") as raw:
        latents = np.concatenate([chunk.symbols for chunk in BitstreamReader(raw).chunks()], axis=1)
    with torch.no_grad():  # one window holds the whole clip, so the model's own call is the reference
        pixels = model.decode(torch.from_numpy(latents)[None])[0, :, :26, :37, :51]
    exact = ((pixels.double() + 1) * 127.5).clamp(0, 255).permute(1, 2, 3, 0).numpy()
    decode_file(file, tmp_path / "out.mkv", model=model, options=FFV1)
    shown = np.stack([frame.pixels for frame in read_rgb(str(tmp_path / "out.mkv"))])
    # A value halfway between two codes may go either way: how a processor sums in fp32 is not ours to say.
    assert np.abs(shown - exact).max() < 0.5 + 1e-3
    assert np.ptp(shown) > 50


def test_windows_with_context_decode_to_what_the_whole_clip_decodes_to() -> None:
    pictures = smooth(40, 24, 24)
    for options in ({"window": 2}, {"window": 5}):
        windowed = encoded(pictures, mini(), latents="fp32", **options)
        whole = encoded(pictures, mini(), latents="fp32", window=32)
        values = [
            np.concatenate([chunk.symbols for chunk in BitstreamReader(io.BytesIO(data)).chunks()], axis=1)
            for data in (windowed, whole)
        ]
        np.testing.assert_allclose(values[0], values[1], atol=1e-3)
        frames = [
            [f.pixels.astype(int) for f in Decoder(io.BytesIO(d), model=mini(), options=DecodeOptions(**CPU)).frames()]
            for d in (windowed, whole)
        ]
        assert np.abs(np.stack(frames[0]) - np.stack(frames[1])).max() <= 1


def test_another_latent_space_is_refused_before_anything_is_written(path: Path) -> None:
    other = PatchModel()
    other.latent_space_id, other.name = "f" * 16, "other"
    with pytest.raises(ModelMismatchError, match=r"other has latent space ffff.* made in 0123456789abcdef by patch"):
        decode_file(path, path.parent / "out.mkv", model=other)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.cvl"]


def test_another_decoder_is_reported_and_used(data: bytes) -> None:
    other = PatchModel()
    other.decoder_hash, other.name = "f" * 16, "finetuned"
    notices: list[str] = []
    decoder = Decoder(io.BytesIO(data), model=other, options=DecodeOptions(**CPU), on_notice=notices.append)
    assert len(list(decoder.frames())) == len(PICTURES)
    assert len(notices) == 1 and "finetuned has another decoder" in notices[0]


def test_a_model_may_be_chosen_by_what_the_header_says(data: bytes) -> None:
    asked: list[str] = []

    def choose(header: Any) -> VideoAutoencoder:
        asked.append(header.model)
        return PatchModel()

    Decoder(io.BytesIO(data), model=choose, options=DecodeOptions(**CPU))
    assert asked == ["patch-model"]


def test_a_pipe_in_and_a_pipe_out_carry_a_whole_video(data: bytes) -> None:
    sink = Sink()
    result = decode_stream(Pipe(data), sink, model=PatchModel(), options=FFV1)
    assert result.frames == len(PICTURES)
    frames = read_rgb(io.BytesIO(bytes(sink.data)))
    np.testing.assert_array_equal([frame.pixels for frame in frames], PICTURES)


def test_on_a_pipe_that_ends_early_the_verified_frames_flow_before_the_error(data: bytes) -> None:
    index = BitstreamReader(io.BytesIO(data)).index
    assert len(index) == 3
    for end, least in ((index[2].offset, 5), (index[2].offset + 40, 5), (len(data) - 30, 13), (len(data) - 1, 13)):
        decoder = Decoder(Pipe(data[:end]), model=PatchModel(), options=DecodeOptions(**CPU))
        frames: list[Any] = []
        with pytest.raises(TruncatedError):
            for frame in decoder.frames():
                frames.append(frame.pixels)
        assert len(frames) >= least
        np.testing.assert_array_equal(frames, PICTURES[: len(frames)])


def test_a_file_that_ends_early_is_refused_and_nothing_is_left(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "cut.cvl"
    for end in (0, 5, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:end])
        with pytest.raises(BitstreamError):
            decode_file(file, tmp_path / "out.mkv", model=PatchModel(), options=FFV1)
        assert [entry.name for entry in tmp_path.iterdir()] == ["cut.cvl"]


def rebuilt(data: bytes, change: Any) -> bytes:
    """The file written anew, `change(writer, chunk)` called before each chunk and, with None, before the trailer."""
    source, sink = BitstreamReader(io.BytesIO(data)), io.BytesIO()
    writer = BitstreamWriter(sink, source.header)
    for chunk in source.chunks():
        change(writer, chunk)
        writer.write_chunk(chunk)
    change(writer, None)
    writer.close()
    return sink.getvalue()


def test_unknown_optional_records_are_skipped_and_required_ones_refused_by_name(data: bytes) -> None:
    optional = rebuilt(data, lambda writer, chunk: writer.write_record("XTRA", b"anything"))
    for file in (io.BytesIO(optional), Pipe(optional)):
        frames = Decoder(file, model=PatchModel(), options=DecodeOptions(**CPU)).frames()
        np.testing.assert_array_equal([frame.pixels for frame in frames], PICTURES)

    def last(writer: BitstreamWriter, chunk: Any) -> None:
        if chunk is None:  # behind the last chunk, where a reader in a hurry would no longer look
            writer.write_record("XNEW", b"", required=True)

    required = rebuilt(data, last)
    for file in (io.BytesIO(required), Pipe(required)):
        with pytest.raises(UnsupportedError, match="XNEW"):
            list(Decoder(file, model=PatchModel(), options=DecodeOptions(**CPU)).frames())


def test_a_trailer_that_does_not_fit_its_file_is_found(data: bytes) -> None:
    # The last chunk replaced by one of equal size: every record is intact, but they do not belong together.
    source, sink = BitstreamReader(io.BytesIO(data)), io.BytesIO()
    writer = BitstreamWriter(sink, source.header)
    for chunk in source.chunks():
        writer.write_chunk(dataclasses.replace(chunk, durations=chunk.durations - (chunk.index == 2)))
    last, other = source.index[-1], sink.getvalue()
    assert writer.bytes_written == last.offset + last.size
    mixed = other + data[len(other) :]
    for file in (io.BytesIO(mixed), Pipe(mixed)):
        with pytest.raises(BitstreamError, match="trailer does not match"):
            list(Decoder(file, model=PatchModel(), options=DecodeOptions(**CPU)).frames())


def test_outputs_are_refused_as_promised(path: Path) -> None:
    folder = path.parent
    (folder / "there.mkv").write_bytes(b"precious")
    for destination, words in (
        ("there.mkv", "exists"),
        ("a.cvl", "source itself"),
        ("out.xyz", "known extensions"),
        ("absent/out.mkv", "does not exist"),
        ("absent/%03d.png", "does not exist"),
        ("out.png", "holds one picture"),
    ):
        with pytest.raises(OutputError, match=words):
            decode_file(path, str(folder / destination), model=PatchModel(), options=DecodeOptions(**CPU))
    for writer, kind in ((WriterOptions(codec="libsvtav1"), None), (WriterOptions(codec="ffv1", crf=3.0), UsageError)):
        options = DecodeOptions(**CPU, writer=writer)
        if kind is None:
            assert decode_file(path, folder / "av1.mkv", model=PatchModel(), options=options).frames == len(PICTURES)
        else:
            with pytest.raises(kind):
                decode_file(path, folder / "out.mkv", model=PatchModel(), options=options)
    assert (folder / "there.mkv").read_bytes() == b"precious"
    assert sorted(entry.name for entry in folder.iterdir()) == ["a.cvl", "av1.mkv", "there.mkv"]


def test_a_sequence_is_refused_over_existing_images_and_removed_when_decoding_fails(path: Path, data: bytes) -> None:
    pattern = str(path.parent / "f%02d.png")
    (path.parent / "f07.png").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"f07\.png exists"):
        decode_file(path, pattern, model=PatchModel(), options=DecodeOptions(**CPU))
    decode_file(path, pattern, model=PatchModel(), options=DecodeOptions(**CPU), overwrite=True)
    assert len(list(path.parent.glob("f*.png"))) == len(PICTURES)
    damaged = bytearray(data)
    damaged[BitstreamReader(io.BytesIO(data)).index[2].offset + 60] ^= 1
    (path.parent / "damaged.cvl").write_bytes(damaged)
    with pytest.raises(CvcodecError):
        other = str(path.parent / "g%02d.png")
        decode_file(path.parent / "damaged.cvl", other, model=PatchModel(), options=DecodeOptions(**CPU))
    assert not list(path.parent.glob("g*"))


def test_an_encoders_size_limit_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a.cvl").write_bytes(encoded(noise(2, 2, 3), PatchModel(), latents="fp32"))
    with pytest.raises(OutputError, match="cannot encode 3x2"):
        options = DecodeOptions(**CPU, writer=WriterOptions(codec="libsvtav1"))
        decode_file(tmp_path / "a.cvl", tmp_path / "out.mp4", model=PatchModel(), options=options)
    result = decode_file(tmp_path / "a.cvl", tmp_path / "out.mp4", model=PatchModel(), options=DecodeOptions(**CPU))
    assert [notice for notice in result.notices if "4:4:4" in notice]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.cvl", "out.mp4"]


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        decode_file(tmp_path / "absent.cvl", tmp_path / "out.mkv", model=PatchModel())


@pytest.mark.parametrize(("pixel_format", "told"), [("yuv444p", "4:4:4"), ("yuv422p", "4:2:2"), ("yuv420p", None)])
def test_a_decode_says_which_colours_of_the_source_it_makes_coarser(pixel_format: str, told: str | None) -> None:
    video, file = io.BytesIO(), io.BytesIO()
    with av.open(video, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=25, width=16, height=16)
        stream.pix_fmt = pixel_format
        frame = av.VideoFrame(16, 16, pixel_format)
        frame.pts = 0
        output.mux([*stream.encode(frame), *stream.encode(None)])
    video.seek(0)
    encode_stream(video, file, model=PatchModel(), options=EncodeOptions(**CPU))
    file.seek(0)
    result = decode_stream(file, io.BytesIO(), model=PatchModel(), options=DecodeOptions(**CPU))
    found = [notice for notice in result.notices if "stored as 4:2:0" in notice]
    assert found == ([] if told is None else [f"the source's colours are {told} and are stored as 4:2:0; --chroma "
                                              f"{told.replace(':', '')} keeps them"])  # fmt: skip
