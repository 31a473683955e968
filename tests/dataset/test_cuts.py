"""Batches that cut their sources: places, index, resuming, what is left out, and the same frames as the whole has."""

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.codec import EncodeOptions, ReaderOptions
from cvcodec.dataset import cuts
from cvcodec.dataset.batch import Outcome, Summary
from cvcodec.dataset.cutting_options import Cutting
from cvcodec.dataset.index import read_index
from cvcodec.dataset.latents import LatentDataset
from cvcodec.dataset.run import batch
from cvcodec.errors import UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.video import Frame, VideoReader, VideoWriter
from tests.dataset.small import write_clip

OPTIONS = EncodeOptions(latents="fp32", device="cpu", precision="fp32", threads=1)


def run(
    source: Path, out: Path, model: VideoAutoencoder, *, options: EncodeOptions = OPTIONS, **asked: Any
) -> tuple[Summary, list[Outcome]]:
    outcomes: list[Outcome] = []
    cutting = Cutting(**asked)
    made = batch(source, out, model=model, options=options, devices="cpu", cutting=cutting, on_outcome=outcomes.append)
    return made, outcomes


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def two_scenes(path: Path, first: int = 30, second: int = 30) -> None:
    """Drifting stripes, then drifting rings of another brightness."""
    y, x = np.mgrid[0:48, 0:64]
    base = Fraction(1, 25)
    with VideoWriter(path, width=64, height=48, time_base=base, rate=1 / base, codec="ffv1", threads=1) as writer:
        for number in range(first + second):
            stripes = 150 + 80 * np.sin((x + number) / 9)
            rings = 50 + 40 * np.cos(np.hypot(x - 30, y - 20 - number / 4) / 4)
            values = np.rint(stripes if number < first else rings).astype(np.uint8)
            writer.write(Frame(np.repeat(values[..., None], 3, -1), pts=number, duration=1))


