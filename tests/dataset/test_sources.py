"""Which clips a run has, and where their outputs go. The files need not be videos for that."""

import csv
import json
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from cvcodec.dataset.sidecars import read_sidecars
from cvcodec.dataset.sources import find_clips, overlooked, parse_shard, shard_of
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
    assert [[clip.columns for clip in clips] for clips in found[1:]] == [[{"n": "1"}, {"n": "2"}]] * 2


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("m.csv", "movie\nx.mp4\n", "no column `path`"),
        ("m.csv", "path,n\n,1\n", "line 2: its `path` is empty; wanted the path of a video, or no such row"),
        ("m.tsv", "video\tn\nx\t1\n  \t2\n", "line 3: its `video` is empty"),
        ("m.csv", "path,n\n..,1\n", r"line 2: path '\.\.' is a folder"),
        ("m.csv", "path,n,n\nx,1,2\n", "two columns `n`"),
        ("m.csv", "path,output\nx.mp4,../x\n", "leads out"),
        *(
            ("m.csv", f"path,output\n\nx.mp4,{output}\n", "line 3: output .* names no file")
            for output in (".", "./", "a/", ".a", "a/.b/c", ".cvl")
        ),
        ("m.csv", 'path,n\nx,1\ny,"a cat\nz,3\n', "line 3 cannot be read: .*; close the quotes"),
        ("m.csv", 'path,n\nx,"a cat\ny,"2"\nz,3\n', "line 2 cannot be read: .*; close the quotes"),
        ("m.csv", "path,n\nx,a cat, asleep\n", "m.csv, line 2: 3 fields, the header has 2; quote values"),
        ("m.tsv", "path\tn\nx\ta\tb\n", "m.tsv, line 2: 3 fields, the header has 2; a value cannot hold a tab"),
        ("m.csv", "", "m.csv lists no clips"),
        ("m.csv", "path,n\n", "m.csv lists no clips"),
        ("m.txt", "# nothing yet\n", "m.txt lists no clips"),
        ("m.jsonl", '{"path": 5}\n', "line 1: path is 5, wanted text"),
        ("m.jsonl", '{"path": "x", "output": [1]}\n', r"line 1: output is \[1\], wanted text"),
        ("m.jsonl", '{"path": null}\n', "line 1: its `path` is empty"),
        ("m.jsonl", '{"video": 5}\n', "line 1: video is 5, wanted text"),
        (
            "m.jsonl",
            '{"movie": "x.mp4", "caption": "a"}\n',
            r"line 1 names no video: no `path` \(nor file, video, video_path, file_name\); it has movie, caption",
        ),
        ("m.csv", "movie,caption\nx.mp4,a\n", r"no column `path` \(nor `file`\) .*; it has movie, caption"),
        ("m.jsonl", "{x\n", "line 1 is no JSON"),
        ("m.jsonl", "[1]\n", "no JSON object"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match):
        find_clips([tmp_path / name])


def test_quotes_in_tabbed_text_null_in_json_and_comments_in_lists_are_what_they_look_like(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text('path\tn\nx.mp4\t"a cat\ny.mp4\t3" tall\n')
    (tmp_path / "m.jsonl").write_text('{"path": "x.mp4", "n": null}\n')
    (tmp_path / "m.txt").write_text("# films\n  # more\n./#1.mp4\n")
    (tmp_path / "f.csv").write_text("file,split\nx.mp4,train\n")
    found = [find_clips([tmp_path / name]) for name in ("m.tsv", "m.jsonl", "m.txt", "f.csv")]
    assert [[clip.columns for clip in clips] for clips in found] == [
        [{"n": '"a cat'}, {"n": '3" tall'}],
        [{"n": ""}],
        [None],
        [{"split": "train"}],
    ]
    assert [clips[0].output for clips in found] == ["x.cvl", "x.cvl", "#1.cvl", "x.cvl"]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (["x.mp4,a,", "x.mp4,a,"], [("x.cvl", "a")]),
        (["x.mp4,a,1", "x.mp4,b,2"], [("1.cvl", "a"), ("2.cvl", "b")]),
        (["x.mp4,a,", "x.mp4,b,2"], [("x.cvl", "a"), ("2.cvl", "b")]),
        (["x.mp4,a,", "sub/../x.mp4,a,"], [("x.cvl", "a")]),
        (["x.mp4,a,", "x.mp4,b,"], None),
        (["x.mp4,a,1", "x.mp4,b,1.cvl"], None),
    ],
)
def test_rows_for_one_video_are_clips_of_their_own_if_they_name_places(
    tmp_path: Path, rows: list[str], wanted: list[tuple[str, str]] | None
) -> None:
    (tmp_path / "m.csv").write_text("\n".join(["path,n,output", *rows]))
    if wanted is None:
        with pytest.raises(InputError, match=r"m\.csv, line 2 and m\.csv, line 3 both name .*x\.mp4, with different"):
            find_clips([tmp_path / "m.csv"])
    else:
        assert [(clip.output, (clip.columns or {})["n"]) for clip in find_clips([tmp_path / "m.csv"])] == wanted


