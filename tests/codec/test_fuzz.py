"""Damaged files through the decoder: a clean error or, where the damage is harmless, the very same frames."""

from __future__ import annotations

import io

import numpy as np
import pytest

from cvcodec.codec import DecodeOptions, Decoder, EncodeOptions, LatentFile, encode_stream
from cvcodec.errors import CvcodecError
from tests.codec.clips import Pipe, smooth, write_rgb
from tests.codec.patch_model import PatchModel

ROUNDS = 1000
OPTIONS = DecodeOptions(device="cpu", precision="fp32")


def make(latents: str) -> bytes:
    video, file = io.BytesIO(), io.BytesIO()
    write_rgb(video, smooth(14, 8, 12))
    video.seek(0)
    options = EncodeOptions(device="cpu", precision="fp32", latents=latents)  # type: ignore[arg-type]
    encode_stream(video, file, model=PatchModel(tile_latents=0), options=options)
    return file.getvalue()


def frames_of(data: bytes, *, piped: bool, start: float | None = None) -> list[tuple[int, int | None, bytes]]:
    source = Pipe(data) if piped else io.BytesIO(data)
    options = DecodeOptions(device="cpu", precision="fp32", start=start)
    decoder = Decoder(source, model=PatchModel(tile_latents=0), options=options)  # type: ignore[arg-type]
    return [(frame.pts, frame.duration, frame.pixels.tobytes()) for frame in decoder.frames()]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A truncation, one to three changed bytes, or a stretch that is missing, doubled or moved."""
    kind = rng.integers(5)
    a, b = sorted(int(place) for place in rng.integers(0, len(data), 2))
    if kind == 0:
        return data[:a]
    if kind == 1:
        return data[:a] + data[b:]
    if kind == 2:
        return data[:b] + data[a:]
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        changed[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
    return bytes(changed)


@pytest.mark.parametrize("latents", ["quantised", "fp16"])
def test_damage_is_an_error_or_changes_nothing(latents: str) -> None:
    data = make(latents)
    truth = frames_of(data, piped=False)
    assert frames_of(data, piped=True) == truth
    assert frames_of(data, piped=False, start=0.3) == truth[8:]
    rng = np.random.default_rng(7)
    errors: list[str] = []
    for number in range(ROUNDS):
        file = damaged(data, rng)
        try:
            if number % 3 == 2:  # goes straight to a chunk
                assert frames_of(file, piped=False, start=0.3) == truth[8:], number
            else:
                assert frames_of(file, piped=number % 3 == 1) == truth, number
        except CvcodecError as error:
            errors.append(str(error))
    assert len(errors) > ROUNDS * 0.9
    assert all(text and "\n" not in text for text in errors)


def test_every_truncation_of_the_last_bytes_is_an_error() -> None:
    data = make("quantised")
    for end in range(len(data) - 60, len(data)):
        for piped in (False, True):
            with pytest.raises(CvcodecError):
                frames_of(data[:end], piped=piped)


def test_slices_of_a_damaged_file_are_right_or_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = make("fp16")
    path = tmp_path_factory.mktemp("fuzz") / "a.cvl"
    path.write_bytes(data)
    with LatentFile(path) as file:
        truth = file.latents[:]
    rng = np.random.default_rng(8)
    for _ in range(60):
        path.write_bytes(damaged(data, rng))
        try:
            with LatentFile(path) as file:
                np.testing.assert_array_equal(file.latents[1:3], truth[:, 1:3])
        except CvcodecError:
            pass
