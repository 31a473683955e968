"""Tensors beside clips: written once, noted in the index, read with the slices, and gone stale with their caption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cvcodec.dataset import IterableLatentDataset, LatentDataset, attach, read_index
from cvcodec.dataset.exporting import export_shards
from cvcodec.errors import InputError, UsageError

PLACES = [f"v/{number}.text.safetensors" for number in range(5)]


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """Five clips with a caption each."""
    return Path(shutil.copytree(folders["fp32"], tmp_path / "clips"))


def embed(record: dict[str, Any]) -> Tensor:
    """What an encoder might make of `clip 3`."""
    return torch.full((2, 3), float(record["columns"]["caption"][5:]))


def test_what_is_attached_comes_with_the_slices_of_both_data_sets(folder: Path, tmp_path: Path) -> None:
    assert attach(folder, "text", embed) == 5
    assert [record["attached"] for record in read_index(folder)] == [{"text": place} for place in PLACES]
    assert [load_file(folder / place)["text"][0, 0].item() for place in PLACES] == [0, 1, 2, 3, 4]
    export_shards(folder, tmp_path / "shards")
    data = LatentDataset(folder, latents=2, attached=["text"], columns=["caption"])
    streamed = {item["path"]: item for item in IterableLatentDataset(tmp_path / "shards", attached=["text"])}
    for item in map(data.__getitem__, range(5)):
        assert torch.equal(item["text"], embed({"columns": {"caption": item["caption"]}}))
        assert torch.equal(item["text"], streamed[item["path"]]["text"])


def test_several_tensors_may_have_one_name_and_any_type(folder: Path) -> None:
    several = {"embeds": torch.ones(4, dtype=torch.bfloat16), "mask": [True, False]}
    assert attach(folder, "t5", {"v/1.cvl": several}) == 1
    found = LatentDataset(folder, attached=["t5"])[1]["t5"]
    assert found["embeds"].dtype == torch.bfloat16
    assert found["mask"].tolist() == [True, False]
    with pytest.raises(UsageError, match=r"v/0\.cvl has nothing attached as 't5', it has nothing; cvcodec"):
        LatentDataset(folder, attached=["t5"])[0]


def test_a_run_that_was_interrupted_goes_on(folder: Path) -> None:
    def failing(record: dict[str, Any]) -> Tensor:
        if record["path"] == "v/3.cvl":
            raise KeyboardInterrupt
        return embed(record)

    with pytest.raises(KeyboardInterrupt):
        attach(folder, "text", failing)
    assert all(not record["attached"] for record in read_index(folder)), "the index notes what is all there"
    made: list[str] = []
    assert attach(folder, "text", lambda record: made.append(record["path"]) or embed(record)) == 2  # type: ignore[func-returns-value]
    assert made == ["v/3.cvl", "v/4.cvl"]
    assert all(record["attached"] for record in read_index(folder))
    assert attach(folder, "text", embed, overwrite=True) == 5
    assert not list(folder.rglob("*.partial"))


def test_what_was_made_of_another_caption_is_made_again(folder: Path) -> None:
    attach(folder, "text", embed)
    index = folder / "index.jsonl"
    index.write_text(index.read_text().replace("clip 2", "clip 7"))
    assert attach(folder, "text", embed) == 1
    assert LatentDataset(folder, attached=["text"])[2]["text"][0, 0] == 7


@pytest.mark.parametrize("name", ["latents", "path", "a.b", "../x", "a/b", "", "é"])
def test_names_that_cannot_be_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        attach(folder, name, embed)


def test_values_and_folders_that_cannot_be_meant_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'v/9\.cvl' is no path of the index"):
        attach(folder, "text", {"v/9.cvl": [1.0]})
    with pytest.raises(UsageError, match=r"0\.text\.safetensors: text is str, wanted a tensor or an array"):
        attach(folder, "text", lambda record: "words")
    with pytest.raises(UsageError, match="holds NaN or infinity"):
        attach(folder, "text", lambda record: [float("nan")])
    (tmp_path / "bare").mkdir()
    shutil.copy(folder / "v/0.cvl", tmp_path / "bare")
    with pytest.raises(InputError, match="has no index to note it in"):
        attach(tmp_path / "bare", "text", embed)
    (folder / "index.jsonl.partial").touch()
    with pytest.raises(InputError, match="is not finished"):
        attach(folder, "text", embed)


def test_a_file_that_is_gone_damaged_or_elsewhere_is_an_error_that_names_it(folder: Path) -> None:
    attach(folder, "text", embed)
    (folder / PLACES[0]).write_bytes(b"no tensors")
    (folder / PLACES[1]).unlink()
    data = LatentDataset(folder, attached=["text"])
    with pytest.raises(InputError, match=r"text of v/0\.cvl is no \.safetensors file"):
        data[0]
    with pytest.raises(InputError, match=r"v/1\.text\.safetensors cannot be read: No such file"):
        data[1]
    (record,) = read_index(folder / "v/2.cvl")
    record |= {"path": "v/2.cvl", "attached": {"text": "../2.text.safetensors"}}
    (folder / "index.jsonl").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"its attached is .*, wanted files in the folder of the index"):
        LatentDataset(folder)