def test_a_long_source_becomes_clips_with_a_row_each(model: VideoAutoencoder, tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/long.mkv", frames=24)
    summary, _ = run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
    assert (summary.encoded, len(summary.failures), len(summary.left_out)) == (2, 0, 1)
    rows = read_index(tmp_path / "out")
    assert [(row["path"], row["first_frame"], row["frames"]) for row in rows] == [
        ("long/000000.cvl", 0, 9), ("long/000009.cvl", 9, 9)
    ]  # fmt: skip
    assert [Fraction(row["time_base"]) * row["first_pts"] for row in rows] == [0, Fraction(9, 25)]
    assert len({row["source_id"] for row in rows}) == 1
    (left,) = lines(tmp_path / "out/failures.jsonl")
    assert (left["path"], left["left_out"]) == ("long/000018.cvl", "6 frames, wanted at least 9")
    item = LatentDataset(tmp_path / "out", pixels="source", latents=None)[1]
    with VideoReader(tmp_path / "videos/long.mkv") as reader:
        whole = [frame.pixels for frame in reader]
    assert np.array_equal(item["pixels"].numpy(), whole[9:18])
    with (tmp_path / "out/long/000009.cvl").open("rb") as file:
        assert BitstreamReader(file).header.metadata["clip"] == {"first_frame": 9}


def test_a_second_run_reads_nothing_again_and_other_clips_are_made_anew(
    model: VideoAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "videos/long.mkv", frames=24)
    run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
    looked: list[str] = []
    look = cuts.look_through
    monkeypatch.setattr(cuts, "look_through", lambda source, **more: looked.append(source) or look(source, **more))
    again, outcomes = run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
    assert (again.encoded, again.skipped, looked) == (0, 2, [])
    assert {outcome.status for outcome in outcomes} == {"skipped", "left out"}
    other, _ = run(tmp_path / "videos", tmp_path / "out", model, clip_frames=5)
    assert len(looked) == 1
    assert [failure.clip.output for failure in other.failures] == ["long/000000.cvl"]  # another clip has the name
    assert "with other settings" in str(other.failures[0].error)
    write_clip(tmp_path / "videos/long.mkv", frames=24, seed=1)
    changed, _ = run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
    assert len(looked) == 2
    assert "from another source" in str(changed.failures[0].error)


def test_a_line_that_was_cut_off_or_forged_is_looked_up_anew(model: VideoAutoencoder, tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/long.mkv", frames=24)
    run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
    path = tmp_path / "out/clips.jsonl"
    whole = path.read_text()
    forged = json.loads(whole) | {"pieces": [["x"]]}
    for text in (whole[:40], json.dumps(forged) + "\n", "[]\n"):
        path.write_text(text)
        again, _ = run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
        assert again.skipped == 2


def test_clips_at_another_rate_and_size_are_those_of_the_whole(model: VideoAutoencoder, tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/long.mkv", frames=60)
    options = EncodeOptions(latents="fp32", device="cpu", precision="fp32", threads=1,
                            reader=ReaderOptions(size="16x16", fps=10))  # fmt: skip
    run(tmp_path / "videos", tmp_path / "out", model, options=options, clip_frames=9)
    rows = read_index(tmp_path / "out")
    assert [(row["first_frame"], row["frames"], row["first_pts"], row["last_pts"]) for row in rows] == [
        (0, 9, 0, 8), (9, 9, 9, 17)
    ]  # fmt: skip
    assert {(row["width"], row["height"], row["time_base"]) for row in rows} == {(16, 16, "1/10")}
    item = LatentDataset(tmp_path / "out", pixels="source", latents=None)[1]
    with VideoReader(tmp_path / "videos/long.mkv", size="16x16", fps=10) as reader:
        whole = [frame.pixels for frame in reader]
    assert np.array_equal(item["pixels"].numpy(), whole[9:18])


def test_short_sources_are_left_out_and_others_keep_their_names_and_bytes(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    for number, frames in enumerate((5, 12)):
        write_clip(tmp_path / f"videos/{number}.mkv", frames=frames, seed=number)
    summary, _ = run(tmp_path / "videos", tmp_path / "out", model, min_frames=9)
    assert [row["path"] for row in read_index(tmp_path / "out")] == ["1.cvl"]
    assert [outcome.reason for outcome in summary.left_out] == ["5 frames, wanted at least 9"]
    run(tmp_path / "videos", tmp_path / "plain", model)
    assert (tmp_path / "out/1.cvl").read_bytes() == (tmp_path / "plain/1.cvl").read_bytes()
    assert not (tmp_path / "plain/clips.jsonl").exists()


def test_a_source_that_cannot_be_read_fails_and_the_others_are_cut(model: VideoAutoencoder, tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/a.mkv", frames=9)
    (tmp_path / "videos/b.mp4").write_bytes(b"no video" * 100)
    summary, _ = run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
    assert (summary.encoded, [failure.clip.output for failure in summary.failures]) == (1, ["b.cvl"])


def test_clips_do_not_cross_a_cut_that_pyscenedetect_finds(model: VideoAutoencoder, tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    (tmp_path / "videos").mkdir()
    two_scenes(tmp_path / "videos/a.mkv", 31, 29)
    run(tmp_path / "videos", tmp_path / "out", model, clip_frames=13, scenes="auto")
    assert [row["first_frame"] for row in read_index(tmp_path / "out")] == [0, 13, 31, 44]
    run(tmp_path / "videos", tmp_path / "whole", model, scenes="auto")
    assert [(row["first_frame"], row["frames"]) for row in read_index(tmp_path / "whole")] == [(0, 31), (31, 29)]


def test_without_pyscenedetect_the_extra_is_named_before_anything_is_read(
    model: VideoAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "videos/a.mkv", frames=9)
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(UsageError, match=r'pip install "cvcodec\[scenes\]"'):
        run(tmp_path / "videos", tmp_path / "out", model, scenes="auto")
    assert not (tmp_path / "out").exists()


def test_a_video_and_a_folder_of_its_name_do_not_meet(model: VideoAutoencoder, tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/a.mkv", frames=9)
    write_clip(tmp_path / "videos/a/000000.mkv", frames=9)
    summary, _ = run(tmp_path / "videos", tmp_path / "out", model, clip_frames=9)
    assert [row["path"] for row in read_index(tmp_path / "out")] == ["a/000000.cvl", "a/000000/000000.cvl"]
    assert summary.encoded == 2


def test_a_trimmed_reader_is_refused(model: VideoAutoencoder, tmp_path: Path) -> None:
    write_clip(tmp_path / "videos/a.mkv", frames=9)
    with pytest.raises(UsageError, match="whole sources"):
        run(tmp_path / "videos", tmp_path / "out", model, options=EncodeOptions(reader=ReaderOptions(start=1)),
            clip_frames=5)  # fmt: skip


def test_clips_of_a_manifest_stay_in_the_index_until_their_source_leaves_it(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.mkv", frames=10)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,caption\na.mkv,one\nb.mkv,two\n")
    run(manifest, tmp_path / "out", model, clip_frames=5)
    run(manifest, tmp_path / "out", model, clip_frames=5)
    rows = read_index(tmp_path / "out")
    assert [(row["path"], row["columns"]["caption"]) for row in rows] == [
        ("a/000000.cvl", "one"), ("a/000005.cvl", "one"), ("b/000000.cvl", "two"), ("b/000005.cvl", "two")
    ]  # fmt: skip
    manifest.write_text("path,caption\nb.mkv,two\n")
    run(manifest, tmp_path / "out", model, clip_frames=5)
    assert [row["path"] for row in read_index(tmp_path / "out")] == ["b/000000.cvl", "b/000005.cvl"]


def test_what_is_left_out_now_leaves_the_index(model: VideoAutoencoder, tmp_path: Path) -> None:
    for name, frames in (("a", 5), ("b", 12)):
        write_clip(tmp_path / f"videos/{name}.mkv", frames=frames)
    run(tmp_path / "videos", tmp_path / "out", model)
    run(tmp_path / "videos", tmp_path / "out", model, min_frames=9)
    assert [row["path"] for row in read_index(tmp_path / "out")] == ["b.cvl"]
    assert (tmp_path / "out/a.cvl").exists()
