"""Which record rules where index files differ, and lines that are no records."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cvcodec.dataset import IterableLatentDataset, LatentDataset, read_index
from cvcodec.dataset.exporting import export_shards
from cvcodec.dataset.shards import key_of
from cvcodec.errors import InputError, UsageError

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


def write_index(path: Path, *names: str, **more: object) -> None:
    path.write_text("".join(json.dumps({**NEEDED, "path": name, **more}) + "\n" for name in names))


def test_the_journal_of_a_batch_is_no_index(tmp_path: Path) -> None:
    index = tmp_path / "index.jsonl"
    write_index(index, "x.cvl")
    for journal in ("index.jsonl.partial", "index-00001-of-00002.jsonl.partial"):
        (tmp_path / journal).touch()
        with pytest.raises(InputError, match=rf"is not finished, {journal} is there; run it again"):
            LatentDataset(tmp_path)
        with pytest.raises(InputError, match="is not finished"):
            export_shards(tmp_path, tmp_path / "shards")
        assert not (tmp_path / "shards").exists()
        (tmp_path / journal).unlink()
    (tmp_path / "index.jsonl.partial").touch()
    with pytest.raises(InputError, match="is not finished"):
        read_index(index)
    (tmp_path / "index.jsonl.partial").rename(tmp_path / "shards.jsonl.partial")
    assert len(read_index(index)) == len(read_index(tmp_path)) == 1


def test_shards_that_are_missing_are_named_and_one_may_be_read_by_its_name(tmp_path: Path) -> None:
    for number in (0, 2):
        write_index(tmp_path / f"index-{number:05d}-of-00007.jsonl", f"{number}.cvl")
    with pytest.raises(InputError, match=r"no index-00001-of-00007\.jsonl, .*-00003-.*, .*-00004-.* and 2 more"):
        read_index(tmp_path)
    assert [record["path"] for record in read_index(tmp_path / "index-00002-of-00007.jsonl")] == ["2.cvl"]
    write_index(tmp_path / "index.jsonl", "1.cvl")
    with pytest.warns(UserWarning, match="not all shards were encoded, or those that are there are of an older"):
        assert len(read_index(tmp_path)) == 3
    said: list[str] = []
    read_index(tmp_path, on_notice=said.append)
    assert len(said) == 1
    (tmp_path / "index.jsonl").rename(tmp_path / "index-00000-of-00001.jsonl")
    with pytest.warns(UserWarning, match="not all shards"):
        assert len(read_index(tmp_path)) == 3


def test_clips_of_several_latent_spaces_are_not_read_or_exported_together(tmp_path: Path) -> None:
    lines = [
        json.dumps({**NEEDED, "path": f"{name}.cvl", "latent_space_id": name, "model": f"model {name}"}) + "\n"
        for name in ("one", "two")
    ]
    (tmp_path / "index.jsonl").write_text("".join(lines))
    match = r"one\.cvl \(one of model one\) and .*two\.cvl \(two of model two\) hold latents of different latent spaces"
    for scaled in (False, True):
        with pytest.raises(UsageError, match=match):
            LatentDataset(tmp_path, scaled=scaled)
    with pytest.raises(UsageError, match=match):
        export_shards(tmp_path, tmp_path / "shards")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/x.cvl",
        "../x.cvl",
        "a/../../x.cvl",
        "a/..",
        "..",
        ".",
        "",
        "a/",
        "..\\x.cvl",
        "\\\\host\\x.cvl",
        "x\0.cvl",
        7,
        None,
        ["x"],
    ],
    ids=ascii,
)
def test_a_path_that_leads_out_of_the_folder_is_refused_whoever_reads(tmp_path: Path, path: object) -> None:
    """A file that would be read lies there, if it is one."""
    inside = tmp_path / "inside"
    (inside / "a").mkdir(parents=True)
    (tmp_path / "x.cvl").write_bytes(b"of somebody else")
    write_index(inside / "index.jsonl", "fine.cvl", path)  # type: ignore[arg-type]
    for read in (
        lambda: LatentDataset(inside),
        lambda: LatentDataset(inside / "index.jsonl"),
        lambda: export_shards(inside, tmp_path / "out"),
    ):
        with pytest.raises(
            InputError, match=r"index\.jsonl, line 2 is no index record: its path is .*, wanted a file in the"
        ):
            read()
    assert not (tmp_path / "out").exists()
    (inside / "shards.jsonl").write_text(json.dumps({"path": path, "samples": 1, "size_bytes": 1}) + "\n")
    with pytest.raises(InputError, match="its path is"):
        IterableLatentDataset(inside)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"path": "x.cvl", "latents": "5", "logvar": false, "source": null, "columns": {}}', "its latents is '5'"),
        ('{"path": "x.cvl", "latents": true, "logvar": false, "source": null, "columns": {}}', "its latents is True"),
        ('{"path": "x.cvl", "latents": -1, "logvar": false, "source": null, "columns": {}}', "its latents is -1"),
        ('{"path": "x.cvl", "latents": 1e999, "logvar": false, "source": null, "columns": {}}', "its latents is inf"),
        ('{"path": "x.cvl", "latents": 5, "logvar": 0, "source": null, "columns": {}}', "its logvar is 0"),
        ('{"path": "x.cvl", "latents": 5, "logvar": false, "source": 7, "columns": {}}', "its source is 7"),
        ('{"path": "x.cvl", "latents": 5, "logvar": false, "source": null, "columns": []}', "its columns is"),
        ('{"path": "x.cvl", "size_bytes": {}}', "its size_bytes is"),
        ("[" * 100_000 + "]" * 100_000, "it nests too deep"),
        ('["x.cvl"]', "it is list, wanted an object"),
        ("\xff", "no index record: "),
    ],
    ids=range(11),
)
def test_a_line_that_no_batch_wrote_is_refused_by_name_on_one_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "index.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match="line 1 is no index record: ") as refused:
        LatentDataset(tmp_path)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_keys_never_lead_anywhere() -> None:
    for path in ("..cvl", "...cvl", "a/..cvl", ".cvl", "a/b.c.cvl", "./x.cvl", "a//b.cvl", "a b.cvl", "noend"):
        key = key_of(path)
        assert not key.startswith("/")
        assert not {"", ".", ".."} & set(key.split("/")), (path, key)
    assert [key_of(path) for path in ("a/b.c.cvl", "x.cvl", "noend")] == ["a/b_c", "x", "noend"]
