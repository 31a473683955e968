"""`cvcodec.open`: slices of latents and frames equal those of the whole, and read no more than they need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cvcodec
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, LatentFile
from cvcodec.errors import BitstreamError, InputError, ModelMismatchError, UsageError
from tests.codec.clips import Watched, noise, write_rgb
from tests.codec.models import save_model, tiny_mini
from tests.codec.patch_model import CHANNELS, PatchModel

COUNT = 30
PICTURES = noise(COUNT, 9, 14)
LATENTS = 9

SLICES = [
    slice(None),
    slice(0, 1),
    slice(3, 7),
    slice(4, 5),
    slice(-4, None),
    slice(None, -3),
    slice(2, None, 3),
    slice(None, None, 7),
    slice(5, 5),
    slice(7, 3),
    slice(100, 200),
    slice(-100, 2),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open")
    write_rgb(str(folder / "in.nut"), PICTURES)
    options = EncodeOptions(latents="fp32", device="cpu", precision="fp32")
    cvcodec.encode_file(folder / "in.nut", folder / "a.cvl", model=PatchModel(), options=options)
    return folder / "a.cvl"


@pytest.fixture
def file(path: Path) -> Iterator[LatentFile]:
    with cvcodec.open(path, model=PatchModel(), device="cpu", precision="fp32") as opened:
        yield opened


@pytest.mark.parametrize("key", SLICES, ids=str)
def test_frames_slice_like_the_list_of_pictures(file: LatentFile, key: slice) -> None:
    expected = np.stack(PICTURES)[key]
    got = file.frames[key]
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("key", SLICES, ids=str)
def test_latents_slice_like_the_array_of_all(file: LatentFile, path: Path, key: slice) -> None:
    with cvcodec.open(path) as other:
        whole = other.latents[:]
    assert whole.shape == file.latents.shape == (CHANNELS, LATENTS, 3, 4)
    assert (file.latents[key].dtype, len(file.latents)) == (np.float32, LATENTS)
    np.testing.assert_array_equal(file.latents[key], whole[:, key])


def test_a_number_gives_one_frame_or_latent_and_counts_from_the_end_if_negative(file: LatentFile) -> None:
    for number in (0, 1, 17, 29, -1, -30):
        np.testing.assert_array_equal(file.frames[number], PICTURES[number])
    np.testing.assert_array_equal(file.latents[-2], file.latents[:][:, -2])
    for view in (file.frames, file.latents):
        for number in (len(view), -len(view) - 1):
            with pytest.raises(IndexError):
                view[number]
    with pytest.raises(ValueError, match="backwards"):
        file.frames[::-1]
    assert (len(file.frames), file.frames.shape) == (COUNT, (COUNT, 9, 14, 3))
    assert file.header.width == 14


def test_time_stamps_slice_across_chunks(file: LatentFile) -> None:
    base = file.header.time_base
    assert [int(tick) * base * 25 for tick in file.pts(0, COUNT)] == list(range(COUNT))
    assert [int(tick) * base * 25 for tick in file.pts(7, 19)] == list(range(7, 19))
    assert len(file.pts(4, 4)) == 0


def test_a_slice_reads_the_chunks_it_needs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cvcodec.codec import latent_file

    watched = Watched(path.read_bytes())
    monkeypatch.setattr(latent_file, "open_input", lambda name: watched)
    with LatentFile("any name", model=PatchModel(), device="cpu", precision="fp32") as file:
        index = file.reader.index

        def chunks_read() -> set[int]:
            spans = [set(range(entry.offset, entry.offset + entry.size)) for entry in index]
            found = {number for number, span in enumerate(spans) if watched.touched & span}
            watched.touched.clear()
            return found

        chunks_read()
        file.latents[5]
        assert chunks_read() == {2}
        file.frames[0]
        assert chunks_read() == {0, 1}  # of two latents each; one latent behind is context


def test_the_models_frames_are_those_of_a_decode(tmp_path: Path) -> None:
    weights = save_model(tmp_path / "tiny.safetensors", tiny_mini())
    model = load_model(str(weights))
    write_rgb(str(tmp_path / "in.nut"), noise(27, 17, 20))
    options = EncodeOptions(device="cpu", precision="fp32")
    cvcodec.encode_file(tmp_path / "in.nut", tmp_path / "a.cvl", model=model, options=options)
    with (tmp_path / "a.cvl").open("rb") as raw:
        decoder = Decoder(raw, model=model, options=DecodeOptions(device="cpu", precision="fp32"))
        whole = np.stack([frame.pixels for frame in decoder.frames()])
    with cvcodec.open(tmp_path / "a.cvl", model=weights, device="cpu", precision="fp32") as file:
        np.testing.assert_array_equal(file.frames[:], whole)
        np.testing.assert_array_equal(file.frames[11:14], whole[11:14])
        np.testing.assert_array_equal(file.frames[26], whole[26])


def test_a_model_is_loaded_by_the_name_in_the_file_when_frames_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVCODEC_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    weights = save_model(tmp_path / "models" / "my-model.safetensors", tiny_mini())
    write_rgb(str(tmp_path / "in.nut"), noise(3, 8, 8))
    model = load_model("my-model")
    cvcodec.encode_file(tmp_path / "in.nut", tmp_path / "a.cvl", model=model, options=EncodeOptions(device="cpu"))
    with cvcodec.open(tmp_path / "a.cvl", device="cpu") as file:
        assert file.frames[1:].shape == (2, 8, 8, 3)
    weights.unlink()
    with cvcodec.open(tmp_path / "a.cvl", device="cpu") as file:
        assert file.latents[:].shape[1] == 2
        with pytest.raises(InputError, match="my-model"):
            file.frames[0]


def test_log_variances_are_there_when_they_were_kept(tmp_path: Path, path: Path) -> None:
    model: Any = tiny_mini()
    model.latent_space_id = "0" * 16
    write_rgb(str(tmp_path / "in.nut"), noise(14, 16, 16))
    options = EncodeOptions(device="cpu", precision="fp32", latents="fp32", store_logvar=True)
    cvcodec.encode_file(tmp_path / "in.nut", tmp_path / "a.cvl", model=model, options=options)
    with cvcodec.open(tmp_path / "a.cvl") as file:
        logvar = file.logvar[:]
        assert logvar.shape == file.latents.shape
        np.testing.assert_array_equal(file.logvar[2:5], logvar[:, 2:5])
        assert np.ptp(logvar) > 0
    with cvcodec.open(path) as file, pytest.raises(UsageError, match="--store-logvar"):
        file.logvar[0]


def test_what_cannot_be_opened_says_why(tmp_path: Path, path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        cvcodec.open(tmp_path / "absent.cvl")
    (tmp_path / "not.cvl").write_bytes(b"RIFF" * 100)
    with pytest.raises(BitstreamError):
        cvcodec.open(tmp_path / "not.cvl")
    with LatentFile(path) as file, pytest.raises(UsageError, match="without a model"):
        file.frames[0]
    other = PatchModel()
    other.latent_space_id = "1" * 16
    with cvcodec.open(path, model=other) as file, pytest.raises(ModelMismatchError, match="latent space"):
        file.frames[0]
