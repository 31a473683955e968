"""Frames in memory to .cvl and back: the latents are those of a lossless video of the same frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cvcodec
from cvcodec.codec import EncodeOptions, ReaderOptions
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from tests.codec.clips import noise, write_rgb
from tests.dataset.small import save_small_model

OPTIONS = EncodeOptions(device="cpu", precision="fp32", latents="fp32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoAutoencoder:
    return save_small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.mark.parametrize("form", ["array", "tensor", "iterator"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_an_array_becomes_what_a_lossless_video_of_it_becomes(
    model: VideoAutoencoder, tmp_path: Path, form: str, bit_depth: int
) -> None:
    pictures = noise(6, 16, 24, bit_depth=bit_depth)
    step = Fraction(1001, 30000)
    write_rgb(tmp_path / "v.nut", pictures, bit_depth=bit_depth, time_base=step, rate=1 / step)
    cvcodec.encode_file(tmp_path / "v.nut", tmp_path / "file.cvl", model=model, options=OPTIONS)
    stacked: Any = np.stack(pictures)
    given: Any = {
        "array": stacked,
        "tensor": torch.from_numpy(stacked if bit_depth == 8 else stacked.astype(np.int32)),
        "iterator": iter(pictures),
    }[form]
    told: list[tuple[int, int | None]] = []
    result = cvcodec.encode_array(
        given, tmp_path / "array.cvl", fps="30000/1001", model=model, options=OPTIONS,
        on_progress=lambda done, size, total: told.append((done, total)),
    )  # fmt: skip
    assert result.frames == 6
    assert told[-1] == (6, None if form == "iterator" else 6)
    with cvcodec.open(tmp_path / "file.cvl") as wanted, cvcodec.open(tmp_path / "array.cvl", model=model) as got:
        assert np.array_equal(wanted.latents[:], got.latents[:])
        assert (got.header.color, got.header.bit_depth) == (wanted.header.color, bit_depth)
        assert [pts * got.header.time_base for pts in got.pts(0, 6).tolist()] == [n * step for n in range(6)]
        whole, part = got.frames[:], got.frames[2:5]
    decoded = cvcodec.decode_array(tmp_path / "array.cvl", model=model)
    assert (decoded.shape, decoded.dtype) == ((6, 16, 24, 3), np.uint8 if bit_depth == 8 else np.uint16)
    assert np.array_equal(decoded, whole)
    assert np.array_equal(cvcodec.decode_array(tmp_path / "array.cvl", 2, -1, model=model), part)


def test_a_rate_given_as_a_float_is_the_broadcast_rate_that_it_means(model: VideoAutoencoder, tmp_path: Path) -> None:
    for name, fps, wanted in (("a", 30000 / 1001, Fraction(30000, 1001)), ("b", 12.5, Fraction(25, 2))):
        cvcodec.encode_array(np.zeros((1, 16, 16, 3), np.uint8), tmp_path / name, fps=fps, model=model, options=OPTIONS)
        with cvcodec.open(tmp_path / name) as file:
            assert file.header.average_rate == wanted


PICTURES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("frames", "given", "message"),
    [
        (np.zeros((2, 3, 16, 16), np.uint8), {}, r"frame 0 is \(3, 16, 16\) uint8, wanted \(H, W, 3\) RGB; permute"),
        (PICTURES / 255.0, {}, r"float64, wanted integers; floats in \[0, 1\] become them"),
        (PICTURES[0], {}, r"frames are \(16, 16, 3\), wanted \(T, H, W, 3\)"),
        (PICTURES[:0], {}, r"wanted \(T, H, W, 3\) with at least one"),
        (iter(()), {}, "no frames"),
        (np.full((2, 16, 16, 3), 1024), {}, "from 1024 to 1024, at 10 bits wanted 0 to 1023; give bit_depth"),
        (np.full((2, 16, 16, 3), -1, np.int16), {}, "from -1 to -1"),
        ([PICTURES[0], PICTURES[0, :8]], {}, r"frame 1 is \(8, 16, 3\) uint8, the first is \(16, 16, 3\)"),
        (PICTURES, {"fps": 0}, "no frame rate"),
        (PICTURES, {"bit_depth": 20}, "outside 8 to 16"),
        (PICTURES, {"options": EncodeOptions(reader=ReaderOptions(frames=1))}, "slice the array"),
    ],
)
def test_what_is_no_array_of_frames_is_refused_and_leaves_nothing(
    model: VideoAutoencoder, tmp_path: Path, frames: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        cvcodec.encode_array(frames, tmp_path / "out.cvl", **{"fps": 25, "model": model, **given})
    assert list(tmp_path.iterdir()) == []
