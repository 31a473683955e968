"""Which record rules where index files differ, and lines that are no records."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cvcodec.data import LatentDataset, read_index
from cvcodec.errors import InputError

NEEDED = {"latents": 1, "logvar": False, "source": None, "columns": {}}


@pytest.mark.parametrize(
    ("whole", "shard", "newer", "wanted"),
    [
        (5, 7, "index.jsonl", "shard"),
        (7, 5, "shard", "whole"),
        (7, 7, "shard", "shard"),
        (7, 7, "index.jsonl", "whole"),
        (5, 5, "shard", "shard"),
        (7, 7, "neither", "whole"),
    ],
)
def test_the_record_with_the_size_of_the_file_rules_and_then_the_newer_index(
    tmp_path: Path, whole: int, shard: int, newer: str, wanted: str
) -> None:
    (tmp_path / "x.cvl").write_bytes(b"7 bytes")
    names = {"index.jsonl": ("whole", whole), "index-00000-of-00001.jsonl": ("shard", shard)}
    for name, (model, size) in names.items():
        record = {**NEEDED, "path": "x.cvl", "size_bytes": size, "model": model}
        (tmp_path / name).write_text(json.dumps(record) + "\n")
        time = 2 if newer in (name, model) else 1
        os.utime(tmp_path / name, (time, time))
    assert [record["model"] for record in read_index(tmp_path)] == [wanted]


def test_a_list_of_failures_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "failures.jsonl").write_text('{"path": "x.cvl", "source": "x.mp4", "error": "no video"}\n')
    with pytest.raises(
        InputError, match=r"failures\.jsonl, line 1 is no record of an index: no 'latents', 'logvar', 'col"
    ):
        LatentDataset(tmp_path / "failures.jsonl")
