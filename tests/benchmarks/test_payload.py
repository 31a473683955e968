"""`python benchmarks/payload.py`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import harness
import payload
from cvcodec.bitstream import BitstreamReader
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import EncodeOptions, encode_file


def test_the_entropy_is_shannons_channel_by_channel() -> None:
    even = np.arange(64, dtype=np.int32).reshape(1, 1, 8, 8) % 4  # four values, equally often: 2 bits each
    still = np.full((1, 1, 8, 8), 7, np.int32)
    skewed = np.array([0] * 48 + [1] * 16, np.int32).reshape(1, 1, 8, 8)
    bits = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) * 64
    assert payload.order0_bytes(even) == pytest.approx(16)
    assert payload.order0_bytes(still) == 0
    assert payload.order0_bytes(np.concatenate([even, still, skewed])) == pytest.approx(16 + bits / 8)


@pytest.mark.parametrize(("peak", "width"), [(127, 1), (-127, 1), (128, 2), (40000, 4)])
def test_zstd_is_given_the_smallest_type_that_holds_the_symbols(peak: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(-127, 128, (4, 16, 32, 32)).astype(np.int32)
    noise[0, 0, 0, 0] = peak
    assert payload.zstd_bytes(noise) == pytest.approx(noise.size * (1 if width == 1 else 1.25), rel=0.2)


def test_the_payload_is_what_a_file_holds(
    tiny_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "clip.mp4"
    harness.write_clip(clip, 64, 48, 41)
    arguments = [str(clip), "-w", tiny_weights, "--qualities", "40,75", "--json", "--threads", "1"]
    assert payload.main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["quality"] for line in lines] == [40, 75]
    assert lines[0]["payload_bytes"] < lines[1]["payload_bytes"]
    encode_file(clip, tmp_path / "c.cvl", model=load_model(tiny_weights), options=EncodeOptions(quality=75, threads=1))
    with open(tmp_path / "c.cvl", "rb") as file:
        reader = BitstreamReader(file)
        symbols = np.concatenate([chunk.symbols for chunk in reader.chunks()], axis=1)
        assert reader.trailer is not None
        stored = reader.trailer.chunk_bytes
    assert lines[1]["symbols"] == symbols.size
    assert lines[1]["zstd_bytes"] == payload.zstd_bytes(symbols)
    assert lines[1]["order0_bytes"] == pytest.approx(payload.order0_bytes(symbols))
    assert lines[1]["payload_bytes"] < stored < lines[1]["payload_bytes"] + 100 * 3 + 2 * 41  # and the frames' times


def test_the_table_goes_into_a_document(tiny_weights: str, tmp_path: Path) -> None:
    clip, page = tmp_path / "clip.mp4", tmp_path / "page.md"
    harness.write_clip(clip, 32, 32, 9)
    page.write_text("<!-- bench: payload -->\n<!-- /bench: payload -->\n")
    assert payload.main([str(clip), "-w", tiny_weights, "--qualities", "60", "--update", str(page)]) == 0
    assert "| 60 | " in page.read_text()
