"""The readers that `bench.reader` compares give slices of the same latents, and its program prints a line for each."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import reader
from cvcodec.checkpoints.registry import load_model
from cvcodec.codec import DEFAULT_QUALITY
from tests.dataset.small import save_small_model

CLIPS, LATENTS, LENGTH = 8, 5, 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_small_model(path)
    return path


def test_every_reader_gives_slices_of_the_same_latents(weights: Path, tmp_path: Path) -> None:
    reader.make_clips(tmp_path, load_model(weights), clips=CLIPS, frames=17, size=(32, 32))
    reader._export(tmp_path)
    clips = [torch.load(path, weights_only=True) for path in sorted((tmp_path / "pt").iterdir())]
    assert [tuple(clip.shape) for clip in clips] == [(4, LATENTS, 4, 4)] * CLIPS
    windows = np.stack(
        [clip[:, start : start + LENGTH].float() for clip in clips for start in range(LATENTS - LENGTH + 1)]
    )
    half_a_step = 0.501 * 2 ** ((50 - DEFAULT_QUALITY) / 10)
    names = []
    for name, place, data, _ in reader.readers(tmp_path, LENGTH, CLIPS):
        names.append(name)
        assert place.is_dir()
        found = np.stack([part.numpy() for part in itertools.islice(reader.endless(data, 0), 40)])
        distances = np.abs(found[:, None] - windows[None]).max(axis=(2, 3, 4, 5))
        # Half a step of the default quality; fp32 files differ by fp16's rounding.
        assert distances.min(axis=1).max() < (
            half_a_step if "quantised" in name else 1e-2 if "fp32" in name else 1e-9
        ), name
        assert len(set(distances.argmin(axis=1))) > 10, f"{name} hardly ever gives another slice"
    assert len(names) >= 10


def test_the_program_prints_a_line_for_each_reader(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--clips 8 --frames 17 --size 32x32 --latents 2 --workers 0 --seconds 0.02 --json --model"
    assert reader.main([*small.split(), str(weights)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({row["reader"] for row in rows}) == len(rows) >= 10
    assert all(row["slices_per_s"]["0"] > 0 and row["mb_per_s"]["0"] > 0 and row["disk_mb"] > 0 for row in rows)


def test_the_table_of_a_document_is_replaced_and_nothing_else(weights: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- {reader.BLOCK} -->\nold\n<!-- /{reader.BLOCK} -->\nafter\n", encoding="utf-8")
    small = "--clips 8 --frames 17 --size 32x32 --latents 2 --workers 0 --seconds 0.01 --repeats 2"
    assert reader.main([*small.split(), "--model", str(weights), "--update", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][3].strip() == "0 workers"
    assert {"torch.save", ".cvl fp16", "safetensors, get_slice"} <= {row[1].strip() for row in rows}
    for row in rows[1:]:
        slices, size = row[3].replace("(", "").replace(")", "").split()
        assert float(size) == pytest.approx(float(slices) * 4 * 2 * 4 * 4 * 4 / 1e6, abs=0.6)


def test_a_document_without_the_block_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("before\n", encoding="utf-8")
    assert reader.main(["--update", str(tmp_path / "page.md")]) == 2
    assert reader.BLOCK in capsys.readouterr().err


def test_slices_longer_than_clips_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert reader.main(["--frames", "5", "--latents", "5"]) == 2
    assert "no shorter than slices" in capsys.readouterr().err
