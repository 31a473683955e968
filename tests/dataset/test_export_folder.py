"""A folder exported for other programs: a file for each clip or shards, opened by safetensors and by `datasets`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cvcodec
from cvcodec.dataset import LatentDataset
from cvcodec.errors import OutputError, UsageError
from tests.dataset.small import save_small_model, write_clip


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two clips, of which one has a caption, in two folders."""
    folder = tmp_path_factory.mktemp("latents")
    model = save_small_model(folder / "small.safetensors")
    write_clip(folder / "v" / "a" / "one.mkv", frames=5)
    write_clip(folder / "v" / "two.b.mkv", frames=9, size=(48, 32))
    (folder / "list.csv").write_text("path,caption\nv/a/one.mkv,a cat\nv/two.b.mkv,\n")
    summary = cvcodec.batch(folder / "list.csv", folder / "out", model=model, latents="fp32", devices="cpu")
    assert not summary.failures
    return folder / "out"


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_folder_becomes_a_safetensors_file_for_each_clip_mirrored(latents: Path, tmp_path: Path, dtype: str) -> None:
    told: list[tuple[int, int]] = []
    result = cvcodec.export(
        latents, tmp_path / "s", format="safetensors", dtype=dtype, on_clip=lambda *counts: told.append(counts)
    )  # type: ignore[arg-type]
    rows = [json.loads(line) for line in (tmp_path / "s" / "clips.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == ["v/a/one.safetensors", "v/two.b.safetensors"]
    assert (result.clips, result.files, told) == (2, 2, [(1, 2), (2, 2)])
    assert rows[0]["columns"] == {"caption": "a cat"}
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for item, row in zip(LatentDataset(latents), rows, strict=True):
        stored = load_file(tmp_path / "s" / row["path"])["latents"]
        assert row["shape"] == list(stored.shape)
        assert torch.equal(stored[0], item["latents"].to(kind))  # torch rounds to nearest, ties to even


def test_an_export_in_bfloat16_is_imported_again(latents: Path, tmp_path: Path) -> None:
    cvcodec.export(latents / "v/a/one.cvl", tmp_path / "x.safetensors", dtype="bf16")
    cvcodec.import_latents(tmp_path / "x.safetensors", tmp_path / "x.cvl")
    with cvcodec.open(tmp_path / "x.cvl") as again, cvcodec.open(latents / "v/a/one.cvl") as before:
        rounded = torch.from_numpy(before.latents[:]).bfloat16().float().numpy()
        assert np.array_equal(again.latents[:], rounded)


def test_what_numpy_has_no_type_for_is_refused_before_anything_is_written(latents: Path, tmp_path: Path) -> None:
    for source, output, kind in (
        (latents, "s", "webdataset"),
        (latents, "s", "npy"),
        (latents / "v/two.b.cvl", "x.npy", "npy"),
    ):
        with pytest.raises(
            UsageError, match=f"{kind} has no bfloat16; use --dtype fp16 or fp32, or --format safetensors"
        ):
            cvcodec.export(source, tmp_path / output, format=kind, dtype="bf16")  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*.*"))


def test_a_readme_of_somebody_else_is_not_overwritten_unasked(latents: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(OutputError, match=r"README\.md exists; use -y"):
        cvcodec.export(latents, tmp_path, format="safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_the_card_says_what_is_there_and_how_to_load_it(latents: Path, tmp_path: Path) -> None:
    cvcodec.export(latents, tmp_path / "set", format="safetensors", dtype="bf16")
    text = (tmp_path / "set" / "README.md").read_text()
    assert text.startswith("---\nconfigs:\n")
    for said in (
        "# set\n",
        "* clips: 2, 14 frames, in 2 files of safetensors",
        "type bf16",
        "4x2x4x4 (1), 4x3x4x6 (1)",
        "* model: small",
        "* pictures: 32x32, 48x32",
        "* columns: caption",
    ):
        assert said in text


def test_datasets_opens_shards_and_folders_of_files(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    for kind in ("webdataset", "safetensors"):
        cvcodec.export(latents, tmp_path / kind, format=kind, shuffle=None)  # type: ignore[arg-type]
    shards = datasets.load_dataset(str(tmp_path / "webdataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert shards["__key__"] == ["v/a/one", "v/two_b"]
    items = LatentDataset(latents)
    for row, item in zip(shards, items, strict=True):
        assert np.array_equal(np.array(row["latents.npy"], np.float32), item["latents"].numpy())
        assert row["json"]["columns"]["caption"] in ("a cat", "")
    files = datasets.load_dataset(str(tmp_path / "safetensors"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["columns"]["caption"] for row in files] == ["a cat", ""]
    for row, item in zip(files, items, strict=True):
        assert torch.equal(load_file(tmp_path / "safetensors" / row["path"])["latents"][0], item["latents"])
