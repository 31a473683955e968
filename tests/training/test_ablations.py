"""`python benchmarks/ablations.py`: rows trained once, and their tables beside the paper's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import ablations
from cvcodec.errors import UsageError

from .conftest import TINY


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    papers = {table: [row.paper for row in rows] for table, (_, rows) in ablations.TABLES.items()}
    assert papers["table6"] == [None, (26.0, 0.748, 0.222), (28.0, 0.803, 0.158), (27.6, 0.795, 0.176)]
    assert papers["table7"] == [(26.6, 0.771, 0.191), (27.9, 0.801, 0.172), (27.7, 0.799, 0.168), (28.4, 0.811, 0.153)]
    with pytest.raises(UsageError, match="no ablation is called"):
        list(ablations.run_ablations("table9", {}, Path("x")))


def test_ablations_train_each_row_once_and_tabulate_it_beside_the_paper(
    media: Path, image_vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "rows.toml"
    config.write_text(f'data = "{(media / "manifest.tsv").as_posix()}"\nimage_vae = "{image_vae.as_posix()}"\n{TINY}')
    arguments = ["blocks", str(config), "--output", str(tmp_path / "out"), "--steps", "1"]
    assert ablations.main(arguments) == 0
    table = capsys.readouterr().out
    assert re.search(r"^\| 2d-3d \| 1 \| \d\d\.\d\d \| 0\.\d{3} \|.*\| 28\.5 \| 0\.817 \| 0\.143 \|$", table, re.M)
    assert re.search(r"^\| 3d \| 1 \|.*\| 28\.6 \| 0\.819 \| 0\.145 \|$", table, re.M)
    numbers = json.loads((tmp_path / "out" / "ablations.json").read_text())
    assert numbers["blocks"]["3d"]["measured"]["psnr_db"] > 10
    assert numbers["blocks"]["3d"]["paper"] == {"psnr_db": 28.6, "ssim": 0.819, "lpips": 0.145}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.pt")}
    assert len(before) == 2
    assert ablations.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.pt")} == before
    assert capsys.readouterr().out == table
    assert ablations.main([*arguments[:-1], "2"]) == UsageError.exit_code
    assert "other settings (steps)" in capsys.readouterr().err


def test_a_single_row_joins_those_that_are_done_and_trains_the_2d_model_once(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "rows.toml"
    config.write_text(f"{TINY}\nwidths = [8, 16, 24]\nencoder_blocks = [1, 1, 1]\ndecoder_blocks = [1, 1, 1]\n")
    arguments = [str(config), "--data", str(media / "manifest.tsv"), "-o", str(tmp_path / "out"), "--steps", "1"]
    assert ablations.main(["random", *arguments]) == 0  # the same run as "decoder" and "2d-3d"
    first = capsys.readouterr().out
    assert first.count("| random | 1 |") == first.count("| decoder | 1 |") == first.count("| 2d-3d | 1 |") == 1
    assert "| slice | – |" in first
    image_vae = (tmp_path / "out" / "image-vae" / "model.safetensors").stat().st_mtime_ns
    assert ablations.main(["slice", *arguments]) == 0
    second = capsys.readouterr().out
    assert second.count("| random | 1 |") == second.count("| slice | 1 |") == 1
    assert "Table 6" not in second
    assert (tmp_path / "out" / "image-vae" / "model.safetensors").stat().st_mtime_ns == image_vae
    everything = (tmp_path / "out" / "ablations.md").read_text(encoding="utf-8")
    assert second.strip() in everything
    assert "Table 6" in everything
    ran = {path.parent.name for path in tmp_path.rglob("state.pt")}
    assert ran == {"image-vae", "decoder-random-2d-3d", "decoder-slice-2d-3d"}
