"""Packed training data: within the budget, the same split, close to what it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cvcodec.dataset.media import Reporter, decode_clip, find_sources, probe
from cvcodec.dataset.pack import pack
from cvcodec.errors import OutputError, UsageError

from .conftest import moving_texture, write_picture, write_video


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for index in range(3):
        write_video(folder / f"v{index}.mkv", moving_texture(12, 66, 91, index))
    write_picture(folder / "p.png", moving_texture(1, 96, 80, 7)[0])
    (folder / "bad.mp4").write_bytes(b"no video" * 20)
    rows = ["v0.mkv\ttrain\ta", "v1.mkv\tval\tb", "v2.mkv\ttest\tc", "p.png\ttrain\td", "bad.mp4\ttrain\te"]
    (folder / "m.tsv").write_text("\n".join(["path\tsplit\tsource", *rows]) + "\n")
    return folder


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2)))


@pytest.mark.parametrize("kilobytes", [14, 60])
def test_a_pack_fits_its_budget_and_is_the_data_it_was_made_from(
    originals: Path, tmp_path: Path, kilobytes: int
) -> None:
    lines: list[str] = []
    packed = pack(
        [str(originals / "m.tsv")], tmp_path / "out", budget_bytes=kilobytes << 10, short_side=64, codec="libx264",
        preset="ultrafast", report=lines.append,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert packed.size_bytes == size <= kilobytes << 10
    assert (packed.videos, packed.photos, packed.frames) == (2, 1, 24)
    assert [line.split(": ")[0] for line in lines] == [f"skipped {originals / 'bad.mp4'}"]
    found = find_sources([tmp_path / "out" / "MANIFEST.tsv"], 0.5)
    assert {source.group: source.split for source in found} == {"a": "train", "b": "val", "d": "train"}
    quality = []
    for split, name in (("train", "v0.mkv"), ("val", "v1.mkv"), ("train", "p.png")):
        group = {"v0.mkv": "a", "v1.mkv": "b", "p.png": "d"}[name]
        (file,) = (file for file in probe(found, split, Reporter()) if file.group == group)
        before = decode_clip(originals / name, count=100, short_side=64)
        after = decode_clip(file.path, count=100, short_side=512)
        assert file.is_image == (name == "p.png")
        height, width = after.shape[1:3]
        assert (len(after), height) == (len(before), before.shape[1])
        quality.append(psnr(after, before[:, :height, :width]))
    assert min(quality) > (24 if kilobytes == 14 else 30), quality


def test_what_cannot_be_packed_is_said(originals: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fewer --frames"):
        pack([str(originals)], tmp_path / "a", budget_bytes=4000, codec="libx264", preset="ultrafast")
    with pytest.raises(OutputError, match="is not empty"):
        pack([str(originals)], tmp_path / "a", budget_bytes=1 << 20)