def test_what_a_manifest_says_rules_over_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "v/x.mp4", tmp_path / "v/y.mp4")
    (tmp_path / "m.csv").write_text("path,n\nv/x.mp4,1\n")
    found = find_clips([tmp_path / "v", tmp_path / "m.csv"])
    assert [(clip.output, clip.columns) for clip in found] == [("x.cvl", {"n": "1"}), ("y.cvl", None)]
    assert find_clips([tmp_path / "m.csv", tmp_path / "v"])[0].columns == {"n": "1"}


@pytest.mark.skipif(sys.platform == "win32", reason="links want rights there")
def test_links_lead_neither_out_of_the_output_folder_nor_in_circles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "clips/a.mp4", tmp_path / "deep/loop/z/b.mp4")
    (tmp_path / "deep/lnk").symlink_to("../clips")
    (tmp_path / "deep/loop/self").symlink_to(".")
    (tmp_path / "deep/loop/a").symlink_to("z")
    monkeypatch.chdir(tmp_path)
    assert set(places("deep/lnk/a*.mp4")) == set(places(f"{tmp_path}/deep/lnk/*.mp4")) == {"a.cvl"}
    assert [clip.output for clip in find_clips(["deep"])] == ["loop/z/b.cvl", "lnk/a.cvl"]
    with pytest.raises(UsageError, match=r"would become \.\./clips/a\.cvl, outside the output folder"):
        find_clips(["deep/l*/../../clips/a.mp4"])


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        (["failures.jsonl/x"], r"failures\.jsonl is a list that the run writes"),
        (["index.jsonl/deep/x"], r"index\.jsonl is a list that the run writes"),
        (["index.jsonl.partial/x"], r"index\.jsonl\.partial is a list"),
        (["failures-00003-of-00016.jsonl/x"], r"failures-00003-of-00016\.jsonl is a list"),
        (["x", "x.cvl/y"], r"would become x\.cvl/y\.cvl, but x\.cvl is the output of .*v/0\.mp4 and no folder"),
        (["x.cvl/deep/y", "x"], r"x\.cvl is the output of .*v/1\.mp4"),
        (["x", "x.cvl.partial/y"], r"x\.cvl\.partial is the output of"),
        (["deep/index.jsonl/x", "index.jsonl", "failures.json/x"], None),
    ],
)
def test_an_output_below_what_will_be_a_file_is_refused(
    tmp_path: Path, outputs: list[str], complaint: str | None
) -> None:
    lines = [f"v/{number}.mp4,{output}" for number, output in enumerate(outputs)]
    touch(*(tmp_path / f"v/{number}.mp4" for number in range(len(outputs))))
    (tmp_path / "m.csv").write_text("\n".join(["path,output", *lines]) + "\n")
    if complaint is None:
        assert len(find_clips([tmp_path / "m.csv"])) == len(outputs)
        return
    with pytest.raises(UsageError, match=complaint):
        find_clips([tmp_path / "m.csv"])


def test_a_mirrored_folder_named_like_a_list_of_the_run_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "v/failures.jsonl/a.mp4")
    with pytest.raises(UsageError, match=r"would become failures\.jsonl/a\.cvl, but failures\.jsonl is a list"):
        find_clips([tmp_path / "v"])


@pytest.mark.skipif(sys.platform == "win32", reason="links want rights there")
def test_two_links_to_one_video_are_two_clips_however_they_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "store/x.mp4")
    (tmp_path / "v").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"v/{name}.mp4").symlink_to("../store/x.mp4")
    links = [tmp_path / "v/a.mp4", tmp_path / "v/b.mp4"]
    wanted = find_clips([tmp_path / "v"])
    assert [clip.output for clip in wanted] == ["a.cvl", "b.cvl"]
    assert find_clips([f"{tmp_path}/v/*.mp4"]) == find_clips(links) == wanted
    assert find_clips([*links, f"{tmp_path}/v/*.mp4", tmp_path / "v"]) == wanted


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "v/x.mp4", tmp_path / "v/closed/y.mp4")
    real = os.scandir

    def scandir(path: str) -> Any:
        if os.fspath(path).endswith("closed"):  # rights would not do: root reads everything
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"v/closed cannot be read: Permission denied"):
        find_clips([tmp_path / "v"])


