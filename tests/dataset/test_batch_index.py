"""What a run knows of clips beyond their encoding: columns, damage, latent spaces, and which source is the same one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.dataset import attach, batch, read_index
from cvcodec.dataset.batch import run_batch
from cvcodec.dataset.local_engine import run_local
from cvcodec.dataset.sources import find_clips, shard_of
from cvcodec.model.base import VideoAutoencoder
from tests.dataset.small import break_a_packet, save_small_model, write_clip
from tests.dataset.test_batch import encode, index_of, make_job


def test_a_run_that_has_no_manifest_keeps_the_columns_that_are_known(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    rows = [f"{file},{file.relative_to(videos)},caption {file.stem}\n" for file in sorted(videos.rglob("*.mkv"))]
    manifest.write_text("path,output,caption\n" + "".join(row.replace(".mkv,caption", ".cvl,caption") for row in rows))
    encode(model, manifest, out)
    before = {path: record["columns"] for path, record in index_of(out).items()}
    assert before["a/clip 1.cvl"] == {"caption": "caption clip 1"}
    (tmp_path / "v").symlink_to(videos)
    (tmp_path / "list.txt").write_text("v/a/clip 1.mkv\n")
    assert encode(model, videos, out)[0].skipped == 6
    assert encode(model, tmp_path / "list.txt", out)[0].encoded == 1, "v/a/clip 1.cvl"
    assert {path: record["columns"] for path, record in index_of(out).items()} == {**before, "v/a/clip 1.cvl": {}}
    assert encode(model, videos, out, quality=20, overwrite=True)[0].encoded == 6
    assert {path: record["columns"] for path, record in index_of(out).items()} == {**before, "v/a/clip 1.cvl": {}}


def test_damage_of_a_source_is_counted_in_the_index_whatever_became_of_it(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    break_a_packet(write_clip(tmp_path / "v/bad.mkv", frames=12))
    write_clip(tmp_path / "v/good.mkv")
    out = tmp_path / "out"
    summary, outcomes = encode(model, tmp_path / "v", out)
    assert (summary.encoded, summary.damaged) == (2, 1)
    before = index_of(out)
    counts = {path: (record["decode_errors"], record["concealed_frames"]) for path, record in before.items()}
    assert counts == {"bad.cvl": (1, 0), "good.cvl": (0, 0)}
    (bad,) = [outcome for outcome in outcomes if outcome.damage is not None]
    assert bad.clip.output == "bad.cvl"
    assert bad.damage in bad.notices
    for path in before:
        with (out / path).open("rb") as file:
            BitstreamReader(file, sequential=True).verify()
    (out / "index.jsonl").unlink()
    summary, _ = encode(model, tmp_path / "v", out)
    assert (summary.skipped, summary.damaged) == (2, 1)
    assert index_of(out) == before


def test_a_folder_that_holds_another_latent_space_is_warned_of(
    model: VideoAutoencoder, videos: Path, tmp_path: Path
) -> None:
    other = save_small_model(tmp_path / "other.safetensors", seed=1)
    clips = find_clips([videos])
    said: list[str] = []

    def run(model: VideoAutoencoder, *numbers: int, overwrite: bool = False) -> None:
        job = make_job(model, tmp_path / "out", overwrite=overwrite)
        job = dataclasses.replace(job, latent_space_id=model.latent_space_id)
        some = [clips[number] for number in numbers]
        run_batch(some, job, lambda tasks: run_local(tasks, job, model, devices="cpu"), on_notice=said.append)

    run(model, 0)
    run(model, 1)
    run(other, 0, 1, overwrite=True)
    assert not said, "nothing of another space stays"
    run(model, 2)
    (text,) = said
    assert f"{clips[0].output} holds latents of another latent space ({other.latent_space_id} of other" in text


@pytest.mark.parametrize("limit", [1 << 20, 64])
def test_a_source_is_known_by_its_whole_content_or_by_many_pieces_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = tmp_path / "x.y4m"
    data = np.random.default_rng(0).bytes(300_000)
    path.write_bytes(data)
    monkeypatch.setattr(batch, "PIECE_BYTES", limit)
    known = batch.source_id(path)
    for start, length in ((0, 1), (100_000, 300_000 // 255), (299_999, 1)):
        path.write_bytes(data[:start] + bytes(length) + data[start + length :])
        assert batch.source_id(path) != known
    path.write_bytes(data)
    assert batch.source_id(path) == known


def test_a_source_that_nothing_was_written_to_is_not_read_again(
    model: VideoAutoencoder, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    encode(model, videos, out)
    read: list[str] = []

    def spy(path: str) -> str:
        read.append(path)
        return real(path)

    real = batch.source_id
    monkeypatch.setattr(batch, "source_id", spy)
    assert encode(model, videos, out)[0].skipped == 6
    assert not read
    touched = min(videos.rglob("*.mkv"))
    os.utime(touched, ns=(1, 1))
    for wanted in ([str(touched)], []):
        assert encode(model, videos, out)[0].skipped == 6, "its content is the same"
        assert read == wanted
        read.clear()


def test_captions_beside_videos_go_into_the_index_and_are_read_anew(model: VideoAutoencoder, tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        write_clip(tmp_path / f"v/{name}.mkv")
    (tmp_path / "v/x.txt").write_text("a cat\n")
    (tmp_path / "v/y.json").write_text('{"caption": "a dog", "source_fps": 8}')
    (tmp_path / "v/z.json").write_text("{")
    summary, _ = encode(model, tmp_path / "v", tmp_path / "out")
    assert summary.encoded == 2
    assert "z.json is no JSON" in str(summary.failures[0].error)
    assert not (tmp_path / "out/z.cvl").exists()
    (tmp_path / "v/z.json").unlink()
    (tmp_path / "v/x.txt").write_text("two cats")
    (tmp_path / "m.csv").write_text("video,caption\nv/y.mkv,of the manifest\n")
    encode(model, tmp_path / "v", tmp_path / "out")
    columns = {path: record["columns"] for path, record in index_of(tmp_path / "out").items()}
    assert columns == {"x.cvl": {"caption": "two cats"}, "y.cvl": {"caption": "a dog", "source_fps": "8"}, "z.cvl": {}}
    clips = [dataclasses.replace(clip, output="y.cvl") for clip in find_clips([tmp_path / "m.csv"])]
    job = make_job(model, tmp_path / "out")
    run_batch(clips, job, lambda tasks: run_local(tasks, job, model, devices="cpu"))
    assert index_of(tmp_path / "out")["y.cvl"]["columns"] == {"caption": "of the manifest", "source_fps": "8"}


def test_what_is_attached_stays_while_the_columns_do(model: VideoAutoencoder, tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_clip(tmp_path / f"v/{name}.mkv")
        (tmp_path / f"v/{name}.txt").write_text(f"a {name}")
    encode(model, tmp_path / "v", tmp_path / "out")
    attach(tmp_path / "out", "text", {"x.cvl": [1.0], "y.cvl": [2.0]})
    (tmp_path / "v/y.txt").write_text("another")
    assert encode(model, tmp_path / "v", tmp_path / "out")[0].skipped == 2
    assert {path: record["attached"] for path, record in index_of(tmp_path / "out").items()} == {
        "x.cvl": {"text": "x.text.safetensors"},
        "y.cvl": {},
    }


def test_clips_that_left_their_manifest_leave_the_index_and_nothing_else_does(
    model: VideoAutoencoder, tmp_path: Path
) -> None:
    names = ["a", "b", "c", "d"]
    for name in [*names, "other"]:
        write_clip(tmp_path / f"{'w' if name == 'other' else 'v'}/{name}.mkv")
    said: list[str] = []

    def run(rows: list[str], shard: tuple[int, int] | None = None) -> None:
        (tmp_path / "m.csv").write_text("\n".join(["path,output", *(f"v/{name}.mkv,{name}" for name in rows)]))
        job = make_job(model, tmp_path / "out")
        every = find_clips([tmp_path / "m.csv"])
        run_batch(
            shard_of(every, shard),
            job,
            lambda tasks: run_local(tasks, job, model, devices="cpu"),
            shard=shard,
            whole=every,
            on_notice=said.append,
        )

    def listed() -> list[str]:
        return [record["path"][0] for record in read_index(tmp_path / "out")]

    encode(model, tmp_path / "w", tmp_path / "out")
    run(names)
    assert listed() == [*names, "o"]
    run(["a", "d"])
    assert listed() == ["a", "d", "o"]
    assert said == ["2 clips left their manifest, and leave the index; their files stay: b.cvl, c.cvl"]
    assert (tmp_path / "out/b.cvl").is_file()
    run(names)
    assert listed() == [*names, "o"], "they come back"
    (tmp_path / "out/index.jsonl").unlink()
    for number in range(2):
        run(names, (number, 2))
    # The row behind the one that leaves goes from one shard to the other.
    for number in range(2):
        run(["a", "c", "d"], (number, 2))
    assert listed() == ["a", "c", "d"]
