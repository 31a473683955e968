"""Which clips a run has, and where their outputs go. The files need not be videos for that."""

import csv
import json
from itertools import chain
from pathlib import Path

import pytest

from cvcodec.dataset.sources import find_clips, parse_shard, shard_of
from cvcodec.errors import InputError, UsageError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def places(*sources: str | Path) -> dict[str, str]:
    return {clip.output: Path(clip.source).name for clip in find_clips(sources)}


def test_a_folder_is_mirrored_and_only_its_videos_count(tmp_path: Path) -> None:
    touch(tmp_path / "v/b.mp4", tmp_path / "v/a/x.MKV", tmp_path / "v/readme.md", tmp_path / "v/.hidden.mp4")
    assert places(tmp_path / "v") == {"a/x.cvl": "x.MKV", "b.cvl": "b.mp4"}


def test_several_folders_are_mirrored_below_their_names(tmp_path: Path) -> None:
    touch(tmp_path / "one/x.mp4", tmp_path / "two/x.mp4")
    assert set(places(tmp_path / "one", tmp_path / "two")) == {"one/x.cvl", "two/x.cvl"}


def test_videos_that_differ_in_their_suffix_keep_it(tmp_path: Path) -> None:
    touch(tmp_path / "x.mp4", tmp_path / "x.mov", tmp_path / "y.mp4")
    assert set(places(tmp_path)) == {"x.mp4.cvl", "x.mov.cvl", "y.cvl"}


def test_two_clips_never_get_one_place(tmp_path: Path) -> None:
    touch(tmp_path / "p/same/x.mp4", tmp_path / "q/same/x.mp4")
    with pytest.raises(UsageError, match=r"would both become same/x\.mp4\.cvl"):
        find_clips([tmp_path / "p/same", tmp_path / "q/same"])


def test_a_glob_is_mirrored_below_its_fixed_part(tmp_path: Path) -> None:
    touch(tmp_path / "v/a/x.mp4", tmp_path / "v/b/y.mp4", tmp_path / "v/b/y.txt")
    assert set(places(f"{tmp_path}/v/**/*.mp4")) == {"a/x.cvl", "b/y.cvl"}
    assert set(places(f"{tmp_path}/v/b/?.mp4")) == {"y.cvl"}


def test_a_file_that_is_named_counts_whatever_it_is_called_and_only_once(tmp_path: Path) -> None:
    touch(tmp_path / "film.dat", tmp_path / "x.mp4")
    assert places(tmp_path / "film.dat", tmp_path / "x.mp4", tmp_path) == {"film.cvl": "film.dat", "x.cvl": "x.mp4"}


def test_a_csv_manifest_names_files_places_and_further_columns(tmp_path: Path) -> None:
    manifest = tmp_path / "lists/m.csv"
    touch(manifest, tmp_path / "lists/in/x.mp4")
    manifest.write_text('path,caption,output\nin/x.mp4,"a cat, asleep",\n/data/y.mp4,a dog,dogs/1\n../z.mp4,,\n')
    clips = find_clips([manifest])
    assert [clip.output for clip in clips] == ["in/x.cvl", "dogs/1.cvl", "z.cvl"]
    assert [clip.source for clip in clips] == [str(tmp_path / "lists/in/x.mp4"), "/data/y.mp4", str(tmp_path / "z.mp4")]
    assert clips[0].columns == {"caption": "a cat, asleep"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_captions_may_hold_line_ends_of_any_kind(tmp_path: Path, suffix: str) -> None:
    caption = 'one\ntwo\u2028three\x85"four"\x0b'
    manifest = tmp_path / f"m.{suffix}"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        if suffix == "csv":
            csv.writer(file).writerows([["path", "caption"], ["x.mp4", caption], ["y.mp4", "short"]])
        else:
            file.writelines(
                json.dumps({"path": path, "caption": text}, ensure_ascii=False) + "\r\n"
                for path, text in (("x.mp4", caption), ("y.mp4", "short"))
            )
    assert [(clip.output, clip.columns) for clip in find_clips([manifest])] == [
        ("x.cvl", {"caption": caption}),
        ("y.cvl", {"caption": "short"}),
    ]


def test_text_tab_and_json_manifests_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("a/x.mp4\n\nb.mp4\n")
    (tmp_path / "m.tsv").write_text("path\tn\na/x.mp4\t1\nb.mp4\t2\n")
    (tmp_path / "m.jsonl").write_text('{"path": "a/x.mp4", "n": 1}\n{"path": "b.mp4", "n": 2}\n')
    found = [find_clips([tmp_path / f"m.{suffix}"]) for suffix in ("txt", "tsv", "jsonl")]
    assert len({tuple((clip.source, clip.output) for clip in clips) for clips in found}) == 1
    assert [[dict(clip.columns) for clip in clips] for clips in found[1:]] == [[{"n": "1"}, {"n": "2"}]] * 2


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("m.csv", "file\nx.mp4\n", "no column `path`"),
        ("m.csv", "path,n\n,1\n", "line 2: no path"),
        ("m.csv", "path,output\nx.mp4,../x\n", "leads out"),
        ("m.jsonl", "{x\n", "line 1 is no JSON"),
        ("m.jsonl", "[1]\n", "no JSON object"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match):
        find_clips([tmp_path / name])


def test_missing_and_empty_sources_are_refused(tmp_path: Path) -> None:
    for source in (tmp_path / "none.mp4", tmp_path, f"{tmp_path}/*.mp4"):
        with pytest.raises(InputError, match=r"no such file|no videos"):
            find_clips([source])


def test_shards_share_out_every_clip_once() -> None:
    clips = list(range(11))
    parts = [shard_of(clips, parse_shard(f"{number}/3")) for number in range(3)]  # type: ignore[type-var]
    assert sorted(chain.from_iterable(parts)) == clips
    assert [len(part) for part in parts] == [4, 4, 3]


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "1/0", ""])
def test_impossible_shards_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no shard"):
        parse_shard(text)