def test_missing_and_empty_sources_are_refused(tmp_path: Path) -> None:
    for source in ("", tmp_path / "none.mp4", tmp_path, f"{tmp_path}/*.mp4"):
        with pytest.raises(InputError, match=r"names no source|no such file|no videos or pictures"):
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


def test_what_is_not_read_beside_videos_is_named(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.txt", "a.json", "b.mp4", "b.srt", "README.txt", "c.wav", "captions.csv"):
        (tmp_path / name).write_text("path,caption\na.mp4,a cat\n")
    (beside,) = overlooked(find_clips([tmp_path]), [tmp_path])
    assert beside.startswith("2 files beside videos are not read (b.srt, captions.csv); captions are a .txt or .json")
    listed = [str(tmp_path / "captions.csv")]
    assert list(overlooked(find_clips(listed), listed)) == []
    both = [str(tmp_path), *listed]
    assert [text[:7] for text in overlooked(find_clips(both), both)] == ["1 files"], "b.srt: b is in no manifest"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.mp4").touch()
    assert list(overlooked(find_clips([tmp_path / "d"]), [tmp_path / "d"])) == []


@pytest.mark.parametrize("column", ["video", "video_path"])
def test_columns_that_look_like_the_video_but_are_not_are_named(tmp_path: Path, column: str) -> None:
    (tmp_path / "m.csv").write_text(f"path,{column},caption\nx.mp4,y.mp4,a\n")
    (text,) = overlooked(find_clips([tmp_path / "m.csv"]), [tmp_path / "m.csv"])
    assert text.startswith(f"kept in the index and not read: column {column}; videos come from the first of path")


@pytest.mark.parametrize("column", ["path", "file", "video", "video_path", "file_name"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_video_has_a_column_of_one_of_the_names_that_others_use(tmp_path: Path, column: str, suffix: str) -> None:
    rows = {"csv": f"prompt,{column}\na cat,v/x.mp4\n", "jsonl": json.dumps({"prompt": "a cat", column: "v/x.mp4"})}
    (tmp_path / f"m.{suffix}").write_text(rows[suffix])
    (clip,) = find_clips([tmp_path / f"m.{suffix}"])
    assert (clip.output, clip.columns) == ("v/x.cvl", {"prompt": "a cat"})
    assert clip.manifest == str(tmp_path / f"m.{suffix}")


def test_pictures_are_clips_but_thumbnails_are_not(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("v/a.mp4", "v/a.jpg", "v/b.PNG", "v/deep/a.webp", "v/.c.jpg")))
    found = find_clips([tmp_path / "v"])
    assert [clip.output for clip in found] == ["a.cvl", "b.cvl", "deep/a.cvl"]
    (text,) = overlooked(found, [tmp_path / "v"])
    assert text.startswith("2 pictures become clips of one frame (b.PNG, a.webp)")
    pictures = find_clips([tmp_path / "v/deep"])
    assert list(overlooked(pictures, [tmp_path / "v/deep"])) == []


def test_captions_beside_a_video_are_columns(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.mp4", "b.mp4", "c.png", "d.mp4", "e.mp4")))
    (tmp_path / "a.txt").write_text("\ufeff a cat\n", encoding="utf-8")
    (tmp_path / "b.json").write_text('{"text": "a dog", "fps": 8, "none": null, "caption": "of the object"}')
    (tmp_path / "b.caption").write_text("of the text")
    (tmp_path / "c.caption").write_text("a photo")
    (tmp_path / "d.txt").write_text("e.mp4\n")
    clips = find_clips([tmp_path, tmp_path / "d.txt"])
    assert [read_sidecars(clip.sidecars) for clip in clips] == [
        {"caption": "a cat"},
        {"text": "a dog", "fps": "8", "none": "", "caption": "of the text"},
        {"caption": "a photo"},
        {},  # its .txt was named as a list
        {},
    ]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.json", b"[1]", "no JSON object; wanted fields such as `caption`"),
        ("a.json", b"{", "is no JSON: .* mend it, or give it another name"),
        ("a.txt", b"caf\xe9", "is not UTF-8 text"),
        ("a.txt", b"x" * (1 << 20) + b"y", "too many for a caption"),
        ("b.txt", b"", "b.txt cannot be read: No such file"),
    ],
)
def test_a_caption_that_is_none_is_refused(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    if data:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=match):
        read_sidecars([str(tmp_path / name)])
